"""What changes after creation: each edit rolls the pods, starts a training anew, or changes nothing on purpose."""

from dataclasses import replace

import pytest

from controller.loop import Loop
from controller.reconcile import Reconciler
from kube.client import Client
from kube.meta import Key
from test.controller.stage import INFERENCE, SETTINGS, TUNING, Stage, at_rest, changed, plan_of, pushed, running
from test.expect import eventually
from test.reconciles import count_runs


async def test_a_reconcile_that_changes_nothing_sends_nothing(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await stage.serving()
    await at_rest(controller)
    requests: list[str] = []
    send = controller.world.client.request

    async def counted(method: str, path: str, **more: object) -> bytes:
        requests.append(f"{method} {path}")
        return await send(method, path, **more)  # type: ignore[arg-type]  # passed on as given

    controller.world.client.request = counted  # type: ignore[method-assign]  # counts what leaves, refuses nothing
    version = stage.workspace()["metadata"]["resourceVersion"]
    for _ in range(3):
        assert await controller.reconciler.reconcile(Key(stage.namespace, stage.name)) is None
    assert [each for each in requests if "/events" not in each] == []
    assert stage.workspace()["metadata"]["resourceVersion"] == version


async def test_a_changed_config_map_rolls_the_servers(stage: Stage, controller: Loop) -> None:
    """R7: where KAITO does nothing."""
    stage.configure("engine", **{"inference_config.yaml": "vllm:\n  max-model-len: 1024\n"})
    stage.create(changed(INFERENCE, inference={"config": "engine"}))
    await stage.nodes_ready()
    before = await eventually(stage.stateful_set)
    assert plan_of(before)["max_model_len"] == 1024
    stage.configure("engine", **{"inference_config.yaml": "vllm:\n  max-model-len: 2048\n"})
    generation = before["metadata"]["generation"]
    after = await eventually(
        lambda: now if (now := stage.stateful_set())["metadata"]["generation"] > generation else {}
    )
    assert plan_of(after)["max_model_len"] == 2048
    assert before["metadata"]["uid"] == after["metadata"]["uid"]


async def test_the_first_adapter_of_a_running_workspace_becomes_usable(stage: Stage, controller: Loop) -> None:
    """R6: where KAITO mounts it and leaves LoRA off."""
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await eventually(stage.stateful_set)
    adapter = {"source": {"name": "support", "image": "r.example/a:1", "imagePullSecrets": ["pull"]}, "strength": "0.5"}
    stage.patch({"inference": {"adapters": [adapter]}})
    after = await eventually(lambda: now if plan_of(now := stage.stateful_set()).get("adapters") else {})
    assert plan_of(after)["adapters"] == [{"name": "support", "strength": 0.5}]
    assert plan_of(after)["chat_adapter"] == "support"
    fetch = after["spec"]["template"]["spec"]["initContainers"][1]
    assert fetch["args"] == [
        "adapter",
        "--image",
        "r.example/a:1",
        "--to",
        "/mnt/adapter/support",
        "--auth",
        "/var/run/secrets/kaito.sh/pull",
    ]
    stage.start_servers()  # real admission takes the pod


async def test_a_custom_template_is_placed_and_its_edits_roll(stage: Stage, controller: Loop) -> None:
    """R8: where KAITO drops the edit."""
    template = {
        "metadata": {"labels": {"mine": "yes"}},
        "spec": {
            "containers": [{"name": "server", "image": "r.example/server:1"}],
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]
                    }
                }
            },
        },
    }
    manifest = changed(INFERENCE)
    manifest["inference"] = {"template": template}
    stage.create(manifest)
    await stage.nodes_ready()
    made = (await eventually(stage.stateful_set))["spec"]["template"]
    assert made["metadata"]["labels"]["mine"] == "yes"
    terms = made["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert [each["key"] for each in terms[0]["matchExpressions"]] == [
        "disk",
        "apps",
        "kaito.sh/workspace",
        "kaito.sh/workspacenamespace",
    ]
    template["spec"] |= {"containers": [{"name": "server", "image": "r.example/server:2"}]}  # type: ignore[operator]  # a dict
    stage.patch({"inference": {"template": template}})
    await eventually(
        lambda: stage.stateful_set()["spec"]["template"]["spec"]["containers"][0]["image"] == "r.example/server:2"
    )


async def test_a_manual_change_of_the_servers_is_taken_back(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    await stage.serving()
    stage.apps.patch_namespaced_stateful_set(stage.name, stage.namespace, {"spec": {"replicas": 3}})
    await eventually(lambda: stage.stateful_set()["spec"]["replicas"] == 1)


async def test_a_deleted_stateful_set_and_service_come_back(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await stage.nodes_ready()
    first = await eventually(stage.stateful_set)
    stage.apps.delete_namespaced_stateful_set(stage.name, stage.namespace)
    stage.core.delete_namespaced_service(stage.name, stage.namespace)
    await eventually(
        lambda: stage.stateful_set().get("metadata", {"uid": ""})["uid"] not in ("", first["metadata"]["uid"])
    )
    await eventually(stage.service)


async def test_a_new_release_of_the_controller_restarts_no_model(
    client: Client, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decision 15: other settings, and whatever a newer release renders, wait for a change that the user makes."""
    async with running(client):
        stage.create(INFERENCE)
        await stage.nodes_ready()
        await stage.serving()
    before = stage.stateful_set()
    runs = count_runs(monkeypatch, Reconciler)
    async with running(client, replace(SETTINGS, runtime_image="registry.example/kaito-runtime:2")) as newer:
        await eventually(lambda: runs[Key(stage.namespace, stage.name)])
        await at_rest(newer)
        assert stage.stateful_set()["metadata"]["generation"] == before["metadata"]["generation"]
        stage.patch({"metadata": {"annotations": {"kaito.sh/runtime": "vllm", "kaito.sh/enablelb": "true"}}})
        await eventually(lambda: stage.service()["spec"]["type"] == "LoadBalancer")
        await at_rest(newer)
        assert stage.stateful_set()["metadata"]["generation"] == before["metadata"]["generation"]
        stage.patch({"metadata": {"labels": {"kaito.sh/upgrade-to-version": "2"}}})
        await eventually(
            lambda: stage.stateful_set()["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":2")
        )


async def test_a_load_balancer_is_asked_for_by_annotation(stage: Stage, controller: Loop) -> None:
    stage.create(INFERENCE)
    await eventually(stage.service)
    assert stage.service()["spec"]["type"] == "ClusterIP"
    stage.patch({"metadata": {"annotations": {"kaito.sh/enablelb": "True"}}})
    await eventually(lambda: stage.service()["spec"]["type"] == "LoadBalancer")


async def test_pods_trust_the_ca_bundle_and_it_stands_beside_them(client: Client, stage: Stage) -> None:
    bundle = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    async with running(client, replace(SETTINGS, ca_bundle=bundle)):
        stage.create(TUNING)
        await stage.nodes_ready()
        job = await eventually(stage.job)
        assert stage.config_map(f"{stage.name}-ca")["data"] == {"ca-bundle.crt": bundle}
        containers = job["spec"]["template"]["spec"]["initContainers"] + job["spec"]["template"]["spec"]["containers"]
        for container in containers:
            variables = {each["name"]: each.get("value") for each in container["env"]}
            assert variables["SSL_CERT_FILE"] == variables["REQUESTS_CA_BUNDLE"] == "/etc/ssl/kaito/ca-bundle.crt"
        stage.start_job_pod()


async def test_an_edited_tuning_replaces_the_job(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.training()
    first = stage.job()["metadata"]["uid"]
    stage.remove_pod(f"{stage.name}-a1")
    stage.patch({"tuning": {"input": {"urls": ["https://data.example/other.parquet"]}}})
    second = await eventually(lambda: now if (now := stage.job()) and now["metadata"]["uid"] != first else {})
    assert "https://data.example/other.parquet" in second["spec"]["template"]["spec"]["initContainers"][1]["args"]


async def test_a_rotated_secret_does_not_train_again_once_tuned(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.tuned()
    await stage.serving()
    first = stage.job()["metadata"]["uid"]
    stage.patch({"tuning": {"output": {"imagePushSecret": "rotated"}}})
    await eventually(lambda: "rotated" in str(stage.stateful_set()["spec"]["template"]["spec"]["volumes"]))
    assert stage.job()["metadata"]["uid"] == first
    await stage.reads(Tuned="T")


async def test_the_result_outlives_the_job(client: Client, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    async with running(client) as controller:
        stage.create(TUNING)
        await stage.tuned()
        await stage.serving()
        artifact = stage.status()["tuning"]["artifact"]
        stage.batch.delete_namespaced_job(stage.name, stage.namespace, propagation_policy="Background")
        await eventually(lambda: controller.world.jobs.get(Key(stage.namespace, stage.name)) is None)
        await at_rest(controller)
        before = runs.total()
        stage.patch({"metadata": {"annotations": {"touch": "1"}}})
        await eventually(lambda: runs.total() > before)
        await stage.reads(Tuned="T", WorkspaceReady="T")
        assert stage.status()["tuning"]["artifact"] == artifact
        assert not stage.job()


async def test_other_data_after_tuning_stops_the_server_and_trains_anew(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    await stage.tuned()
    await stage.serving()
    stage.patch({"tuning": {"input": {"urls": ["https://data.example/other.parquet"]}}})
    await eventually(lambda: not stage.stateful_set())
    stage.remove_pod(f"{stage.name}-0")
    await eventually(lambda: "other.parquet" in str(stage.job()))
    await stage.reads(Tuned="F", WorkspaceReady="F", InferenceReady="F Tuning")


async def test_the_server_waits_until_the_trainers_pod_has_left_the_gpu(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    pod = await stage.training()
    stage.end_job("Complete")
    await stage.reads(Tuned="T", InferenceReady="F WorkspaceInferenceStatusPending")
    assert not stage.stateful_set()
    stage.end_main(pod, 0)
    await eventually(stage.stateful_set)


async def test_a_server_that_is_not_wanted_any_more_goes_with_its_nodes(stage: Stage, controller: Loop) -> None:
    """Both at once: a server on a node whose kubelet is dead goes only when the node does."""
    stage.create(TUNING)
    await stage.tuned()
    await stage.serving()
    stage.patch({"tuning": {"onSuccess": "Release"}})
    await eventually(lambda: not stage.stateful_set() and not stage.service() and not stage.service("-headless"))
    await stage.reads(ResourceReady="T Released", InferenceReady="-", WorkspaceReady="T Tuned", state="Succeeded")
    assert "endpoint" not in stage.status()
    await eventually(lambda: not stage.claims())
    stage.remove_pod(f"{stage.name}-0")
    await eventually(lambda: stage.condition("ResourceReady")["message"] == "the nodes were given back")
    stage.patch({"tuning": {"onSuccess": "Serve"}})
    await stage.nodes_ready()
    await stage.serving()
    assert stage.service()


async def test_a_server_that_is_not_wanted_any_more_leaves_the_users_own_node(client: Client, stage: Stage) -> None:
    manifest = changed(TUNING, resource={"labelSelector": {"matchLabels": {"team": stage.namespace}}})
    del manifest["resource"]["instanceType"]
    async with running(client, replace(SETTINGS, node_provisioner="byo")):
        stage.add_node(f"own-{stage.namespace}", {"team": stage.namespace})
        stage.create(manifest | {"apiVersion": "kaito.sh/v1beta1"})
        await eventually(stage.job)
        pod = stage.start_job_pod()
        stage.end_main(pod, 0, pushed("private.example/team/adapter:1", "sha256:" + "ab" * 32))
        stage.end_job("Complete")
        await stage.serving()
        stage.patch({"tuning": {"onSuccess": "Release"}})
        await eventually(lambda: not stage.stateful_set() and not stage.service())
        stage.remove_pod(f"{stage.name}-0")
        await stage.reads(ResourceReady="T Released", InferenceReady="-", WorkspaceReady="T Tuned", state="Succeeded")


async def test_a_config_map_that_is_deleted_after_tuning_keeps_no_nodes(stage: Stage, controller: Loop) -> None:
    stage.configure("training", **{"training_config.yaml": "training_config: {}\n"})
    stage.create(changed(TUNING, tuning={"onSuccess": "Release", "config": "training"}))
    pod = await stage.training()
    stage.end_job("Complete")
    await stage.reads(Tuned="T")  # and its pod is still at work
    stage.core.delete_namespaced_config_map("training", stage.namespace)
    await stage.reads(ResourceReady="F ConfigMapMissing")
    stage.end_main(pod, 0)
    await eventually(lambda: not stage.claims())
    await stage.reads(ResourceReady="T Released", WorkspaceReady="T Tuned", state="Succeeded")
    await at_rest(controller)
    await stage.reads(ResourceReady="T Released", WorkspaceReady="T Tuned", state="Succeeded")
    stage.patch({"tuning": {"input": {"urls": ["https://data.example/other.parquet"]}}})
    await stage.reads(ResourceReady="F ConfigMapMissing", WorkspaceReady="F ConfigMapMissing")


async def test_volumes_may_bring_the_data_and_keep_the_result(stage: Stage, controller: Loop) -> None:
    claim = {"persistentVolumeClaim": {"claimName": "mine"}}
    manifest = changed(TUNING, tuning={"input": {"volumeSource": claim}, "output": {"volumeSource": claim}})
    stage.create(manifest)
    await stage.nodes_ready()
    template = (await eventually(stage.job))["spec"]["template"]["spec"]
    assert [each["name"] for each in template["initContainers"]] == ["fetch-weights"]
    mounts = {each["mountPath"]: each["name"] for each in template["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in template["volumes"]}
    for path in ("/mnt/data", "/mnt/results"):
        assert volumes[mounts[path]]["persistentVolumeClaim"]["claimName"] == "mine"
    pod = stage.start_job_pod()
    stage.run_main(pod)
    stage.end_main(pod, 0, '{"v":1,"phase":"Succeeded","exit":0}')
    stage.end_job("Complete")
    served = (await eventually(stage.stateful_set))["spec"]["template"]["spec"]
    mounts = {each["mountPath"]: each["name"] for each in served["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in served["volumes"]}
    assert volumes[mounts[f"/mnt/adapter/{stage.name}"]]["persistentVolumeClaim"]["claimName"] == "mine"


async def test_a_config_map_that_nobody_refers_to_is_not_watched(stage: Stage, controller: Loop) -> None:
    stage.configure("engine", **{"inference_config.yaml": "vllm: {}\n"})
    stage.create(changed(INFERENCE, inference={"config": "engine"}))
    await eventually(stage.claims)
    assert set(controller.world.configs._watched) == {Key(stage.namespace, "engine")}
    stage.delete()
    await eventually(lambda: not controller.world.configs._watched)
