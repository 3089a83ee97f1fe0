"""Every row of the state table of a Workspace: conditions with their reasons, root and its aliases, and the state."""

from controller.loop import Loop
from test.controller.stage import INFERENCE, TUNING, Stage, changed, container_status, report
from test.expect import eventually


def aliases_repeat_the_root(row: dict[str, str]) -> bool:
    return row["Ready"] == row["WorkspaceSucceeded"] == row["WorkspaceReady"]


async def test_inference_while_nodes_are_coming(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    claim = (await eventually(stage.claims))[0]
    stage.say(claim, [("Launched", "Unknown", "Creating", "PUT agent pool")])
    row = await stage.reads(
        ResourceReady="F Creating",
        InferenceReady="F WorkspaceInferenceStatusPending",
        WorkspaceReady="F Creating",
        state="Pending",
        JobStarted="-",
        Tuned="-",
    )
    assert aliases_repeat_the_root(row)


async def test_inference_while_pods_are_starting(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await eventually(stage.stateful_set)
    row = await stage.reads(
        NodeClaimReady="T NodeClaimsReady",
        NodesReady="T NodesReady",
        ResourceReady="T workspaceResourceStatusSuccess",
        InferenceReady="F WorkspaceInferenceStatusPending",
        WorkspaceReady="F WorkspaceInferenceStatusPending",
        state="Pending",
    )
    assert aliases_repeat_the_root(row)


async def test_inference_while_serving(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await stage.serving()
    row = await stage.reads(
        ResourceReady="T",
        InferenceReady="T WorkspaceInferenceStatusSuccess",
        WorkspaceReady="T workspaceSucceeded",
        state="Ready",
    )
    assert aliases_repeat_the_root(row)
    assert stage.status()["endpoint"] == f"http://{stage.name}.{stage.namespace}.svc"


async def test_inference_that_broke_later(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await stage.serving()
    crash = container_status(stage.name, state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}})
    stage.pod_status(f"{stage.name}-0", phase="Running", containerStatuses=[crash])
    stage.set_servers(ready=False)
    row = await stage.reads(
        ResourceReady="T",
        InferenceReady="F ContainerCrashLoopBackOff",
        WorkspaceReady="F ContainerCrashLoopBackOff",
        state="NotReady",
    )
    assert aliases_repeat_the_root(row)


async def test_tuning_while_nodes_are_coming(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    claim = (await eventually(stage.claims))[0]
    stage.say(claim, [("Launched", "True", "Launched", ""), ("Registered", "Unknown", "NodeNotFound", "no node yet")])
    row = await stage.reads(
        ResourceReady="F NodeNotFound",
        JobStarted="F WorkspaceTuningJobStatusPending",
        Tuned="F",
        InferenceReady="F Tuning",
        WorkspaceReady="F NodeNotFound",
        state="Pending",
    )
    assert aliases_repeat_the_root(row)


async def test_tuning_while_training(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.training()
    row = await stage.reads(
        ResourceReady="T",
        JobStarted="T WorkspaceTuningJobStatusStarted",
        Tuned="F",
        InferenceReady="F Tuning",
        WorkspaceReady="F Tuning",
        state="Running",
    )
    assert aliases_repeat_the_root(row)


async def test_tuning_that_failed(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    pod = await stage.training()
    stage.end_main(pod, 65, report(65, "DatasetInvalid", "row 3 of train.parquet has no column messages"))
    stage.end_job("Failed", "pod failed with exit code 65")
    row = await stage.reads(
        ResourceReady="T",
        JobStarted="F WorkspaceTuningJobStatusFailed",
        Tuned="F DatasetInvalid",
        InferenceReady="F DatasetInvalid",
        WorkspaceReady="F DatasetInvalid",
        state="Failed",
    )
    assert aliases_repeat_the_root(row)
    assert "row 3" in stage.condition("WorkspaceReady")["message"]


async def test_tuned_and_the_server_is_starting(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.tuned("sha256:" + "12" * 32)
    row = await stage.reads(
        ResourceReady="T",
        JobStarted="T",
        Tuned="T Tuned",
        InferenceReady="F WorkspaceInferenceStatusPending",
        WorkspaceReady="F WorkspaceInferenceStatusPending",
        state="Running",
    )
    assert aliases_repeat_the_root(row)
    assert "sha256:" + "12" * 32 in stage.condition("Tuned")["message"]


async def test_every_condition_that_holds_says_what_it_means(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    digest = "sha256:" + "34" * 32
    await stage.tuned(digest)
    await stage.serving()
    holding = {c["type"]: c["message"] for c in stage.status()["conditions"] if c["status"] == "True"}
    assert holding == {
        "NodeClaimReady": "1 NodeClaim is ready",
        "NodesReady": "1 node is ready with its GPUs",
        "ResourceReady": "1 node is ready with its GPUs",
        "JobStarted": "training has begun",
        "Tuned": f"private.example/team/adapter:1 {digest}; 40 steps",
        "InferenceReady": "1 server is ready",
        **dict.fromkeys(("WorkspaceReady", "Ready", "WorkspaceSucceeded"), holding["WorkspaceReady"]),
    }
    assert not [(reason, note) for _, reason, note in stage.events() if note == reason]


async def test_tuned_and_serving(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.tuned()
    await stage.serving()
    row = await stage.reads(
        ResourceReady="T", JobStarted="T", Tuned="T", InferenceReady="T", WorkspaceReady="T", state="Ready"
    )
    assert aliases_repeat_the_root(row)


async def test_tuned_and_released(stage: Stage, controller: Loop) -> None:
    stage.create(changed(TUNING, tuning={"onSuccess": "Release"}))
    await stage.tuned()
    await eventually(lambda: not stage.claims())
    row = await stage.reads(
        ResourceReady="T Released",
        JobStarted="T",
        Tuned="T Tuned",
        InferenceReady="-",
        WorkspaceReady="T Tuned",
        state="Succeeded",
        NodesReady="-",
        NodeClaimReady="-",
    )
    assert aliases_repeat_the_root(row)
    assert not stage.stateful_set()


async def test_deleting_keeps_everything_but_the_root(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    claim = await stage.nodes_ready()
    await stage.serving()
    stage.hold_claim(claim["metadata"]["name"])
    stage.delete()
    row = await stage.reads(
        ResourceReady="T",
        InferenceReady="T",
        WorkspaceDeleting="T workspaceDeleted",
        WorkspaceReady="F Deleting",
        state="Ready",
    )
    assert aliases_repeat_the_root(row)
    assert claim["metadata"]["name"] in stage.condition("WorkspaceReady")["message"]


async def test_a_trainer_that_ends_without_a_report_fails_with_its_last_words(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    pod = await stage.training()
    stage.end_main(pod, 1, "Traceback …\nRuntimeError: boom")
    stage.end_job("Failed", "Job has reached the specified backoff limit")
    await stage.reads(Tuned="F TrainerFailed", state="Failed")
    assert "boom" in stage.condition("Tuned")["message"]


async def test_a_pod_that_failed_once_does_not_fail_the_tuning(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    pod = await stage.training()
    stage.end_main(pod, 70, report(70, "TrainerFailed", "the driver hiccuped"))
    await stage.reads(Tuned="F TrainerFailed", state="Running")
    second = stage.start_job_pod("b2")
    stage.run_main(second)
    await stage.reads(JobStarted="T", Tuned="F Tuning", state="Running")
