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
    ports = [f"{port['port']}/{port['protocol']}" for port in stage.service()["spec"]["ports"]]
    assert ports == ["80/TCP", "29500/TCP"]


async def test_the_job_fails_at_once_where_another_pod_would_end_the_same_way(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.nodes_ready()
    job = (await eventually(stage.job))["spec"]
    rules = [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in job["podFailurePolicy"]["rules"]]
    assert rules == [("FailJob", [64, 65, 67, 69, 71, 73, 76]), ("Ignore", [75]), ("Ignore", None)]
    assert job["backoffLimit"] == 3
    assert job["template"]["spec"]["restartPolicy"] == "Never"


async def test_a_trainers_pod_is_given_what_it_needs_and_nothing_more(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.nodes_ready()
    template = (await eventually(stage.job))["spec"]["template"]
    assert template["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"  # hours of work are in it
    pod = template["spec"]
    assert not pod["automountServiceAccountToken"]
    weights, data = pod["initContainers"]
    assert weights["args"][:2] == ["model", "--image"]
    assert weights["args"][2].startswith("registry.example/models/kaito-smollm2-135m-instruct:")
    assert data["args"] == ["data", "--url", "https://data.example/train.parquet?download=true", "--to", "/mnt/data"]
    secrets = [each["secret"] for each in pod["volumes"] if "secret" in each]
    assert [(each["secretName"], each["optional"]) for each in secrets] == [("registry-push", True)]
    main = pod["containers"][0]
    assert main["name"] == stage.name
    assert main["command"] == ["python", "-m", "runtime.tune"]
    assert main["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    plan = plan_of(stage.job())
    assert plan["output_image"] == "private.example/team/adapter:1"
    assert plan["push_secret"] == "registry-push"
    assert plan["accelerator"] == "cpu"


async def test_a_servers_pod_is_probed_on_its_status_port_and_only_the_leader_is_served(
    stage: Stage, controller: Loop
) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    served = (await eventually(stage.stateful_set))["spec"]
    assert served["podManagementPolicy"] == "Parallel"
    main = served["template"]["spec"]["containers"][0]
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz"), ("startupProbe", "/livez")):
        assert (main[probe]["httpGet"]["path"], main[probe]["httpGet"]["port"]) == (path, 5002)
    service = stage.service()["spec"]
    assert service["selector"]["statefulset.kubernetes.io/pod-name"] == f"{stage.name}-0"
    assert not service.get("publishNotReadyAddresses")
    assert [port["targetPort"] for port in service["ports"]] == [5000, 29500]
    assert stage.service("-headless")["spec"]["publishNotReadyAddresses"]
    budget = stage.policy.read_namespaced_pod_disruption_budget(stage.name, stage.namespace).spec
    assert (budget.max_unavailable, budget.unhealthy_pod_eviction_policy) == (1, "AlwaysAllow")
