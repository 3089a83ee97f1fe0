"""Virtual time for sockets too: the event loop's timers follow the clock that our own code waits by."""

import asyncio
import time
from collections.abc import Callable

from kube.clock import SystemClock
from test.clock import SkippingClock

# Turns of the loop in which everything on loopback has happened that needs no time.
TURNS = 50
# Of a loop that measures itself: how often it looks, and what a look counts for that comes late.
TICK, MOST = 0.002, 0.005


class LoopClock(SkippingClock):
    """Skips every wait and takes along the timeouts of whoever asks the loop for the time, such as aiohttp.

    To be made inside of the loop. A second of the machine is a second of the loop still, so that polling goes on; where
    nobody polls, `alone` leaves all time to the test.
    """

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.jumps = 0
        loop = asyncio.get_running_loop()
        real, start, begin = loop.time, loop.time(), self.monotonic()
        loop.time = lambda: (start if alone else real()) + self.monotonic() - begin  # type: ignore[method-assign]  # no hook for it exists

    def jump(self, seconds: float) -> None:
        self.jumps += 1
        super().jump(seconds)

    async def elapse(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, and let everything happen on the sockets in between."""
        for _ in range(int(seconds / step)):
            self.jump(step)
            await turns(5)


class FastClock(SystemClock):
    """Our own waits take a twentieth of their time, for tests with processes that take theirs."""

    FACTOR = 20

    def monotonic(self) -> float:
        return super().monotonic() * self.FACTOR

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self.FACTOR)


class OwnTime(SystemClock):
    """The machine's time, less that in which the loop stood still or which does not count; `run` keeps it going.

    It never goes faster than the machine's: an upper bound that holds by that one holds by this one on a machine that is
    too busy to look in time.
    """

    def __init__(self, counts: Callable[[], bool] = lambda: True) -> None:
        self._counts = counts
        self._elapsed = 0.0

    def monotonic(self) -> float:
        return self._elapsed

    async def run(self) -> None:
        while True:
            began, counts = time.monotonic(), self._counts()
            await asyncio.sleep(TICK)
            if counts and self._counts():
                self._elapsed += min(time.monotonic() - began, MOST)


async def turns(count: int = TURNS) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)
