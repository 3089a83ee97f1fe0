"""Virtual time: a `kube.clock.Clock` that moves only when a test says so."""

import asyncio
import heapq
import itertools
import math
from datetime import UTC, datetime, timedelta

from kube.clock import SystemClock

# Turns of the loop after which tasks that never wait are taken for an endless loop.
LIVELOCK = 100_000


class VirtualClock:
    """Sleepers wake in the order of their moments, and everything they cause happens before time moves on."""

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def monotonic(self) -> float:
        return self._elapsed

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed - 1000.0)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        # A remainder too small to be added would wake its sleeper at the same moment for ever.
        moment = max(self._elapsed + seconds, math.nextafter(self._elapsed, math.inf))
        heapq.heappush(self._sleepers, (moment, next(self._count), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        until = self._elapsed + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            moment, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                self._elapsed = max(self._elapsed, moment)
                future.set_result(None)
                await self.settle()
        self._elapsed = until
        await self.settle()

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass while the loop stands still, as a blocking call or a paused machine does."""
        self._elapsed += seconds

    async def settle(self) -> None:
        """Let everything run that needs no time."""
        loop = asyncio.get_running_loop()
        for _ in range(LIVELOCK):
            await asyncio.sleep(0)
            if not loop._ready:  # type: ignore[attr-defined]  # nothing public says that the loop has nothing to do
                return
        raise AssertionError("tasks keep each other busy without time passing")

    @property
    def sleeping(self) -> int:
        """Tasks that wait for time to pass."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def next_due(self) -> float:
        """Seconds until the next sleeper wakes; infinite when nobody sleeps."""
        waiting = [moment for moment, _, future in self._sleepers if not future.done()]
        return min(waiting, default=float("inf")) - self._elapsed


class SkippingClock(VirtualClock):
    """Time jumps over every sleep at once: for one task whose waiting does not matter beside real sockets."""

    async def sleep(self, seconds: float) -> None:
        self._elapsed += max(seconds, 0)
        await asyncio.sleep(0)


class LeapingClock(SystemClock):
    """The machine's time, beside real servers; what is judged by the time of day can be made to come sooner."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self._ahead

    def leap(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)
