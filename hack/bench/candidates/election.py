"""`kube`'s leader election when the API server hangs: how long after that a write is still allowed. 15/10/2 seconds."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from hack.bench.candidates.ours import connect
from hack.bench.control import ask
from hack.bench.task import Task, answer
from kube.lease import LeaderElector, LeadershipLost
from kube.meta import Key

LOOK = 0.01


async def measure(task: Task) -> Mapping[str, Any]:
    hung = allowed = 0.0
    async with await connect(task.url) as client:
        elector = LeaderElector(client, Key("kube-system", "bench"), "ours")

        async def lead() -> None:
            nonlocal hung, allowed
            ask(task.control, "fail", port=task.port, mode="hang")  # right after a renewal: the longest way to the end
            hung = time.monotonic()
            while True:
                if elector.may_write():
                    allowed = time.monotonic()
                await asyncio.sleep(LOOK)

        with contextlib.suppress(TimeoutError, LeadershipLost):
            async with asyncio.timeout(task.seconds):
                await elector.run(lead)
        ended = time.monotonic() - hung
    return {"writes_s": allowed - hung, "ended_s": ended}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    answer(asyncio.run(measure(Task.given())))
