"""The shapes that all kinds share: keys, object metadata, owner references, conditions, and where a kind is served.

Every kind that we read is a frozen `Wire` struct holding just the fields that we use; unknown fields are skipped while
decoding. Such a partial object must never be written back whole: writes are built from desired state alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import msgspec


class Key(NamedTuple):
    """Names one object of a known kind. `namespace` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel", gc=False):
    """Base of everything that is decoded from the API server: snake_case here, camelCase there."""


class OwnerReference(Wire, frozen=True, kw_only=True):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Wire, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()

    @property
    def key(self) -> Key:
        return tuple.__new__(Key, (self.namespace, self.name))  # Key(…) in half the time: every event asks twice

    @property
    def deleting(self) -> bool:
        return self.deletion_timestamp is not None

    def controller(self) -> OwnerReference | None:
        """The owner that controls this object, if any (at most one by API convention)."""
        return next((owner for owner in self.owner_references if owner.controller), None)


class Condition(Wire, frozen=True, kw_only=True):
    """metav1.Condition. `status` is "True", "False" or "Unknown"; `reason` is CamelCase and never empty once written."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0

    @property
    def true(self) -> bool:
        return self.status == "True"

    @property
    def false(self) -> bool:
        return self.status == "False"


class Object(Wire, frozen=True, kw_only=True):
    """What every kind has. Kinds in `kube.api` derive from it."""

    metadata: ObjectMeta = ObjectMeta()


T = TypeVar("T", bound=Object)


@dataclass(frozen=True)
class Resource(Generic[T]):
    """Where a kind is served and into which type it is decoded."""

    type: type[T]
    group: str  # "" is the core group
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of the collection, of one object, or of its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


def older(left: str, right: str) -> bool:
    """Whether resourceVersion `left` was given out before `right`, of the same kind on the same server.

    Comparing is sanctioned since Kubernetes 1.35: decimal digits without leading zeros. Anything else (also "" and "0",
    which mean "any") compares as not older, so that callers fail open.
    """
    # The usual answer is no, and it needs no closer look at the digits.
    less = left < right if len(left) == len(right) else len(left) < len(right)
    return less and _comparable(left) and _comparable(right)


def _comparable(version: str) -> bool:
    return version.isascii() and version.isdigit() and version[0] != "0"
