"""Workers: one key in one pair of hands, what each result leads to, and how they end: with their leadership or on request."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from kube import auth, errors, events, lease
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.events import EventRecorder
from kube.lease import LeadershipLost
from kube.queue import WorkQueue
from kube.worker import Workers
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.events_test import say
from test.kube.lease_test import KEY, LeaseServer, Link, elector

Reconcile = Callable[[str], Awaitable[timedelta | None]]


class Bench:
    """A queue, and workers that do as the test says."""

    def __init__(self, clock: VirtualClock, reconcile: Reconcile, count: int = 3) -> None:
        self.clock = clock
        self.queue: WorkQueue[str] = WorkQueue("test", clock=clock)
        self.workers = Workers("test", self.queue, reconcile, count=count, clock=clock)

    def results(self) -> dict[str, float]:
        """controller_runtime_reconcile_total, by result, without those that never were."""
        samples = [sample for family in self.workers.metrics.collect() for sample in family.samples]
        totals = [each for each in samples if each.name == "controller_runtime_reconcile_total" and each.value]
        return {each.labels["result"]: each.value for each in totals}


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator["asyncio.Future[None]"]:
    running = asyncio.ensure_future(bench.workers.run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


STEPS = st.lists(st.one_of(st.tuples(st.just("add"), st.sampled_from("abc")), st.tuples(st.just("wait"), st.just(""))))


@given(steps=STEPS, seconds=st.integers(1, 3))
def test_no_key_is_ever_in_two_workers_and_the_last_add_is_seen(steps: list[tuple[str, str]], seconds: int) -> None:
    asyncio.run(_reconcile_serially(steps, seconds))


async def _reconcile_serially(steps: list[tuple[str, str]], seconds: int) -> None:
    clock = VirtualClock()
    running: Counter[str] = Counter()
    begun: dict[str, float] = {}
    added: dict[str, float] = {}

    async def reconcile(key: str) -> None:
        running[key] += 1
        begun[key] = clock.monotonic()
        assert running[key] == 1, "one key in two workers"
        await clock.sleep(seconds)
        running[key] -= 1

    bench = Bench(clock, reconcile)
    async with working(bench):
        for action, key in steps:
            if action == "add":
                added[key] = clock.monotonic()
                bench.queue.add(key)
            await clock.advance(0.7)
        await clock.advance(60)
        assert set(bench.results()) <= {"success"}
        assert all(begun[key] >= moment for key, moment in added.items())


async def test_different_keys_run_side_by_side(clock: VirtualClock) -> None:
    async def reconcile(key: str) -> None:
        await clock.sleep(10)

    bench = Bench(clock, reconcile, count=3)
    async with working(bench):
        for key in "abcd":
            bench.queue.add(key)
        await clock.settle()
        assert (bench.workers.metrics.active, len(bench.queue)) == (3, 1)


OUTCOMES: list[tuple[Any, str, list[float], int]] = [
    # what the reconcile does, its result in the metrics, when it runs again, failures remembered
    (None, "success", [], 0),
    (timedelta(seconds=30), "requeue_after", [30.0, 60.0], 0),
    (errors.Conflict(409, "Conflict", "changed"), "requeue", [0.005, 0.015, 0.035], 4),
    (errors.NotFound(404, "NotFound", "gone"), "requeue", [0.005, 0.015, 0.035], 4),
    (errors.NotLeading("not sent"), "requeue", [0.005, 0.015, 0.035], 4),
    (errors.ServerError(500, "", "trouble"), "error", [0.005, 0.015, 0.035], 4),
    (ValueError("a mistake"), "error", [0.005, 0.015, 0.035], 4),
    (errors.TooManyRequests(429, "", "busy", retry_after=20), "error", [20.0, 40.0], 3),
    (errors.TooManyRequests(429, "", "busy", retry_after=0.015), "error", [0.015, 0.03, 0.05], 4),
    (errors.ServerError(503, "", "nonsense", retry_after=1e9), "error", [60.0, 120.0], 3),
]


def act(outcome: Any) -> timedelta | None:
    if isinstance(outcome, Exception):
        raise outcome
    return cast("timedelta | None", outcome)


@pytest.mark.parametrize(("outcome", "result", "again", "failures"), OUTCOMES, ids=lambda each: str(each))
async def test_each_result_leads_to_what_the_table_says(
    clock: VirtualClock, outcome: Any, result: str, again: list[float], failures: int
) -> None:
    begin, runs = clock.monotonic(), []

    async def reconcile(key: str) -> timedelta | None:
        runs.append(round(clock.monotonic() - begin, 6))
        return act(outcome)

    bench = Bench(clock, reconcile)
    async with working(bench):
        bench.queue.add("a")
        await clock.advance((again or [3600.0])[-1])
        assert runs == [0.0, *again]
        assert bench.results() == {result: len(runs)}
        assert bench.queue.failures("a") == failures


async def test_success_of_any_kind_forgets_the_failures_before(clock: VirtualClock) -> None:
    outcomes: list[Any] = [ValueError("once"), ValueError("twice"), timedelta(seconds=1), ValueError("again"), None]

    async def reconcile(key: str) -> timedelta | None:
        return act(outcomes.pop(0))

    bench = Bench(clock, reconcile)
    async with working(bench):
        bench.queue.add("a")
        await clock.advance(0.015)
        assert bench.queue.failures("a") == 0
        await clock.advance(1.005)
        assert not outcomes, "the third failure waited as long as the first"
        assert bench.queue.failures("a") == 0


async def test_one_bad_key_stops_neither_its_worker_nor_the_others(clock: VirtualClock) -> None:
    ran: set[str] = set()

    async def reconcile(key: str) -> None:
        if key == "bad":
            raise RuntimeError("a mistake")
        ran.add(key)

    bench = Bench(clock, reconcile, count=1)
    async with working(bench) as running:
        for key in ("bad", "a", "b"):
            bench.queue.add(key)
        await clock.advance(10)
        assert ran == {"a", "b"}
        assert not running.done()


async def test_loop_gets_a_turn_after_every_few_keys_though_no_reconcile_suspends(clock: VirtualClock) -> None:
    """As after a takeover, when thousands of objects turn out to be as they should be: lease and probes go on."""
    finished: list[str] = []
    at_once: list[int] = []

    async def reconcile(key: str) -> None:
        finished.append(key)

    bench = Bench(clock, reconcile, count=3)
    for number in range(1000):
        bench.queue.add(f"key-{number}")
    async with working(bench):
        while len(finished) < 1000:
            before = len(finished)
            await asyncio.sleep(0)
            at_once.append(len(finished) - before)
    assert max(at_once) == 3, "one key for each worker"


async def test_cancelled_workers_give_their_keys_back(clock: VirtualClock) -> None:
    async def reconcile(key: str) -> None:
        await clock.sleep(1000)

    bench = Bench(clock, reconcile)
    async with working(bench) as running:
        for key in "ab":
            bench.queue.add(key)
        await clock.advance(1)
        running.cancel()
        await asyncio.wait({running})
    assert not bench.queue.processing_since()
    assert bench.workers.metrics.active == 0


async def test_reconcile_that_makes_another_exception_of_its_cancellation_keeps_nobody_alive(
    clock: VirtualClock,
) -> None:
    """As a reconcile does that wants to write one last thing and may not any more."""

    async def reconcile(key: str) -> None:
        try:
            await clock.sleep(1000)
        finally:
            raise errors.NotLeading("not sent")

    bench = Bench(clock, reconcile)
    async with working(bench) as running:
        for key in "abcdef":
            bench.queue.add(key)
        await clock.advance(1)
        running.cancel()
        await clock.settle()
        ended = running.cancelled()
        bench.queue.shut_down()
        await clock.advance(3000)  # also those end that should have ended before
        assert ended
        assert bench.results() == {"requeue": 3}, "no worker took another key"


async def test_key_that_is_refused_again_and_again_is_an_error(clock: VirtualClock) -> None:
    async def reconcile(key: str) -> None:
        raise errors.NotFound(404, "NotFound", "no such namespace")

    bench = Bench(clock, reconcile)
    async with working(bench):
        bench.queue.add("a")
        await clock.advance(60)
        assert bench.results() == {"requeue": 8, "error": 6}


async def test_drained_workers_end_by_themselves(clock: VirtualClock) -> None:
    async def reconcile(key: str) -> None:
        await clock.sleep(5)

    bench = Bench(clock, reconcile, count=1)
    async with working(bench) as running:
        for key in "ab":
            bench.queue.add(key)
        draining = asyncio.ensure_future(bench.queue.drain())
        await clock.advance(9)
        assert not draining.done()
        await clock.advance(1)
        assert draining.done()
        assert running.done()


class Writes:
    """An API server that notes when a write arrives, and asks for patience before it takes one."""

    def __init__(self, clock: VirtualClock) -> None:
        self.arrived: list[float] = []
        self.busy_seconds = 0
        self._clock = clock

    async def answer(self, _: web.Request) -> web.Response:
        self.arrived.append(self._clock.monotonic())
        if self.busy_seconds:
            return web.Response(status=429, headers={"Retry-After": str(self.busy_seconds)})
        return web.json_response({"metadata": {"namespace": "x", "name": "a", "resourceVersion": "1"}})


@pytest.fixture
async def writes(clock: VirtualClock) -> Writes:
    return Writes(clock)


@pytest.fixture
async def client(writes: Writes, clock: VirtualClock) -> AsyncIterator[Client]:
    """A client of `writes`."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", writes.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def source() -> auth.Identity:
        return auth.Identity(f"http://127.0.0.1:{runner.addresses[0][1]}")

    async with Client(await auth.Auth.load(source, clock), user_agent="test", clock=clock) as connected:
        yield connected
    await runner.cleanup()


async def write(client: Client) -> None:
    await client.merge_patch(CONFIG_MAPS, KEY, {"data": {"a": "1"}})


class Busy:
    """How many of its blocks are running."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


async def test_workers_of_a_leader_that_is_cut_off_stop_writing_and_end(
    writes: Writes, client: Client, clock: VirtualClock
) -> None:
    link = Link(LeaseServer(), clock)
    candidate = elector(link, "first", clock)
    client.guard = candidate.may_write
    ended: list[float] = []
    writing = Busy()

    async def reconcile(key: str) -> timedelta:
        try:
            with writing:
                await write(client)
            await clock.sleep(0.5)
            with writing:
                await write(client)
        finally:
            ended.append(clock.monotonic())
        return timedelta(seconds=0.1)

    bench = Bench(clock, reconcile)
    leading = asyncio.ensure_future(candidate.run(bench.workers.run))
    bench.queue.add("a")
    await _pass(clock, 30, writing)
    begin, before = clock.monotonic(), len(writes.arrived)
    assert before > 30
    link.fault = "hangs"
    await _pass(clock, 30, writing)
    assert len(writes.arrived) > before, "it may write until the deadline"
    assert max(writes.arrived) <= begin + 10
    assert max(ended) <= begin + 11
    assert isinstance(leading.exception(), LeadershipLost)


async def test_work_has_ended_before_its_lease_is_given_up(clock: VirtualClock) -> None:
    server = LeaseServer()
    candidate = elector(Link(server, clock), "first", clock)
    holders: list[str] = []

    async def reconcile(key: str) -> None:
        try:
            await clock.sleep(1000)
        finally:
            await clock.sleep(1)  # something is put in order
            holders.append(server.holders[-1])

    bench = Bench(clock, reconcile)
    leading = asyncio.ensure_future(candidate.run(bench.workers.run))
    bench.queue.add("a")
    await clock.advance(10)
    leading.cancel()
    await clock.advance(10)
    assert leading.cancelled()
    assert holders == ["first"]
    assert server.holders[-1] == "", "and then it is given up"


async def _pass(clock: VirtualClock, seconds: float, writing: Busy) -> None:
    """Let time pass in steps, each after what was being written has arrived."""
    for _ in range(int(seconds * 4)):
        await clock.advance(0.25)
        await eventually(lambda: not writing.count)


async def test_write_that_was_told_to_wait_is_not_sent_again_after_leadership_was_lost(
    writes: Writes, client: Client, clock: VirtualClock
) -> None:
    leading = True
    client.guard = lambda: leading
    writes.busy_seconds = 3
    writing = asyncio.ensure_future(write(client))
    await eventually(lambda: writes.arrived and clock.sleeping)
    leading = False
    await clock.advance(3)
    await eventually(lambda: writing.done() or len(writes.arrived) > 1)
    assert len(writes.arrived) == 1
    assert isinstance(writing.exception(), errors.NotLeading)


class SilentDesk:
    """Where events are taken to, and nobody answers."""

    async def create(self, _: object, body: object) -> None:
        await asyncio.Event().wait()


async def test_shutdown_ends_in_time_though_nobody_answers(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, events and the lease, as both loops hold them: a kubelet's thirty seconds have to suffice for all."""
    assert events.FLUSH_SECONDS + lease.RELEASE_SECONDS <= 10
    monkeypatch.setattr(events, "FLUSH_SECONDS", 0.2)  # the one wait that is by the loop's clock
    link = Link(LeaseServer(), clock)
    candidate = elector(link, "first", clock)
    recorder = EventRecorder(cast(Client, SilentDesk()), controller="test", instance="pod-1", clock=clock)
    cleaned = []

    async def reconcile(key: str) -> None:
        say(recorder)
        try:
            await clock.sleep(1000)
        finally:
            cleaned.append(key)

    bench = Bench(clock, reconcile)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            recording = tasks.create_task(recorder.run())
            await bench.workers.run()
            recording.cancel()

    running = asyncio.ensure_future(candidate.run(work))
    bench.queue.add("a")
    await clock.advance(1)
    link.fault = "hangs"
    running.cancel()
    try:
        await clock.settle()
        assert cleaned == ["a"], "workers end at once"
        await eventually(lambda: not candidate.leading)
        await clock.advance(lease.RELEASE_SECONDS)
        assert running.cancelled()
    finally:
        running.cancel()
        await clock.advance(lease.RELEASE_SECONDS)
