"""`kube`'s informer while the server is down: how often it asks in the first minute, and in the nine minutes after it.

Ten minutes pass in ten seconds: the clock that the informer and its client are given runs sixty times as fast; requests
and answers are real. Delays are drawn at random, so there are several informers, each with a server of its own.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hack.bench.candidates.ours import connect
from hack.bench.control import ask
from hack.bench.probe import Connections
from hack.bench.task import Task, answer
from kube.api.workload import PODS, Pod
from kube.informer import Informer
from kube.store import Store

FASTER = 60.0
MINUTE = 60.0
END = 600.0
INFORMERS = 5


class FastClock:
    """The machine's time, sixty times as fast."""

    def monotonic(self) -> float:
        return time.monotonic() * FASTER

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0) / FASTER)


async def measure(task: Task) -> Mapping[str, Any]:
    """Answer for the informer that asked most often."""
    counts = await asyncio.gather(*(_one(task) for _ in range(INFORMERS)))
    return {
        "first_minute": max(first for first, _ in counts),
        "attempts_per_s": max(later for _, later in counts) / (END - MINUTE),
    }


async def _one(task: Task) -> tuple[int, int]:
    """Requests of one informer in the first minute, and after it."""
    port = ask(task.control, "open", kind="Pod", count=10, watch_list=True)["port"]
    clock = FastClock()
    connections = Connections(port)
    async with await connect(f"http://127.0.0.1:{port}", clock) as client:
        informer: Informer[Pod] = Informer(client, PODS, Store(), clock=clock)
        running = asyncio.create_task(informer.run())
        await informer.synced.wait()
        before = connections.count
        ask(task.control, "fail", port=port, mode=task.mode)

        def asked() -> int:
            if task.mode == "dead":
                return connections.count - before
            requests: int = ask(task.control, "state", port=port)["requests"]
            return requests

        await clock.sleep(MINUTE)
        first = asked()
        await clock.sleep(END - MINUTE)
        later = asked() - first
        running.cancel()
        await asyncio.wait({running})
    ask(task.control, "close", port=port)
    return first, later


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    answer(asyncio.run(measure(Task.given())))
