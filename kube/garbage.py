"""The one place that touches the garbage collector.

What a cache holds was decoded from text, so it has no cycles and needs no collector: it is freed by reference counts, and
`kube.meta.Wire` keeps it out of the collector's sight. What is left to decide is when the rest is looked at: not while
stores fill for the first time, never again for what exists by then, and rarely after that, because a full collection
stops the loop. Refuses to know what fills.
"""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager


class GarbagePolicy:
    """The collector is off while stores fill at the start; when they are full, what exists is frozen, once."""

    THRESHOLDS = (50_000, 20, 100)

    def __init__(self) -> None:
        self._filling = 0
        self._settled = False

    @contextmanager
    def paused(self, full: asyncio.Event) -> Iterator[None]:
        """Keep the collector off inside the block, which fills something until `full` is set."""
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
                gc.enable()
                if full.is_set():
                    self._settle()

    def _settle(self) -> None:
        self._settled = True
        gc.collect()  # what is dead by now would be frozen with the rest, and stay
        gc.freeze()
        gc.set_threshold(*self.THRESHOLDS)


GARBAGE = GarbagePolicy()
