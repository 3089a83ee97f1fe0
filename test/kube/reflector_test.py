"""The reflector turn by turn: what happens in the middle of a batch, and between the end of one watch and the next.

No sockets here, so that a test chooses the moment; what a server and the line to it may do is in fault_*_test.py.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from kube.api.workload import CONFIG_MAPS
from kube.watch import TURN
from test.background import endless
from test.clock import VirtualClock
from test.kube.history import History, bookmark
from test.kube.looptime import turns
from test.kube.mirror import Mirror
from test.kube.source import Source


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def history(source: Source) -> History:
    return source.histories[CONFIG_MAPS.plural]


@pytest.fixture
async def mirror(source: Source, clock: VirtualClock) -> AsyncIterator[Mirror]:
    mirror = Mirror(source.client, clock)
    async with endless(mirror.reflector.run()):
        yield mirror


def change_both(history: History) -> None:
    history.put("b")
    history.delete("a")


async def test_change_that_arrives_with_the_end_of_the_beginning_is_not_lost(
    source: Source, history: History, clock: VirtualClock
) -> None:
    mirror = Mirror(source.client, clock)
    history.put("a")
    source.opened.append(lambda: change_both(history))
    running = asyncio.ensure_future(mirror.reflector.run())
    await clock.settle()
    assert mirror.versions() == history.versions()
    assert [*mirror.kinds("a"), *mirror.kinds("b")] == ["ADDED", "DELETED", "ADDED"]
    running.cancel()
    await asyncio.wait({running})


async def test_watch_goes_on_from_the_newest_version_heard_also_of_what_is_gone(
    mirror: Mirror, source: Source, history: History, clock: VirtualClock
) -> None:
    history.put("a")
    await clock.settle()
    positions = []
    for change in ("put", "delete", "other kinds"):
        if change == "other kinds":
            history.skip(90)
        else:
            getattr(history, change)("b")
        source.say(bookmark(history.version))
        await clock.advance(10)
        source.end()
        await clock.settle()
        positions.append(str(history.version))
    assert source.asked == ["", *positions]


async def test_position_that_the_server_forgot_is_given_up_within_one_step(
    mirror: Mirror, source: Source, history: History, clock: VirtualClock
) -> None:
    history.put("a")
    await clock.advance(10)
    source.end()
    history.skip(5)
    history.recreate("a")
    history.compact()
    await clock.advance(1.6)
    assert source.asked == ["", "11", ""]
    assert mirror.kinds("a") == ["ADDED", "DELETED", "ADDED"]


async def test_end_in_the_middle_of_a_batch_applies_none_of_its_rest(
    source: Source, history: History, clock: VirtualClock
) -> None:
    mirror = Mirror(source.client, clock)
    running = asyncio.ensure_future(mirror.reflector.run())
    await clock.settle()
    for number in range(3 * TURN):
        history.put(f"n{number}")
    while not mirror.told:
        await turns(1)
    running.cancel()
    await asyncio.wait({running})
    told, position = len(mirror.told), mirror.store.last_resource_version
    assert told < 3 * TURN, "there is no rest"
    await clock.advance(60)
    assert (len(mirror.told), len(mirror.store), mirror.store.last_resource_version) == (told, told, position)


async def test_loop_has_a_turn_within_a_long_batch(mirror: Mirror, history: History, clock: VirtualClock) -> None:
    await clock.settle()
    for number in range(10 * TURN):
        history.put(f"n{number}")
    seen = set()
    while len(mirror.told) < 10 * TURN:
        await turns(1)
        seen.add(len(mirror.told))
    assert len(seen) >= 10
