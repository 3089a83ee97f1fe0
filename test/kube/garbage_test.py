"""When the collector runs, as `gc` itself tells it."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from kube.garbage import GarbagePolicy


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Leave the process's collector as it was found."""
    thresholds = gc.get_threshold()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*thresholds)


class Knot:
    """Garbage that only a collector finds."""

    def __init__(self) -> None:
        self.self = self


def test_collector_is_off_while_anything_fills_for_the_first_time() -> None:
    policy, full, other = GarbagePolicy(), asyncio.Event(), asyncio.Event()
    with policy.paused(full):
        assert not gc.isenabled()
        with policy.paused(other):
            other.set()
        assert not gc.isenabled(), "another one still fills"
        assert not gc.get_freeze_count()
        full.set()
    assert gc.isenabled()
    assert gc.get_freeze_count()
    assert gc.get_threshold() == GarbagePolicy.THRESHOLDS


def test_what_is_dead_is_collected_and_not_frozen() -> None:
    policy, full = GarbagePolicy(), asyncio.Event()
    with policy.paused(full):
        knot = weakref.ref(Knot())
        assert knot() is not None
        full.set()
    assert knot() is None


def test_filling_that_failed_settles_nothing() -> None:
    policy, full = GarbagePolicy(), asyncio.Event()
    with pytest.raises(ValueError, match="broken"), policy.paused(full):
        raise ValueError("broken")
    assert gc.isenabled()
    assert not gc.get_freeze_count()
    with policy.paused(full):
        full.set()
    assert gc.get_freeze_count()


def test_filling_after_the_first_leaves_the_collector_alone() -> None:
    policy, full = GarbagePolicy(), asyncio.Event()
    with policy.paused(full):
        full.set()
    gc.unfreeze()
    with policy.paused(full):
        assert gc.isenabled()
    assert not gc.get_freeze_count(), "a relist freezes nothing"
