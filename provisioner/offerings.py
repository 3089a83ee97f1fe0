"""Which machine to ask for: the claim's requirements as a list of offerings, and a memory of what was not to be had.

The workspace controller owns the choice of the size and the provisioner that of zone and capacity type, so there is one
fallback engine for each. A memory entry only moves an offering to the end: every claim may find out once for itself, which
is how a raised quota is noticed at once. Losing the memory costs one futile request.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kube.api import labels
from kube.api.nodeclaim import NodeClaimSpec
from kube.api.nodeclass import KaitoNodeClassSpec
from kube.clock import Clock
from provisioner.cloud import ON_DEMAND, RESERVED, SPOT, InsufficientCapacity, InvalidSpec, Offering, Scope


def offerings(spec: NodeClaimSpec, node_class: KaitoNodeClassSpec) -> tuple[Offering, ...]:
    """All that satisfy the claim, best first: zones before capacity types before sizes. Raises InvalidSpec if none does."""
    sizes = _sizes(spec)
    capacity_types = _capacity_types(spec, node_class)
    zones = _zones(spec)
    _check_fixed(spec, labels.OS, "linux")
    _check_fixed(spec, labels.ARCH, "amd64")
    return tuple(
        Offering(size, zone, capacity_type) for size in sizes for capacity_type in capacity_types for zone in zones
    )


def _sizes(spec: NodeClaimSpec) -> Sequence[str]:
    sizes = spec.values(labels.INSTANCE_TYPE) or spec.values(labels.AZURE_SKU)
    sizes = tuple(size for size in sizes if all(each.allows(size) for each in spec.requires(labels.AZURE_SKU)))
    if not sizes:
        raise InvalidSpec(f"The claim must require one or more values of {labels.INSTANCE_TYPE} (operator In)")
    return sizes


def _capacity_types(spec: NodeClaimSpec, node_class: KaitoNodeClassSpec) -> Sequence[str]:
    requirements = spec.requires(labels.CAPACITY_TYPE)
    if not requirements:
        return (ON_DEMAND,)
    wanted = spec.values(labels.CAPACITY_TYPE) or (ON_DEMAND, SPOT)
    allowed = [each for each in wanted if all(requirement.allows(each) for requirement in requirements)]
    if not node_class.capacity_reservation_group_id:
        allowed = [each for each in allowed if each != RESERVED]
    known = tuple(dict.fromkeys(each for each in allowed if each in (ON_DEMAND, SPOT, RESERVED)))
    if not known:
        raise InvalidSpec(
            f"No capacity type satisfies the claim: there are {ON_DEMAND}, {SPOT}, and {RESERVED} where the node class "
            "names a capacity reservation group"
        )
    return known


def _zones(spec: NodeClaimSpec) -> Sequence[str]:
    """No requirement means regional, which is where most GPU sizes are sold."""
    requirements = spec.requires(labels.ZONE)
    if not requirements:
        return ("",)
    zones = spec.values(labels.ZONE)
    if not zones:
        if all(each.operator in ("NotIn", "Exists") for each in requirements):
            raise InvalidSpec(f"Name the zones that are wanted: {labels.ZONE} with operator In")
        raise InvalidSpec(f"No zone satisfies the claim's requirements on {labels.ZONE}")
    return zones


def _check_fixed(spec: NodeClaimSpec, key: str, value: str) -> None:
    if not all(requirement.allows(value) for requirement in spec.requires(key)):
        raise InvalidSpec(f"Only {value} nodes are made, and the claim's requirement on {key} excludes that")


@dataclass(frozen=True)
class Shortage:
    """One refusal and how far it reaches."""

    offering: Offering
    scope: Scope
    until: float  # monotonic

    def covers(self, other: Offering) -> bool:
        mine = self.offering
        match self.scope:
            case Scope.REGION:
                return True
            case Scope.SPOT:
                return other.capacity_type == SPOT
            case Scope.SIZE:
                return (other.instance_type, other.capacity_type) == (mine.instance_type, mine.capacity_type)
            case Scope.ZONE:
                return (other.instance_type, other.zone) == (mine.instance_type, mine.zone)
        return other == mine


class Shortages:
    """What was not to be had, by whom it was tried, and until when that is believed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: list[Shortage] = []
        self._tried: dict[str, list[Shortage]] = {}  # claim UID → its own refusals, which count until the claim goes
        self._last: dict[str, tuple[Offering, InsufficientCapacity]] = {}

    def refused(self, claim_uid: str, offering: Offering, error: InsufficientCapacity) -> None:
        shortage = Shortage(offering, error.scope, self._clock.monotonic() + error.ttl)
        self._known.append(shortage)
        self._tried.setdefault(claim_uid, []).append(shortage)
        self._last[claim_uid] = (offering, error)

    def choose(self, claim_uid: str, candidates: Iterable[Offering]) -> Offering | None:
        """The best offering that this claim has not been refused; None when it has been refused all of them."""
        now = self._clock.monotonic()
        self._known = [shortage for shortage in self._known if shortage.until > now]
        own = self._tried.get(claim_uid, [])
        left = [each for each in candidates if not any(shortage.covers(each) for shortage in own)]
        return min(left, key=lambda each: any(shortage.covers(each) for shortage in self._known), default=None)

    def last(self, claim_uid: str) -> tuple[Offering, InsufficientCapacity]:
        """The claim's latest refusal. Only for claims that have been refused something."""
        return self._last[claim_uid]

    def retry_after(self, claim_uid: str) -> float:
        """Seconds until the first of the claim's refusals is believed no more."""
        now = self._clock.monotonic()
        return max(0.0, min((shortage.until - now for shortage in self._tried.get(claim_uid, ())), default=0.0))

    def forget(self, claim_uid: str) -> None:
        """The claim is gone."""
        self._tried.pop(claim_uid, None)
        self._last.pop(claim_uid, None)
