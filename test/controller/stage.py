"""A stage for one Workspace on a real API server: the controller runs, the test plays everybody else.

There is no kubelet, no Job or StatefulSet controller, no provisioner and no garbage collector here; the methods below do
what those would, through an independent client. Pods are created from the very templates that the controller wrote, in a
namespace that enforces Pod Security Standard *restricted*: what real admission refuses, a test sees.
"""

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes import client as independent
from prometheus_client import CollectorRegistry

from controller.loop import Loop
from controller.progress import Progress
from controller.settings import Settings
from kube.client import Client
from kube.clock import Clock
from kube.lease import LeaderElector
from runtime import contract
from test.clock import VirtualClock
from test.expect import eventually

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
SETTINGS = Settings(
    runtime_image="registry.example/kaito-runtime:1",
    weights_registry="registry.example/models",
    accelerator="cpu",
    workers=4,
    identity="controller-under-test",
)
_serial = itertools.count()


class Stage:
    """One namespace; most methods are about the Workspace `name` in it."""

    def __init__(self, api: independent.ApiClient, namespace: str) -> None:
        self.core = independent.CoreV1Api(api)
        self.apps = independent.AppsV1Api(api)
        self.batch = independent.BatchV1Api(api)
        self.policy = independent.PolicyV1Api(api)
        self.custom = independent.CustomObjectsApi(api)
        self.json = api.sanitize_for_serialization
        self.namespace = namespace
        self.name = "demo"
        self.core.patch_namespace(
            namespace, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        )

    # The user

    def create(self, manifest: Mapping[str, Any]) -> Json:
        body: Json = copy.deepcopy(dict(manifest))
        body["metadata"] = {"namespace": self.namespace, **body["metadata"]}
        self.name = body["metadata"]["name"]
        version = body["apiVersion"].partition("/")[2]
        return dict(
            self.custom.create_namespaced_custom_object("kaito.sh", version, self.namespace, "workspaces", body)
        )

    def patch(self, patch: Json) -> None:
        self.custom.patch_namespaced_custom_object(
            "kaito.sh", "v1beta1", self.namespace, "workspaces", self.name, patch
        )

    def delete(self) -> None:
        self.custom.delete_namespaced_custom_object("kaito.sh", "v1beta1", self.namespace, "workspaces", self.name)

    def workspace(self) -> Json:
        """The Workspace as stored; as with everything read here, nothing ({}) where there is none."""
        return _read(
            lambda: self.custom.get_namespaced_custom_object(
                "kaito.sh", "v1beta1", self.namespace, "workspaces", self.name
            )
        )

    def status(self) -> Json:
        return dict(self.workspace().get("status", {}))

    def condition(self, type_: str) -> Json:
        return next((c for c in self.status().get("conditions", []) if c["type"] == type_), {})

    def row(self) -> dict[str, str]:
        """The Workspace in the words of the design's table: condition → T or F with its reason; and the state."""
        shown = {c["type"]: f"{c['status'][0]} {c['reason']}" for c in self.status().get("conditions", [])}
        return shown | {"state": self.status().get("state", "")}

    def configure(self, name: str, **data: str) -> None:
        body = {"metadata": {"name": name}, "data": data}
        if not self._json(lambda: self.core.read_namespaced_config_map(name, self.namespace)):
            self.core.create_namespaced_config_map(self.namespace, body)
        else:
            self.core.replace_namespaced_config_map(name, self.namespace, body)

    def events(self) -> list[tuple[str, str, str]]:
        found = self.custom.list_namespaced_custom_object("events.k8s.io", "v1", self.namespace, "events")["items"]
        ours = [event for event in found if event["regarding"]["name"] == self.name]
        return [(event["type"], event["reason"], event["note"]) for event in ours]

    # The provisioner

    def claims(self) -> list[Json]:
        selector = f"kaito.sh/workspace={self.name},kaito.sh/workspacenamespace={self.namespace}"
        found = self.custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", label_selector=selector)[
            "items"
        ]
        return sorted(found, key=lambda claim: claim["metadata"]["name"])

    def say(self, claim: Json, conditions: Sequence[tuple[str, str, str, str]], node: str = "") -> None:
        """Write a claim's status as a provisioner does."""
        written = [
            {
                "type": type_,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            for type_, status, reason, message in conditions
        ]
        status: Json = {"conditions": written} | ({"nodeName": node} if node else {})
        self.custom.patch_cluster_custom_object_status(
            "karpenter.sh", "v1", "nodeclaims", claim["metadata"]["name"], {"status": status}
        )

    def provision(self, claim: Json, *, ready: bool = True, gpus: int = 1) -> str:
        """Turn a claim into a node, registered and initialized. Return the node's name."""
        name = f"aks-{claim['metadata']['name']}-{next(_serial)}"
        marks = {
            key: value for key, value in claim["metadata"]["labels"].items() if not key.startswith("karpenter.sh/")
        }
        self.add_node(name, marks, ready=ready, gpus=gpus)
        done = [(type_, "True", type_, "") for type_ in ("Launched", "Registered", "Initialized", "Ready")]
        self.say(claim, done, node=name)
        return name

    def add_node(self, name: str, marks: Mapping[str, str], *, ready: bool = True, gpus: int = 1) -> None:
        instance = {"node.kubernetes.io/instance-type": "Standard_NC6s_v3"}
        self.core.create_node({"metadata": {"name": name, "labels": instance | dict(marks)}})
        self.set_node(name, ready=ready, gpus=gpus)

    def set_node(self, name: str, *, ready: bool = True, gpus: int = 1, pressure: str = "") -> None:
        kinds = [("Ready", ready)] + ([(pressure, True)] if pressure else [])
        conditions = [
            {
                "type": type_,
                "status": str(holds),
                "reason": "Kubelet",
                "message": "as the kubelet says",
                "lastTransitionTime": "2030-01-01T00:00:00Z",
            }
            for type_, holds in kinds
        ]
        amounts = {"cpu": "8", "memory": "32Gi", "pods": "100"} | ({GPU: str(gpus)} if gpus else {GPU: "0"})
        status = {"conditions": conditions, "allocatable": amounts, "capacity": amounts}
        self.core.patch_node_status(name, {"status": status})

    def remove_claim(self, name: str) -> None:
        """Let a claim that is being deleted go, as a provisioner does once its machine is gone."""
        self.custom.patch_cluster_custom_object(
            "karpenter.sh", "v1", "nodeclaims", name, {"metadata": {"finalizers": None}}
        )

    def hold_claim(self, name: str) -> None:
        """Put the provisioner's finalizer on a claim, so that its deletion takes time."""
        self.custom.patch_cluster_custom_object(
            "karpenter.sh", "v1", "nodeclaims", name, {"metadata": {"finalizers": ["karpenter.sh/termination"]}}
        )

    def delete_claim(self, name: str) -> None:
        self.custom.delete_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", name)

    # The StatefulSet controller and the kubelet

    def stateful_set(self) -> Json:
        return self._json(lambda: self.apps.read_namespaced_stateful_set(self.name, self.namespace))

    def job(self) -> Json:
        return self._json(lambda: self.batch.read_namespaced_job(self.name, self.namespace))

    def service(self, suffix: str = "") -> Json:
        return self._json(lambda: self.core.read_namespaced_service(self.name + suffix, self.namespace))

    def config_map(self, name: str) -> Json:
        return self._json(lambda: self.core.read_namespaced_config_map(name, self.namespace))

    def _json(self, read: Callable[[], Any]) -> Json:
        return _read(lambda: self.json(read()))

    def start_pod(self, owner: Json, name: str, kind: str) -> str:
        """Create a pod from the owner's template, as its controller does."""
        template = copy.deepcopy(owner["spec"]["template"])
        reference = {
            "apiVersion": "apps/v1" if kind == "StatefulSet" else "batch/v1",
            "kind": kind,
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
        template["metadata"] |= {"name": name, "ownerReferences": [reference]}
        self.core.create_namespaced_pod(self.namespace, template)
        return name

    def start_servers(self) -> list[str]:
        owner = self.stateful_set()
        return [self.start_pod(owner, f"{self.name}-{i}", "StatefulSet") for i in range(owner["spec"]["replicas"])]

    def set_servers(self, *, ready: bool = True) -> None:
        """Say that all servers of the newest template are ready, or not."""
        owner = self.stateful_set()
        wanted = owner["spec"]["replicas"]
        status = {
            "observedGeneration": owner["metadata"]["generation"],
            "replicas": wanted,
            "updatedReplicas": wanted,
            "readyReplicas": wanted if ready else 0,
        }
        self.apps.patch_namespaced_stateful_set_status(self.name, self.namespace, {"status": status})

    def start_job_pod(self, suffix: str = "a1") -> str:
        owner = self.job()
        return self.start_pod(owner, f"{self.name}-{suffix}", "Job")

    def make_job_again(self) -> None:
        """Replace the Job by one of the same inputs, as the controller does when it tries again."""
        job = self.job()
        self.batch.delete_namespaced_job(self.name, self.namespace, propagation_policy="Background")
        kept = {name: job["metadata"][name] for name in ("name", "labels", "annotations", "ownerReferences")}
        spec = {name: value for name, value in job["spec"].items() if name != "selector"}
        for mark in ("controller-uid", "batch.kubernetes.io/controller-uid"):
            spec["template"]["metadata"]["labels"].pop(mark, None)
        self.batch.create_namespaced_job(self.namespace, {"metadata": kept, "spec": spec})

    async def next_job_pod(self, suffix: str) -> str:
        """Create a pod in place of one that failed, a second later at least: creation timestamps know whole seconds."""
        made = [pod.metadata.creation_timestamp for pod in self.core.list_namespaced_pod(self.namespace).items]
        await eventually(lambda: datetime.now(UTC) >= max(made) + timedelta(seconds=1))
        return self.start_job_pod(suffix)

    def pod_status(self, name: str, **status: Any) -> None:
        self.core.patch_namespaced_pod_status(name, self.namespace, {"status": status})

    def run_main(self, name: str, *, ip: str = "") -> None:
        """The init containers are through, the main container runs."""
        container = container_status(self.name, started=True, state={"running": {}})
        self.pod_status(name, phase="Running", containerStatuses=[container], **({"podIP": ip} if ip else {}))

    def end_main(self, name: str, exit_code: int, message: str = "", reason: str = "") -> None:
        """The main container ended, and with it the pod."""
        phase = "Succeeded" if exit_code == 0 else "Failed"
        self.pod_status(
            name, phase=phase, containerStatuses=[container_status(self.name, state=ended(exit_code, message, reason))]
        )

    def end_job(self, type_: str, message: str = "") -> None:
        """End the Job as its controller does: "Complete" or "Failed"."""
        now = "2030-01-01T00:00:00Z"
        before = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[type_]
        conditions = [
            {"type": each, "status": "True", "reason": type_, "message": message, "lastTransitionTime": now}
            for each in (before, type_)
        ]
        status: Json = {"conditions": conditions, "startTime": now}
        if type_ == "Complete":
            status |= {"completionTime": now, "succeeded": 1}
        else:
            status |= {"failed": 1}
        self.batch.patch_namespaced_job_status(self.name, self.namespace, {"status": status})

    def remove_pod(self, name: str) -> None:
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    # Short cuts

    async def nodes_ready(self) -> Json:
        """Wait for one claim and make it a node. Return the claim."""
        claim = (await eventually(self.claims))[0]
        self.provision(claim)
        await eventually(lambda: self.condition("ResourceReady").get("status") == "True")
        return claim

    async def training(self, ip: str = "") -> str:
        """Go on to a Job whose main container runs. Return its pod's name."""
        await self.nodes_ready()
        await eventually(self.job)
        pod = self.start_job_pod()
        self.run_main(pod, ip=ip)
        await eventually(lambda: self.condition("JobStarted").get("status") == "True")
        return pod

    async def tuned(self, digest: str = "sha256:" + "ab" * 32) -> str:
        """Go on to a Job that succeeded and pushed. Return its pod's name."""
        pod = await self.training()
        self.end_main(pod, 0, pushed("private.example/team/adapter:1", digest))
        self.end_job("Complete")
        await eventually(lambda: self.condition("Tuned").get("status") == "True")
        return pod

    async def serving(self) -> None:
        """Go on to servers that are ready."""
        await eventually(self.stateful_set)
        self.start_servers()
        self.set_servers()
        await eventually(lambda: self.condition("WorkspaceReady").get("status") == "True")

    async def serving_on_a_node_that_takes_its_time(self) -> str:
        """From nothing to a model that is served, on a claim that stays when it is deleted. Returns the claim's name."""
        self.create(INFERENCE)
        name: str = (await self.nodes_ready())["metadata"]["name"]
        await self.serving()
        self.hold_claim(name)
        return name

    async def reads(self, **wanted: str) -> dict[str, str]:
        """Wait until the table's row has these entries. An entry without a reason matches any; "-" means absent."""

        def matches() -> bool:
            row = self.row()
            for type_, value in wanted.items():
                found = row.get(type_, "-")
                assert found == value or found.partition(" ")[0] == value, f"{type_} is {found}, not {value}: {row}"
            return True

        await eventually(matches)
        return self.row()


def container_status(name: str, *, started: bool = False, ready: bool = False, **more: Any) -> Json:
    return {
        "name": name,
        "started": started,
        "ready": ready,
        "restartCount": 0,
        "image": "registry.example/kaito-runtime:1",
        "imageID": "",
    } | more


def ended(exit_code: int, message: str = "", reason: str = "") -> Json:
    default = "Completed" if exit_code == 0 else "Error"
    return {"terminated": {"exitCode": exit_code, "message": message, "reason": reason or default}}


def report(exit_code: int, reason: str, message: str) -> str:
    """A termination report, as the programs write it."""
    return contract.encode_report(
        contract.Status(phase=contract.Phase.FAILED, exit=exit_code, reason=reason, message=message)
    )


def pushed(ref: str, digest: str, *, steps: int = 40) -> str:
    return contract.encode_report(
        contract.Status(
            phase=contract.Phase.SUCCEEDED,
            exit=0,
            step=steps,
            total_steps=steps,
            loss=0.04,
            artifact=contract.Artifact(ref, digest),
        )
    )


def plan_of(owner: Json) -> Json:
    """The plan that a workload's main container is started with."""
    variables = owner["spec"]["template"]["spec"]["containers"][0]["env"]
    return dict(json.loads(next(each["value"] for each in variables if each["name"] == contract.PLAN_ENV)))


@asynccontextmanager
async def running(
    client: Client,
    settings: Settings = SETTINGS,
    clock: Clock | None = None,
    progress: Progress | None = None,
    elector: LeaderElector | None = None,
) -> AsyncIterator[Loop]:
    """Run the controller; leaving the block ends it as abruptly as a lost node would."""
    loop = Loop(client, settings, registry=CollectorRegistry(auto_describe=True), clock=clock, progress=progress)
    task = asyncio.create_task(loop.run(elector))
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


async def at_rest(loop: Loop) -> None:
    """Wait until no key waits, no reconcile runs and the caches show what was written: what the last one decided about
    time is decided."""

    def resting() -> bool:
        idle = len(loop.queue) == 0 and loop.workers.metrics.active == 0
        caught_up = loop.world.consistency.caught_up
        return idle and all(caught_up(each.metadata.key, each.metadata.uid) for each in loop.world.workspaces.all())

    await eventually(resting)


async def caught_up(loop: Loop, clock: VirtualClock) -> None:
    """Come to rest, and have the looks behind one that the gate put off for a second: what comes later has another cause."""
    await at_rest(loop)
    await clock.advance(2)
    await at_rest(loop)


def _read(read: Callable[[], Any]) -> Json:
    try:
        return dict(read())
    except independent.ApiException as error:
        if error.status != 404:
            raise
        return {}


INFERENCE: Json = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "workspace-smollm"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"apps": "smollm"}}},
    "inference": {"preset": {"name": "smollm2-135m-instruct"}},
}
TUNING: Json = {
    "apiVersion": "kaito.sh/v1alpha1",
    "kind": "Workspace",
    "metadata": {"name": "workspace-tuning-phi-3"},
    "resource": {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": "tuning-phi-3"}}},
    "tuning": {
        "preset": {"name": "smollm2-135m-instruct"},
        "method": "qlora",
        "input": {"urls": ["https://data.example/train.parquet?download=true"]},
        "output": {"image": "private.example/team/adapter:1", "imagePushSecret": "registry-push"},
    },
}


def changed(manifest: Json, **parts: Json) -> Json:
    """A copy of a manifest with parts merged into its top-level fields."""
    made = copy.deepcopy(manifest)
    for name, values in parts.items():
        made[name] = made.get(name, {}) | values
    return made
