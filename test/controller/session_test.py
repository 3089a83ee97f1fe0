"""The sessions that users have, on a real API server: a model served, and the seed's tuning that ends in a served model."""

from controller.loop import Loop
from test.controller.stage import INFERENCE, TUNING, Stage, plan_of
from test.expect import eventually


async def test_an_inference_workspace_becomes_ready(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await stage.serving()
    row = await stage.reads(ResourceReady="T", InferenceReady="T", WorkspaceReady="T workspaceSucceeded", state="Ready")
    assert row["Ready"] == row["WorkspaceSucceeded"] == row["WorkspaceReady"]


async def test_the_seeds_session_tunes_and_then_serves(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    digest = "sha256:" + "cd" * 32
    await stage.tuned(digest)
    served = await eventually(stage.stateful_set)
    fetch = served["spec"]["template"]["spec"]["initContainers"][1]["args"]
    assert f"private.example/team/adapter@{digest}" in fetch
    assert plan_of(served)["chat_adapter"] == stage.name
    await stage.serving()
    await stage.reads(ResourceReady="T", JobStarted="T", Tuned="T Tuned", InferenceReady="T", WorkspaceReady="T")
    ports = [f"{port['port']}/{port['protocol']}" for port in (stage.service() or {})["spec"]["ports"]]
    assert ports == ["80/TCP", "29500/TCP"]
