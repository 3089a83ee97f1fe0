"""Telling users what happened to an object: events.k8s.io/v1, repeated ones as a series.

Emitting never blocks and never raises; what cannot be sent is counted and dropped, because an event is a courtesy and a
reconcile is not. Numbers are client-go's. Unlike client-go, events that differ in their note are different events: the
note is what `kubectl describe` shows, and the spam bucket bounds how many there can be. Refuses to know why.
"""

import asyncio
import contextlib
import logging
import random
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from prometheus_client.core import Metric

from kube import errors, metrics
from kube.client import Client
from kube.clock import Clock, SystemClock, micro_timestamp
from kube.meta import Key, Object, Resource

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)

QUEUE_SIZE = 1000  # the newest are dropped when it is full
TRIES = 12
TRY_SECONDS = 10.0  # stretched by up to a quarter
# A series is written again after half an hour, and a last time when nothing was added for six minutes.
REFRESH_SECONDS = 30 * 60.0
FINISH_SECONDS = 6 * 60.0
TICK_SECONDS = 60.0
# What a process that ends may spend on the last events; a kubelet gives it thirty seconds.
FLUSH_SECONDS = 2.0
# Per object: 25 at once, then one in five minutes.
SPAM_BURST = 25
SPAM_RATE = 1 / 300
REMEMBERED = 4096  # series and buckets, the least recently used go first
NOTE_LIMIT = 1024  # the API server refuses longer notes


class ObjectReference(NamedTuple):
    """The object that an event is about. `namespace` is empty for cluster-scoped kinds."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, resource: Resource[T], regarding: T) -> "ObjectReference":
        metadata = regarding.metadata
        return cls(resource.api_version, resource.kind, metadata.namespace, metadata.name, metadata.uid)


class Event(Object, frozen=True, kw_only=True):
    """What we need back of a written event: its name."""


EVENTS = Resource(Event, "events.k8s.io", "v1", "events", "Event")


class _Cause(NamedTuple):
    """Events with equal causes are one series."""

    regarding: ObjectReference
    type: str
    reason: str
    action: str
    note: str


@dataclass
class _Series:
    """An event that was written, and how often it happened since."""

    key: Key
    count: int
    last_seen: float
    written_at: float
    written_count: int


@dataclass
class _SpamBucket:
    tokens: float
    at: float


class EventRecorder:
    """Collects events from anywhere and sends them from `run`."""

    def __init__(self, client: Client, *, controller: str, instance: str, clock: Clock | None = None) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance
        self._clock = clock or SystemClock()
        self._pending: deque[_Cause] = deque()
        self._arrived = asyncio.Event()
        self._series: OrderedDict[_Cause, _Series] = OrderedDict()
        self._buckets: OrderedDict[ObjectReference, _SpamBucket] = OrderedDict()
        self.dropped = 0
        metrics.publish(self)

    def event(
        self,
        regarding: ObjectReference,
        type: Literal["Normal", "Warning"],  # noqa: A002  # the field's name in events.k8s.io/v1
        reason: str,
        message: str,
        *,
        action: str,
    ) -> None:
        """Record an event. `reason` says why in CamelCase, `action` what was done, `message` is for people."""
        if len(self._pending) >= QUEUE_SIZE or not self._allowed(regarding):
            self.dropped += 1
            return
        self._pending.append(_Cause(regarding, type, reason, action, _note(message)))
        self._arrived.set()

    async def run(self) -> None:
        """Send what was recorded, until cancelled; what waits then has a moment to get out."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send())
                group.create_task(self._refresh())
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._send_pending()

    async def _send(self) -> None:
        while True:
            await self._arrived.wait()
            await self._send_pending()
            self._arrived.clear()

    async def _send_pending(self) -> None:
        while self._pending:
            # Taken off only when it is out: rather twice than never, where we are cancelled in between.
            await self._record(self._pending[0])
            self._pending.popleft()

    async def _record(self, cause: _Cause) -> None:
        """Write a new event, begin a series with the second of its kind, or just count."""
        series = self._series.get(cause)
        now = self._clock.monotonic()
        if series is None:
            written = await self._deliver(self._create(cause))
            if written is not None:
                self._remember(cause, _Series(written, 1, now, now, 1))
            return
        self._series.move_to_end(cause)
        series.count += 1
        series.last_seen = now
        if series.written_count == 1:
            await self._write(cause, series)

    async def _refresh(self) -> None:
        """Bring the counts of running series up to date, and let go of those that ended."""
        while True:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            for cause, series in list(self._series.items()):
                ended = now - series.last_seen >= FINISH_SECONDS
                if series.count > series.written_count and (ended or now - series.written_at >= REFRESH_SECONDS):
                    await self._write(cause, series)
                if ended and series.count == series.written_count:  # nothing was added while it was written
                    self._series.pop(cause, None)

    async def _write(self, cause: _Cause, series: _Series) -> None:
        series.written_at = self._clock.monotonic()
        series.written_count = series.count
        patch = {"series": {"count": series.count, "lastObservedTime": micro_timestamp(self._clock.now())}}
        written = await self._deliver(("PATCH", series.key, patch))
        if written is None:
            # Events live for an hour on the server: begin anew with the next one.
            self._series.pop(cause, None)

    async def _deliver(self, request: tuple[str, Key, dict[str, Any]]) -> Key | None:
        """Send one request, for minutes if nobody answers; an answer is final, or one bad event would hold up all others."""
        verb, key, body = request
        for _ in range(TRIES):
            try:
                if verb == "POST":
                    await self._client.create(EVENTS, body)
                else:
                    await self._client.merge_patch(EVENTS, key, body)
            except (errors.ConnectionFailed, errors.TooManyRequests):
                await self._clock.sleep(TRY_SECONDS * (1 + random.random() / 4))
            except errors.AlreadyExists:
                return key  # an earlier try arrived after all
            except (errors.KubeError, ValueError) as error:  # ValueError: an answer that is no answer
                log.info("An event was refused: %s", error)
                break
            else:
                return key
        self.dropped += 1
        return None

    def _create(self, cause: _Cause) -> tuple[str, Key, dict[str, Any]]:
        regarding = cause.regarding
        # client-go: events about cluster-scoped objects live in "default".
        key = Key(regarding.namespace or "default", f"{regarding.name[:230].rstrip('-.')}.{uuid.uuid4().hex[:16]}")
        return "POST", key, self._render(cause, key)

    def _render(self, cause: _Cause, key: Key) -> dict[str, Any]:
        regarding = cause.regarding
        return {
            "metadata": {"namespace": key.namespace, "name": key.name},
            "eventTime": micro_timestamp(self._clock.now()),
            "reportingController": self._controller,
            "reportingInstance": self._instance[:128],
            "type": cause.type,
            "reason": cause.reason,
            "action": cause.action,
            "note": cause.note,
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
        }

    def _allowed(self, regarding: ObjectReference) -> bool:
        now = self._clock.monotonic()
        bucket = self._buckets.get(regarding)
        if bucket is None:
            bucket = self._buckets[regarding] = _SpamBucket(SPAM_BURST, now)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(regarding)
        bucket.tokens = min(SPAM_BURST, bucket.tokens + (now - bucket.at) * SPAM_RATE)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _remember(self, cause: _Cause, series: _Series) -> None:
        self._series[cause] = series
        if len(self._series) > REMEMBERED:
            self._series.popitem(last=False)

    def collect(self) -> Iterator[Metric]:
        series = {"events_dropped": ("Events that were not sent.", float(self.dropped))}
        yield from metrics.counters(["controller"], [self._controller], series)


def _note(message: str) -> str:
    """`message` as JSON and the API server take it: without halves of characters, and not too long."""
    text = message.encode(errors="replace")
    return text.decode() if len(text) <= NOTE_LIMIT else text[: NOTE_LIMIT - 3].decode(errors="ignore") + "…"
