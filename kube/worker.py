"""Workers: each takes a key from the queue, has it reconciled, and puts the result into what the queue does next.

The one place where an exception of a reconcile is absorbed: one bad object must not stop the others. Refuses to know what a
reconcile does.

    returned None         the key is done with until something happens to it
    returned a timedelta  it runs again after that long
    Conflict, NotFound    somebody was faster than our cache: soon again, and news to nobody unless it goes on
    NotLeading            the process is ending; the successor does it
    anything else         logged, and again after a delay that grows with each failure, and that is not shorter than
                          what the API server asked for
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

from kube.backoff import asked_to_wait
from kube.clock import Clock, SystemClock
from kube.errors import Conflict, KubeError, NotFound, NotLeading
from kube.log import bound
from kube.metrics import ReconcileMetrics
from kube.queue import WorkQueue

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

# A cache that is behind has caught up after this many tries; what is refused still is missing or in the way.
STALE_TRIES = 8


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
        # A worker is cancelled once. A reconcile that makes another exception of it must not keep the process alive.
        while not _cancelled() and (key := await self._queue.get()) is not None:
            began = self._clock.monotonic()
            self.metrics.active += 1
            try:
                with bound(controller=self._name, key=str(key), reconcile_id=uuid.uuid4().hex):
                    result = await self._result(key)
                self.metrics.observe(result, self._clock.monotonic() - began)
            finally:
                self.metrics.active -= 1
                self._queue.done(key)
            # Neither a queue that holds keys nor a reconcile that finds nothing to do suspends: let others have a turn.
            await asyncio.sleep(0)

    async def _result(self, key: K) -> str:
        """Reconcile and say how that went, as a label of `controller_runtime_reconcile_total`."""
        try:
            again = await self._reconcile(key)
        except (Conflict, NotFound, NotLeading) as error:
            self._queue.retry(key)
            if self._queue.failures(key) <= STALE_TRIES:
                log.debug("Reconciling on old data: %s", error)
                return "requeue"
            log.warning("Reconciling is refused again and again: %s", error)
            return "error"
        except KubeError as error:  # says all there is to say; the API server may be away, and there may be many keys
            log.warning("Reconciling failed: %s", error)
            self._queue.retry(key, at_least=asked_to_wait(error))
            return "error"
        except Exception:
            log.exception("Reconciling failed")
            self._queue.retry(key)
            return "error"
        self._queue.forget(key)
        if again is None:
            return "success"
        self._queue.add_after(key, again.total_seconds())
        return "requeue_after"


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
