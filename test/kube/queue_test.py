"""The work queue: a state machine against a twenty-line model, and the sentences that the model cannot say."""

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kube.backoff import ItemExponential
from kube.queue import INITIAL, WorkQueue
from test.clock import VirtualClock
from test.expect import TIMEOUT

KEYS = st.sampled_from("abcde")


class QueueMachine(RuleBasedStateMachine):
    """Everything that one controller does to its queue, in any order."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self.queue: WorkQueue[str] = self.on_loop(self._make())
        # The model: what must run, in which order, what runs, what was added meanwhile, and what is delayed until when.
        self.ready: dict[str, tuple[int, int]] = {}  # key → (-priority, order)
        self.processing: dict[str, int] = {}
        self.dirty: dict[str, int] = {}
        self.due: dict[str, tuple[float, int]] = {}
        self.order = 0
        self.gets = 0

    async def _make(self) -> WorkQueue[str]:
        return WorkQueue("test", clock=self.clock)

    def on_loop(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    def call(self, function: Any, *arguments: Any) -> None:
        async def run() -> None:
            function(*arguments)
            await self.clock.settle()

        self.on_loop(run())

    def expect_add(self, key: str, priority: int) -> None:
        if key in self.processing:
            self.dirty[key] = max(priority, self.dirty.get(key, priority))
        elif key not in self.ready or -priority < self.ready[key][0]:
            self.order += 1
            self.ready[key] = (-priority, self.order)

    @rule(key=KEYS, priority=st.sampled_from([INITIAL, 0, 10]))
    def add(self, key: str, priority: int) -> None:
        self.expect_add(key, priority)
        self.call(self.queue.add, key, priority)

    @rule(key=KEYS, seconds=st.sampled_from([0.5, 1, 3, 10]))
    def add_after(self, key: str, seconds: float) -> None:
        moment, priority = self.clock.monotonic() + seconds, self.processing.get(key, 0)
        known = self.due.get(key, (moment, priority))
        self.due[key] = (min(moment, known[0]), max(priority, known[1]))
        self.call(self.queue.add_after, key, seconds)

    @rule(seconds=st.sampled_from([0.25, 1, 5]))
    def time_passes(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        for key, (moment, priority) in sorted(self.due.items(), key=lambda item: item[1][0]):
            if moment <= until:
                del self.due[key]
                self.expect_add(key, priority)
        self.on_loop(self.clock.advance(seconds))

    @precondition(lambda self: self.ready)
    @rule()
    def get(self) -> None:
        key = self.on_loop(self.queue.get())
        # Keys that became ready at one moment may come in any order among themselves.
        assert self.ready[key][0] == min(self.ready.values())[0]
        self.take(key)

    def take(self, key: str) -> None:
        assert key not in self.processing, "one key in two workers"
        self.processing[key] = -self.ready.pop(key)[0]
        self.gets += 1

    @precondition(lambda self: self.processing)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.processing)))
        del self.processing[key]
        if key in self.dirty:
            self.order += 1
            self.ready[key] = (-self.dirty.pop(key), self.order)
        self.call(self.queue.done, key)

    @rule(key=KEYS)
    def a_worker_is_cancelled_as_its_key_arrives(self, key: str) -> None:
        async def race() -> None:
            worker = asyncio.ensure_future(self.queue.get())
            await asyncio.sleep(0)
            self.queue.add(key)
            worker.cancel()
            await asyncio.wait({worker})
            if not worker.cancelled():  # it was faster: the key is in its hands
                taken = worker.result()
                assert taken is not None
                self.take(taken)

        if not self.ready:
            self.expect_add(key, 0)
            self.on_loop(race())

    @rule(key=KEYS)
    def one_of_two_workers_is_cancelled(self, key: str) -> None:
        async def race() -> None:
            first, second = (asyncio.ensure_future(self.queue.get()) for _ in range(2))
            await asyncio.sleep(0)
            self.queue.add(key)
            first.cancel()
            await self.clock.settle()
            assert second.done(), "the second worker sleeps although there is a key"
            self.take(second.result() or "")

        if not self.ready and key not in self.processing:
            self.expect_add(key, 0)
            self.on_loop(race())

    @invariant()
    def depth_is_the_models(self) -> None:
        if hasattr(self, "queue"):
            assert len(self.queue) == len(self.ready)

    @invariant()
    def every_add_that_was_counted_ran_or_will(self) -> None:
        if hasattr(self, "queue"):
            assert self.queue.metrics.adds == self.gets + len(self.ready) + len(self.dirty)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.on_loop(asyncio.wait_for(self._finish(), TIMEOUT))
            self.loop.close()

    async def _finish(self) -> None:
        """Every key that was promised a run gets it, and drain returns."""
        expected = sorted([*self.ready, *self.dirty])
        draining = asyncio.ensure_future(self.queue.drain())
        await asyncio.sleep(0)
        for held in list(self.processing):
            self.queue.done(held)
        ran = []
        while (key := await self.queue.get()) is not None:
            ran.append(key)
            self.queue.done(key)
        await draining
        assert sorted(ran) == expected


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def queue(clock: VirtualClock) -> WorkQueue[str]:
    return WorkQueue("test", clock=clock)


async def test_key_added_while_processed_runs_again(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_as_many_workers_wake_as_there_are_keys(queue: WorkQueue[str], clock: VirtualClock) -> None:
    waiting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await clock.settle()
    queue.add("a")
    queue.add("b")
    await clock.settle()
    assert [worker.result() for worker in waiting if worker.done()] == ["a", "b"]
    queue.shut_down()
    assert await waiting[2] is None


async def test_keys_of_one_priority_run_in_the_order_of_their_arrival(queue: WorkQueue[str]) -> None:
    for key in "cabd":
        queue.add(key)
    queue.add("a")  # is queued already, where it stands
    assert [await queue.get() for _ in range(4)] == ["c", "a", "b", "d"]


async def test_priority_of_a_queued_key_is_raised_and_never_lowered(queue: WorkQueue[str]) -> None:
    queue.add("raised", INITIAL)
    queue.add("kept")
    queue.add("between", -1)
    queue.add("kept", INITIAL)
    queue.add("raised", 10)
    assert [await queue.get() for _ in range(3)] == ["raised", "kept", "between"]


async def test_key_whose_delay_ends_while_it_runs_waits_for_its_end(queue: WorkQueue[str], clock: VirtualClock) -> None:
    queue.add_after("a", 5)
    queue.add("a")
    assert await queue.get() == "a"
    await clock.advance(5)
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1


async def test_users_go_before_the_initial_list(queue: WorkQueue[str]) -> None:
    for key in "abc":
        queue.add(key, INITIAL)
    queue.add("z")
    queue.add("c")
    assert [await queue.get() for _ in range(4)] == ["z", "c", "a", "b"]


async def test_a_place_that_was_given_up_is_not_taken_later(queue: WorkQueue[str]) -> None:
    queue.add("a", 0)
    queue.add("a", 10)
    queue.done(await queue.get() or "")
    queue.add("a", INITIAL)
    queue.add("b", 0)
    assert [await queue.get(), await queue.get()] == ["b", "a"]


async def test_a_requeued_key_keeps_the_priority_it_ran_with(queue: WorkQueue[str], clock: VirtualClock) -> None:
    queue.add("initial", INITIAL)
    key = await queue.get()
    assert key is not None
    queue.add_after(key, 1)
    queue.done(key)
    await clock.advance(1)
    queue.add("edited")
    assert [await queue.get(), await queue.get()] == ["edited", "initial"]


async def test_delays_only_move_earlier(queue: WorkQueue[str], clock: VirtualClock) -> None:
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    await clock.advance(4.9)
    assert len(queue) == 0
    await clock.advance(0.1)
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    await clock.advance(60)
    assert len(queue) == 0


async def test_keys_that_are_due_at_one_moment_run_in_the_order_they_were_delayed(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    for key in "cab":
        queue.add_after(key, 5)
    await clock.advance(5)
    assert [await queue.get() for _ in range(3)] == ["c", "a", "b"]


async def test_of_several_delays_the_highest_priority_counts(queue: WorkQueue[str], clock: VirtualClock) -> None:
    for seconds in (5, 20):
        queue.add("initial", INITIAL)
        key = await queue.get() or ""
        queue.add_after(key, seconds)
        queue.done(key)
        queue.add_after(key, 10)  # nobody processes it now: as important as a user's edit
        queue.add("other", -1)
        await clock.advance(10)
        assert [await queue.get(), await queue.get()] == ["initial", "other"]
        queue.done("initial")
        queue.done("other")


async def test_depth_in_the_metrics_is_what_waits_for_a_worker(queue: WorkQueue[str]) -> None:
    def depth() -> float:
        (family,) = [each for each in queue.metrics.collect() if each.name == "workqueue_depth"]
        return float(family.samples[0].value)

    for key in "ab":
        queue.add(key)
    assert await queue.get() == "a"
    assert depth() == 1
    queue.add("a")
    assert depth() == 2, "a runs, and waits to run again"
    queue.done("a")
    assert depth() == 2


async def test_failures_of_all_keys_together_are_slowed_down(queue: WorkQueue[int], clock: VirtualClock) -> None:
    for key in range(1000):
        queue.retry(key)
    await clock.advance(0.005)
    assert len(queue) == 100, "at once after the usual 5 ms"
    await clock.advance(1)
    assert len(queue) == 110, "and then ten in a second"
    await clock.advance(79)
    assert len(queue) == 900, "however many they are"


async def test_many_delays_need_one_timer(queue: WorkQueue[str], clock: VirtualClock) -> None:
    for number in range(100):
        queue.add_after(f"key-{number}", 100 - number)
    await clock.settle()
    assert clock.sleeping == 1
    await clock.advance(100)
    assert len(queue) == 100


async def test_failures_wait_longer_each_time_until_forgotten(clock: VirtualClock) -> None:
    queue: WorkQueue[str] = WorkQueue("test", backoff=ItemExponential(1, 60), clock=clock)
    for delay in (1, 2, 4):
        queue.retry("a")
        await clock.advance(delay - 0.1)
        assert len(queue) == 0
        await clock.advance(0.1)
        queue.done(await queue.get() or "")
    assert queue.failures("a") == 3
    queue.forget("a")
    queue.retry("a")
    await clock.advance(1)
    assert await queue.get() == "a"


async def test_draining_lasts_until_the_last_worker_is_done(queue: WorkQueue[str], clock: VirtualClock) -> None:
    queue.add("a")
    assert await queue.get() == "a"
    draining = asyncio.ensure_future(queue.drain())
    await clock.settle()
    assert not draining.done()
    queue.add("a")
    queue.done("a")
    await draining
    assert await queue.get() is None, "nothing new after the shutdown"


async def test_after_shutdown_workers_finish_what_is_queued_and_leave(
    queue: WorkQueue[str], clock: VirtualClock
) -> None:
    queue.add("a")
    queue.add_after("b", 1)
    waiting = asyncio.ensure_future(queue.get())
    assert await waiting == "a"
    idle = asyncio.ensure_future(queue.get())
    draining = asyncio.ensure_future(queue.drain())
    await clock.settle()
    assert await idle is None
    queue.add("c")
    queue.add_after("c", 1)
    assert not draining.done()
    queue.done("a")
    await draining
    assert clock.sleeping == 0, "nothing waits for a time that must not come"
    await clock.advance(10)
    assert len(queue) == 0
    assert clock.sleeping == 0
