"""A session with both controllers: their real loops, one API server that may break, one emulated AKS without machines.

`session` is the vocabulary. The user is played through `test.controller.stage`; machines are joined, and what the cloud
was asked for is read, through the `Box` of the provisioner's tests. Our own waits take a twentieth of their time.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from kubernetes import client as independent
from kubernetes import config

from controller.loop import Loop
from hack.local.controlplane import ControlPlane
from kube.client import Client
from kube.metrics import REST
from provisioner.cloud import Instance
from test.clock import LeapingClock
from test.conftest import establish_crds
from test.controller.stage import INFERENCE, Json, Stage, changed, running
from test.expect import TIMEOUT, eventually
from test.kube.outage import API_SERVER, Outage
from test.provisioner.conftest import CLAIMS, Box, boxed

WORKSPACES = ("kaito.sh", "v1beta1")
# More than the longest patience with a socket: 73 s for a watch, 30 s for a write, 10 s for a connection.
PATIENCE = 76.0


class FastLoopClock(LeapingClock):
    """Our waits take a twentieth of their time. Sockets have theirs in full, until a jump lets it run out.

    To be made inside of the loop, whose timers, and so aiohttp's, come along with a jump.
    """

    FACTOR = 20

    def __init__(self) -> None:
        super().__init__()
        self._jumped = 0.0
        self._loop = asyncio.get_running_loop()
        real = self._loop.time
        self._loop.time = lambda: real() + self._jumped  # type: ignore[method-assign]  # no hook for it exists

    def monotonic(self) -> float:
        return self._loop.time() * self.FACTOR

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self.FACTOR)

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass for the sockets, and twenty times as much for us."""
        self._jumped += seconds


@dataclass
class Session:
    """Both controllers at work."""

    outage: Outage
    api: independent.ApiClient
    namespace: str
    box: Box
    clock: FastLoopClock
    controller: Loop
    listing: asyncio.Event = field(default_factory=asyncio.Event)  # while not set, the cloud keeps its list to itself

    def __post_init__(self) -> None:
        """Put `listing` before the list of pools, as the provisioner asks for it: there no time runs out meanwhile."""
        self.listing.set()
        cloud = self.box.loops[0]._cloud
        list_now = cloud.list

        async def list_when_let() -> tuple[Instance, ...]:
            await self.listing.wait()
            return await list_now()

        cloud.list = list_when_let  # type: ignore[method-assign]  # what is under test stays as it is

    # The user and the machines

    def apply(self, name: str) -> Stage:
        stage = Stage(self.api, self.namespace)
        stage.create(changed(INFERENCE, metadata={"name": name}))
        return stage

    async def claim(self, stage: Stage) -> Json:
        """Wait for the Workspace's claim, the only one."""
        (found,) = await eventually(stage.claims)
        return dict(found)

    async def nodes_ready(self, stage: Stage) -> Json:
        """Let the claim's machine join, and wait for the Workspace to see its node. Return the claim."""
        claim = await self.claim(stage)
        await self.box.joined(claim["metadata"]["name"])
        await eventually(lambda: stage.condition("ResourceReady").get("status") == "True")
        return claim

    async def serving(self, stage: Stage) -> Json:
        claim = await self.nodes_ready(stage)
        await stage.serving()
        return claim

    def collect_garbage(self) -> bool:
        """Delete what Workspaces owned that are no more, as the garbage collector does, which does not run here."""
        place = (*WORKSPACES, self.namespace, "workspaces")
        there = {each["metadata"]["uid"] for each in self.box.objects.list_namespaced_custom_object(*place)["items"]}
        core, apps = self.box.core, independent.AppsV1Api(self.api)
        for found, delete in (
            (core.list_namespaced_service, core.delete_namespaced_service),
            (apps.list_namespaced_stateful_set, apps.delete_namespaced_stateful_set),
        ):
            for item in found(self.namespace).items:
                if not there.intersection(owner.uid for owner in item.metadata.owner_references or ()):
                    delete(item.metadata.name, self.namespace)
        return True

    # The server

    @asynccontextmanager
    async def killed(self, name: str) -> AsyncIterator[None]:
        """API server or etcd is dead within the block, and back after it."""
        self.outage.kill(name)
        try:
            yield
        finally:
            await self.outage.restart(name)
            await eventually(self._stores)

    def _stores(self) -> bool:
        """Whether the API server has found its etcd: such a read goes there."""
        try:
            self.box.core.read_namespace(self.namespace)
        except independent.ApiException:
            return False
        return True

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """The API server answers nobody within the block, and everybody after it."""
        self.outage.freeze(API_SERVER)
        try:
            yield
        finally:
            self.outage.thaw(API_SERVER)

    async def given_up(self, times: int) -> None:
        """Let the patience with sockets run out, until so many requests have ended without an answer."""
        before = _unanswered()

        def often() -> bool:
            self.clock.jump(PATIENCE)
            return _unanswered() - before >= times

        await eventually(often, timeout=4 * TIMEOUT)

    # What must be so

    async def creates(self, pool: str) -> list[bool]:
        """The create requests for a pool: for each, whether it changed the cloud."""
        return [entry.committed for entry in await self.box.emulator.admin.log(pool=pool, kind="PUT")]

    def all_claims(self) -> set[str]:
        """The UIDs of all claims that there are."""
        return {claim["metadata"]["uid"] for claim in self.box.objects.list_cluster_custom_object(*CLAIMS)["items"]}

    async def has_one_machine(self, stage: Stage, uid: str = "") -> None:
        """One claim, the one of this UID where it is known, and one create request for its pool."""
        (claim,) = stage.claims()
        assert uid in ("", claim["metadata"]["uid"])
        assert await self.creates(claim["metadata"]["name"]) == [True]

    def both_run(self) -> bool:
        """Whether the provisioner that was started first still runs; the controller's end ends the test by itself."""
        return len(self.box.tasks) == 1 and not self.box.tasks[0].done()

    def clear(self) -> None:
        """Remove the Workspaces, finalizers or not: the next test's controllers must find none."""
        objects = self.box.objects
        place = (*WORKSPACES, self.namespace, "workspaces")
        for workspace in objects.list_namespaced_custom_object(*place)["items"]:
            name = workspace["metadata"]["name"]
            objects.patch_namespaced_custom_object(*place, name, {"metadata": {"finalizers": None}})
            objects.delete_namespaced_custom_object(*place, name)


def _unanswered() -> float:
    """Requests of this process to an API server that ended without an answer."""
    families = {family.name: family for family in REST.collect()}
    requests = families["rest_client_requests"].samples
    return sum(sample.value for sample in requests if sample.labels["code"] == "<error>")


@pytest.fixture(scope="package")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """A control plane with our CRDs that only this folder breaks; every test leaves it running."""
    with ControlPlane.api(tmp_path_factory.mktemp("session")) as plane:
        with config.new_client_from_config(str(plane.kubeconfig)) as api:
            establish_crds(api)
        yield Outage(plane)


@pytest.fixture
async def session(outage: Outage) -> AsyncIterator[Session]:
    kubeconfig = str(outage.plane.kubeconfig)
    namespace = f"test-{uuid.uuid4().hex[:10]}"
    clock = FastLoopClock()
    with config.new_client_from_config(kubeconfig) as api:
        independent.CoreV1Api(api).create_namespace({"metadata": {"name": namespace}})
        async with boxed(outage.plane, api) as box:
            box.clock = clock
            async with (
                await Client.connect(user_agent="controller", kubeconfig=kubeconfig, clock=clock) as client,
                running(client, clock=clock) as controller,
            ):
                # Waits are twentieths here; the age of a pool is judged by the time of day, which is not.
                await box.start(list_seconds=2.0, orphan_grace=2.0)
                made = Session(outage, api, namespace, box, clock, controller)
                yield made
            made.clear()
