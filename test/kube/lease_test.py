"""Leader election: on the real API server, and in virtual time against a Lease in memory that can fail in every way.

Long random histories of three electors are in `election_test`.
"""

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict, cast

import msgspec
import pytest

from kube import errors
from kube import lease as lease_module
from kube.client import Client
from kube.clock import Clock
from kube.lease import LEASES, LeaderElector, LeadershipLost
from kube.meta import Key
from test.clock import VirtualClock
from test.expect import eventually

KEY = Key("kube-system", "controller")


class LeaseServer:
    """One Lease with optimistic concurrency, in virtual time. Not an API server: it knows no other kind and no watch."""

    def __init__(self) -> None:
        self.version = 0
        self.spec: dict[str, Any] | None = None
        self.holders: list[str] = []

    def write(self, body: dict[str, Any]) -> bytes:
        expected = body["metadata"].get("resourceVersion")
        if expected is not None and expected != str(self.version):
            raise errors.Conflict(409, "Conflict", "changed meanwhile")
        self.version += 1
        self.spec = {**(self.spec or {}), **body["spec"]}
        self.holders.append(self.spec["holderIdentity"])
        return self.read()

    def create(self, body: dict[str, Any]) -> bytes:
        if self.spec is not None:
            raise errors.AlreadyExists(409, "AlreadyExists", "exists")
        return self.write(body)

    def read(self) -> bytes:
        if self.spec is None:
            raise errors.NotFound(404, "NotFound", "none")
        metadata = {"namespace": KEY.namespace, "name": KEY.name, "resourceVersion": str(self.version)}
        return msgspec.json.encode({"metadata": metadata, "spec": self.spec})


class Link:
    """One candidate's way to the server: what `Client` offers to the elector. `fault` says what happens to a request."""

    def __init__(self, server: LeaseServer, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.fault = ""
        self.requests = 0

    async def get(self, resource: object, key: Key) -> Any:
        return msgspec.json.decode(await self.request("GET", ""), type=LEASES.type)

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        self.requests += 1
        if self.fault == "refused":
            raise errors.ConnectionFailed("refused")
        if self.fault == "500":
            raise errors.ServerError(500, "", "trouble")
        if self.fault == "surprise":
            raise RuntimeError("nobody thought of this")
        if self.fault == "hangs":
            await asyncio.Event().wait()
        body: dict[str, Any] = options.get("body", {})
        answer = (
            self.server.read()
            if method == "GET"
            else self.server.create(body)
            if method == "POST"
            else self.server.write(body)
        )
        if self.fault == "slow":
            await self.clock.sleep(4)
        if self.fault == "answer lost":
            await asyncio.Event().wait()
        return answer


def elector(link: Link, name: str, clock: Clock, **options: float) -> LeaderElector:
    return LeaderElector(cast(Client, link), KEY, name, clock=clock, **options)


async def forever() -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def running(candidate: LeaderElector, lead: Callable[[], Awaitable[None]] = forever) -> AsyncIterator[Any]:
    task = asyncio.ensure_future(candidate.run(lead))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


class Durations(TypedDict):
    lease_duration: float
    renew_deadline: float
    retry_period: float


def shorter(times: float) -> Durations:
    """Production's durations, so many times shorter."""
    return {"lease_duration": 15 / times, "renew_deadline": 10 / times, "retry_period": 2 / times}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


@pytest.fixture
def link(server: LeaseServer, clock: VirtualClock) -> Link:
    return Link(server, clock)


async def test_first_candidate_leads_and_keeps_leading(link: Link, clock: VirtualClock) -> None:
    first = elector(link, "first", clock)
    async with running(first):
        await clock.advance(3600)
        assert first.leading
        assert first.may_write()
    assert set(link.server.holders) == {"first", ""}


async def test_renewing_takes_one_request(link: Link, clock: VirtualClock) -> None:
    async with running(elector(link, "first", clock)):
        await clock.settle()
        before = link.requests
        await clock.advance(60)
        assert link.requests - before == 30


@pytest.mark.parametrize("seed", range(20))
async def test_second_candidate_takes_over_within_a_retry_period_and_a_second_after_a_release(
    server: LeaseServer, link: Link, clock: VirtualClock, seed: int
) -> None:
    random.seed(seed)  # candidates do not ask in step
    second = elector(Link(server, clock), "second", clock)
    async with running(elector(link, "first", clock)):
        await clock.settle()
        waiting = asyncio.ensure_future(second.run(forever))
        await clock.advance(60 + seed / 10)
        assert not second.leading
    await clock.advance(2 + 1)
    assert second.leading
    assert server.spec is not None
    assert server.spec["leaseTransitions"] == 1
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_lease_says_since_when_its_holder_holds_it(server: LeaseServer, link: Link, clock: VirtualClock) -> None:
    said: list[tuple[str, str]] = []

    def look() -> None:
        assert server.spec is not None
        said.append((server.spec["acquireTime"], server.spec["renewTime"]))

    async with running(elector(link, "first", clock)):
        await clock.settle()
        look()
        await clock.advance(60)
        look()
    async with running(elector(Link(server, clock), "second", clock)):
        await clock.settle()
        look()
    begin, renewed, taken = said
    assert begin[0] == renewed[0] < taken[0]
    assert begin[1] < renewed[1] == taken[1] == taken[0]


@pytest.mark.parametrize("fault", ["refused", "500", "surprise", "hangs", "answer lost"])
async def test_leader_that_cannot_renew_stops_writing_at_the_deadline(
    link: Link, clock: VirtualClock, fault: str
) -> None:
    first = elector(link, "first", clock)
    stopped = []

    async def lead() -> None:
        try:
            await forever()
        finally:
            stopped.append(clock.monotonic())

    async with running(first, lead) as task:
        await clock.advance(60)
        begin = clock.monotonic()
        link.fault = fault
        if fault == "answer lost":  # the server renews, but we never hear of it: only what we know counts
            await clock.advance(0)
        await clock.advance(12)
        assert task.done()
        assert isinstance(task.exception(), LeadershipLost)
        assert not first.may_write()
        assert stopped[0] - begin <= 10
    assert link.server.spec is not None
    assert link.server.spec["holderIdentity"] == "first", "what may be ours no more must not be released"


async def test_short_outage_is_survived(link: Link, clock: VirtualClock) -> None:
    first = elector(link, "first", clock)
    async with running(first):
        await clock.advance(60)
        link.fault = "hangs"
        await clock.advance(6)
        link.fault = ""
        await clock.advance(60)
        assert first.may_write()


async def test_leadership_counts_from_before_the_request_not_from_its_answer(link: Link, clock: VirtualClock) -> None:
    first = elector(link, "first", clock)
    async with running(first):
        await clock.advance(60)
        link.fault = "slow"
        await clock.advance(2)  # the renewal is sent now, and carried out now
        link.fault = "hangs"
        await clock.advance(9.9)
        assert first.may_write()
        await clock.advance(0.1)
        assert not first.may_write()


async def test_paused_process_writes_nothing_before_it_has_renewed(link: Link, clock: VirtualClock) -> None:
    first = elector(link, "first", clock)
    async with running(first) as task:
        await clock.advance(60)
        clock.jump(30)
        assert not first.may_write()
        await clock.advance(2)
        assert isinstance(task.exception(), LeadershipLost)


async def test_holders_own_duration_counts_not_ours(server: LeaseServer, link: Link, clock: VirtualClock) -> None:
    server.create(
        {
            "metadata": {},
            "spec": {"holderIdentity": "old", "leaseDurationSeconds": 60, "renewTime": "1999-01-01T00:00:00Z"},
        }
    )
    first = elector(link, "first", clock)
    async with running(first):
        await clock.advance(59)
        assert not first.leading, "the remote timestamp must not be trusted"
        await clock.advance(1 + 3)
        assert first.leading


async def test_usurper_is_noticed(server: LeaseServer, link: Link, clock: VirtualClock) -> None:
    first = elector(link, "first", clock)
    async with running(first) as task:
        await clock.advance(10)
        server.write({"metadata": {}, "spec": {"holderIdentity": "usurper"}})
        await clock.advance(4)
        assert isinstance(task.exception(), LeadershipLost)
    assert server.spec is not None
    assert server.spec["holderIdentity"] == "usurper"


async def test_work_that_ends_releases_the_lease(link: Link, clock: VirtualClock) -> None:
    async def work() -> None:
        await clock.sleep(5)

    task = asyncio.ensure_future(elector(link, "first", clock).run(work))
    await clock.advance(5)
    await task
    assert link.server.spec is not None
    assert link.server.spec["holderIdentity"] == ""


async def test_work_that_fails_is_reported_and_the_lease_released(link: Link, clock: VirtualClock) -> None:
    async def work() -> None:
        raise ValueError("broken")

    task = asyncio.ensure_future(elector(link, "first", clock).run(work))
    await clock.settle()
    with pytest.raises(ValueError, match="broken"):
        await task
    assert link.server.holders[-1] == ""


async def test_release_survives_a_conflict(server: LeaseServer, link: Link, clock: VirtualClock) -> None:
    async with running(elector(link, "first", clock)):
        await clock.settle()
        server.version += 1  # a label was edited
    assert server.spec is not None
    assert server.spec["holderIdentity"] == ""


@pytest.mark.parametrize("durations", [(10, 10, 2), (15, 2, 2), (15, 10, 0)])
def test_durations_that_leave_no_margin_are_refused(
    link: Link, clock: VirtualClock, durations: tuple[float, float, float]
) -> None:
    lease, renew, retry = durations
    with pytest.raises(ValueError, match="outlast"):
        elector(link, "x", clock, lease_duration=lease, renew_deadline=renew, retry_period=retry)


async def test_deleted_lease_is_made_anew_by_its_leader(server: LeaseServer, link: Link, clock: VirtualClock) -> None:
    first, second = elector(link, "first", clock), elector(Link(server, clock), "second", clock)
    async with running(first) as task, running(second):
        await clock.advance(60)
        server.spec = None
        await clock.advance(60)
        assert not task.done()
        assert (first.may_write(), second.may_write()) == (True, False)


async def test_who_finds_the_lease_deleted_waits_for_a_leader_that_does_not_know(
    server: LeaseServer, link: Link, clock: VirtualClock
) -> None:
    first, second = elector(link, "first", clock), elector(Link(server, clock), "second", clock)
    async with running(first), running(second):
        await clock.advance(60)
        link.fault = "hangs"
        await clock.advance(1)
        server.spec = None
        await clock.advance(15)
        assert (first.may_write(), second.may_write()) == (False, False)
        await clock.advance(2 * 3)
        assert second.may_write()


# No test on the real server waits for a lease to end by itself, and no busy machine may let it.
patient = functools.partial(LeaderElector, lease_duration=90.0, renew_deadline=60.0)


async def test_on_the_real_server_one_leads_and_the_next_takes_over(
    client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RELEASE_SECONDS", 60.0)
    key = Key(namespace, "leader")

    def candidate(name: str) -> LeaderElector:
        return patient(client, key, name, retry_period=0.2)

    first, second = candidate("first"), candidate("second")
    async with running(first):
        await eventually(lambda: first.may_write())
        async with running(second):
            lease = await client.get(LEASES, key)
            assert lease.spec.holder_identity == "first"
            await eventually(lambda: _renewed(client, key, lease.spec.renew_time))
            assert not second.leading
    assert (await client.get(LEASES, key)).spec.holder_identity == ""
    async with running(second := candidate("second")):
        await eventually(lambda: second.may_write())
        lease = await client.get(LEASES, key)
        assert (lease.spec.holder_identity, lease.spec.lease_transitions) == ("second", 1)


async def _renewed(client: Client, key: Key, since: str | None) -> bool:
    return (await client.get(LEASES, key)).spec.renew_time != since


async def test_client_refuses_to_write_without_the_lease(client: Client, namespace: str) -> None:
    candidate = patient(client, Key(namespace, "leader"), "first")
    client.guard = candidate.may_write
    with pytest.raises(errors.NotLeading):
        await client.create(LEASES, {"metadata": {"namespace": namespace, "name": "other"}})
    async with running(candidate):
        await eventually(candidate.may_write)
        await client.create(LEASES, {"metadata": {"namespace": namespace, "name": "other"}})
    with pytest.raises(errors.NotLeading):
        await client.delete(LEASES, Key(namespace, "other"))
