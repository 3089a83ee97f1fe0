"""What is done with every candidate: that what a phase leaves behind is held against it, though its last event has come."""

import asyncio
import time
from typing import Any

import pytest

from hack.bench.candidates import driver
from hack.bench.probe import Probe
from hack.bench.task import Load, Task

HELD_SECONDS = 0.05


class Untidy:
    """Each phase's last event has come, and then it holds the loop up: as a collector does, or a queue that is drained."""

    def __init__(self) -> None:
        self.pushed = asyncio.Event()

    async def run(self, task: Task, probe: Probe) -> None:
        await asyncio.sleep(0)  # until the loop is being watched
        for _ in range(1 + len(task.loads)):
            probe.handled()
            await asyncio.sleep(0)
            compute(HELD_SECONDS)
            await self.pushed.wait()
            self.pushed.clear()


def compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_what_follows_a_sync_and_a_churn_counts_as_their_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Untidy()

    def push(control: int, op: str, **arguments: Any) -> dict[str, Any]:
        mirror.pushed.set()
        return {}

    monkeypatch.setattr(driver, "ask", push)
    figures = await driver._run(Task("churn", objects=1, loads=(Load(1),)), mirror)
    assert figures["sync_stall_ms"] >= HELD_SECONDS * 1e3 - 2
    assert figures["event_stall_ms"] >= HELD_SECONDS * 1e3 - 2
