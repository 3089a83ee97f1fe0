"""What happened to objects: the event that a handler hears, and how two contents of a store differ.

Pure functions over frozen objects. Refuses to know where contents come from and who is told.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from kube.meta import Key, Object

T = TypeVar("T", bound=Object)


class EventType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


# By name alone: Python 3.11 takes longer to look a member up in its enum than to make the event of it.
ADDED, MODIFIED, DELETED = EventType


class Event(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """What happened to one object.

    `object` is the last known state, for DELETED too; `old` is what the store held before (None for ADDED). An object
    that was deleted and created anew while we looked away is two events, DELETED and ADDED. `initial` marks the ADDED
    events that tell a handler what was there when it came. A resync is MODIFIED with `old` the same as `object`.
    """

    type: EventType
    object: T
    old: T | None = None
    initial: bool = False

    @property
    def news(self) -> bool:
        """Whether something happened, and this is not what a newcomer is told or what is told again."""
        return not self.initial and (self.type != MODIFIED or self.object is not self.old)

    @property
    def heartbeat(self) -> bool:
        """Whether nothing changed that we read: nodes and pods are written every few seconds for the sake of a timestamp."""
        if self.type != MODIFIED or self.old is None:
            return False
        version = self.old.metadata.resource_version
        metadata = msgspec.structs.replace(self.object.metadata, resource_version=version)
        return bool(msgspec.structs.replace(self.object, metadata=metadata) == self.old)


def differences(
    previous: Mapping[Key, T], objects: Mapping[Key, T], *, initial: bool, everything: bool
) -> Iterator[Event[T]]:
    """What turned `previous` into `objects`, deletions first; `everything` reports unchanged objects too."""
    for key, old in previous.items():
        if key not in objects:
            yield Event(DELETED, old, old)
    for key, new in objects.items():
        yield from changes(previous.get(key), new, initial=initial, everything=everything)


def changes(old: T | None, new: T, *, initial: bool = False, everything: bool = False) -> Iterator[Event[T]]:
    """What made `new` of `old`, two states of the object with one key."""
    if old is None:
        yield Event(ADDED, new, initial=initial)
    elif old.metadata.uid != new.metadata.uid:
        yield Event(DELETED, old, old)
        yield Event(ADDED, new)
    elif everything or old.metadata.resource_version != new.metadata.resource_version:
        yield Event(MODIFIED, new, old)
