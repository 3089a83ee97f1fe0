"""The one place that touches the garbage collector.

What a cache holds was decoded from text, so it has no cycles and needs no collector: it is freed by reference counts, and
`kube.meta.Wire` keeps it out of the collector's sight. What is left to decide is when the rest is looked at: not while
stores fill for the first time, never again for what exists by then, and rarely after that, because a full collection
stops the loop. Refuses to know what fills.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


class GarbagePolicy:
    """The collector is off while anything fills; then what exists is frozen and the thresholds are raised."""

    THRESHOLDS = (50_000, 20, 100)

    def __init__(self) -> None:
        self._filling = 0

    @contextmanager
    def paused(self, filled: bool) -> Iterator[None]:
        """Keep the collector off inside the block, unless what the caller fills was full before."""
        if filled:
            yield
            return
        self._filling += 1
        gc.disable()
        try:
            yield
        finally:
            self._filling -= 1
            if not self._filling:
                gc.freeze()
                gc.enable()
                gc.set_threshold(*self.THRESHOLDS)


GARBAGE = GarbagePolicy()
