"""Read your own writes: with watches that lag and keys queued all the time, nothing is written twice. They lag by half a
second; in a nightly run by 2 s, through a thousand reconciles that went past the gate.

A Workspace's own events, a user's edits and the pods' heartbeats may queue its key at any moment; here it is queued as
soon as its last reconcile has ended. What a lagging cache would make of that is seen at a gateway: a second POST of what
exists, the same apply again, a deletion of what was deleted, a patch of a version that is not the newest. A status alone
may meet an edit that came meanwhile, and is then refused.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as independent

from hack.local.controlplane import ControlPlane
from kube.client import Client
from test.controller.stage import INFERENCE, TUNING, Stage, changed, pushed, running
from test.expect import eventually
from test.kube.gateway import Request, gateway
from test.profile import examples
from test.reconciles import count_passes, pestered

PATIENCE = 60.0


async def all_of(stages: Sequence[Stage], holds: Callable[[Stage], Any]) -> None:
    await eventually(lambda: all(holds(stage) for stage in stages), timeout=PATIENCE)


def is_true(type_: str) -> Callable[[Stage], bool]:
    return lambda stage: stage.condition(type_).get("status") == "True"


async def from_creation_to_deletion(stages: Sequence[Stage], first: int) -> None:
    """The whole lives of some Workspaces, side by side, everybody but the controller being quick. Every other one tunes."""
    tuning = stages[1::2]
    for number, stage in enumerate(stages, first):
        manifest = TUNING if stage in tuning else INFERENCE
        stage.create(changed(manifest, metadata={"name": f"lagging-{number}"}))
    await all_of(stages, Stage.claims)
    for stage in stages:
        stage.provision(stage.claims()[0])
    await all_of(tuning, Stage.job)
    for stage in tuning:
        stage.end_main(stage.start_job_pod(), 0, pushed("private.example/team/adapter:1", "sha256:" + "ab" * 32))
        stage.end_job("Complete")
    await all_of(stages, Stage.stateful_set)
    for stage in stages:
        stage.start_servers()
        stage.set_servers()
    await all_of(stages, is_true("WorkspaceReady"))
    for stage in stages:
        assert len(stage.claims()) == 1
        stage.hold_claim(stage.claims()[0]["metadata"]["name"])
        stage.delete()
    await all_of(stages, lambda stage: "deletionTimestamp" in stage.claims()[0]["metadata"])
    for stage in stages:
        stage.remove_claim(stage.claims()[0]["metadata"]["name"])
    await all_of(stages, lambda stage: not stage.workspace())


def everything(path: str) -> bool:
    return True


def owned(path: str) -> bool:
    """What a Workspace owns. It itself is up to date, and with it the status that says what has been done."""
    return not path.endswith("/workspaces")


def overtaken(request: Request) -> bool:
    """Whether a status was refused because it had been worked out from a Workspace that somebody has edited since."""
    return request.status == 409 and request.path.endswith("/status")


@pytest.mark.parametrize("late", [everything, owned])
async def test_nothing_is_written_twice_while_the_watches_lag(
    apiserver: ControlPlane,
    api: independent.ApiClient,
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: Callable[[str], bool],
) -> None:
    passed = count_passes(monkeypatch)
    stages: list[Stage] = []
    async with gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig):
        lag = examples(5, 20) / 10
        between.lag = lambda path: lag if late(path) else 0
        async with (
            await Client.connect(user_agent="controller", kubeconfig=kubeconfig) as client,
            running(client) as controller,
            pestered(controller.queue, lambda: [each.metadata.key for each in controller.world.workspaces.all()]),
        ):
            while passed.total() < examples(100, 1000):  # more lives where a busy machine reconciles rarely
                more = [Stage(api, stage.namespace) for _ in range(examples(2, 20))]
                await from_creation_to_deletion(more, first=len(stages))
                stages += more
        assert between.repeated() == {}
        created = Counter(each.path for each in between.requests if each.method == "POST" and "events" not in each.path)
        assert created == {
            "/apis/karpenter.sh/v1/nodeclaims": len(stages),
            f"/apis/batch/v1/namespaces/{stage.namespace}/jobs": len(stages) // 2,
        }
        assert [
            str(each) for each in between.requests if each.write and each.status >= 400 and not overtaken(each)
        ] == []
