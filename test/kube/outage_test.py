"""The real API server killed, frozen, and its etcd restored from a backup, while a reflector runs: the mirror comes true again.

Sockets and processes are real. Backoff is waited for twenty times faster, or in virtual time where that is said.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hack.local.controlplane import ControlPlane
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.clock import Clock
from kube.meta import Key, Object, Resource
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.fault_rate_test import check_rate, let_pass
from test.kube.looptime import FastClock, LoopClock
from test.kube.mirror import Mirror
from test.kube.outage import API_SERVER, Outage
from test.kube.proxy import FaultProxy

NAMESPACES = Resource(Object, "", "v1", "namespaces", "Namespace", namespaced=False)


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """A control plane that only this file breaks; every test leaves it running."""
    with ControlPlane.api(tmp_path_factory.mktemp("outage")) as plane:
        yield Outage(plane)


@pytest.fixture
async def writer(outage: Outage) -> AsyncIterator[Client]:
    """Writes, and reads what is true."""
    async with await Client.connect(user_agent="test", kubeconfig=str(outage.plane.kubeconfig)) as client:
        yield client


class Own:
    """ConfigMaps in a namespace of a test's own, and a reflector of them."""

    def __init__(self, writer: Client, mirror: Mirror, namespace: str) -> None:
        self.mirror = mirror
        self._writer = writer
        self._namespace = namespace

    async def put(self, *names: str, **data: str) -> None:
        for name in names:
            body = {"metadata": {"namespace": self._namespace, "name": name}, "data": data}
            await self._writer.apply(CONFIG_MAPS, body, field_manager="test")

    async def delete(self, name: str) -> None:
        await self._writer.delete(CONFIG_MAPS, Key(self._namespace, name))

    async def shown(self) -> None:
        """Return once the mirror is what the server has, and its handler heard a history that makes sense."""
        listing = await self._writer.list(CONFIG_MAPS, namespace=self._namespace)
        truth = {item.metadata.name: item.metadata.resource_version for item in listing.items}
        await eventually(lambda: self.mirror.reflector.synced.is_set() and self.mirror.versions() == truth)
        self.mirror.check_history()


@asynccontextmanager
async def mirrored(writer: Client, kubeconfig: Path, clock: Clock) -> AsyncIterator[Own]:
    namespace = f"outage-{uuid.uuid4().hex[:8]}"
    await writer.create(NAMESPACES, {"metadata": {"name": namespace}})
    async with await Client.connect(user_agent="test", kubeconfig=str(kubeconfig), clock=clock) as client:
        own = Own(writer, Mirror(client, clock, namespace), namespace)
        await own.put("a", "b", "c")
        running = asyncio.ensure_future(own.mirror.reflector.run())
        await own.shown()
        yield own
        running.cancel()
        await asyncio.wait({running})


async def test_killed_and_restarted_server_is_followed_again(outage: Outage, writer: Client) -> None:
    async with mirrored(writer, outage.plane.kubeconfig, FastClock()) as own:
        outage.kill(API_SERVER)
        await outage.restart(API_SERVER)
        await own.put("a", colour="blue")
        await own.delete("b")
        await own.shown()
        assert own.mirror.kinds("c") == ["ADDED"], "what did not change is not told again"
        assert own.mirror.store.epoch == 0


async def test_frozen_server_is_given_up_and_followed_again(outage: Outage, writer: Client) -> None:
    """The patience with sockets runs out in virtual time: 73 s for the stream, 10 s for each attempt to connect."""
    clock = LoopClock()
    async with mirrored(writer, outage.plane.kubeconfig, clock) as own:

        def given_up_often() -> bool:
            if own.mirror.reflector.metrics.failures >= 4:
                return True  # with no jump still to be noticed, which would take the time of the writes that follow
            clock.jump(76)
            return False

        outage.freeze(API_SERVER)
        try:
            await eventually(given_up_often)
        finally:
            outage.thaw(API_SERVER)
        await own.put("a", colour="blue")
        await own.delete("b")
        await own.shown()
        assert own.mirror.kinds("c") == ["ADDED"]


async def test_etcd_restored_from_a_backup_is_noticed_and_everything_requeued(outage: Outage, writer: Client) -> None:
    async with mirrored(writer, outage.plane.kubeconfig, FastClock()) as own:
        backup = outage.back_up()
        for number in range(100):  # more than the server writes on its own account when it starts
            await own.put("a", "new", number=str(number))
        await own.delete("b")
        await own.shown()
        told = len(own.mirror.told)
        await outage.restore(backup)
        await eventually(lambda: own.mirror.store.epoch == 1)
        await own.shown()
        assert set(own.mirror.versions()) >= {"a", "b", "c"}
        assert "new" not in own.mirror.versions()
        requeued = {event.object.metadata.name for event in own.mirror.told[told:]}
        assert requeued >= {"a", "b", "c", "new"}
        await own.put("a", colour="red")
        await own.shown()


async def test_server_that_is_down_is_tried_rarely(outage: Outage, writer: Client, tmp_path: Path) -> None:
    """Ten virtual minutes without an API server, counted at a proxy before it."""
    clock, url = VirtualClock(), outage.plane.url
    async with FaultProxy(urlsplit(url).port or 0, clock) as proxy:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(outage.plane.kubeconfig.read_text().replace(url, f"https://127.0.0.1:{proxy.port}"))
        async with mirrored(writer, kubeconfig, clock) as own:
            before = len(proxy.attempts)
            outage.kill(API_SERVER)
            try:
                await let_pass(clock, 600)
                check_rate(proxy.attempts[before:])
            finally:
                await outage.restart(API_SERVER)
            await clock.advance(60)
            await own.shown()
