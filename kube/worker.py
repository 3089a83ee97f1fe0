"""Workers: each takes a key from the queue, has it reconciled, and puts the result into what the queue does next.

The one place where an exception of a reconcile is absorbed: one bad object must not stop the others. Refuses to know what a
reconcile does.

    returned None         the key is done with until something happens to it
    returned a timedelta  it runs again after that long
    Conflict, NotFound    somebody was faster than our cache; soon again, and no news to anybody
    NotLeading            the process is ending; the successor does it
    anything else         logged, and again after a delay that grows with each failure
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from kube.clock import Clock, SystemClock
from kube.errors import Conflict, NotFound, NotLeading
from kube.metrics import ReconcileMetrics
from kube.queue import WorkQueue

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)


class Workers(Generic[K]):
    """`count` workers on one queue; `name` is the controller's, in metrics and logs."""

    def __init__(
        self,
        name: str,
        queue: WorkQueue[K],
        reconcile: Callable[[K], Awaitable[timedelta | None]],
        *,
        count: int,
        clock: Clock | None = None,
    ) -> None:
        self.metrics = ReconcileMetrics(name, workers=count)
        self._name = name
        self._queue = queue
        self._reconcile = reconcile
        self._count = count
        self._clock = clock or SystemClock()

    async def run(self) -> None:
        """Work until cancelled or the queue is shut down."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._count):
                group.create_task(self._work())

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            began = self._clock.monotonic()
            self.metrics.active += 1
            result = "error"
            try:
                result = self._settle(key, await self._reconcile(key))
            except (Conflict, NotFound, NotLeading) as error:
                result = "requeue"
                log.debug("Reconciling on old data", extra={"controller": self._name, "key": key, "error": str(error)})
                self._queue.retry(key)
            except Exception:
                log.exception("Reconciling failed", extra={"controller": self._name, "key": str(key)})
                self._queue.retry(key)
            finally:
                self.metrics.active -= 1
                self.metrics.observe(result, self._clock.monotonic() - began)
                self._queue.done(key)

    def _settle(self, key: K, again: timedelta | None) -> str:
        self._queue.forget(key)
        if again is None:
            return "success"
        self._queue.add_after(key, again.total_seconds())
        return "requeue_after"
