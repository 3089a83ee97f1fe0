"""One cache for everybody in a process who is interested in a kind: a store, what keeps it true, and who is told.

Handlers map objects to keys of a queue; they must neither block nor await. Each is told a legal history of its own: whoever
comes late first hears of everything that is there, and one that fails fails alone.
Refuses to know what an object means and how it is fetched; `kube.watch` does that.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.core import Metric

from kube import metrics
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.delta import Event, EventType
from kube.meta import Object, Resource
from kube.store import Store
from kube.watch import Reflector

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)
Handler = Callable[[Event[T]], None]

# How exactly a resync keeps its time.
RESYNC_TICK = 60.0
# controller-runtime's SyncPeriod: a net under everything that an event may fail to say.
RESYNC_SECONDS = 10 * 3600.0


@dataclass(eq=False)
class _Subscription(Generic[T]):
    handler: Handler[T]
    resync: float
    due: float
    heard: int  # the swap in which it came: it heard of the new content and needs no differences


class Informer(Generic[T]):
    """Mirrors one kind, narrowed by namespace and selectors, into `store`, and tells the handlers that subscribed."""

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        store: Store[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self._resource = resource
        self._clock = clock or SystemClock()
        self._subscriptions: list[_Subscription[T]] = []
        self._mirroring: asyncio.Task[None] | None = None
        self._reflector = Reflector(
            client,
            resource,
            store,
            self._tell,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            clock=self._clock,
        )
        if not field_selector:  # there may be many caches of one object each; added up, their versions mean nothing
            metrics.publish(self)

    @property
    def synced(self) -> asyncio.Event:
        """Set once the store is complete and the handlers have heard of all of it."""
        return self._reflector.synced

    @property
    def refused(self) -> str:
        """Why the API server does not let us read this kind, while it does not; for readiness."""
        return self._reflector.refused

    def subscribe(self, handler: Handler[T], *, resync: float = 0.0) -> None:
        """Tell `handler` of everything that is in the store, now, and of every change from now on.

        Every `resync` seconds, stretched by up to a tenth, it hears of everything again, from the store alone; never at 0.
        """
        for item in self.store.all():
            _deliver(handler, Event(EventType.ADDED, item, initial=True))
        self._subscriptions.append(_Subscription(handler, resync, self._next(resync), self._reflector.swapping))

    async def run(self) -> None:
        """Mirror until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            while True:
                self._mirroring = group.create_task(self._reflector.run())
                await asyncio.wait({self._mirroring})  # ends only where `relist` cancels it

    async def relist(self) -> None:
        """Read everything anew. Returns once the store shows at least what was there at the call.

        For who begins to act on what others wrote: a watch may be behind for a while and not know it. Called while
        `run` is running and before anybody subscribes, since the telling of differences would be cut short.
        """
        assert self._mirroring is not None
        self._reflector.swapped.clear()
        self._mirroring.cancel()
        await self._reflector.swapped.wait()

    def collect(self) -> Iterator[Metric]:
        kind, version = self._resource, self.store.last_resource_version
        # client-go's last 15 digits: a float holds no more.
        reached = float(version[-15:]) if version.isdecimal() else 0.0
        yield from metrics.gauges(
            ["name", "group", "version", "resource"],
            [kind.plural, kind.group, kind.version, kind.plural],
            {"informer_store_resource_version": ("How far the cache is.", reached)},
        )

    def _tell(self, event: Event[T]) -> None:
        swap = self._reflector.swapping
        for subscription in self._subscriptions:
            if not swap or subscription.heard != swap:
                _deliver(subscription.handler, event)

    async def _resync(self) -> None:
        while True:
            await self._clock.sleep(RESYNC_TICK)
            if not self.synced.is_set() or self._reflector.swapping:
                continue  # what there is to hear is being told anyway
            for subscription in self._subscriptions:
                if subscription.resync and self._clock.monotonic() >= subscription.due:
                    subscription.due = self._next(subscription.resync)
                    for item in self.store.all():
                        _deliver(subscription.handler, Event(EventType.MODIFIED, item, item))

    def _next(self, resync: float) -> float:
        return self._clock.monotonic() + resync * (1 + random.random() / 10)


def _deliver(handler: Handler[T], event: Event[T]) -> None:
    try:
        handler(event)
    except Exception:  # a mistake about one object must stop neither the mirror nor the other handlers
        log.exception("Handling an event of %s failed", event.object.metadata.key)
