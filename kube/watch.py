"""Keeping a `kube.store.Store` equal to what the API server has, and telling a handler about every change.

A reflector is a machine of seven states. `step` does what the present state says and returns the next one:

    Unknown ──► Filling ──(end bookmark)──► Watching ◄──┐
       │  └───► Listing ──(last page)─────► Listed ─────┤        every failure ──► Waiting ──► the state to resume
       └──◄──────── 410, rollback ──────────────────────┘

Unknown: nothing to resume from. Filling: a watch that begins with the whole content (WatchList). Listing: the same in
pages, for servers without it. Listed: a position from which a watch can continue. Watching: the steady state.

The store is replaced in one step after the last page or the end bookmark, so nobody sees half a list, and what vanished
while we were away is reported as deleted. Nothing here raises for API or network trouble and nothing gives up.
Refuses to know what an object means; handlers map objects to keys and must neither block nor await.
"""

import asyncio
import gc
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from prometheus_client.core import Metric

from kube import errors, metrics
from kube.backoff import ExponentialBackoff
from kube.client import Client, WatchStream, status_error
from kube.clock import Clock, SystemClock
from kube.codec import Frame, Status, codec
from kube.meta import Key, Object, Resource, older
from kube.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

KNOWN_TYPES = frozenset(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"])
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
# The server ends each watch after a random time in this range, client-go's, so that watches do not end all at once.
WATCH_SECONDS = (300, 600)
# A watch that ends sooner was refused by something between us and the server.
SHORT_WATCH = 1.0
# How often a quiet watch is checked against etcd going back in time (restored from a backup): one object is listed.
PROBE_SECONDS = 300.0
# The longest Retry-After that is believed.
LONGEST_WAIT = 60.0
# The loop gets a turn after this many events; 64 take about a millisecond.
TURN = 64


class EventType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


class Event(NamedTuple, Generic[T]):
    """What happened to one object.

    `object` is the last known state, for DELETED too; `old` is what the store held before (None for ADDED). An object
    that was deleted and created anew while we looked away is two events, DELETED and ADDED. `initial` marks ADDED
    events of the first synchronization.
    """

    type: EventType
    object: T
    old: T | None = None
    initial: bool = False


@dataclass
class Stream:
    """An open watch. Whoever leaves the states that hold it closes it."""

    lines: WatchStream
    opened: float
    events: int = 0


@dataclass(frozen=True)
class Unknown:
    """There is no position to resume from: read everything."""


@dataclass(frozen=True)
class Filling(Generic[T]):
    """Collecting the initial events of a watch, up to the bookmark that ends them."""

    stream: Stream
    objects: dict[Key, T] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing(Generic[T]):
    """Collecting the pages of a list; `token` continues it."""

    token: str = ""
    objects: dict[Key, T] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """The store is complete as of its `last_resource_version`; no watch is open."""


@dataclass(frozen=True)
class Watching:
    """A watch is open and every event goes to the store and the handler."""

    stream: Stream


@dataclass(frozen=True)
class Waiting:
    """Something failed; resume in `resume` after `seconds`."""

    seconds: float
    resume: "Unknown | Listed"


State = Unknown | Filling[T] | Listing[T] | Listed | Watching | Waiting


class Rollback(errors.KubeError):
    """The server's newest resourceVersion is older than one that it gave us before."""


class Reflector(Generic[T]):
    """Mirrors one kind, narrowed by namespace and selectors, into `store`.

    `on_event` is called after the store has changed, so it sees a store at or ahead of its event.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        store: Store[T],
        on_event: Callable[[Event[T]], None],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.synced = asyncio.Event()
        self.metrics = ReflectorMetrics(resource)
        self._client = client
        self._resource = resource
        self._store = store
        self._on_event = on_event
        self._namespace = namespace
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._clock = clock or SystemClock()
        self._backoff = ExponentialBackoff(clock=self._clock)
        self._codec = codec(resource)
        # Cleared for good when the server does not know WatchList, and for one attempt when it failed at it.
        self._watch_list = True
        self._list_next = False
        self._probed_at = self._clock.monotonic()

    async def run(self) -> None:
        """Mirror until cancelled."""
        state: State[T] = Unknown()
        try:
            while True:
                state = await self.step(state)
        finally:
            await _close(state)

    async def step(self, state: State[T]) -> State[T]:
        """Do what `state` says; the one place where failures become waiting."""
        try:
            match state:
                case Unknown():
                    return await self._begin()
                case Filling():
                    return await self._fill(state)
                case Listing():
                    return await self._list(state)
                case Listed():
                    return await self._resume()
                case Watching():
                    return await self._watch(state.stream)
                case Waiting():
                    await self._clock.sleep(state.seconds)
                    return state.resume
        except (errors.KubeError, ValueError) as error:
            await _close(state)
            return self._failed(state, error)

    def _failed(self, state: State[T], error: Exception) -> Waiting:
        """Where to go on after a failure: from our position where it still stands, else from the beginning."""
        resume: Unknown | Listed = Listed() if isinstance(state, Listed | Watching) else Unknown()
        if isinstance(error, errors.Gone | errors.NotFound | Rollback | ValueError):
            resume = Unknown()
        if isinstance(state, Filling):
            self._list_next = True
        seconds = self._backoff.next()
        asked = getattr(error, "retry_after", None)
        if asked is not None:
            seconds = max(seconds, min(asked, LONGEST_WAIT))
        self.metrics.failures += 1
        level = logging.INFO if isinstance(error, errors.Gone | errors.ConnectionFailed) else logging.WARNING
        log.log(level, "Watching %s failed, trying again in %.1f s: %s", self._resource.plural, seconds, error)
        return Waiting(seconds, resume)

    async def _begin(self) -> State[T]:
        if not self._watch_list or self._list_next:
            self._list_next = False
            return Listing()
        params = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        self._list_next = True  # until it has been seen to work
        try:
            stream = await self._open(params)
        except (errors.BadRequest, errors.Invalid):
            self._watch_list = False
            return Listing()
        self._list_next = False
        return Filling(stream)

    async def _fill(self, state: Filling[T]) -> State[T]:
        with GARBAGE.paused(self.synced.is_set()):
            while frame := await self._next(state.stream):
                if frame.type == "BOOKMARK":
                    if frame.object.metadata.annotations.get(INITIAL_EVENTS_END) == "true":
                        await self._swap(state.objects, frame.object.metadata.resource_version)
                        return Watching(state.stream)
                elif frame.type == "DELETED":
                    state.objects.pop(frame.object.metadata.key, None)
                else:
                    state.objects[frame.object.metadata.key] = frame.object
        # A server that does not know WatchList takes it for a plain watch, which never says where the beginning ends.
        raise errors.ConnectionFailed("the watch ended before its initial events did")

    async def _list(self, state: Listing[T]) -> State[T]:
        with GARBAGE.paused(self.synced.is_set()):
            self.metrics.lists += 1
            page = await self._client.page(
                self._resource, namespace=self._namespace, query=self._selectors, token=state.token
            )
            state.objects.update((item.metadata.key, item) for item in page.items)
            if page.metadata.continue_:
                return Listing(page.metadata.continue_, state.objects)
            await self._swap(state.objects, page.metadata.resource_version)
            return Listed()

    async def _resume(self) -> State[T]:
        if self._clock.monotonic() - self._probed_at >= PROBE_SECONDS:
            await self._probe()
        return Watching(await self._open({"resourceVersion": self._store.last_resource_version}))

    async def _watch(self, stream: Stream) -> State[T]:
        while frame := await self._next(stream):
            if frame.type == "BOOKMARK":
                self._advance(frame.object.metadata.resource_version)
            else:
                self._receive(frame)
        await stream.lines.close()
        if self._clock.monotonic() - stream.opened < SHORT_WATCH:
            self.metrics.short_watches += 1
            return self._failed(Listed(), errors.ConnectionFailed("the watch ended at once"))
        return Listed()

    async def _open(self, params: Mapping[str, str]) -> Stream:
        self.metrics.watches += 1
        query = {**self._selectors, **params, "timeoutSeconds": str(random.randint(*WATCH_SECONDS))}
        lines = await self._client.watch(self._resource, namespace=self._namespace, params=query)
        return Stream(lines, self._clock.monotonic())

    async def _next(self, stream: Stream) -> Frame[Any] | None:
        """The next event or bookmark, None at the end. Raises the error that the server puts into the stream."""
        while line := await stream.lines.readline():
            if not line.endswith(b"\n"):
                return None  # cut off in the middle: what it meant to say comes again
            if line.isspace():
                continue
            frame = self._codec.frame(line)
            if isinstance(frame, Status):
                raise status_error(frame)
            stream.events += 1
            if stream.events % TURN == 0:
                await asyncio.sleep(0)  # a full buffer is read without waiting; others need their turn
            if frame.type in KNOWN_TYPES:
                return frame
            log.warning("Skipping an event of unknown type %s", frame.type)
        return None

    def _advance(self, version: str) -> None:
        if older(version, self._store.last_resource_version):
            raise Rollback(f"bookmark {version} is older than {self._store.last_resource_version}")
        self._store.bookmark(version)

    async def _probe(self) -> None:
        """Notice an etcd that went back in time, which a watch from its future would not show."""
        page = await self._client.page(self._resource, namespace=self._namespace, query=self._selectors, limit=1)
        self._probed_at = self._clock.monotonic()
        if older(page.metadata.resource_version, self._store.last_resource_version):
            raise Rollback(
                f"the server is at {page.metadata.resource_version}, we are at {self._store.last_resource_version}"
            )

    def _receive(self, frame: Frame[T]) -> None:
        new = frame.object
        old = self._store.get(new.metadata.key)
        version = new.metadata.resource_version
        if old is not None and older(version, old.metadata.resource_version):
            self.metrics.stale += 1  # a replay of what we have left behind
            return
        if frame.type == "DELETED":
            self._store.remove(new.metadata.key, version)
            if old is not None:
                self._tell(Event(EventType.DELETED, new, old))
            return
        self._store.put(new)
        if old is not None and old.metadata.uid == new.metadata.uid:  # by far the most frequent
            if version != old.metadata.resource_version:
                self._tell(Event(EventType.MODIFIED, new, old))
            return
        for event in _changes(old, new, initial=False):
            self._tell(event)

    async def _swap(self, objects: Mapping[Key, T], resource_version: str) -> None:
        """Make `objects` the content of the store, then report the differences."""
        first = not self.synced.is_set()
        epoch = self._store.epoch
        previous = self._store.replace(objects, resource_version)
        self._probed_at = self._clock.monotonic()
        if self._store.epoch != epoch:
            self.metrics.epochs += 1
            log.error("The history of %s went back in time; reading everything anew", self._resource.plural)
        for count, event in enumerate(_differences(previous, objects, first, self._store.epoch != epoch), 1):
            self._tell(event)
            if count % TURN == 0:
                await asyncio.sleep(0)
        self.synced.set()

    def _tell(self, event: Event[T]) -> None:
        try:
            self._on_event(event)
        except Exception:  # a handler's mistake about one object must not stop the mirror
            log.exception("Handling an event of %s failed", self._resource.plural)


def _differences(
    previous: Mapping[Key, T], objects: Mapping[Key, T], first: bool, everything: bool
) -> Iterator[Event[T]]:
    """What turned `previous` into `objects`; `everything` reports unchanged objects too."""
    for key, old in previous.items():
        if key not in objects:
            yield Event(EventType.DELETED, old, old)
    for key, new in objects.items():
        yield from _changes(previous.get(key), new, initial=first, everything=everything)


def _changes(old: T | None, new: T, *, initial: bool, everything: bool = False) -> Iterator[Event[T]]:
    if old is None:
        yield Event(EventType.ADDED, new, initial=initial)
    elif old.metadata.uid != new.metadata.uid:
        yield Event(EventType.DELETED, old, old)
        yield Event(EventType.ADDED, new)
    elif everything or old.metadata.resource_version != new.metadata.resource_version:
        yield Event(EventType.MODIFIED, new, old)


async def _close(state: State[T]) -> None:
    if isinstance(state, Filling | Watching):
        await state.stream.lines.close()


class GarbagePolicy:
    """The one place that touches the garbage collector.

    Decoding ten thousand objects with the collector on costs four times as much, and later full collections stop the loop
    for hundreds of milliseconds. So it is off while stores fill for the first time, and what they then hold is frozen.
    """

    # Objects in a cache are replaced, not linked in cycles: collecting rarely is enough.
    THRESHOLDS = (50_000, 20, 100)

    def __init__(self) -> None:
        self._filling = 0

    @contextmanager
    def paused(self, synced: bool) -> Iterator[None]:
        """Keep the collector off inside the block, unless the caller's store was filled before."""
        if synced:
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


class ReflectorMetrics:
    """What a reflector counts; `reflector_*` are client-go's historic names."""

    def __init__(self, resource: Resource[Any]) -> None:
        self._name = resource.plural
        self.lists = 0
        self.watches = 0
        self.short_watches = 0
        self.failures = 0
        self.stale = 0
        self.epochs = 0
        metrics.publish(self)

    def collect(self) -> Iterator[Metric]:
        yield from metrics.counters(
            ["name"],
            [self._name],
            {
                "reflector_lists": ("Pages listed.", self.lists),
                "reflector_watches": ("Watches opened.", self.watches),
                "reflector_short_watches": ("Watches that ended within a second.", self.short_watches),
                "reflector_failures": ("Requests and streams that failed.", self.failures),
                "reflector_stale_events": ("Events older than what the store held.", self.stale),
                "informer_epoch_changes": ("Times that the server's history went back.", self.epochs),
            },
        )
