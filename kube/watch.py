"""Keeping a `kube.store.Store` equal to what the API server has, and saying what changed.

A reflector is a machine of six states. `step` does what the present state says and returns the next one:

    Unknown ──► Filling ──(end bookmark)──► Watching ◄──┐
       │  └───► Listing ──(last page)─────► Listed ─────┤        every failure ──► Waiting ──► the state to resume
       └──◄──────── 410, rollback ──────────────────────┘

Unknown: nothing to resume from. Filling: a watch that begins with the whole content (WatchList). Listing: the same in
pages, for servers without it. Listed: a position from which a watch can continue. Watching: the steady state.

The store is replaced in one step after the last page or the end bookmark, so nobody sees half a list, and what vanished
while we were away is reported as deleted. Nothing here raises for API or network trouble and nothing gives up.
Refuses to know what an object means and who is told; `kube.informer` is the caller.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kube import errors, metrics
from kube.backoff import ExponentialBackoff, asked_to_wait
from kube.client import Client, status_error
from kube.clock import Clock, SystemClock
from kube.codec import CHANGES, Frame, Page, Status, codec
from kube.delta import DELETED, MODIFIED, Event, changes, differences
from kube.garbage import GARBAGE
from kube.meta import Object, Resource, older
from kube.store import Store
from kube.stream import WatchStream

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

BOOKMARK = "BOOKMARK"
INITIAL_EVENTS_END = "k8s.io/initial-events-end"
# The server ends each watch after a random time in this range, client-go's, so that watches do not end all at once.
WATCH_SECONDS = (300, 600)
# A watch that ends sooner was refused by something between us and the server. One that ends in order a little later is
# opened again at once, so up to once a second; client-go does the same.
SHORT_WATCH = 1.0
# How long the end of the initial events may be awaited without any: the server does not know WatchList and took the
# request for a plain watch, which never says where the beginning ends.
INITIAL_SECONDS = 60.0
# How long the first reading may take before the garbage collector is on again: one kind may never be served.
FIRST_SECONDS = 120.0
# How often a quiet watch is checked against etcd going back in time (restored from a backup): one object is listed.
PROBE_SECONDS = 300.0
# A watch that broke, or a bookmark that went back, makes the server's position doubtful, but where that happens all the
# time it is not checked each time.
PROBE_AGAIN_SECONDS = 60.0
# A watch that lived this long breaks for a reason of its own: something between us and the server cuts what is quiet.
# Asked again at once, with a probe each minute, that is still less than 0.06 requests per second.
STEADY_SECONDS = 35.0
# The loop gets a turn after this many events; 64 take about a millisecond.
TURN = 64


@dataclass(frozen=True)
class Unknown:
    """There is no position to resume from: read everything."""


@dataclass(frozen=True)
class Filling(Generic[T]):
    """Collecting the initial events of a watch, up to the bookmark that ends them."""

    stream: WatchStream
    content: Store[T]


@dataclass(frozen=True)
class Listing(Generic[T]):
    """Collecting the pages of a list; `token` continues it."""

    content: Store[T]
    token: str = ""


@dataclass(frozen=True)
class Listed:
    """The store is complete as of its `last_resource_version`; no watch is open."""


@dataclass(frozen=True)
class Watching:
    """A watch is open and, `since` then, every event goes to the store and the handler."""

    stream: WatchStream
    since: float


@dataclass(frozen=True)
class Waiting:
    """Something failed; resume in `resume` after `seconds`."""

    seconds: float
    resume: "Unknown | Listed"


# Whoever leaves a state that holds a stream closes it.
State = Unknown | Filling[T] | Listing[T] | Listed | Watching | Waiting


class Rollback(errors.KubeError):
    """The server's newest resourceVersion is older than one that it gave us before."""


class Reflector(Generic[T]):
    """Mirrors one kind, narrowed by namespace and selectors, into `store`.

    `on_event` is called after the store has changed, so it sees a store at or ahead of its event; it must not raise.
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
        # Set as soon as the store has been replaced; who waits for the next time clears it.
        self.swapped = asyncio.Event()
        # The number of the swap whose differences are being told; 0 while none is.
        self.swapping = 0
        self._swaps = 0
        # Why the server will not let us read, while it does not: a role is missing.
        self.refused = ""
        self.metrics = metrics.ReflectorMetrics(resource.plural)
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
        # When the server's position was last compared with ours, and by a probe; whether it is in doubt since.
        self._compared_at = self._clock.monotonic()
        self._probed_at = float("-inf")
        self._doubtful = False

    async def run(self) -> None:
        """Mirror until cancelled."""
        state: State[T] = Unknown()
        try:
            with GARBAGE.paused():
                patience = self._clock.monotonic() + FIRST_SECONDS
                while not self.synced.is_set() and self._clock.monotonic() < patience:
                    state = await self.step(state)
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
                    return await self._watch(state)
                case Waiting():
                    await self._clock.sleep(state.seconds)
                    return state.resume
        except (errors.KubeError, ValueError) as error:
            await _close(state)
            return self._failed(state, error)

    def _failed(self, state: State[T], error: Exception) -> Waiting:
        """Wait, then go on from our position where it still stands, else from the beginning."""
        if isinstance(state, Filling):
            self._list_next = True
        if isinstance(state, Watching) and self._clock.monotonic() - state.since >= STEADY_SECONDS:
            self._backoff.reset()
        if isinstance(state, Watching | Listed) and isinstance(error, errors.ConnectionFailed):
            # A server that was restored from a backup was away, and says nothing on a watch from its future.
            self._doubtful = True
        self.refused = str(error) if isinstance(error, errors.Unauthorized | errors.Forbidden) else ""
        self.metrics.failures += 1
        seconds = self._seconds(error)
        stands = _position_stands(state, error) and not self._unwatchable(state, error)
        level = logging.INFO if isinstance(error, errors.Gone | errors.ConnectionFailed) else logging.WARNING
        log.log(level, "Watching %s failed, trying again in %.1f s: %s", self._resource.plural, seconds, error)
        return Waiting(seconds, Listed() if stands else Unknown())

    def _unwatchable(self, state: State[T], error: Exception) -> bool:
        """Whether a server that is there has let nobody watch for about a minute: only by reading do we hear of anything."""
        if isinstance(state, Watching):
            there = self._clock.monotonic() - state.since < SHORT_WATCH
        else:
            there = isinstance(error, errors.ApiError)
        return there and self._backoff.exhausted and not isinstance(error, errors.TooManyRequests)

    def _seconds(self, error: Exception) -> float:
        if isinstance(error, errors.Forbidden):
            return self._backoff.longest()  # a role does not come by itself within seconds
        return max(self._backoff.next(), asked_to_wait(error))

    async def _begin(self) -> State[T]:
        if not self._watch_list or self._list_next:
            self._list_next = False
            return Listing(self._store.empty())
        params = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        self._list_next = True  # until it has been seen to work
        try:
            stream = await self._open(params)
        except (errors.BadRequest, errors.Invalid):
            self._watch_list = False
            return Listing(self._store.empty())
        self._list_next = False
        return Filling(stream, self._store.empty())

    async def _fill(self, state: Filling[T]) -> State[T]:
        grown = self._clock.monotonic()
        while lines := await state.stream.lines():
            count = len(state.content)
            frames = map(self._codec.frame, lines)
            if end := _gather(frames, state.content):
                await self._swap(state.content, end)
                await self._follow(frames)
                return Watching(state.stream, self._clock.monotonic())
            if len(state.content) > count:
                grown = self._clock.monotonic()
            elif self._clock.monotonic() - grown > INITIAL_SECONDS:
                self._watch_list = False
                break
        raise errors.ConnectionFailed("the watch did not say where its initial events end")

    async def _list(self, state: Listing[T]) -> State[T]:
        self.metrics.lists += 1
        page = await self._page(token=state.token)
        for item in page.items:
            state.content.put(item)
        if page.metadata.continue_:
            return Listing(state.content, page.metadata.continue_)
        await self._swap(state.content, page.metadata.resource_version)
        return Listed()

    async def _resume(self) -> State[T]:
        await self._compare()
        stream = await self._open({"resourceVersion": self._store.last_resource_version})
        return Watching(stream, self._clock.monotonic())

    async def _watch(self, state: Watching) -> State[T]:
        while lines := await state.stream.lines():
            await self._follow(map(self._codec.frame, lines))
        if self._clock.monotonic() - state.since < SHORT_WATCH:
            self.metrics.short_watches += 1
            raise errors.ConnectionFailed("the watch ended at once")
        await _close(state)
        return Listed()

    async def _follow(self, frames: Iterator[Frame[Any]]) -> None:
        """Bring the store up to date, with a turn for others where much has arrived at once."""
        for count, frame in enumerate(frames, 1):
            if frame.type in CHANGES:
                self._receive(frame)
            elif frame.type == BOOKMARK:
                await self._advance(frame.object.metadata.resource_version)
            else:
                _refuse(frame)
            if count % TURN == 0:
                await asyncio.sleep(0)

    async def _open(self, params: Mapping[str, str]) -> WatchStream:
        self.metrics.watches += 1
        query = {**self._selectors, **params, "timeoutSeconds": str(random.randint(*WATCH_SECONDS))}
        stream = await self._client.watch(self._resource, namespace=self._namespace, params=query)
        self.refused = ""
        return stream

    async def _page(self, **options: Any) -> Page[T]:
        """One page. Not retried by the client: how often a server in trouble is asked is decided here."""
        return await self._client.page(
            self._resource, namespace=self._namespace, query=self._selectors, retries=0, **options
        )

    async def _advance(self, version: str) -> None:
        if not self._store.advance(version):
            self.metrics.stale += 1
            self._doubtful = True  # a slow replica of the API server, or a history that went back?
            await self._compare()

    async def _compare(self) -> None:
        """Probe, but not again within a minute where the server's position is in doubt, and within five where it is not."""
        now = self._clock.monotonic()
        doubtful = self._doubtful and now - self._probed_at >= PROBE_AGAIN_SECONDS
        if doubtful or now - self._compared_at >= PROBE_SECONDS:
            await self._probe()

    async def _probe(self) -> None:
        """Notice an etcd that went back in time, which a watch from its future would not show."""
        page = await self._page(limit=1)
        self._probed_at = self._compared_at = self._clock.monotonic()
        self._doubtful = False
        if older(page.metadata.resource_version, self._store.last_resource_version):
            raise Rollback(
                f"the server is at {page.metadata.resource_version}, we are at {self._store.last_resource_version}"
            )

    def _receive(self, frame: Frame[T]) -> None:
        new = frame.object
        version = new.metadata.resource_version
        if not self._store.advance(version):
            self.metrics.stale += 1  # a replay of what we have left behind
            return
        if frame.type == "DELETED":
            old = self._store.remove(new.metadata.key)
            if old is not None:
                self._on_event(Event(DELETED, new, old))
            return
        old = self._store.put(new)
        if old is not None and old.metadata.uid == new.metadata.uid:  # by far the most frequent
            if version != old.metadata.resource_version:
                self._on_event(Event(MODIFIED, new, old))
            return
        for event in changes(old, new):
            self._on_event(event)

    async def _swap(self, content: Store[T], resource_version: str) -> None:
        """Make `content` that of the store, then report the differences."""
        epoch = self._store.epoch
        previous = self._store.replace(content, resource_version)
        self.swapped.set()
        self._compared_at, self._doubtful = self._clock.monotonic(), False
        restored = self._store.epoch != epoch
        if restored:
            self.metrics.epochs += 1
            log.error("The history of %s went back in time; reading everything anew", self._resource.plural)
        self._swaps += 1
        self.swapping, self.refused = self._swaps, ""
        told = differences(previous, self._store.objects(), initial=not self.synced.is_set(), everything=restored)
        try:
            for count, event in enumerate(told, 1):
                self._on_event(event)
                if count % TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self.swapping = 0
        self.synced.set()


def _gather(frames: Iterator[Frame[Any]], content: Store[Any]) -> str:
    """Collect initial events in `content`; the version of the bookmark that ends them, or "" where it has not come."""
    for frame in frames:
        if frame.type == DELETED:
            content.remove(frame.object.metadata.key)
        elif frame.type in CHANGES:
            content.put(frame.object)
        elif frame.type != BOOKMARK:
            _refuse(frame)
        elif frame.object.metadata.annotations.get(INITIAL_EVENTS_END) == "true":
            if not frame.object.metadata.resource_version:
                raise errors.ConnectionFailed("the bookmark that ends the initial events names no version")
            return str(frame.object.metadata.resource_version)
    return ""


def _refuse(frame: Frame[Any]) -> None:
    """Raise the error that the server put into the stream; pass over what no version of it has sent so far."""
    if isinstance(frame.object, Status):
        raise status_error(frame.object)
    if frame.type:
        log.warning("Skipping an event of unknown type %s", frame.type)


def _position_stands(state: State[T], error: Exception) -> bool:
    """Whether a watch can go on from where it was after `error`, without reading everything."""
    match error:
        case errors.Gone() | errors.NotFound() | errors.Forbidden() | Rollback() | ValueError():
            return False
        case errors.ServerError() if isinstance(state, Watching) or error.cause("ResourceVersionTooLarge"):
            return False  # a stream that ends so, or a server that is behind: the same request would fail the same way
    return isinstance(state, Listed | Watching)


async def _close(state: State[T]) -> None:
    if isinstance(state, Filling | Watching):
        await state.stream.close()
