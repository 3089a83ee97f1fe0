"""The last known objects of one kind, by key and by index, and whether they include our own writes yet.

Only a `kube.watch.Reflector` writes to a store; everybody else reads. Objects are frozen, so they are handed out without
copying. No method awaits: readers never see a half-applied change, and `last_resource_version` always fits the content.
Refuses to know what an object means beyond its metadata.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prometheus_client.core import Metric

from kube import metrics
from kube.clock import Clock, SystemClock
from kube.meta import Key, Object, Resource, older

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Object)
Indexer = Callable[[T], Iterable[str]]

# Twice the period of bookmarks: a cache that has not caught up by then is watching something else than we wrote.
FAIL_OPEN_SECONDS = 120.0


class Store(Generic[T]):
    """A read-only view for everybody but its reflector.

    Invariants: by_index(name, v) is exactly the objects whose indexer yields v; no index entry is empty;
    `last_resource_version` decreases only in a `replace` that begins a new epoch (etcd was restored from a backup).
    """

    def __init__(self, indexers: Mapping[str, Indexer[T]] | None = None) -> None:
        self._objects: dict[Key, T] = {}
        self._indices = {name: _Index(name, indexer) for name, indexer in (indexers or {}).items()}
        self.last_resource_version = ""
        self.epoch = 0

    def get(self, key: Key) -> T | None:
        return self._objects.get(key)

    def all(self) -> list[T]:
        return list(self._objects.values())

    def by_index(self, name: str, value: str) -> list[T]:
        """Objects for which the indexer `name` yielded `value`. Raises KeyError when there is no such indexer."""
        return list(self._indices[name].entries.get(value, {}).values())

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, new: T) -> T | None:
        """Insert or replace one object; returns what was there."""
        key = new.metadata.key
        old = self._objects.get(key)
        self._objects[key] = new
        for index in self._indices.values():
            index.put(key, new)
        self.bookmark(new.metadata.resource_version)
        return old

    def remove(self, key: Key, resource_version: str) -> T | None:
        """Remove one object as of `resource_version`, the deletion's own; returns what was there."""
        old = self._objects.pop(key, None)
        for index in self._indices.values():
            index.remove(key)
        self.bookmark(resource_version)
        return old

    def bookmark(self, resource_version: str) -> None:
        """Nothing older than `resource_version` is missing from the store."""
        if not older(resource_version, self.last_resource_version) and resource_version:
            self.last_resource_version = resource_version

    def replace(self, objects: Mapping[Key, T], resource_version: str) -> Mapping[Key, T]:
        """Swap the whole content in one step; returns the content that it replaces."""
        if older(resource_version, self.last_resource_version):
            self.epoch += 1
        previous, self._objects = self._objects, dict(objects)
        for index in self._indices.values():
            index.clear()
            for key, new in self._objects.items():
                index.put(key, new)
        self.last_resource_version = resource_version
        return previous


class _Index(Generic[T]):
    """Objects by what one indexer says of them."""

    def __init__(self, name: str, indexer: Indexer[T]) -> None:
        self.entries: dict[str, dict[Key, T]] = {}
        self._name = name
        self._indexer = indexer
        # What each object is indexed under. Asking the indexer again could give another answer and leave ghosts.
        self._values: dict[Key, tuple[str, ...]] = {}

    def put(self, key: Key, new: T) -> None:
        try:
            values = tuple(self._indexer(new))
        except Exception:  # one object that an indexer cannot read must not stop the cache
            log.exception("Indexing %s failed; it is left out of index %s", key, self._name)
            values = ()
        if self._values.get(key, ()) != values:
            self.remove(key)
            if values:
                self._values[key] = values
            for value in values:
                self.entries.setdefault(value, {})
        for value in values:
            self.entries[value][key] = new

    def remove(self, key: Key) -> None:
        for value in dict.fromkeys(self._values.pop(key, ())):
            entry = self.entries[value]
            del entry[key]
            if not entry:
                del self.entries[value]

    def clear(self) -> None:
        self.entries = {}
        self._values = {}


@dataclass
class _Written:
    """The newest version that an owner wrote of one kind, and where its caches stood then."""

    resource_version: str
    at: float
    epochs: tuple[int, ...]


class Consistency:
    """Read your own writes: a reconcile asks `caught_up` first and comes back later when the answer is False.

    Fails open, because a key that is never reconciled again is worse than one reconciled on old data: for versions that
    cannot be compared, after 120 s, and when a cache began a new epoch.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._stores: dict[Resource[Any], tuple[Store[Any], ...]] = {}
        self._written: dict[Key, dict[Resource[Any], _Written]] = {}
        self.skips = 0
        self.timeouts = 0
        metrics.publish(self)

    def watch(self, resource: Resource[Any], store: Store[Any]) -> None:
        """Make `store` one that must have seen what we write of `resource`."""
        self._stores[resource] = (*self._stores.get(resource, ()), store)

    def wrote(self, owner: Key, resource: Resource[Any], resource_version: str) -> None:
        """Remember a write that a reconcile of `owner` made, by the version of the object that it returned."""
        records = self._written.setdefault(owner, {})
        known = records.get(resource)
        if known is not None and older(resource_version, known.resource_version):
            return
        epochs = tuple(store.epoch for store in self._stores.get(resource, ()))
        records[resource] = _Written(resource_version, self._clock.monotonic(), epochs)

    def caught_up(self, owner: Key) -> bool:
        """Whether every watched store holds what `owner` wrote."""
        records = self._written.get(owner)
        if records is None:
            return True
        for resource in [resource for resource, written in records.items() if not self._behind(resource, written)]:
            del records[resource]
        if records:
            self.skips += 1
            return False
        del self._written[owner]
        return True

    def forget(self, owner: Key) -> None:
        """Drop what is known of an owner that is gone."""
        self._written.pop(owner, None)

    def collect(self) -> Iterator[Metric]:
        yield from metrics.counters(
            [],
            [],
            {
                "stale_sync_skips": ("Reconciles put off because a cache lacked our own write.", self.skips),
                "stale_sync_timeouts": ("Waits for a cache that were given up.", self.timeouts),
            },
        )

    def _behind(self, resource: Resource[Any], written: _Written) -> bool:
        stores = self._stores.get(resource, ())
        if tuple(store.epoch for store in stores) != written.epochs:
            return False
        if not any(older(store.last_resource_version, written.resource_version) for store in stores):
            return False
        if self._clock.monotonic() - written.at >= FAIL_OPEN_SECONDS:
            self.timeouts += 1
            log.warning("Giving up waiting for the cache of %s", resource.plural)
            return False
        return True
