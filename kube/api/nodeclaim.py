"""NodeClaim, `karpenter.sh/v1`: one machine that somebody wants, and what has become of it.

The types hold every field of the public schema (Karpenter v1.7), so that what they decode is the whole object; the
schema itself, with its CEL rules, stands in `nodeclaim_crd`. Conditions: `Launched`, `Registered`, `Initialized` in
that order, and their root `Ready`; the others appear when a claim is ended.
"""

from collections.abc import Mapping

import msgspec

from kube.api import labels
from kube.api.reasons import ClaimReason
from kube.api.workload import Taint
from kube.meta import Condition, Object, Resource, Wire

LAUNCHED = "Launched"
REGISTERED = "Registered"
INITIALIZED = "Initialized"
READY = "Ready"
DEPENDENTS = (LAUNCHED, REGISTERED, INITIALIZED)

DRAINED = "Drained"
VOLUMES_DETACHED = "VolumesDetached"
INSTANCE_TERMINATING = "InstanceTerminating"
DISRUPTION_REASON = (
    "DisruptionReason"  # why a provisioner ends a claim that its owner still wants; True before the deletion
)

AWAITING_RECONCILIATION = ClaimReason.AWAITING_RECONCILIATION
AWAITING_MESSAGE = "object is awaiting reconciliation"


class Requirement(Wire, frozen=True, kw_only=True):
    """One constraint on the node's labels. `min_values` is for schedulers and means nothing once a claim exists."""

    key: str
    operator: str
    values: tuple[str, ...] = ()
    min_values: int | None = None

    def allows(self, value: str) -> bool:
        """Whether a node whose label `key` has this `value` satisfies the requirement."""
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return True
            case "DoesNotExist":
                return False
            case "Gt":
                return value.isdigit() and int(value) > int(self.values[0])
            case "Lt":
                return value.isdigit() and int(value) < int(self.values[0])
        return False  # an operator of a newer schema: better refused than misread


class ResourceRequests(Wire, frozen=True, kw_only=True):
    requests: Mapping[str, str | int | float] = {}


class NodeClassReference(Wire, frozen=True, kw_only=True):
    group: str = ""
    kind: str = ""
    name: str = ""


class NodeClaimSpec(Wire, frozen=True, kw_only=True):
    node_class_ref: NodeClassReference = NodeClassReference()
    requirements: tuple[Requirement, ...] = ()
    resources: ResourceRequests = ResourceRequests()
    taints: tuple[Taint, ...] = ()
    startup_taints: tuple[Taint, ...] = ()
    termination_grace_period: str | None = None
    expire_after: str | None = None

    def requires(self, key: str) -> tuple[Requirement, ...]:
        return tuple(requirement for requirement in self.requirements if requirement.key == key)

    def values(self, key: str) -> tuple[str, ...]:
        """The values that `In` requirements on `key` list, in their order, and that all requirements on it allow."""
        requirements = self.requires(key)
        listed = dict.fromkeys(value for each in requirements if each.operator == "In" for value in each.values)
        return tuple(value for value in listed if all(each.allows(value) for each in requirements))


class NodeClaimStatus(Wire, frozen=True, kw_only=True):
    node_name: str = ""
    provider_id: str = msgspec.field(name="providerID", default="")
    image_id: str = msgspec.field(name="imageID", default="")
    capacity: Mapping[str, str | int | float] = {}
    allocatable: Mapping[str, str | int | float] = {}
    conditions: tuple[Condition, ...] = ()
    last_pod_event_time: str | None = None


class NodeClaim(Object, frozen=True, kw_only=True):
    spec: NodeClaimSpec = NodeClaimSpec()
    status: NodeClaimStatus = NodeClaimStatus()

    def condition(self, name: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == name), None)

    def is_true(self, name: str) -> bool:
        condition = self.condition(name)
        return condition is not None and condition.true

    @property
    def ready(self) -> bool:
        return self.is_true(READY)

    @property
    def instance_type(self) -> str:
        """The size that the node has, or else the first that is asked for."""
        asked = self.spec.values(labels.INSTANCE_TYPE)
        return self.metadata.labels.get(labels.INSTANCE_TYPE) or (asked[0] if asked else "")


NODE_CLAIMS = Resource(NodeClaim, "karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)
