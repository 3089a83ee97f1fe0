"""The last known objects of one kind, by key and by index, and whether they include our own writes yet.

Only a `kube.watch.Reflector` writes to a store; everybody else reads. Objects are frozen, so they are handed out without
copying. No method awaits: readers never see a half-applied change, and `last_resource_version` always fits the content.
Refuses to know what an object means beyond its metadata.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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

    def objects(self) -> Mapping[Key, T]:
        """A view of all objects by key; `replace` leaves it as it was."""
        return MappingProxyType(self._objects)

    def by_index(self, name: str, value: str) -> list[T]:
        """Objects for which the indexer `name` yielded `value`. Raises KeyError when there is no such indexer."""
        return [self._objects[key] for key in self._indices[name].entries.get(value, ())]

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, new: T) -> T | None:
        """Insert or replace one object; returns what was there."""
        key = new.metadata.key
        old = self._objects.get(key)
        self._objects[key] = new
        for index in self._indices.values():
            index.put(key, new)
        return old

    def remove(self, key: Key) -> T | None:
        """Remove one object; returns what was there."""
        old = self._objects.pop(key, None)
        for index in self._indices.values():
            index.remove(key)
        return old

    def advance(self, resource_version: str) -> bool:
        """Say that nothing older than `resource_version` is missing; False, and no move, where that would be going back.

        Whoever advances to the version of a change makes that change before anybody else's turn.
        """
        if older(resource_version, self.last_resource_version):
            return False
        self.last_resource_version = resource_version or self.last_resource_version
        return True

    def empty(self) -> "Store[T]":
        """A store of the same indexes with nothing in it, to be filled beside this one, and at leisure."""
        return Store({name: index.indexer for name, index in self._indices.items()})

    def replace(self, content: "Store[T]", resource_version: str) -> Mapping[Key, T]:
        """Take over what `content` holds, in one step that costs nothing; returns what was there.

        `content` is not to be used after that. Ten thousand objects take 40 ms to index: nobody else should wait for it.
        """
        if older(resource_version, self.last_resource_version):
            self.epoch += 1
        previous, self._objects, self._indices = self._objects, content._objects, content._indices
        self.last_resource_version = resource_version
        return previous


class _Index(Generic[T]):
    """Keys by what one indexer says of their objects. Most changes of an object leave its place, and cost nothing here."""

    def __init__(self, name: str, indexer: Indexer[T]) -> None:
        # A dict as an ordered set: what a reader gets is in a stable order.
        self.entries: dict[str, dict[Key, None]] = {}
        self._name = name
        self.indexer = indexer
        # What each object is indexed under. Asking the indexer again could give another answer and leave ghosts.
        self._values: dict[Key, tuple[str, ...]] = {}

    def put(self, key: Key, new: T) -> None:
        try:
            values = tuple(self.indexer(new))
        except Exception:  # one object that an indexer cannot read must not stop the cache
            log.exception("Indexing %s failed; it is left out of index %s", key, self._name)
            values = ()
        if self._values.get(key, ()) == values:
            return
        self.remove(key)
        if values:
            self._values[key] = values
        for value in values:
            self.entries.setdefault(value, {})[key] = None

    def remove(self, key: Key) -> None:
        for value in dict.fromkeys(self._values.pop(key, ())):
            entry = self.entries[value]
            del entry[key]
            if not entry:
                del self.entries[value]


@dataclass(frozen=True)
class _Change:
    """What an owner wrote or deleted, when, and where the histories of its caches stood then."""

    at: float
    epochs: tuple[int, ...]
    shown_by: Callable[[Store[Any]], bool]
    resource_version: str = ""


@dataclass
class _Owner:
    """One incarnation of an owner, and what its caches may not show yet: of each kind the newest write, each deletion."""

    uid: str
    pending: dict[tuple[Resource[Any], Key | None], _Change] = field(default_factory=dict)


class Consistency:
    """Read your own writes: a reconcile asks `caught_up` first and comes back later when the answer is False.

    Fails open, because a key that is never reconciled again is worse than one reconciled on old data: for versions that
    cannot be compared, after 120 s, and when a cache began a new epoch.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._stores: dict[Resource[Any], tuple[Store[Any], ...]] = {}
        self._owners: dict[Key, _Owner] = {}
        self.skips = 0
        self.timeouts = 0
        metrics.publish(self)

    def watch(self, resource: Resource[Any], store: Store[Any]) -> None:
        """Make `store` one that must have seen what we write of `resource`."""
        self._stores[resource] = (*self._stores.get(resource, ()), store)

    def wrote(self, owner: Key, resource: Resource[Any], written: Object) -> None:
        """Remember a write that a reconcile of `owner` made, by the object that it returned."""
        metadata = written.metadata
        if metadata.deleting and not metadata.finalizers:  # ours was the last, and the answer may say an older version
            self.deleted(owner, resource, written)
            return
        version = metadata.resource_version
        known = self._pending(owner).get((resource, None))
        if known is None or not older(version, known.resource_version):
            self._expect(owner, (resource, None), _at_version(version), version)

    def deleted(self, owner: Key, resource: Resource[Any], gone: Object) -> None:
        """Remember that a reconcile of `owner` deleted an object. The answer may say no version, so it must be seen to go."""
        self._expect(owner, (resource, gone.metadata.key), _without(gone))

    def caught_up(self, owner: Key, uid: str = "") -> bool:
        """Whether every watched store shows what `owner` wrote and deleted.

        A namesake, which has another `uid`, is not held back for its sake; one that is gone has none, and still is.
        """
        known = self._owners.get(owner)
        if known is None or known.uid != uid != "":
            self._owners[owner] = _Owner(uid)
            return True
        pending = known.pending
        for about in [about for about, change in pending.items() if not self._behind(about[0], change)]:
            del pending[about]
        self.skips += bool(pending)
        return not pending

    def forget(self, owner: Key) -> None:
        """Drop what is known of an owner that is gone."""
        self._owners.pop(owner, None)

    def collect(self) -> Iterator[Metric]:
        yield from metrics.counters(
            [],
            [],
            {
                "stale_sync_skips": ("Reconciles put off because a cache lacked our own write.", self.skips),
                "stale_sync_timeouts": ("Waits for a cache that were given up.", self.timeouts),
            },
        )

    def _pending(self, owner: Key) -> dict[tuple[Resource[Any], Key | None], _Change]:
        return self._owners.setdefault(owner, _Owner("")).pending

    def _expect(
        self,
        owner: Key,
        about: tuple[Resource[Any], Key | None],
        shown_by: Callable[[Store[Any]], bool],
        resource_version: str = "",
    ) -> None:
        epochs = self._epochs(about[0])
        self._pending(owner)[about] = _Change(self._clock.monotonic(), epochs, shown_by, resource_version)

    def _behind(self, resource: Resource[Any], change: _Change) -> bool:
        if self._epochs(resource) != change.epochs or all(map(change.shown_by, self._stores.get(resource, ()))):
            return False
        if self._clock.monotonic() - change.at >= FAIL_OPEN_SECONDS:
            self.timeouts += 1
            log.warning("Giving up waiting for the cache of %s", resource.plural)
            return False
        return True

    def _epochs(self, resource: Resource[Any]) -> tuple[int, ...]:
        return tuple(store.epoch for store in self._stores.get(resource, ()))


def _at_version(resource_version: str) -> Callable[[Store[Any]], bool]:
    return lambda store: not older(store.last_resource_version, resource_version)


def _without(gone: Object) -> Callable[[Store[Any]], bool]:
    """The object is no more; or is being deleted, which is news only where it was not when we last saw it."""
    metadata = gone.metadata

    def shown_by(store: Store[Any]) -> bool:
        held = store.get(metadata.key)
        if held is None or held.metadata.uid != metadata.uid:
            return True
        return held.metadata.deleting and not metadata.deleting

    return shown_by
