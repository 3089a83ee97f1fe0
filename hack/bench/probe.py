"""Measuring a process from inside: CPU time, memory, stalls of its event loop, latencies, connections that it opens.

The same code in every candidate, so what it costs is the same for all. Standard library only.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# How often the loop is asked whether it still turns.
TICK = 0.001
KIB = 1024
# The SENT annotation of what was there from the beginning.
NEVER_SENT = "0"


def cpu_seconds() -> float:
    """CPU time of this process so far, all threads, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


@dataclass(frozen=True)
class Span:
    """What one phase took."""

    wall: float
    cpu: float


class Probe:
    """Counts what a candidate reports, and ends a phase at the moment of its last event.

    A mirror calls `handled` for every object or event that reached its handler, and `reconciled` with the moment of
    sending (the SENT annotation) from where a controller's reconcile would run. From any thread.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._handled = self._handled_goal = 0
        self._reconciled_goal = 0
        self._latencies: list[int] = []
        self._started = self._cpu = 0.0
        self._ended = (0.0, 0.0)
        self.stall = StallMeter()

    def handled(self) -> None:
        self._handled += 1
        if self._handled == self._handled_goal:
            self._end()

    def reconciled(self, sent: str) -> None:
        if self._reconciled_goal and sent != NEVER_SENT:
            self._latencies.append(time.monotonic_ns() - int(sent))
            if len(self._latencies) == self._reconciled_goal:
                self._end()

    def expect(self, *, handled: int = 0, reconciled: int = 0) -> None:
        """Begin a phase that ends with that many calls."""
        self._handled, self._handled_goal = 0, handled
        self._latencies, self._reconciled_goal = [], reconciled
        self._reached.clear()
        self.stall.restart()
        self._started, self._cpu = time.monotonic(), cpu_seconds()

    async def span(self) -> Span:
        """Wait for the end of the phase."""
        await self._reached.wait()
        wall, cpu = self._ended
        return Span(wall - self._started, cpu - self._cpu)

    def latencies(self) -> Sequence[float]:
        """Seconds from sending to reconciling, of each event of the last phase."""
        return [nanoseconds / 1e9 for nanoseconds in self._latencies]

    def _end(self) -> None:
        self._ended = (time.monotonic(), cpu_seconds())
        self._loop.call_soon_threadsafe(self._reached.set)


class StallMeter:
    """The longest that the event loop's thread kept everybody waiting.

    Of each tick that came late the smaller of two counts: by how much it was late, and how long our thread computed since
    the tick before. So another process that took the core is not held against the loop.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    def restart(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        while True:
            wall, cpu = time.monotonic(), time.thread_time()
            await asyncio.sleep(TICK)
            late = time.monotonic() - wall - TICK
            self.longest = max(self.longest, min(late, time.thread_time() - cpu))


class Connections:
    """Counts the connections that this process tries to open to one port, whatever library does it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.count = 0
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and arguments[1][1] == self._port:
            self.count += 1
