"""The whole workspace controller with nothing to do: its watches, its lease, its health server. CPU time and memory."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from controller.loop import Loop
from controller.settings import Settings
from hack.bench.candidates.ours import connect
from hack.bench.probe import cpu_seconds, resident_bytes
from hack.bench.task import Task, answer
from kube import health, options
from kube.lease import LeaderElector
from kube.meta import Key

# Until every store is filled and the lease is held.
WARM_UP = 5.0


async def measure(task: Task) -> Mapping[str, Any]:
    settings = options.load(Settings, ["--runtime-image=registry.example.com/runtime:1", "--port=0"])
    async with await connect(task.url) as client:
        elector = LeaderElector(client, Key("kaito-system", "bench"), "idle")
        client.guard = elector.may_write
        loop = Loop(client, settings)
        async with await health.serve("127.0.0.1", 0, checks={"stores": loop.synced}):
            running = asyncio.create_task(loop.run(elector))
            await asyncio.sleep(WARM_UP)
            if not (loop.synced() and elector.may_write()):
                raise RuntimeError("the controller does not lead")
            before = cpu_seconds()
            await asyncio.sleep(task.seconds)
            spent = cpu_seconds() - before
            resident = resident_bytes()
            running.cancel()
            await asyncio.wait({running})
    return {"cpu_percent": spent / task.seconds * 100, "resident_bytes": resident}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    answer(asyncio.run(measure(Task.given())))
