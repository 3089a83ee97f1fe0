"""A queue's whole cycle, one key at a time: asyncio.Queue's put, get and task_done beside WorkQueue's add, get and done.

The loads' sum is the number of cycles; the mode says which of the two.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from hack.bench.probe import cpu_seconds
from hack.bench.task import Task, answer
from kube.meta import Key
from kube.queue import WorkQueue

KEYS = tuple(Key("default", f"pod-{number}") for number in range(1000))


async def floor(rounds: int) -> None:
    queue: asyncio.Queue[Key] = asyncio.Queue()
    for _ in range(rounds):
        for key in KEYS:
            queue.put_nowait(key)
            await queue.get()
            queue.task_done()


async def ours(rounds: int) -> None:
    queue: WorkQueue[Key] = WorkQueue("bench")
    for _ in range(rounds):
        for key in KEYS:
            queue.add(key)
            await queue.get()
            queue.done(key)


CYCLES: Mapping[str, Callable[[int], Awaitable[None]]] = {"floor": floor, "ours": ours}


async def measure(task: Task) -> Mapping[str, float]:
    cycles = sum(load.events for load in task.loads)
    before = cpu_seconds()
    await CYCLES[task.mode](cycles // len(KEYS))
    return {"cycle_us": (cpu_seconds() - before) / cycles * 1e6}


if __name__ == "__main__":
    answer(asyncio.run(measure(Task.given())))
