"""The one place that touches the garbage collector.

What a cache holds was decoded from text, so it has no cycles and needs no collector: it is freed by reference counts, and
`kube.meta.Wire` keeps it out of the collector's sight. What is left to decide is when the rest is looked at: not while
stores fill for the first time, never again what exists by then, and rarely after that, because a full collection stops
the loop: for some 30 ms where ten thousand Pods are cached. So there is none when the stores are full, either; the few
cycles that are dead by then stay. Refuses to know what fills, and when it is full.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


class GarbagePolicy:
    """The collector is off while stores fill at the start; when the last of them is full, what exists is frozen, once."""

    THRESHOLDS = (50_000, 20, 100)

    def __init__(self) -> None:
        self._filling = 0
        self._settled = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the collector off inside the block, in which something fills for the first time."""
        if self._settled:
            yield
            return
        self._filling += 1
        gc.disable()
        try:
            yield
        finally:
            self._filling -= 1
            if not self._filling:
                self._settle()

    def _settle(self) -> None:
        self._settled = True
        gc.freeze()
        gc.set_threshold(*self.THRESHOLDS)
        gc.enable()


GARBAGE = GarbagePolicy()
