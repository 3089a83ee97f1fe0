"""Making a controller reconcile again and again, and counting how often it did."""

import asyncio
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kube.meta import Key
from kube.queue import WorkQueue
from kube.store import Consistency
from test.expect import eventually


def count_runs(monkeypatch: pytest.MonkeyPatch, reconciler: type[Any]) -> Counter[Key]:
    """From now on, how many reconciles of each key have ended, whatever their outcome."""
    ended: Counter[Key] = Counter()
    original = reconciler.reconcile

    async def counted(self: Any, key: Key) -> Any:
        try:
            return await original(self, key)
        finally:
            ended[key] += 1

    monkeypatch.setattr(reconciler, "reconcile", counted)
    return ended


def count_passes(monkeypatch: pytest.MonkeyPatch) -> Counter[Key]:
    """From now on, how many reconciles of each key went on: past the gate, and about an object that is there."""
    passed: Counter[Key] = Counter()
    original = Consistency.caught_up

    def counted(self: Consistency, owner: Key, uid: str = "") -> bool:
        answer = original(self, owner, uid)
        passed[owner] += answer and uid != ""
        return answer

    monkeypatch.setattr(Consistency, "caught_up", counted)
    return passed


async def repeat(queue: WorkQueue[Key], keys: Collection[Key], runs: Counter[Key], times: int) -> None:
    """Have every key reconciled `times` more."""
    for _ in range(times):
        before = Counter(runs)
        for key in keys:
            queue.add(key)
        await eventually(functools.partial(_all_ran, keys, runs, before))


def _all_ran(keys: Collection[Key], runs: Counter[Key], before: Counter[Key]) -> bool:
    return all(runs[key] > before[key] for key in keys)


@asynccontextmanager
async def pestered(queue: WorkQueue[Key], keys: Callable[[], Collection[Key]]) -> AsyncIterator[None]:
    """Queue every key anew at every turn for as long as the block runs, as a storm of events would."""

    async def pester() -> None:
        while True:
            for key in keys():
                queue.add(key)
            await asyncio.sleep(0.005)

    pestering = asyncio.create_task(pester())
    try:
        yield
    finally:
        pestering.cancel()
        await asyncio.wait({pestering})
