"""What can go wrong and is not the controller's fault: each shows a reason and a message of its own, and heals where it can."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from kubernetes.client import ApiException

from controller.loop import Loop
from controller.progress import Progress
from controller.reconcile import Reconciler
from kube.client import Client
from kube.meta import Key
from runtime import contract
from test.clock import VirtualClock
from test.controller import quota
from test.controller.stage import (
    INFERENCE,
    SETTINGS,
    TUNING,
    Stage,
    at_rest,
    caught_up,
    changed,
    container_status,
    ended,
    pushed,
    report,
    running,
)
from test.expect import eventually
from test.reconciles import count_runs


@pytest.mark.parametrize(("preset", "advice"), [("smollm2-135m-instrct", "preset"), ("falcon-7b", "retired")])
async def test_an_unknown_or_retired_preset_is_refused_by_the_schema(stage: Stage, preset: str, advice: str) -> None:
    with pytest.raises(ApiException) as refused:
        stage.create(changed(INFERENCE, inference={"preset": {"name": preset}}))
    assert refused.value.status == 422
    assert advice in str(refused.value.body)


async def test_a_model_that_is_not_in_the_catalogue_costs_nothing(stage: Stage, controller: Loop) -> None:
    stage.create(changed(INFERENCE, inference={"preset": {"name": "nobody/some-model"}}))
    await stage.reads(ResourceReady="F ModelUnresolved", WorkspaceReady="F ModelUnresolved", state="Pending")
    assert not stage.claims()


async def test_a_gated_model_without_a_token_is_told_before_a_node_is_paid_for(client: Client, stage: Stage) -> None:
    """R12."""
    resource = {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "llama"}}}
    manifest = changed(INFERENCE, resource=resource, inference={"preset": {"name": "llama-3.1-8b-instruct"}})
    async with running(client, replace(SETTINGS, weights_registry="")):
        stage.create(manifest)
        await stage.reads(ResourceReady="F ModelAccessRequired", state="Pending")
        assert "HF_TOKEN" in stage.condition("ResourceReady")["message"]
        assert not stage.claims()


async def test_an_unknown_instance_type_costs_nothing_and_names_the_nearest(stage: Stage, controller: Loop) -> None:
    stage.create(
        changed(
            INFERENCE,
            resource={"instanceType": "Standard_NC24ads_A100_v5", "labelSelector": {"matchLabels": {"a": "b"}}},
        )
    )
    await stage.reads(ResourceReady="F InstanceTypeUnknown", WorkspaceReady="F InstanceTypeUnknown", state="Pending")
    assert "Standard_NC24ads_A100_v4" in stage.condition("ResourceReady")["message"]
    assert not stage.claims()


async def test_a_missing_config_map_is_named_and_noticed_when_it_comes(stage: Stage, controller: Loop) -> None:
    stage.create(changed(INFERENCE, inference={"config": "engine"}))
    await stage.reads(ResourceReady="F ConfigMapMissing", state="Pending")
    assert "engine" in stage.condition("ResourceReady")["message"]
    assert not stage.claims()
    stage.configure("engine", **{"inference_config.yaml": "vllm:\n  max-model-len: 1024\n"})
    await eventually(stage.claims)


async def test_a_config_map_without_the_key_or_with_bad_yaml_is_refused(stage: Stage, controller: Loop) -> None:
    stage.configure("engine", other="x")
    stage.create(changed(INFERENCE, inference={"config": "engine"}))
    await stage.reads(ResourceReady="F ConfigInvalid")
    assert "inference_config.yaml" in stage.condition("ResourceReady")["message"]
    stage.configure("engine", **{"inference_config.yaml": "vllm:\n  max-model-len: [\n"})
    await eventually(lambda: "not YAML" in stage.condition("ResourceReady")["message"])
    stage.configure("engine", **{"inference_config.yaml": "vllm:\n  max-model-len: many\n"})
    await eventually(lambda: "max-model-len" in stage.condition("ResourceReady")["message"])
    assert not stage.claims()


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("QuotaExceeded", "limit 8, usage 8, required 6: ask for a higher quota of standardNCFamily"),
        ("InsufficientCapacity", "no capacity for Standard_NC6s_v3 in westus2"),
    ],
)
async def test_a_refused_claim_shows_the_provisioners_words_and_is_asked_for_again(
    client: Client, stage: Stage, reason: str, message: str
) -> None:
    clock = VirtualClock()
    async with running(client, clock=clock) as loop:
        stage.create(INFERENCE)
        claim = (await eventually(stage.claims))[0]
        stage.say(claim, [("Launched", "False", reason, message), ("Ready", "False", "UnhealthyDependents", "")])
        await stage.reads(NodeClaimReady=f"F {reason}", ResourceReady=f"F {reason}", WorkspaceReady=f"F {reason}")
        assert stage.condition("WorkspaceReady")["message"] == message
        assert len(stage.claims()) == 1  # not before its backoff
        await at_rest(loop)
        await clock.advance(11)
        fresh = await eventually(
            lambda: [c for c in stage.claims() if c["metadata"]["uid"] != claim["metadata"]["uid"]]
        )
        await stage.reads(ResourceReady=f"F {reason}")  # until the new attempt has news of its own
        stage.provision(fresh[0])
        await stage.reads(ResourceReady="T")


async def test_a_deleted_claim_is_replaced_and_told(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    claim = await stage.nodes_ready()
    stage.delete_claim(claim["metadata"]["name"])
    fresh = await eventually(lambda: [c for c in stage.claims() if c["metadata"]["uid"] != claim["metadata"]["uid"]])
    await stage.reads(ResourceReady="F")
    stage.provision(fresh[0])
    await stage.reads(ResourceReady="T")
    await eventually(lambda: "NodeClaimReplaced" in {reason for _, reason, _ in stage.events()})


@pytest.mark.parametrize("held", [True, False])  # whether the claim is still there when it is looked at
async def test_a_claim_that_its_provisioner_ended_says_why(stage: Stage, controller: Loop, held: bool) -> None:
    stage.create(INFERENCE)
    claim = await stage.nodes_ready()
    name, why = claim["metadata"]["name"], "Agent pool 7 no longer exists"
    if held:
        stage.hold_claim(name)
    conditions = [(type_, "True", type_, "") for type_ in ("Launched", "Registered", "Initialized", "Ready")]
    stage.say(claim, [*conditions, ("DisruptionReason", "True", "InstanceNotFound", why)])
    stage.delete_claim(name)
    fresh = await eventually(lambda: [c for c in stage.claims() if c["metadata"]["uid"] != claim["metadata"]["uid"]])
    reason = "F InstanceNotFound"
    await stage.reads(NodeClaimReady=reason, ResourceReady=reason, WorkspaceReady=reason)
    following = fresh[0]["metadata"]["name"]
    message = f"{why}; NodeClaim {following} is made in its place"
    await eventually(lambda: stage.condition("WorkspaceReady")["message"] == message)
    replaced = f"was deleted (InstanceNotFound: {why}); created {following}"
    await eventually(lambda: any(each == "NodeClaimReplaced" and replaced in note for _, each, note in stage.events()))
    if held:
        stage.remove_claim(name)
    stage.provision(fresh[0])
    await stage.reads(ResourceReady="T")


async def test_a_claim_that_takes_long_to_go_is_replaced_by_the_next_attempt(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    claim = await stage.nodes_ready()
    stage.hold_claim(claim["metadata"]["name"])
    stage.delete_claim(claim["metadata"]["name"])
    names = await eventually(
        lambda: found if len(found := [c["metadata"]["name"] for c in stage.claims()]) == 2 else []
    )
    assert claim["metadata"]["name"] in names


async def test_a_node_that_is_lost_is_named_and_the_server_is_not_ready(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    claim = (await eventually(stage.claims))[0]
    node = stage.provision(claim)
    await stage.reads(ResourceReady="T")
    await stage.serving()
    stage.set_node(node, ready=False)
    await stage.reads(NodesReady="F NodeNotReady", ResourceReady="F NodeNotReady", state="NotReady")
    assert node in stage.condition("ResourceReady")["message"]
    stage.set_node(node)
    await stage.reads(ResourceReady="T", WorkspaceReady="T", state="Ready")
    stage.core.delete_node(node)
    await stage.reads(NodesReady="F NodeNotReady", WorkspaceReady="F NodeNotReady", state="NotReady")


async def test_gpus_that_are_not_allocatable_yet_are_waited_for(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    claim = (await eventually(stage.claims))[0]
    node = stage.provision(claim, gpus=0)
    await stage.reads(NodesReady="F NodePluginsNotReady", ResourceReady="F NodePluginsNotReady")
    assert not stage.stateful_set()
    stage.set_node(node, gpus=1)
    await stage.reads(ResourceReady="T")
    await eventually(stage.stateful_set)


@pytest.fixture
async def program() -> AsyncIterator[dict[str, contract.Status]]:
    """The status port of a pod, on an address of its own: what it says can be changed."""
    said = {"status": contract.Status()}

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=contract.encode(said["status"]))

    application = web.Application()
    application.router.add_get("/status", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.87.1", 5002).start()
    yield said
    await runner.cleanup()


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("PushUnauthorized", "private.example refused the credentials of Secret registry-push (401)"),
        ("SecretMissing", "Secret registry-push does not exist or has no key .dockerconfigjson"),
    ],
)
async def test_what_a_program_complains_of_while_it_retries_is_shown_and_heals(
    client: Client, stage: Stage, program: dict[str, contract.Status], reason: str, message: str
) -> None:
    program["status"] = contract.Status(phase="Pushing", reason=reason, message=message, step=40, total_steps=40)
    clock = VirtualClock()
    async with running(client, clock=clock, progress=Progress(clock, timeout=30)) as loop:
        stage.create(TUNING)
        await stage.training(ip="127.0.87.1")
        await stage.reads(JobStarted="T", Tuned=f"F {reason}", WorkspaceReady=f"F {reason}", state="Running")
        assert stage.condition("WorkspaceReady")["message"] == message
        program["status"] = contract.Status(phase="Training", step=12, total_steps=40, loss=1.25, eta_seconds=95)
        await at_rest(loop)
        await clock.advance(10.1)
        await stage.reads(Tuned="F Tuning", WorkspaceReady="F Tuning")


async def test_progress_is_shown_while_training(
    client: Client, stage: Stage, program: dict[str, contract.Status]
) -> None:
    program["status"] = contract.Status(
        phase="Training", step=12, total_steps=40, loss=1.2512, eta_seconds=95, checkpoint_step=10
    )
    async with running(client, progress=Progress(timeout=30)):
        stage.create(TUNING)
        await stage.training(ip="127.0.87.1")
        await eventually(lambda: stage.status().get("tuning"))
        shown = {"step": 12, "totalSteps": 40, "loss": "1.251", "eta": "1m35s", "checkpoint": 10}
        assert {name: value for name, value in stage.status()["tuning"].items() if name != "inputs"} == shown
        assert "step 12 of 40" in stage.condition("WorkspaceReady")["message"]


async def test_a_new_training_shows_nothing_of_the_one_that_it_replaces(
    client: Client, stage: Stage, program: dict[str, contract.Status]
) -> None:
    """The old Job's pod may go on for its grace period, and says then what it has always said."""
    program["status"] = contract.Status(phase="Training", step=37, total_steps=40)
    clock = VirtualClock()
    async with running(client, clock=clock, progress=Progress(clock, timeout=30)) as loop:
        stage.create(TUNING)
        await stage.training(ip="127.0.87.1")
        await eventually(lambda: stage.status().get("tuning", {}).get("step") == 37)
        first = stage.job()["metadata"]["uid"]
        stage.patch({"tuning": {"input": {"urls": ["https://data.example/other.parquet"]}}})
        await eventually(lambda: stage.job().get("metadata", {}).get("uid", first) != first)
        await at_rest(loop)
        await stage.reads(JobStarted="F WorkspaceTuningJobStatusPending", state="Pending")
        assert "tuning" not in stage.status()
        pod = stage.start_job_pod("b1")
        program["status"] = contract.Status(phase="Training", step=5, total_steps=20)
        stage.run_main(pod, ip="127.0.87.1")
        await stage.reads(JobStarted="T")
        await eventually(lambda: stage.status().get("tuning", {}).get("step") == 5)
        stage.end_main(pod, 0, pushed("private.example/team/adapter:1", "sha256:" + "ab" * 32, steps=20))
        stage.end_job("Complete")
        await stage.reads(Tuned="T")
        assert stage.condition("Tuned")["message"].endswith("; 20 steps")
        assert (stage.status()["tuning"]["step"], stage.status()["tuning"]["totalSteps"]) == (20, 20)


async def test_steps_of_a_training_that_was_replaced_outlive_no_killed_controller(
    client: Client, stage: Stage, program: dict[str, contract.Status]
) -> None:
    program["status"] = contract.Status(phase="Training", step=37, total_steps=40)
    async with running(client, progress=Progress(timeout=30)):
        stage.create(TUNING)
        pod = await stage.training(ip="127.0.87.1")
        await eventually(lambda: stage.status().get("tuning", {}).get("step") == 37)
    stage.patch({"tuning": {"input": {"urls": ["https://data.example/other.parquet"]}}})
    stage.batch.delete_namespaced_job(stage.name, stage.namespace, propagation_policy="Background")
    stage.remove_pod(pod)  # so far the killed controller had come; of its status nothing was written
    async with running(client) as loop:
        await eventually(stage.job)
        await at_rest(loop)
        await stage.reads(JobStarted="F WorkspaceTuningJobStatusPending", state="Pending")
        assert "tuning" not in stage.status()


async def test_a_fetch_that_retries_says_why_before_the_pod_runs(
    client: Client, stage: Stage, program: dict[str, contract.Status]
) -> None:
    program["status"] = contract.Status(
        phase="Fetching", reason="DataUnreachable", message="https://data.example/train.parquet: 404"
    )
    async with running(client, progress=Progress(timeout=30)):
        stage.create(TUNING)
        await stage.nodes_ready()
        await eventually(stage.job)
        pod = stage.start_job_pod()
        stage.pod_status(pod, phase="Pending", podIP="127.0.87.1")
        await stage.reads(JobStarted="F DataUnreachable", Tuned="F DataUnreachable", WorkspaceReady="F DataUnreachable")
        assert "404" in stage.condition("WorkspaceReady")["message"]


@pytest.mark.parametrize(
    ("exit_code", "reason"),
    [(73, "PushUnauthorized"), (66, "DataUnreachable"), (66, "SecretMissing"), (70, "TrainerFailed")],
)
async def test_a_job_that_gave_up_says_why(stage: Stage, controller: Loop, exit_code: int, reason: str) -> None:
    stage.create(TUNING)
    pod = await stage.training()
    stage.end_main(pod, exit_code, report(exit_code, reason, f"said the program: {reason}"))
    stage.end_job("Failed")
    await stage.reads(
        JobStarted="F WorkspaceTuningJobStatusFailed", Tuned=f"F {reason}", WorkspaceReady=f"F {reason}", state="Failed"
    )
    assert stage.condition("WorkspaceReady")["message"] == f"said the program: {reason}"
    await eventually(lambda: ("Warning", reason) in {(type_, why) for type_, why, _ in stage.events()})


async def test_an_init_container_that_failed_says_why(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.nodes_ready()
    await eventually(stage.job)
    pod = stage.start_job_pod()
    gave_up = container_status(
        "fetch-data", state=ended(66, report(66, "DataUnreachable", "no answer from data.example"))
    )
    stage.pod_status(pod, phase="Failed", initContainerStatuses=[gave_up])
    await stage.reads(JobStarted="F DataUnreachable", Tuned="F DataUnreachable", state="Pending")


async def test_a_failed_job_that_may_be_mended_from_outside_is_tried_again(client: Client, stage: Stage) -> None:
    clock = VirtualClock()
    async with running(client, clock=clock) as loop:
        stage.create(TUNING)
        pod = await stage.training()
        first = stage.job()["metadata"]["uid"]
        stage.end_main(pod, 66, report(66, "SecretMissing", "Secret registry-push does not exist"))
        stage.end_job("Failed")
        await stage.reads(Tuned="F SecretMissing", state="Failed")
        stage.remove_pod(pod)
        await eventually(lambda: loop.world.pods.get(Key(stage.namespace, pod)) is None)
        await clock.advance(30)  # what was to be done soon is done, without the pod that knew the reason
        await at_rest(loop)
        await stage.reads(Tuned="F SecretMissing", state="Failed")
        await clock.advance(61)  # since a jump may pass between a look and what it decides
        await eventually(lambda: stage.job().get("metadata", {}).get("uid", first) != first)
        stage.end_main(stage.start_job_pod("b1"), 65, report(65, "DatasetInvalid", "row 3"))
        stage.end_job("Failed")
        await stage.reads(Tuned="F DatasetInvalid", state="Failed")


async def test_the_last_pod_of_a_failed_job_says_why(client: Client, stage: Stage) -> None:
    clock = VirtualClock()
    async with running(client, clock=clock) as loop:
        stage.create(TUNING)
        pod = await stage.training()
        first = stage.job()["metadata"]["uid"]
        stage.end_main(pod, 66, report(66, "DataUnreachable", "no answer from data.example"))
        stage.end_main(await stage.next_job_pod("b1"), 137, reason="OOMKilled")
        stage.end_job("Failed")
        await stage.reads(Tuned="F ContainerOOMKilled", state="Failed")
        await at_rest(loop)
        await clock.advance(601)
        await at_rest(loop)
        assert stage.job()["metadata"]["uid"] == first
        await stage.reads(Tuned="F ContainerOOMKilled", state="Failed")


async def test_why_a_job_failed_outlives_its_pods_and_the_controller(
    client: Client, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(client):
        stage.create(TUNING)
        pod = await stage.training()
        stage.end_main(pod, 65, report(65, "DatasetInvalid", "row 3"))
        stage.end_job("Failed")
        await stage.reads(Tuned="F DatasetInvalid", state="Failed")
    stage.remove_pod(pod)
    runs = count_runs(monkeypatch, Reconciler)
    async with running(client) as loop:
        await eventually(lambda: runs[Key(stage.namespace, stage.name)])
        await at_rest(loop)
        await stage.reads(Tuned="F DatasetInvalid", state="Failed")


async def test_why_a_job_failed_is_never_what_was_said_of_the_one_before(client: Client, stage: Stage) -> None:
    """A controller that dies after it has made the next Job has said nothing of it."""
    async with running(client):
        stage.create(TUNING)
        pod = await stage.training()
        stage.end_main(pod, 66, report(66, "SecretMissing", "Secret registry-push does not exist"))
        stage.end_job("Failed")
        await stage.reads(Tuned="F SecretMissing", state="Failed")
    stage.make_job_again()
    stage.end_main(stage.start_job_pod("b1"), 65, report(65, "DatasetInvalid", "row 3"))
    stage.end_job("Failed")
    async with running(client):
        await stage.reads(Tuned="F DatasetInvalid", state="Failed")


async def test_a_failure_that_only_an_edit_can_mend_is_not_tried_again(client: Client, stage: Stage) -> None:
    clock = VirtualClock()
    async with running(client, clock=clock) as loop:
        stage.create(TUNING)
        pod = await stage.training()
        first = stage.job()["metadata"]["uid"]
        stage.end_main(pod, 65, report(65, "DatasetInvalid", "row 3"))
        stage.end_job("Failed")
        await stage.reads(Tuned="F DatasetInvalid", state="Failed")
        await at_rest(loop)
        await clock.advance(3600)
        await at_rest(loop)
        assert stage.job()["metadata"]["uid"] == first
        stage.remove_pod(pod)
        stage.patch({"tuning": {"input": {"urls": ["https://data.example/better.parquet"]}}})
        await eventually(lambda: stage.job().get("metadata", {}).get("uid", first) != first)


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ErrImagePull", "ImagePullError"),
        ("ImagePullBackOff", "ImagePullError"),
        ("CreateContainerConfigError", "ContainerStartError"),
    ],
)
async def test_a_container_that_cannot_start_says_why_for_both_workloads(
    stage: Stage, controller: Loop, waiting: str, reason: str
) -> None:
    blocked = container_status(stage.name, state={"waiting": {"reason": waiting, "message": "as the kubelet says"}})
    stage.create(TUNING)
    await stage.nodes_ready()
    await eventually(stage.job)
    stage.pod_status(stage.start_job_pod(), phase="Pending", containerStatuses=[blocked])
    await stage.reads(JobStarted=f"F {reason}", Tuned=f"F {reason}")
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await eventually(stage.stateful_set)
    stage.pod_status(stage.start_servers()[0], phase="Pending", containerStatuses=[blocked])
    await stage.reads(InferenceReady=f"F {reason}", WorkspaceReady=f"F {reason}")
    assert "as the kubelet says" in stage.condition("WorkspaceReady")["message"]


async def test_a_claim_that_the_api_server_refuses_is_shown(stage: Stage, controller: Loop) -> None:
    """R2: where KAITO stalls in silence."""
    stage.create(
        changed(INFERENCE, resource={"labelSelector": {"matchLabels": {"apps": "smollm"}}, "zones": ["not a zone!"]})
    )
    await stage.reads(ResourceReady="F NodeClaimRejected", WorkspaceReady="F NodeClaimRejected", state="Pending")
    assert "requirements" in stage.condition("ResourceReady")["message"]


async def test_an_object_of_the_same_name_is_not_taken_over_and_waited_for(client: Client, stage: Stage) -> None:
    clock = VirtualClock()
    async with running(client, clock=clock) as loop:
        stage.name = INFERENCE["metadata"]["name"]
        foreign = {"metadata": {"name": stage.name}, "spec": {"ports": [{"port": 1}], "selector": {"mine": "yes"}}}
        stage.core.create_namespaced_service(stage.namespace, foreign)
        stage.create(INFERENCE)
        await stage.nodes_ready()
        await stage.reads(InferenceReady="F NameConflict", WorkspaceReady="F NameConflict")
        assert stage.service()["spec"]["selector"] == {"mine": "yes"}
        await caught_up(loop, clock)
        stage.core.delete_namespaced_service(stage.name, stage.namespace)
        await clock.advance(31)
        await eventually(stage.stateful_set)
        await stage.reads(InferenceReady="F WorkspaceInferenceStatusPending")


@pytest.mark.parametrize(
    ("manifest", "kind", "condition"),
    [(TUNING, "jobs.batch", "Tuned"), (INFERENCE, "statefulsets.apps", "InferenceReady")],
)
async def test_what_a_quota_forbids_is_shown_and_tried_again(
    client: Client, stage: Stage, manifest: dict[str, Any], kind: str, condition: str
) -> None:
    clock = VirtualClock()
    await quota.forbid(stage, kind)
    async with running(client, clock=clock) as loop:
        stage.create(manifest)
        await stage.nodes_ready()
        await stage.reads(**{condition: "F ContainerStartError", "WorkspaceReady": "F ContainerStartError"})
        assert "exceeded quota" in stage.condition("WorkspaceReady")["message"]
        await caught_up(loop, clock)
        await quota.permit(stage, kind)
        await clock.advance(31)
        await eventually(stage.job if manifest is TUNING else stage.stateful_set)


@pytest.mark.parametrize(
    ("typo", "complaint"),
    [({"nodeAffinity": {}}, "nodeAffinity: field not declared in schema"), ({"tolerations": "all"}, "tolerations")],
)
async def test_a_typo_in_a_custom_template_is_told_and_its_correction_helps(
    stage: Stage, controller: Loop, typo: dict[str, Any], complaint: str
) -> None:
    """An apply that breaks the schema is answered like a fault of the server's own: 500, without a reason."""
    server = {"containers": [{"name": "server", "image": "r.example/server:1"}]}
    stage.create(changed(INFERENCE, inference={"preset": None, "template": {"spec": server | typo}}))
    await stage.nodes_ready()
    await stage.reads(InferenceReady="F ContainerStartError", WorkspaceReady="F ContainerStartError")
    assert complaint in stage.condition("WorkspaceReady")["message"]
    stage.patch({"inference": {"template": {"spec": dict.fromkeys(typo)}}})
    await eventually(stage.stateful_set)
    await stage.reads(InferenceReady="F WorkspaceInferenceStatusPending")


async def test_events_tell_the_milestones(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.tuned()
    await stage.serving()
    wanted = {
        ("Normal", "Planned"),
        ("Normal", "NodeClaimCreated"),
        ("Normal", "NodesReady"),
        ("Normal", "WorkspaceTuningJobStatusStarted"),
        ("Normal", "Tuned"),
        ("Normal", "WorkspaceInferenceStatusSuccess"),
    }
    await eventually(lambda: wanted <= {(type_, reason) for type_, reason, _ in stage.events()})
    doubts = {reason for type_, reason, _ in stage.events() if type_ == "Warning"}
    assert doubts == {"PlanDoubtful"}  # the instance type is retired
