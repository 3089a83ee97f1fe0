"""What all phases share: the world as known (`Context`), and one claim with the changes that a reconcile decides (`Draft`).

Knows no phase. A draft collects labels, status fields and conditions, compares once and writes at most two patches: the
metadata, then the status. Both carry the resourceVersion that was read, so neither can undo somebody else's change.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kube.api import labels
from kube.api.nodeclaim import (
    AWAITING_MESSAGE,
    AWAITING_RECONCILIATION,
    DEPENDENTS,
    DISRUPTION_REASON,
    LAUNCHED,
    NODE_CLAIMS,
    READY,
    NodeClaim,
)
from kube.api.reasons import ClaimReason, Disruption
from kube.api.workload import NODES, Node
from kube.client import Client
from kube.clock import Clock, parse_timestamp, timestamp
from kube.conditions import ConditionSet, to_wire
from kube.errors import Invalid
from kube.events import EventRecorder, ObjectReference
from kube.meta import Condition, Key
from kube.store import Consistency, Store
from provisioner import metrics
from provisioner.claims import launch_time
from provisioner.cloud import CloudError, CloudProvider, Cluster
from provisioner.inventory import Inventory
from provisioner.settings import Settings
from provisioner.uptime import Uptime

log = logging.getLogger(__name__)

RETRY_SECONDS = 10.0  # after an answer of the cloud that names no time of its own
SKEW = timedelta(minutes=1)  # that our clock may be ahead of the API server's; a machine needs longer to join
BY_POOL = "agentpool"  # index of nodes: the agent pool, and so the claim, that they belong to


@dataclass(frozen=True)
class Context:
    """The world as known. Stores are read, never written; everything written goes through `client` and `cloud`."""

    client: Client
    claims: Store[NodeClaim]
    nodes: Store[Node]
    cloud: CloudProvider
    inventory: Inventory
    recorder: EventRecorder
    consistency: Consistency
    settings: Settings
    clock: Clock
    uptime: Uptime
    cluster_id: str

    async def cluster(self) -> Cluster:
        """The managed cluster as the cloud sees it. While it does not run no deadline runs either."""
        cluster = await self.cloud.cluster()
        if not cluster.running:
            self.uptime.interrupted()
        return cluster

    async def left(self, limit: float, since: datetime | None) -> float:
        """Seconds until a deadline. Before one is over the cluster is asked: nobody may have noticed that it stands still."""
        if self.uptime.elapsed(since) >= limit:
            try:
                await self.cluster()
            except CloudError as error:
                log.info("Cannot tell whether a deadline is over: %s", error)
                return RETRY_SECONDS
        return limit - self.uptime.elapsed(since)

    def node_of(self, claim: NodeClaim) -> Node | None:
        """The claim's node: the one chosen before, or else the oldest of its machine (AKS may briefly make a spare one)."""
        chosen = claim.status.provider_id
        known = [
            node
            for node in self.nodes_of(claim.metadata.name)
            if (node.spec.provider_id == chosen if chosen else _of_present_machine(claim, node))
        ]
        return min(known, key=lambda node: (node.metadata.creation_timestamp, node.metadata.name), default=None)

    def nodes_of(self, pool: str) -> list[Node]:
        return [node for node in self.nodes.by_index(BY_POOL, pool) if of_pool(node, pool)]

    def own_nodes(self, claim: NodeClaim) -> list[Node]:
        """Nodes that were registered for this very claim; a namesake's pool may have others."""
        uid, provider_id = claim.metadata.uid, claim.status.provider_id
        return [
            node
            for node in self.nodes.by_index(BY_POOL, claim.metadata.name)
            if any(owner.uid == uid for owner in node.metadata.owner_references)
            or (provider_id and node.spec.provider_id == provider_id)
        ]

    async def patch_node(self, claim: Key, node: Node, patch: Mapping[str, Any]) -> Node:
        """Merge-patch a node on behalf of a claim, provided that nobody has changed it meanwhile."""
        metadata = {**patch.get("metadata", {}), "resourceVersion": node.metadata.resource_version}
        written = await self.client.merge_patch(NODES, node.metadata.key, {**patch, "metadata": metadata})
        self.consistency.wrote(claim, NODES, written)
        return written

    async def delete_claim(self, claim: NodeClaim, reason: str, message: str) -> None:
        """Delete a claim ourselves, for a reason that is also told as an event."""
        self.warn(claim, reason, message, action="Deleting")
        pool = claim.metadata.labels.get(labels.NODEPOOL, "")
        metrics.claims_disrupted.labels(reason, pool, claim.metadata.labels.get(labels.CAPACITY_TYPE, "")).inc()
        await self.client.delete(NODE_CLAIMS, claim.metadata.key, uid=claim.metadata.uid)
        self.consistency.deleted(claim.metadata.key, NODE_CLAIMS, claim)

    async def delete_node(self, claim: Key, node: Node) -> None:
        """Delete a node on behalf of a claim. Raises NotFound."""
        await self.client.delete(NODES, node.metadata.key, uid=node.metadata.uid)
        self.consistency.deleted(claim, NODES, node)

    def warn(self, claim: NodeClaim, reason: str, message: str, *, action: str) -> None:
        self.recorder.event(ObjectReference.of(NODE_CLAIMS, claim), "Warning", reason, message, action=action)

    def note(self, claim: NodeClaim, reason: str, message: str, *, action: str) -> None:
        self.recorder.event(ObjectReference.of(NODE_CLAIMS, claim), "Normal", reason, message, action=action)


def _of_present_machine(claim: NodeClaim, node: Node) -> bool:
    """Whether a node may have come from the last create request: those of earlier machines outlive them for a while."""
    asked = launch_time(claim)
    if node.metadata.deleting or asked is None:
        return not node.metadata.deleting
    return parse_timestamp(node.metadata.creation_timestamp) >= asked - SKEW


def of_pool(node: Node, pool: str) -> bool:
    """Whether AKS itself says that the node is of this pool: both labels, and the name of its scale set."""
    if node.metadata.labels.get(labels.AKS_AGENTPOOL) != pool or not node.spec.provider_id:
        return False
    _, _, rest = node.spec.provider_id.lower().partition("/virtualmachinescalesets/")
    return f"-{pool}-" in f"-{rest.split('/')[0]}-"


@dataclass
class Draft:
    """One claim during one reconcile. `claim` is the newest version known; the rest is what shall become of it."""

    context: Context
    claim: NodeClaim
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    conditions: ConditionSet = field(init=False)
    released: bool = False  # our finalizer is gone, and with it most likely the object

    def __post_init__(self) -> None:
        now = timestamp(self.context.clock.now())
        metadata = self.claim.metadata
        self.conditions = ConditionSet(self.claim.status.conditions, generation=metadata.generation, now=now)
        if not metadata.deleting:
            for name in DEPENDENTS:
                if self.conditions.get(name) is None:
                    self.wait(name, AWAITING_RECONCILIATION, AWAITING_MESSAGE)
            self.conditions.remove(DISRUPTION_REASON)  # left by a process that ended before the deletion: judged anew

    @property
    def key(self) -> Key:
        return self.claim.metadata.key

    @property
    def name(self) -> str:
        return self.claim.metadata.name

    def wait(self, condition: str, reason: ClaimReason, message: str) -> None:
        """Say what the condition still waits for."""
        self.conditions.set(condition, "Unknown", reason, message)

    def fail(self, condition: str, reason: ClaimReason, message: str) -> None:
        """Decide that the claim has failed for good. Its pool goes once that is written, so it is not launched either."""
        known = self.conditions.get(condition)
        for name in dict.fromkeys((LAUNCHED, condition)):
            self.conditions.set(name, False, reason, message)
        if known is None or (known.status, known.reason) != ("False", reason):
            metrics.failures.labels(reason).inc()

    async def disrupt(self, reason: Disruption, message: str) -> None:
        """End a claim whose owner still wants a machine. The reason is stored first: it is what the owner reads."""
        self.conditions.set(DISRUPTION_REASON, True, reason, message)
        await self.save()
        await self.context.delete_claim(self.claim, reason, message)

    def since(self, condition: str) -> datetime | None:
        """When the condition got its present status."""
        found = self.conditions.get(condition)
        return _parse(found.last_transition_time) if found else None

    async def hold(self, **annotations: str) -> None:
        """Write finalizer and annotations now, before something that costs money. Raises Conflict when out of date."""
        finalizers = [*self.claim.metadata.finalizers]
        if labels.TERMINATION_FINALIZER not in finalizers:
            finalizers.append(labels.TERMINATION_FINALIZER)
        await self._patch({"metadata": {"finalizers": finalizers, "annotations": annotations}})

    async def release(self) -> None:
        """Let the claim go."""
        rest = [each for each in self.claim.metadata.finalizers if each != labels.TERMINATION_FINALIZER]
        self.released = True
        await self._patch({"metadata": {"finalizers": rest}})

    async def save(self) -> None:
        """Write what differs from what is stored: nothing, one patch or two."""
        if self.released:
            return
        if not self.claim.metadata.deleting:
            self.conditions.root(READY, DEPENDENTS)
        metadata = self._metadata_changes()
        if metadata:
            await self._patch({"metadata": metadata})
        status = self._status_changes()
        if status:
            before = self.claim
            try:
                await self._patch({"metadata": {}, "status": status}, subresource="status")
            except Invalid as error:  # claims of old schemas fail new rules; they must still be launched and deleted
                log.warning("The status of %s cannot be written: %s", self.name, error.message)
            self._announce(before)

    def _metadata_changes(self) -> dict[str, Any]:
        metadata = self.claim.metadata
        wanted = {"labels": (self.labels, metadata.labels), "annotations": (self.annotations, metadata.annotations)}
        changes = {
            name: {key: value for key, value in new.items() if old.get(key) != value}
            for name, (new, old) in wanted.items()
        }
        return {name: change for name, change in changes.items() if change}

    def _status_changes(self) -> dict[str, Any]:
        known = self.claim.status
        old = {
            "nodeName": known.node_name,
            "providerID": known.provider_id,
            "imageID": known.image_id,
            "capacity": known.capacity,
            "allocatable": known.allocatable,
        }
        changes = {key: value for key, value in self.status.items() if value and old[key] != value}
        if self.conditions.changed:
            changes["conditions"] = to_wire(self.conditions.result())
        return changes

    async def _patch(self, patch: dict[str, Any], *, subresource: str = "") -> None:
        patch["metadata"]["resourceVersion"] = self.claim.metadata.resource_version
        self.claim = await self.context.client.merge_patch(NODE_CLAIMS, self.key, patch, subresource=subresource)
        self.context.consistency.wrote(self.key, NODE_CLAIMS, self.claim)

    def _announce(self, before: NodeClaim) -> None:
        """Say on the claim's event list what has just changed in its conditions."""
        for condition in _changed(before.status.conditions, self.conditions.result()):
            if condition.type in (READY, DISRUPTION_REASON) or condition.reason == AWAITING_RECONCILIATION:
                continue
            message = condition.message or f"{condition.type} is {condition.status}"
            if condition.true:
                self.context.note(self.claim, condition.type, message, action="Reconciling")
            elif condition.false or condition.type in DEPENDENTS[:1]:
                say = self.context.warn if condition.reason != ClaimReason.CREATING else self.context.note
                say(self.claim, condition.reason, message, action="Reconciling")


def _changed(before: Sequence[Condition], after: Sequence[Condition]) -> list[Condition]:
    known = {(condition.type, condition.status, condition.reason) for condition in before}
    return [condition for condition in after if (condition.type, condition.status, condition.reason) not in known]


def _parse(text: str) -> datetime | None:
    return parse_timestamp(text) if text else None
