"""Agent pools of ours that no NodeClaim stands for any more: found twice, left alone for a while, then deleted.

They come from claims whose finalizer was removed by force, or from an uninstalled cluster. Deleting a machine that somebody
uses is worse than paying for one that nobody does, so everything that could mean "we do not see right" freezes this.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta

from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS, NodeClaim
from kube.clock import parse_timestamp
from kube.errors import KubeError, NotFound
from kube.meta import Key
from provisioner import metrics
from provisioner.cloud import CloudError, Instance, InstanceExists, State
from provisioner.context import Context
from provisioner.repair import UNHEALTHY_SHARE, managed_nodes

log = logging.getLogger(__name__)

PERIOD = 60.0
QUIET = timedelta(minutes=10)  # after a cluster's start its nodes come back one by one
MAX_SHARE = 0.2  # of all our pools in one round
MAX_DELETES, WINDOW = 3, 600.0  # and never more than this many in ten minutes


class Orphans:
    """One per process. A restart forgets what it has seen, so an orphan then lives a little longer: the safe side."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # (pool, owner) → first seen, rounds
        self._deleted: deque[float] = deque(maxlen=MAX_DELETES)

    async def run(self) -> None:
        """Look every minute until cancelled."""
        while True:
            await self._context.clock.sleep(PERIOD)
            try:
                await self.round()
            except (CloudError, KubeError) as error:  # whoever cannot see must not delete
                log.info("Not looking for orphaned agent pools: %s", error)
                metrics.gc_frozen.set(1)

    async def round(self) -> None:
        """Look once. The cloud first, then the claims: a claim that is made in between is never missed.

        What the cache lacks is only a suspicion; before anything is deleted the API server itself is asked.
        """
        pools = await self._context.cloud.list()
        claims = self._context.claims.all()
        frozen = await self._frozen()
        metrics.gc_frozen.set(1 if frozen else 0)
        found = self._note(orphans(pools, claims, self._context.cluster_id, legacy=self._context.settings.gc_legacy))
        metrics.orphan_pools.set(len(found))
        if frozen:
            log.info("Leaving orphaned agent pools alone: %s", frozen, extra={"pools": len(found)})
            return
        # Who has been missed the longest goes first: one whose deletion failed begins anew, behind all others.
        ripe = sorted(filter(self._ripe, found), key=lambda pool: self._seen[pool.name, pool.owner_uid][0])
        ours = sum(pool.cluster_id == self._context.cluster_id for pool in pools)
        await self._delete_some(ripe, share=max(1, int(MAX_SHARE * ours)))
        if len(ripe) > MAX_DELETES:
            log.warning("Many orphaned agent pools: was etcd restored?", extra={"pools": [pool.name for pool in ripe]})

    async def _frozen(self) -> str:
        """Why nothing may be deleted now; empty when it may."""
        cluster = await self._context.cluster()
        if not cluster.running:
            return cluster.detail
        nodes = list(managed_nodes(self._context))
        unwell = sum(not node.ready for node in nodes)
        if unwell > max(1, UNHEALTHY_SHARE * len(nodes)):
            return f"{unwell} of {len(nodes)} nodes are not ready"
        now = self._context.clock.now()
        since = [
            parse_timestamp(condition.last_transition_time)
            for node in self._context.nodes.all()
            for condition in node.status.conditions
            if condition.type == "Ready" and condition.last_transition_time
        ]
        old = [parse_timestamp(node.metadata.creation_timestamp) for node in self._context.nodes.all()]
        if since and min(since) > now - QUIET and min(old) < now - QUIET:
            return "all nodes have come back just now: the cluster was stopped"
        return ""

    def _note(self, found: Sequence[Instance]) -> Sequence[Instance]:
        now = self._context.clock.monotonic()
        previous = self._seen
        self._seen = {}
        for pool in found:
            first, rounds = previous.get((pool.name, pool.owner_uid), (now, 0))
            self._seen[pool.name, pool.owner_uid] = (first, rounds + 1)
        return found

    def _ripe(self, pool: Instance) -> bool:
        """Old enough by two clocks: since we first missed its claim, and since it was made."""
        grace = self._context.settings.orphan_grace
        first, rounds = self._seen[pool.name, pool.owner_uid]
        age = (self._context.clock.now() - pool.created_at).total_seconds() if pool.created_at else grace
        return rounds >= 2 and self._context.clock.monotonic() - first >= grace and age >= grace

    def _may_delete(self) -> bool:
        now = self._context.clock.monotonic()
        return len(self._deleted) < MAX_DELETES or now - self._deleted[0] > WINDOW

    async def _delete_some(self, ripe: Sequence[Instance], *, share: int) -> None:
        """As many as the round may delete. One that cannot be (it may be locked) keeps no other alive."""
        deleted = 0
        for pool in ripe:
            if deleted == share or not self._may_delete():
                return
            # If it stays for all that, its grace begins anew, and the others have their turn.
            self._seen[pool.name, pool.owner_uid] = (self._context.clock.monotonic(), 0)
            try:
                deleted += await self._delete(pool)
            except CloudError as error:
                log.warning("Cannot delete an orphaned agent pool", extra={"pool": pool.name, "error": str(error)})

    async def _delete(self, seen: Instance) -> bool:
        """Look at both sides once more, then delete exactly what was looked at. Whether it was."""
        if not await self._unclaimed(seen):
            return False
        pool = await self._context.inventory.verify(seen.name)
        if pool is None or (pool.owner_uid, pool.cluster_id) != (seen.owner_uid, seen.cluster_id):
            return False
        log.warning("Deleting orphaned agent pool", extra={"pool": pool.name, "owner": pool.owner_uid})
        try:
            await self._context.cloud.delete(pool)
        except InstanceExists:  # it has changed meanwhile
            return False
        self._deleted.append(self._context.clock.monotonic())
        metrics.orphans_deleted.inc()
        return True

    async def _unclaimed(self, pool: Instance) -> bool:
        """A quorum read: a stale cache has never deleted a machine."""
        try:
            claim = await self._context.client.get(NODE_CLAIMS, Key("", pool.name))
        except NotFound:
            return True
        return bool(pool.owner_uid) and claim.metadata.uid != pool.owner_uid


def orphans(
    pools: Sequence[Instance], claims: Sequence[NodeClaim], cluster_id: str, *, legacy: bool
) -> Sequence[Instance]:
    """Pools that were made for claims of this cluster which are no more. Pure."""
    uids = {claim.metadata.uid for claim in claims}
    names = {claim.metadata.name for claim in claims}
    return [
        pool
        for pool in pools
        if pool.state is not State.DELETING
        and (
            (pool.cluster_id == cluster_id and pool.owner_uid not in uids)
            or (legacy and _legacy(pool.labels) and not pool.cluster_id and pool.name not in names)
        )
    ]


def _legacy(node_labels: Mapping[str, str]) -> bool:
    """Whether gpu-provisioner made the pool: it knew its own by these labels."""
    kaito = labels.WORKSPACE in node_labels or labels.RAGENGINE in node_labels
    return kaito and labels.NODEPOOL in node_labels
