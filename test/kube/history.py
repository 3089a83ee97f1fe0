"""One collection of ConfigMaps and its history, as etcd keeps it: versions, compaction, restoring from a backup.

It is told what to be by a test and tells its listeners, the servers, about every change. Knows nothing of HTTP.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIRST_VERSION = 10


@dataclass(frozen=True)
class Change:
    """What a watch says about one version."""

    version: int
    type: str
    object: dict[str, Any]

    def line(self) -> bytes:
        return line(self.type, self.object)


class History:
    """Invariant: replaying `changes` from the beginning gives `objects`, and `version` is the newest one given out."""

    def __init__(self) -> None:
        self.version = FIRST_VERSION
        self.compacted = 0  # changes up to here cannot be watched any more
        self.newest = FIRST_VERSION  # of all times, whatever was restored since
        self.restores = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.changes: list[Change] = []
        self.listeners: list[Callable[[Change], None]] = []
        self._uids = itertools.count(1)

    def put(self, name: str, *, called: str = "", **data: str) -> None:
        """Create or change an object. `called` is a wrong event type for it: MODIFIED for a new one, ADDED for a known."""
        known = self.objects.get(name)
        uid = known["metadata"]["uid"] if known else f"uid-{next(self._uids)}"
        self.objects[name] = {"metadata": self._metadata(name, uid), "data": data}
        self._append(called or ("MODIFIED" if known else "ADDED"), self.objects[name])

    def delete(self, name: str) -> None:
        """Delete an object, or say DELETED of one that never was."""
        gone = self.objects.pop(name, None) or {"metadata": {"uid": "nobody"}, "data": {}}
        self._append("DELETED", {**gone, "metadata": self._metadata(name, gone["metadata"]["uid"])})

    def recreate(self, name: str) -> None:
        """Another object under the same name."""
        self.delete(name)
        self.put(name)

    def skip(self, versions: int) -> None:
        """Give versions out to objects of other kinds."""
        self.version += versions
        self.newest = max(self.newest, self.version)

    def compact(self) -> None:
        """Forget the past: watches from before now are Gone."""
        self.compacted = self.version

    def restore(self, versions: int, *, bump: bool = False) -> None:
        """Be as `versions` ago: what came since has never been.

        `bump` is `etcdutl snapshot restore --bump-revision --mark-compacted`, which nobody can overlook.
        """
        self.version = max(FIRST_VERSION, self.version - versions)
        self.compacted = min(self.compacted, self.version)
        self.changes = [change for change in self.changes if change.version <= self.version]
        self.objects = {}
        for change in self.changes:
            name = change.object["metadata"]["name"]
            self.objects.pop(name, None)
            if change.type != "DELETED":
                self.objects[name] = change.object
        self.restores += 1
        if bump:
            self.skip(self.newest - self.version + 1)
            self.compact()

    def since(self, version: int) -> list[Change]:
        return [change for change in self.changes if change.version > version]

    def versions(self) -> dict[str, str]:
        """The resourceVersion of every object by its name: equal mirrors have equal ones."""
        return {name: item["metadata"]["resourceVersion"] for name, item in self.objects.items()}

    def _metadata(self, name: str, uid: str) -> dict[str, Any]:
        self.skip(1)
        return {"name": name, "namespace": "x", "uid": uid, "resourceVersion": str(self.version)}

    def _append(self, kind: str, content: dict[str, Any]) -> None:
        change = Change(self.version, kind, content)
        self.changes.append(change)
        for tell in self.listeners:
            tell(change)


def line(kind: str, content: dict[str, Any]) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def bookmark(version: int | str, annotations: dict[str, str] | None = None) -> bytes:
    metadata: dict[str, Any] = {"resourceVersion": str(version), "annotations": annotations or {}}
    return line("BOOKMARK", {"kind": "ConfigMap", "metadata": metadata})


def end_bookmark(version: int | str) -> bytes:
    """Ends the initial events of a WatchList."""
    return bookmark(version, {"k8s.io/initial-events-end": "true"})


def status(code: int, reason: str, **details: object) -> dict[str, Any]:
    """A metav1.Status that says no."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": "as the test asked",
        "details": details,
    }


def too_large() -> dict[str, Any]:
    """What a server says whose cache has not reached the version asked for."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return status(504, "Timeout", causes=[cause], retryAfterSeconds=1)


# What is no event: said in the middle of a watch.
HTML = b"<html>bad gateway</html>"
GONE = line("ERROR", status(410, "Expired"))
INTERNAL = line("ERROR", status(500, "InternalError"))
BUSY = line("ERROR", status(429, "TooManyRequests", retryAfterSeconds=2))
TOO_LARGE = line("ERROR", too_large())
CUT_SHORT = b'{"type":"MODIFIED","object":{"metadata":{"name":"a"'
