"""The request rates, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from provisioner.azure.budget import (
    BACKGROUND_RESERVE,
    CONCURRENT_MUTATIONS,
    LONGEST_PAUSE,
    PUT_BURST,
    READ_BURST,
    READ_RATE,
    Budget,
)
from provisioner.cloud import Throttled
from test.clock import VirtualClock


async def test_the_burst_is_free_and_the_rest_waits_its_turn() -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    for _ in range(int(READ_BURST)):
        await budget.read()
    waiting = [asyncio.create_task(budget.read()) for _ in range(4)]
    await clock.advance(2 / READ_RATE + 0.01)
    assert [task.done() for task in waiting] == [True, True, False, False]
    await clock.advance(2 / READ_RATE)
    assert all(task.done() for task in waiting)


async def test_routine_reads_leave_something_for_urgent_ones() -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    for _ in range(int(READ_BURST - BACKGROUND_RESERVE)):
        await budget.read(background=True)
    routine = asyncio.create_task(budget.read(background=True))
    await clock.settle()
    assert not routine.done()
    await budget.read()
    await clock.advance(60)
    assert routine.done()


async def _put(budget: Budget) -> None:
    async with budget.put("ws1"):
        pass


async def _delete(budget: Budget) -> None:
    async with budget.delete():
        pass


def _everything(budget: Budget) -> list[Coroutine[Any, Any, None]]:
    return [budget.read(), budget.read_cluster(), _put(budget), _delete(budget)]


async def test_a_pause_holds_everybody_back_and_only_ever_grows() -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    budget.pause(LONGEST_PAUSE)
    budget.pause(1)
    waiting = [asyncio.create_task(each) for each in _everything(budget)]
    await clock.advance(LONGEST_PAUSE - 0.1)
    assert not any(task.done() for task in waiting)
    await clock.advance(0.2)
    assert all(task.done() for task in waiting)


async def test_nobody_sleeps_through_a_long_pause() -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    budget.pause(60)
    for each in _everything(budget):
        with pytest.raises(Throttled) as refused:
            await each
        assert refused.value.retry_after == pytest.approx(60)
    await clock.advance(60)
    for each in _everything(budget):
        await each


async def test_who_waits_for_a_token_does_not_sleep_through_a_long_pause_either() -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    for _ in range(int(READ_BURST)):
        await budget.read()
    waiting = asyncio.create_task(budget.read())
    await clock.settle()
    budget.pause(60)
    await clock.advance(1 / READ_RATE + 0.01)
    assert waiting.done()
    with pytest.raises(Throttled):
        await waiting


@pytest.mark.parametrize("request_of", [_put, _delete])
@pytest.mark.parametrize("seconds", [LONGEST_PAUSE, 60])
async def test_who_waits_for_the_changes_of_others_sends_nothing_into_a_pause(
    request_of: Callable[[Budget], Coroutine[Any, Any, None]], seconds: float
) -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    async with AsyncExitStack() as others:
        for number in range(CONCURRENT_MUTATIONS):
            await others.enter_async_context(budget.put(f"other{number}"))
        waiting = asyncio.create_task(request_of(budget))
        await clock.settle()
        budget.pause(seconds)
    await clock.settle()
    if seconds > LONGEST_PAUSE:
        assert waiting.done()
        with pytest.raises(Throttled):
            await waiting
    else:
        assert not waiting.done()
        await clock.advance(seconds)
        assert waiting.done()


async def test_one_pool_is_asked_for_only_so_often() -> None:
    clock = VirtualClock()
    budget = Budget(clock)
    for _ in range(int(PUT_BURST)):
        async with budget.put("ws1"):
            pass
    with pytest.raises(Throttled) as refused:
        async with budget.put("ws1"):
            pass
    async with budget.put("ws2"):
        pass
    assert refused.value.retry_after == pytest.approx(60)
    await clock.advance(61)
    async with budget.put("ws1"):
        pass
