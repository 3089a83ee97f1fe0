"""A provisioner in this process, a real API server, and an emulated AKS without machines: tests join the nodes themselves.

`box` is the vocabulary: make a claim, let its machine join, look at what the API server and the emulator hold. The
independent client arranges and checks; what is under test uses our own.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import aiohttp
import pytest
from kubernetes import client as independent
from kubernetes.client.exceptions import ApiException

from hack.local.aks.model import Settings as CloudSettings
from hack.local.aks.server import Emulator, running
from hack.local.controlplane import ControlPlane
from kube.client import Client
from kube.clock import Clock
from provisioner.azure import agentpools
from provisioner.azure.agentpools import AgentPools
from provisioner.loop import Loop
from provisioner.settings import Settings
from test.clock import LeapingClock
from test.expect import TIMEOUT, eventually

CLAIMS = ("karpenter.sh", "v1", "nodeclaims")
CLASSES = ("kaito.sh", "v1alpha1", "kaitonodeclasses")
SIZE = "Standard_NC6s_v3"
GPU = "nvidia.com/gpu"
# Seconds that what is under test may take for one thing on a busy machine. The product's own nets (30 s) come later.
PATIENCE = 25.0


def new_name() -> str:
    return f"ws{uuid.uuid4().hex[:9]}"


def a_claim(name: str, *, requirements: dict[str, list[str]] | None = None, **spec: Any) -> dict[str, Any]:
    """A claim as KAITO's workspace controller writes it."""
    wanted = {"node.kubernetes.io/instance-type": [SIZE], **(requirements or {})}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": name,
            "labels": {
                "karpenter.sh/nodepool": "kaito",
                "kaito.sh/workspace": "phi",
                "kaito.sh/workspacenamespace": "default",
            },
            "annotations": {"karpenter.sh/do-not-disrupt": "true"},
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [{"key": key, "operator": "In", "values": values} for key, values in wanted.items()],
            "resources": {"requests": {"storage": "120Gi", GPU: "1"}},
            "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
            **spec,
        },
    }


@dataclass
class Box:
    """The world of one test."""

    emulator: Emulator
    api: independent.ApiClient
    settings: Settings
    kubeconfig: str
    clock: LeapingClock = field(default_factory=LeapingClock)  # the provisioner's
    cloud_clock: LeapingClock = field(default_factory=LeapingClock)  # the emulator's
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects = independent.CustomObjectsApi(self.api)
        self.core = independent.CoreV1Api(self.api)

    # The provisioner

    async def start(self, clock: Clock | None = None, **changes: Any) -> None:
        """Start a provisioner, as a new process would: nothing is carried over."""
        settings = Settings(**{**vars(self.settings), **changes})
        self.tasks.append(asyncio.create_task(self._run(settings, clock or self.clock)))
        count = len(self.tasks)
        await eventually(lambda: len(self.loops) >= count and self.loops[-1].synced())

    async def _run(self, settings: Settings, clock: Clock) -> None:
        async with (
            await Client.connect(user_agent="provisioner", kubeconfig=self.kubeconfig) as client,
            agentpools.connect(settings, clock=clock) as cloud,
        ):
            self.loops.append(Loop(client, cloud, settings, clock=clock))
            await self.loops[-1].run()

    async def kill(self) -> None:
        """End the newest provisioner wherever it stands."""
        task = self.tasks[-1]
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        results = await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        failures = [result for result in results if isinstance(result, Exception)]
        assert not failures, failures

    # Claims

    def create(self, body: dict[str, Any]) -> str:
        self.objects.create_cluster_custom_object(*CLAIMS, body)
        return str(body["metadata"]["name"])

    def claim(self, name: str = "", **options: Any) -> str:
        return self.create(a_claim(name or new_name(), **options))

    def read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.objects.get_cluster_custom_object(*CLAIMS, name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    def delete(self, name: str) -> None:
        self.objects.delete_cluster_custom_object(*CLAIMS, name)

    def touch(self, name: str) -> None:
        """Change the claim, which has it looked at now and not when its time has come."""
        patch = {"metadata": {"annotations": {"touched": uuid.uuid4().hex}}}
        self.objects.patch_cluster_custom_object(*CLAIMS, name, patch)

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        found = self.read(name) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})

    def status_of(self, name: str, kind: str) -> tuple[str, str]:
        condition = self.condition(name, kind)
        return condition.get("status", ""), condition.get("reason", "")

    async def becomes(
        self, name: str, kind: str, status: str, reason: str = "", timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """Wait for a condition and return it."""

        def reached() -> dict[str, Any] | None:
            condition = self.condition(name, kind)
            assert condition.get("status") == status, f"{name}: {condition}"
            assert not reason or condition["reason"] == reason, f"{name}: {condition}"
            return condition

        found = await eventually(reached, timeout)
        assert found is not None
        return found

    async def gone(self, name: str, timeout: float = PATIENCE) -> None:
        await eventually(lambda: self.read(name) is None, timeout)

    # The cloud

    async def puts(self, name: str) -> int:
        """How many create requests for the pool changed the cloud."""
        return sum(entry.committed for entry in await self.emulator.admin.log(pool=name, kind="PUT"))

    async def pool(self, name: str) -> Any:
        return (await self.emulator.admin.state()).pools.get(name)

    async def pool_state(self, name: str) -> str:
        found = await self.pool(name)
        return found.state if found else ""

    async def power(self, power: str) -> None:
        """Stop or start the managed cluster; the provisioners, which remember its state for ten seconds, forget it."""
        await self.emulator.admin.configure(powerSeconds=0)
        await (self.emulator.admin.stop_cluster() if power == "Stopped" else self.emulator.admin.start_cluster())
        for loop in self.loops:
            cloud = cast(AgentPools, loop._cloud)
            if cloud._asking is not None:  # its answer may be from before
                await asyncio.wait({cloud._asking})
            cloud._cluster = None

    async def foreign_pool(self, name: str, labels: dict[str, str] | None = None, **tags: str) -> None:
        """A pool that somebody else has made, while no provisioner runs that could take it away at once."""
        await self.put_foreign_pool(name, labels, **tags)

        async def made() -> bool:
            return await self.pool_state(name) == "Succeeded"

        await eventually(made)

    async def put_foreign_pool(self, name: str, labels: dict[str, str] | None = None, **tags: str) -> None:
        """Somebody else's PUT, without our client."""
        url = f"{self.emulator.endpoint}{self.emulator.identity.path}/agentPools/{name}?api-version=2024-01-01"
        properties = {"count": 1, "vmSize": SIZE, "mode": "User", "nodeLabels": labels or {}, "tags": tags}
        async with aiohttp.ClientSession() as session, session.put(url, json={"properties": properties}) as response:
            assert response.status == 201, await response.text()

    # Nodes

    async def joined(self, name: str, *, ready: bool = True, gpus: bool = True, timeout: float = TIMEOUT) -> str:
        """Wait for the pool, then let its machine join as kubelet would. Returns the node's name."""

        async def machines() -> list[dict[str, Any]]:
            return await self.emulator.admin.nodes(name)

        manifests = await eventually(machines, timeout)
        for manifest in manifests:
            self.core.create_node(manifest)
            self.report(manifest["metadata"]["name"], ready=ready, gpus=gpus)
        return str(manifests[0]["metadata"]["name"])

    def report(self, node: str, *, ready: bool = True, gpus: bool = True, since: str = "") -> None:
        """What kubelet and device plugin write into the node's status."""
        amounts = {"cpu": "6", "memory": "112Gi", "pods": "110", **({GPU: "1"} if gpus else {})}
        condition = {
            "type": "Ready",
            "status": "True" if ready else "Unknown",
            "reason": "KubeletReady" if ready else "NodeStatusUnknown",
            "message": "",
            "lastTransitionTime": since or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lastHeartbeatTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        body = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [condition]}}
        self.core.patch_node_status(node, body)
        taints = [
            taint for taint in self.node(node).spec.taints or () if not taint.key.startswith("node.kubernetes.io/")
        ]
        self.core.patch_node(node, {"spec": {"taints": self.api.sanitize_for_serialization(taints)}})

    def node(self, name: str) -> Any:
        return self.core.read_node(name)

    def node_names(self, pool: str) -> list[str]:
        found = self.core.list_node(label_selector=f"agentpool={pool}").items
        return [node.metadata.name for node in found]

    async def ready(self, **options: Any) -> tuple[str, str]:
        """A claim that has become Ready, and its node."""
        name = self.claim(**options)
        node = await self.joined(name)
        await self.becomes(name, "Ready", "True")
        return name, node

    def events(self, name: str) -> list[Any]:
        found = independent.EventsV1Api(self.api).list_event_for_all_namespaces().items
        return [event for event in found if event.regarding and event.regarding.name == name]

    def wipe(self) -> None:
        """Remove every claim, node and class, finalizers or not."""
        for claim in self.objects.list_cluster_custom_object(*CLAIMS)["items"]:
            with suppress(ApiException):
                name = claim["metadata"]["name"]
                self.objects.patch_cluster_custom_object(*CLAIMS, name, {"metadata": {"finalizers": None}})
                self.delete(name)
        for node in self.core.list_node().items:
            with suppress(ApiException):
                self.core.patch_node(node.metadata.name, {"metadata": {"finalizers": None}})
                self.core.delete_node(node.metadata.name)
        for each in self.objects.list_cluster_custom_object(*CLASSES)["items"]:
            self.objects.delete_cluster_custom_object(*CLASSES, each["metadata"]["name"])


@asynccontextmanager
async def boxed(apiserver: ControlPlane, api: independent.ApiClient) -> AsyncIterator[Box]:
    # Tests list twenty-five times as often as production does, so the documented request rates are off by default.
    cloud_clock = LeapingClock()
    given = CloudSettings(create_seconds=0.1, delete_seconds=0.1, throttle=False)
    async with running(given, time=lambda: cloud_clock.now().timestamp()) as emulator:
        settings = Settings(
            subscription_id=emulator.identity.subscription,
            resource_group=emulator.identity.resource_group,
            cluster_name=emulator.identity.cluster,
            location=emulator.identity.location,
            credential="none",
            arm_endpoint=emulator.endpoint,
            identity="test",
            list_seconds=0.2,
        )
        box = Box(emulator, api, settings, str(apiserver.kubeconfig), cloud_clock=cloud_clock)
        try:
            yield box
        finally:
            try:
                await box.stop()
            finally:
                box.wipe()


@pytest.fixture
async def idle(apiserver: ControlPlane, api: independent.ApiClient, crds: None) -> AsyncIterator[Box]:
    """A box in which no provisioner runs yet."""
    async with boxed(apiserver, api) as box:
        yield box


@pytest.fixture
async def box(idle: Box) -> Box:
    """A box with a provisioner at work."""
    await idle.start()
    return idle
