"""A leader whose API server freezes: no write leaves it after the renew deadline, and another one goes on afterwards.

The server is real and stopped with SIGSTOP, so that connections stay open and nobody answers. What leaves the leader is
counted at a gateway. Durations are a fifth of production's here, and production's in a nightly run.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import pytest

from hack.local.controlplane import ControlPlane
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.errors import KubeError, NotFound, NotLeading
from kube.lease import LeaderElector, LeadershipLost
from kube.meta import Key
from test.expect import eventually
from test.kube.gateway import Gateway, gateway
from test.kube.lease_test import running
from test.kube.outage import API_SERVER, Outage
from test.kube.proxy import FaultProxy
from test.profile import examples

SCALE = 5
# A busy machine runs a timer late; a write that leaves later than this was not stopped by the deadline. Less than the
# second that is between the deadline and the end of the lease.
SLACK = 0.7


class Durations(TypedDict):
    lease_duration: float
    renew_deadline: float
    retry_period: float


def durations() -> Durations:
    scale = examples(SCALE, 1)
    return {"lease_duration": 15 / scale, "renew_deadline": 10 / scale, "retry_period": 2 / scale}


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    """A control plane that only this file freezes."""
    with ControlPlane.api(tmp_path_factory.mktemp("outage")) as plane:
        yield Outage(plane)


@asynccontextmanager
async def candidate(kubeconfig: str | Path, name: str) -> AsyncIterator[tuple[Client, LeaderElector]]:
    async with await Client.connect(user_agent=name, kubeconfig=str(kubeconfig)) as client:
        elector = LeaderElector(client, Key("default", "leader"), name, **durations())
        client.guard = elector.may_write
        yield client, elector


async def keep_writing(client: Client) -> None:
    """Send a write twenty times a second, whatever becomes of the last ones."""

    async def write(number: int) -> None:
        try:
            body = {"metadata": {"namespace": "default", "name": "written"}, "data": {"number": str(number)}}
            await client.apply(CONFIG_MAPS, body, field_manager="test")
        except KubeError:
            pass  # the next one is on its way

    async with asyncio.TaskGroup() as group:
        for number in range(10**9):
            group.create_task(write(number))
            await asyncio.sleep(0.05)


def last_write(between: Gateway) -> float:
    return max((each.moment for each in between.requests if each.write and not each.about_lease), default=0)


async def test_writes_end_by_the_deadline_when_the_server_freezes_and_the_next_one_takes_over(
    outage: Outage, tmp_path: Path
) -> None:
    async with (
        gateway(outage.plane.kubeconfig, tmp_path) as (between, kubeconfig),
        candidate(kubeconfig, "first") as (client, first),
        candidate(outage.plane.kubeconfig, "second") as (_, second),
        running(first, lambda: keep_writing(client)) as leading,
    ):
        await eventually(first.may_write)
        async with running(second):
            await eventually(second.reachable)  # it has seen who leads
            await eventually(lambda: last_write(between) > 0)
            frozen = time.monotonic()
            outage.freeze(API_SERVER)
            try:
                await asyncio.wait({leading}, timeout=durations()["renew_deadline"] + 5)
                lost = time.monotonic()
            finally:
                outage.thaw(API_SERVER)
            assert leading.done()
            assert isinstance(leading.exception(), LeadershipLost)
            assert lost - frozen <= durations()["renew_deadline"] + SLACK
            assert last_write(between) > frozen, "writes are sent while the lease holds"
            assert last_write(between) - frozen <= durations()["renew_deadline"] + SLACK
            await eventually(second.may_write)  # how soon is shown by lease_test.py, in virtual time
            with pytest.raises(NotLeading):
                await client.create(CONFIG_MAPS, {"metadata": {"namespace": "default", "name": "late"}})
        assert last_write(between) <= lost


async def test_write_whose_connection_was_slow_is_not_sent_after_leadership_was_lost(
    outage: Outage, tmp_path: Path
) -> None:
    """The guard is asked again when the write really leaves: a process may stand still between the two."""
    url, leading = outage.plane.url, True
    late = {"metadata": {"namespace": "default", "name": "late"}}
    async with FaultProxy(urlsplit(url).port or 0) as proxy:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(outage.plane.kubeconfig.read_text().replace(url, f"https://127.0.0.1:{proxy.port}"))
        async with candidate(kubeconfig, "slow") as (client, _):
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
