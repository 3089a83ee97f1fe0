"""Our candidates do what the bench asks for: each once, with few objects and events, against the bench's server."""

from collections.abc import AsyncIterator

import pytest

from hack.bench.plan import Run
from hack.bench.runner import BenchError, Runner, serving
from hack.bench.task import Load, Task

LOADS = (Load(40), Load(20, 1000))
NOTHING: frozenset[str] = frozenset()


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async with serving() as running:
        yield running


async def test_ours_syncs_and_takes_every_event(runner: Runner) -> None:
    task = Task("churn", objects=30, loads=LOADS)
    figures = await runner.run(Run("ours", "ours", task, NOTHING, served=30))
    assert figures["sync_s"] > 0
    assert figures["event_us"] > 0
    assert 0 < figures["latency_1000_p50_ms"] <= figures["latency_1000_p99_ms"] <= figures["latency_1000_max_ms"]


async def test_ours_reconciles_every_event(runner: Runner) -> None:
    task = Task("churn", objects=30, loads=(Load(30, reconciled=True),))
    assert (await runner.run(Run("ours", "ours", task, NOTHING, served=30)))["event_us"] > 0


async def test_ours_mirrors_workspaces_in_pages_too(runner: Runner) -> None:
    task = Task("churn", objects=30, loads=LOADS[:1], options=("Workspace", "collected"))
    run = Run("Workspaces", "ours", task, NOTHING, kind="Workspace", served=30, watch_list=False)
    assert (await runner.run(run))["event_us"] > 0


async def test_the_floor_takes_and_keeps_every_event(runner: Runner) -> None:
    task = Task("churn", objects=30, loads=LOADS[:1])
    assert (await runner.run(Run("floor", "floor", task, NOTHING, served=30)))["event_us"] > 0


@pytest.mark.parametrize("mode", ["floor", "ours"])
async def test_both_queues_cycle(runner: Runner, mode: str) -> None:
    figures = await runner.run(Run("queue", "queue", Task("queue", mode=mode, loads=(Load(2000),)), NOTHING, served=0))
    assert figures["cycle_us"] > 0


async def test_a_candidate_that_fails_says_what_happened(runner: Runner) -> None:
    with pytest.raises(BenchError, match="KeyError: 'nonsense'"):
        await runner.run(Run("broken", "queue", Task("queue", mode="nonsense", loads=(Load(1),)), NOTHING, served=0))
