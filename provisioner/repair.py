"""Launched claims whose machine is not well: gone behind our back, lost its node, or not ready for too long.

Each ends with the deletion of the claim, whose owner then makes another one. What looks like many broken machines at once
is nearly always something else (an API server away, a cluster being stopped), so nothing is deleted unless most are well.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from kube.api import labels
from kube.api.nodeclaim import LAUNCHED, REGISTERED, NodeClaim
from kube.api.reasons import Disruption
from kube.api.workload import NODES, Node
from kube.clock import parse_timestamp
from kube.errors import NotFound
from kube.meta import Condition, Key
from provisioner.claims import failed, managed, owns
from provisioner.context import Context, Draft

UNHEALTHY = timedelta(minutes=10)  # Karpenter's and AKS's own patience with a node that is not ready
LOOK_AGAIN = timedelta(seconds=10)  # between the two looks that prove a machine gone
UNHEALTHY_SHARE = 0.2  # Karpenter's guard: more than this at once is not the machines' fault


class Repair:
    """One per process: remembers what was missed once, since once is not enough."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._gone: dict[str, float] = {}  # claim UID → monotonic moment at which its machine was first missed
        self._nodeless: dict[str, datetime] = {}

    def forget(self, claim_uid: str) -> None:
        self._gone.pop(claim_uid, None)
        self._nodeless.pop(claim_uid, None)

    async def check(self, draft: Draft) -> timedelta | None:
        """Look after a claim that was launched; costs nothing while its node is ready."""
        if not draft.conditions.is_true(LAUNCHED) or failed(draft.conditions):
            return None
        node = self._context.node_of(draft.claim)
        deleted = node is not None and node.metadata.deleting and draft.conditions.is_true(REGISTERED)
        if node is not None and node.ready and not deleted:
            self.forget(draft.claim.metadata.uid)
            return None
        if not (await self._context.cluster()).running:  # of a cluster that stands still nothing can be told
            self.forget(draft.claim.metadata.uid)
            return LOOK_AGAIN
        if node is not None and deleted:
            await draft.disrupt(Disruption.NODE_DELETED, f"Node {node.metadata.name} is being deleted")
            return None
        return await self._machine(draft) or await self._node(draft, node)

    async def _machine(self, draft: Draft) -> timedelta | None:
        """End the claim if its machine is provably gone: asked twice, while the node is not ready."""
        uid, now = draft.claim.metadata.uid, self._context.clock.monotonic()
        instance = self._context.inventory.get(draft.name)
        self._context.inventory.wait_for(draft.name)
        if instance is not None:
            self._gone.pop(uid, None)
            # Somebody may have put another pool in its place; their node is not ours to judge.
            return None if owns(draft.claim, instance, self._context.cluster_id) else LOOK_AGAIN
        if await self._context.inventory.verify(draft.name) is not None:
            return LOOK_AGAIN
        first = self._gone.setdefault(uid, now)
        if now - first < LOOK_AGAIN.total_seconds():
            return LOOK_AGAIN - timedelta(seconds=now - first)
        await draft.disrupt(Disruption.INSTANCE_NOT_FOUND, f"Agent pool {draft.name} no longer exists")
        return LOOK_AGAIN

    async def _node(self, draft: Draft, node: Node | None) -> timedelta | None:
        """End the claim if its node has been missing or not ready for too long, and the others are well."""
        if not self._context.settings.node_repair or not draft.conditions.is_true(REGISTERED):
            return None
        age = self._unwell_for(draft, node)
        if age < UNHEALTHY:
            return UNHEALTHY - age
        if blocked := self._too_many():
            self._context.warn(draft.claim, "NodeRepairBlocked", blocked, action="Repairing")
            return timedelta(minutes=5)
        node = await self._read(node.metadata.name if node else draft.claim.status.node_name)
        if node is not None and (node.ready or self._unwell_for(draft, node) < UNHEALTHY):
            return LOOK_AGAIN  # the watch is behind
        what = f"Node {node.metadata.name} has not been ready" if node else "There has been no node"
        await draft.disrupt(Disruption.UNHEALTHY, f"{what} for {age.total_seconds() / 60:.0f} min")
        return None

    async def _read(self, name: str) -> Node | None:
        """The node past the cache: a watch that has fallen silent has never cost a machine."""
        try:
            return await self._context.client.get(NODES, Key("", name)) if name else None
        except NotFound:
            return None

    def _unwell_for(self, draft: Draft, node: Node | None) -> timedelta:
        condition = _ready(node)
        if condition is not None and condition.last_transition_time:
            since = parse_timestamp(condition.last_transition_time)
        else:
            since = self._nodeless.setdefault(draft.claim.metadata.uid, self._context.clock.now())
        return timedelta(seconds=self._context.uptime.elapsed(since))

    def _too_many(self) -> str:
        """Why nothing may be repaired now; empty when it may."""
        nodes = list(managed_nodes(self._context))
        unwell = sum(not node.ready for node in nodes)
        if unwell <= max(1, UNHEALTHY_SHARE * len(nodes)):
            return ""
        return (
            f"{unwell} of {len(nodes)} nodes are not ready: more than {UNHEALTHY_SHARE:.0%} is not the machines' fault"
        )


def managed_nodes(context: Context) -> Iterable[Node]:
    """Registered nodes of claims that are ours."""
    for node in context.nodes.all():
        if labels.TERMINATION_FINALIZER in node.metadata.finalizers and _claim_of(context, node) is not None:
            yield node


def _claim_of(context: Context, node: Node) -> NodeClaim | None:
    claim = context.claims.get(Key("", node.metadata.labels.get(labels.AKS_AGENTPOOL, "")))
    return claim if claim is not None and managed(claim) else None


def _ready(node: Node | None) -> Condition | None:
    conditions = node.status.conditions if node else ()
    return next((condition for condition in conditions if condition.type == "Ready"), None)
