"""Keys waiting to be reconciled: each at most once in the queue and never in two workers.

Three layers in one object, as in client-go: dedup (queued, processing, dirty) ← delay (a heap and one timer) ← rate
limit (`kube.backoff`). Carries keys, never objects: a worker reads the newest state when its turn comes. No method
awaits between reading and writing the state, so nothing needs a lock. Refuses to know what a key names.

`done` ends the processing of a key; `forget` ends its history of failures. A worker owes `done` for every `get`.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import msgspec
from prometheus_client.core import HistogramMetricFamily, Metric

from kube import metrics
from kube.backoff import Backoff, default_backoff
from kube.clock import Clock, SystemClock

K = TypeVar("K", bound=Hashable)

# Below everything a user does: after a restart edits are not queued behind thousands of unchanged objects.
INITIAL = -100


class _Processing(msgspec.Struct, gc=False):
    """A key in a worker's hands. A struct because one is made for every key that runs."""

    priority: int
    since: float
    dirty: int | None = None  # the priority to queue it again with once the worker is done; None: nothing new


class WorkQueue(Generic[K]):
    """Invariants: a key is in `_queued` or in `_processing`, never in both; an add is never lost while the queue runs."""

    def __init__(self, name: str, *, backoff: Backoff[K] | None = None, clock: Clock | None = None) -> None:
        self.metrics = QueueMetrics(name, self)
        self._clock = clock or SystemClock()
        self._now = self._clock.monotonic  # asked several times for every key
        self._backoff: Backoff[K] = backoff or default_backoff(self._clock)
        # Ready keys as (-priority, order of arrival, key). The heap may hold outdated places; the one in `_queued` counts.
        self._heap: list[tuple[int, int, K]] = []
        self._queued: dict[K, tuple[int, int, K]] = {}
        self._added_at: dict[K, float] = {}
        self._processing: dict[K, _Processing] = {}
        # Keys with a moment before which they shall not run. Again the heap may be outdated and the dict counts.
        self._delays: list[tuple[float, int, K]] = []
        self._due: dict[K, tuple[float, int]] = {}  # moment, priority
        self._timer: asyncio.Task[None] | None = None
        self._timer_due = float("inf")
        self._order = 0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._idle: asyncio.Event | None = None
        metrics.publish(self.metrics)

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, key: K, priority: int = 0) -> None:
        """Have `key` run once more. Adding what is queued already at most raises its priority."""
        if self._closed:
            return
        running = self._processing.get(key)
        if running is not None:
            if running.dirty is None:
                self.metrics.adds += 1
                self._added_at[key] = self._now()
            running.dirty = priority if running.dirty is None else max(running.dirty, priority)
            return
        place = self._queued.get(key)
        if place is None:
            self.metrics.adds += 1
            self._added_at[key] = self._now()
        elif -priority >= place[0]:
            return
        self._push(key, priority)

    def add_after(self, key: K, seconds: float) -> None:
        """Add `key` in `seconds`. Of several delays the earliest counts."""
        if self._closed:
            return
        running = self._processing.get(key)
        priority = running.priority if running else 0
        self.metrics.retries += 1
        if seconds <= 0:
            self.add(key, priority)
            return
        due = self._now() + seconds
        waiting = self._due.get(key)
        if waiting is not None:
            priority = max(priority, waiting[1])
            if waiting[0] <= due:
                self._due[key] = (waiting[0], priority)
                return
        self._due[key] = (due, priority)
        self._order += 1
        heapq.heappush(self._delays, (due, self._order, key))
        self._set_timer()

    def retry(self, key: K, at_least: float = 0.0) -> None:
        """Add `key` after the delay that its failures have earned, or `at_least` after so many seconds."""
        self.add_after(key, max(self._backoff.when(key), at_least))

    def forget(self, key: K) -> None:
        """`key` succeeded: its next failure is its first. Does not replace `done`."""
        self._backoff.forget(key)

    def failures(self, key: K) -> int:
        return self._backoff.failures(key)

    async def get(self) -> K | None:
        """Wait for the next key; None once the queue is shut down and empty. Cancelling loses no key."""
        while not self._queued:
            if self._closed:
                return None
            # The future only wakes; the key stays in the queue until this task really runs.
            getter = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake()  # woken and cancelled at once: pass the turn on
                raise
        return self._take()

    def done(self, key: K) -> None:
        """The worker has finished `key`; what was added meanwhile is queued now."""
        finished = self._processing.pop(key)
        self.metrics.work.observe(self._now() - finished.since)
        if finished.dirty is not None:
            self._push(key, finished.dirty)
        elif self._idle is not None:
            self._check_idle()

    def shut_down(self) -> None:
        """Take no more keys. Delayed ones are dropped; workers finish what is queued and then get None."""
        self._closed = True
        self._due.clear()
        self._delays.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._getters:
            self._wake()

    async def drain(self) -> None:
        """Shut down, then wait until the workers have finished everything that was queued."""
        self.shut_down()
        if self._queued or self._processing:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def processing_since(self) -> list[float]:
        """When each key that is being worked on was taken, for metrics and health."""
        return [running.since for running in self._processing.values()]

    def dirty(self) -> int:
        """Keys that a worker holds and that will run again."""
        return sum(running.dirty is not None for running in self._processing.values())

    def now(self) -> float:
        return self._now()

    def _push(self, key: K, priority: int) -> None:
        self._order += 1
        place = self._queued[key] = (-priority, self._order, key)
        heapq.heappush(self._heap, place)
        if self._getters:
            self._wake()

    def _take(self) -> K:
        place = heapq.heappop(self._heap)
        while self._queued.get(place[2]) is not place:
            place = heapq.heappop(self._heap)
        rank, _, key = place
        del self._queued[key]
        now = self._now()
        self._processing[key] = _Processing(-rank, now)
        self.metrics.waited.observe(now - self._added_at.pop(key))
        return key

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():  # a cancelled get leaves its future behind
                getter.set_result(None)
                return

    def _check_idle(self) -> None:
        if self._idle is not None and not self._queued and not self._processing:
            self._idle.set()

    def _set_timer(self) -> None:
        """Have the one timer fire at the earliest moment of the heap."""
        if self._timer is not None and self._timer_due <= self._delays[0][0]:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = self._delays[0][0]
        self._timer = asyncio.get_running_loop().create_task(self._run_timer())

    async def _run_timer(self) -> None:
        while self._delays:
            self._timer_due = self._delays[0][0]
            await self._clock.sleep(self._timer_due - self._now())
            self._release()
        self._timer = None

    def _release(self) -> None:
        """Queue every key whose moment has come."""
        now = self._now()
        while self._delays and self._delays[0][0] <= now:
            due, _, key = heapq.heappop(self._delays)
            waiting = self._due.get(key)
            if waiting is not None and waiting[0] == due:
                del self._due[key]
                self.add(key, waiting[1])


class QueueMetrics:
    """What a queue counts, under client-go's names."""

    def __init__(self, name: str, queue: "WorkQueue[K]") -> None:
        self._name = name
        self._queue = queue
        self.adds = 0
        self.retries = 0
        self.waited = metrics.Histogram(metrics.QUEUE_BOUNDS)
        self.work = metrics.Histogram(metrics.QUEUE_BOUNDS)

    def collect(self) -> Iterator[Metric]:
        labels, values = ["name", "controller"], [self._name, self._name]
        running = [self._queue.now() - since for since in self._queue.processing_since()]
        yield from metrics.gauges(
            labels,
            values,
            {
                "workqueue_depth": ("Keys that wait for a worker.", len(self._queue) + self._queue.dirty()),
                "workqueue_unfinished_work_seconds": ("Age of all keys being worked on.", sum(running)),
                "workqueue_longest_running_processor_seconds": ("Age of the oldest of them.", max(running, default=0)),
            },
        )
        yield from metrics.counters(
            labels,
            values,
            {
                "workqueue_adds": ("Keys added.", self.adds),
                "workqueue_retries": ("Keys added with a delay.", self.retries),
            },
        )
        for name, text, histogram in (
            ("workqueue_queue_duration_seconds", "Time from add to get.", self.waited),
            ("workqueue_work_duration_seconds", "Time from get to done.", self.work),
        ):
            family = HistogramMetricFamily(name, text, labels=labels)
            histogram.add_to(family, values)
            yield family
