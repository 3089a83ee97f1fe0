"""A leader whose API server freezes: no write leaves it after the renew deadline, and another one goes on afterwards.

The server is real and stopped with SIGSTOP, so that connections stay open and nobody answers. What leaves the leader is
noted at a gateway. Time is virtual and waits for the sockets; or the machine's, less that in which the loop of this process
stood still. What it is worth to processes is for the nightly run of test/controller/minutes_test.py.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hack.local.controlplane import ControlPlane
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import KubeError, NotFound, NotLeading
from kube.lease import LeaderElector, LeadershipLost
from kube.meta import Key
from test.background import endless
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.gateway import Gateway, gateway
from test.kube.lease_test import running, shorter
from test.kube.looptime import OwnTime
from test.kube.outage import API_SERVER, Outage
from test.kube.proxy import FaultProxy
from test.kube.unplugged import unplugged
from test.profile import examples

DEADLINE = 10.0  # the elector's own
PERIOD = 0.25  # between two writes
TURNS = 0.3  # of the loop, from the end of a deadline until what it ended has been noted


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """A control plane that only this file freezes."""
    with ControlPlane.api(tmp_path_factory.mktemp("outage")) as plane:
        yield Outage(plane)


def candidate(client: Client, name: str, clock: Clock) -> LeaderElector:
    elector = LeaderElector(client, Key("default", "leader"), name, clock=clock)
    client.guard = elector.may_write
    return elector


class Writer:
    """Sends a write four times a second, whatever becomes of the last ones."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self.under_way = 0
        self._client = client
        self._clock = clock

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                group.create_task(self._write(number))
                await self._clock.sleep(PERIOD)

    async def _write(self, number: int) -> None:
        body = {"metadata": {"namespace": "default", "name": "written"}, "data": {"number": str(number)}}
        self.under_way += 1
        try:
            await self._client.apply(CONFIG_MAPS, body, field_manager="test")
        except KubeError:
            pass  # the next one is on its way
        finally:
            self.under_way -= 1


@asynccontextmanager
async def frozen(outage: Outage) -> AsyncIterator[None]:
    outage.freeze(API_SERVER)
    try:
        yield
    finally:
        outage.thaw(API_SERVER)


def written(between: Gateway) -> list[float]:
    """When a write arrived that is not the election's."""
    return [each.moment for each in between.requests if each.write and not each.about_lease]


async def test_writes_end_by_the_deadline_when_the_server_freezes_and_the_next_one_takes_over(
    outage: Outage, tmp_path: Path
) -> None:
    clock = VirtualClock()
    async with (
        gateway(outage.plane.kubeconfig, tmp_path, clock) as (between, kubeconfig),
        await Client.connect(user_agent="first", kubeconfig=kubeconfig, clock=clock) as client,
        unplugged(str(outage.plane.kubeconfig), clock) as line,
    ):
        first, second = candidate(client, "first", clock), candidate(line, "second", clock)
        writer = Writer(client, clock)
        async with running(first, writer.run) as leading:
            await eventually(first.may_write)
            async with running(second):
                await eventually(second.reachable)  # it has seen who leads
                await eventually(lambda: written(between) and not writer.under_way)
                begin = clock.monotonic()
                async with frozen(outage):
                    while clock.monotonic() < begin + DEADLINE + 1:
                        await clock.advance(PERIOD)
                        await eventually(lambda: between.unanswered == writer.under_way)  # what was sent has arrived
                assert isinstance(leading.exception(), LeadershipLost)
                late = max(written(between)) - begin
                assert DEADLINE - 1 < late <= DEADLINE, "writes are sent while the lease holds, and no longer"
                while not second.may_write():  # how soon is shown by lease_test.py
                    assert clock.monotonic() < begin + 60
                    await line.answered()
                    await clock.advance(1)
                with pytest.raises(NotLeading):
                    await client.create(CONFIG_MAPS, {"metadata": {"namespace": "default", "name": "late"}})
        assert max(written(between)) == begin + late


async def test_writes_end_by_the_deadline_in_the_machines_time(outage: Outage, tmp_path: Path) -> None:
    """A fifth of production's durations; production's in a nightly run."""
    own, durations = OwnTime(), shorter(examples(5, 1))
    begin = 0.0
    async with (
        gateway(outage.plane.kubeconfig, tmp_path, own) as (between, kubeconfig),
        await Client.connect(user_agent="alone", kubeconfig=kubeconfig) as client,
        endless(own.run()),
    ):
        alone = LeaderElector(client, Key("default", "alone"), "alone", **durations)
        client.guard = alone.may_write

        async def lead() -> None:
            nonlocal begin
            outage.freeze(API_SERVER)
            begin = own.monotonic()
            await Writer(client, SystemClock()).run()

        try:
            with pytest.raises(LeadershipLost):
                await alone.run(lead)
        finally:
            outage.thaw(API_SERVER)
        took = own.monotonic() - begin
        last = max(written(between), default=begin) - begin
        print(f"last write after {last:.2f} s, lost after {took:.2f} s of {durations['renew_deadline']:g} s")
        assert last <= took <= durations["renew_deadline"] + TURNS


async def test_write_whose_connection_was_slow_is_not_sent_after_leadership_was_lost(
    outage: Outage, tmp_path: Path
) -> None:
    """The guard is asked again when the write really leaves: a process may stand still between the two."""
    url, leading = outage.plane.url, True
    late = {"metadata": {"namespace": "default", "name": "late"}}
    async with FaultProxy(urlsplit(url).port or 0) as proxy:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(outage.plane.kubeconfig.read_text().replace(url, f"https://127.0.0.1:{proxy.port}"))
        async with await Client.connect(user_agent="slow", kubeconfig=str(kubeconfig)) as client:
            client.guard = lambda: leading
            proxy.stall()
            writing = asyncio.ensure_future(client.create(CONFIG_MAPS, late))
            await eventually(lambda: proxy.attempts)
            leading = False
            proxy.flow()
            with pytest.raises(NotLeading):
                await writing
            with pytest.raises(NotFound):
                await client.get(CONFIG_MAPS, Key("default", "late"))
            leading = True
            await client.create(CONFIG_MAPS, late)
