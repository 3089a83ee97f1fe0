"""What the provisioner asks of a cloud, and how it is answered: the docstrings of `CloudProvider` are the retry protocol.

An error is a class of failure, not a message from somewhere: it carries the `reason` of the Launched condition and a
message that tells the user the numbers and the next step. Knows nothing of ARM; `provisioner.azure` implements it.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

from kube.api.nodeclaim import NodeClaim
from kube.api.nodeclass import KaitoNodeClassSpec
from kube.api.reasons import ClaimReason

ON_DEMAND = "on-demand"
SPOT = "spot"
RESERVED = "reserved"


class Offering(NamedTuple):
    """One thing that can be bought. `zone` is empty for a regional placement."""

    instance_type: str
    zone: str = ""
    capacity_type: str = ON_DEMAND

    def __str__(self) -> str:
        place = f" in zone {self.zone}" if self.zone else ""
        return f"{self.instance_type} ({self.capacity_type}){place}"


class State(Enum):
    """Where an instance is in its life. Every unknown word of the cloud's is CREATING: wait and see."""

    CREATING = "Creating"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    DELETING = "Deleting"


class CloudError(Exception):
    """Base of what a cloud can answer. `reason` and the message go into the condition as they are.

    `decided`: the cloud has refused, and the machine does not exist. Otherwise it may: look before anything else.
    `terminal`: asking again for the same cannot help (the spec of a claim is immutable).
    `retry_after`: seconds to wait before the next try, None for the caller's own backoff.
    """

    reason: ClassVar[ClaimReason]
    decided = True
    terminal = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnknownOutcome(CloudError):
    """No answer, or one that says nothing about the request (5xx, time-out, connection lost)."""

    reason = ClaimReason.CREATING
    decided = False


class InstanceExists(CloudError):
    """The name is taken: by ourselves in an earlier life, or by somebody else. Get it and compare the owner."""

    reason = ClaimReason.CREATING
    decided = False


class ClusterBusy(CloudError):
    """Another operation on the cluster is in progress."""

    reason = ClaimReason.CLUSTER_BUSY


class ClusterNotRunning(CloudError):
    """The cluster is stopped, starting or stopping."""

    reason = ClaimReason.CLUSTER_NOT_RUNNING


class Throttled(CloudError):
    """The cloud limits our requests."""

    reason = ClaimReason.THROTTLED


class Scope(Enum):
    """How far a shortage reaches: which other offerings need not be tried."""

    OFFERING = "offering"  # this size in this zone at this capacity type
    ZONE = "zone"  # this size in this zone, whatever the capacity type
    SIZE = "size"  # this size everywhere, at this capacity type
    SPOT = "spot"  # every spot offering
    REGION = "region"  # everything


class InsufficientCapacity(CloudError):
    """The cloud has no such machine left, or does not sell it here.

    `scope` and `ttl` (seconds) say how far that reaches and how long it is believed.
    """

    reason = ClaimReason.INSUFFICIENT_CAPACITY

    def __init__(self, message: str, *, scope: Scope = Scope.SIZE, ttl: float = 3600.0) -> None:
        super().__init__(message)
        self.scope = scope
        self.ttl = ttl


class QuotaExceeded(InsufficientCapacity):
    """The subscription may not have more of these."""

    reason = ClaimReason.QUOTA_EXCEEDED


class SubnetFull(CloudError):
    """The subnet has no addresses left."""

    reason = ClaimReason.SUBNET_FULL


class Unauthorized(CloudError):
    """The cloud does not know the provisioner's identity, or it lacks a role."""

    reason = ClaimReason.UNAUTHORIZED


class PolicyDenied(CloudError):
    """A policy of the subscription forbids the machine."""

    reason = ClaimReason.POLICY_DENIED


class InvalidSpec(CloudError):
    """The claim or its node class asks for what cannot be."""

    reason = ClaimReason.INVALID_SPEC
    terminal = True


class BootstrapFailed(CloudError):
    """The machine was made but did not come up."""

    reason = ClaimReason.BOOTSTRAP_FAILED


class ClusterMissing(CloudError):
    """The managed cluster itself (or its resource group) is not there. Not the same as an absent instance."""

    reason = ClaimReason.CLUSTER_NOT_FOUND
    decided = False


@dataclass(frozen=True)
class Instance:
    """One agent pool as last seen. `owner_uid` and `cluster_id` come from its tags and are empty on pools without them."""

    name: str
    state: State
    offering: Offering
    owner_uid: str = ""
    cluster_id: str = ""
    attempt: int = (
        1  # which of the claim's machines it is, counting those that came up broken; 1 also where nobody says
    )
    created_at: datetime | None = None
    image_id: str = ""
    etag: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    failure: CloudError | None = None  # set exactly when `state` is FAILED


@dataclass(frozen=True)
class Cluster:
    """The managed cluster: `running` only when nothing stops us from changing its pools."""

    running: bool
    detail: str  # the words of the cloud, for messages
    exists: bool = True


@dataclass(frozen=True)
class Launch:
    """Everything that decides what is created. Equal launches make equal requests."""

    claim: NodeClaim
    offering: Offering
    node_class: KaitoNodeClassSpec
    cluster_id: str
    at: datetime


class CloudProvider(Protocol):
    """One cluster's machines. Every method may raise any CloudError; none waits for the cloud to finish its work."""

    async def create(self, launch: Launch) -> Instance:
        """Ask for one machine under the claim's name; return as soon as the cloud has accepted, state CREATING.

        Never changes an instance that exists: that raises InstanceExists, and the caller gets it and compares the owner.
        After an error with `decided` nothing was made. After any other the caller must `get` before it asks again.
        Is sent once: no retry happens inside.
        """

    async def delete(self, instance: Instance) -> None:
        """Ask for the end of an instance that was just fetched; return as soon as the cloud has accepted.

        Raises InstanceExists when it has changed since it was fetched: get it and compare the owner again. Deleting what
        is gone, or going, is success. The caller keeps its finalizer and keeps looking until `get` returns None.
        """

    async def get(self, name: str) -> Instance | None:
        """Look up one instance now. None only when the cluster is there and says that it has no such instance."""

    async def list(self) -> tuple[Instance, ...]:
        """All instances, ours or not. May lag behind: what is missing here is not proven absent."""

    async def cluster(self) -> Cluster:
        """The state of the cluster itself. A cluster that is gone is an answer (`exists` False), not an error."""
