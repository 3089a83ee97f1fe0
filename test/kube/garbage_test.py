"""When the collector runs, as `gc` itself tells it: while stores fill at a controller's start, and once they are full."""

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from kube.api.workload import CONFIG_MAPS, PODS, ConfigMap, Pod
from kube.garbage import GarbagePolicy
from kube.store import Store
from kube.watch import FIRST_SECONDS, Reflector
from test.background import endless
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.looptime import LoopClock
from test.kube.mirror import mirrored
from test.kube.server import WatchServer
from test.kube.source import Source
from test.kube.wire import Break, End


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> Iterator[GarbagePolicy]:
    """One that nobody has asked yet, as in a process that starts. The test's process gets its collector back."""
    policy, thresholds = GarbagePolicy(), gc.get_threshold()
    monkeypatch.setattr("kube.watch.GARBAGE", policy)
    gc.unfreeze()
    yield policy
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*thresholds)


@pytest.fixture
def source() -> Source:
    return Source()


def test_collector_is_off_while_anything_fills_for_the_first_time(policy: GarbagePolicy) -> None:
    with policy.paused():
        with policy.paused():
            assert not gc.isenabled()
        assert not gc.isenabled(), "another one still fills"
        assert not gc.get_freeze_count()
    assert gc.isenabled()
    assert gc.get_freeze_count()
    assert gc.get_threshold() == GarbagePolicy.THRESHOLDS


def test_full_stores_are_not_looked_through(policy: GarbagePolicy) -> None:
    with policy.paused():
        before = gc.get_stats()
    assert gc.get_stats() == before, "the loop stood still for a collection"


def test_filling_after_the_first_leaves_the_collector_alone(policy: GarbagePolicy) -> None:
    with policy.paused():
        pass
    gc.unfreeze()
    with policy.paused():
        assert gc.isenabled()
    assert not gc.get_freeze_count(), "a relist freezes nothing"


@asynccontextmanager
async def reflecting(source: Source, clock: VirtualClock) -> AsyncIterator[tuple[Reflector[ConfigMap], Reflector[Pod]]]:
    """A kind that is small and one that is large, as two informers of one controller."""
    small = Reflector(source.client, CONFIG_MAPS, Store[ConfigMap](), lambda _: None, clock=clock)
    large = Reflector(source.client, PODS, Store[Pod](), lambda _: None, clock=clock)
    source.gates[CONFIG_MAPS.plural].clear()  # no server answers before both have asked
    async with endless(small.run()), endless(large.run()):
        await clock.settle()
        source.gates[CONFIG_MAPS.plural].set()
        await clock.settle()
        yield small, large


async def test_kind_that_is_full_early_waits_for_those_whose_answer_has_not_come(source: Source) -> None:
    source.gates[PODS.plural].clear()
    clock = VirtualClock()
    async with reflecting(source, clock) as (small, large):
        assert small.synced.is_set()
        assert not large.synced.is_set()
        assert not gc.isenabled()
        assert not gc.get_freeze_count()
        source.gates[PODS.plural].set()
        await clock.settle()
        assert large.synced.is_set()
        assert gc.isenabled()
        assert gc.get_freeze_count()


async def test_kind_whose_first_try_failed_is_waited_for(source: Source) -> None:
    source.absent.add(PODS.plural)
    clock = VirtualClock()
    async with reflecting(source, clock) as (_, large):
        assert not gc.isenabled()
        source.absent.clear()
        await clock.advance(FIRST_SECONDS / 2)
        assert large.synced.is_set()
        assert gc.get_freeze_count()


async def test_kind_that_is_not_served_is_waited_for_two_minutes_and_no_longer(source: Source) -> None:
    source.absent.add(PODS.plural)
    clock = VirtualClock()
    async with reflecting(source, clock):
        await clock.advance(FIRST_SECONDS - 1)
        assert not gc.isenabled()
        await clock.advance(FIRST_SECONDS)
        assert gc.isenabled()
        assert gc.get_freeze_count()


@pytest.mark.parametrize("end", [End.FIN, End.RST])
async def test_half_a_fill_that_broke_needs_no_collector_to_be_freed(
    end: End, server: WatchServer, clock: LoopClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be frozen with what lives, and may be ten thousand Pods."""
    halves: list[weakref.ref[Store[ConfigMap]]] = []
    empty = Store.empty

    def remembered(store: Store[ConfigMap]) -> Store[ConfigMap]:
        half = empty(store)
        halves.append(weakref.ref(half))
        return half

    monkeypatch.setattr(Store, "empty", remembered)
    for number in range(10):
        server.history.put(f"map-{number}")
    server.faults.append(Break(after=5, then=end))
    gc.disable()
    async with mirrored(server, clock) as mirror:
        await eventually(lambda: mirror.shows(server))
        assert len(halves) > 1
        assert halves[0]() is None
