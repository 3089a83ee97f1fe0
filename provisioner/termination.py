"""The end of a claim: drain, detach, delete the pool, and only when the cloud says that it is gone let go of the objects.

The finalizer goes last, whatever the status says: a claim that never heard of its machine may still have one. Conditions
on the way: Drained, VolumesDetached, InstanceTerminating. The same pool-deleting step ends claims that have failed.
"""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from kube.api import labels
from kube.api.nodeclaim import DISRUPTION_REASON, DRAINED, INSTANCE_TERMINATING, VOLUMES_DETACHED, NodeClaim
from kube.api.reasons import ClaimReason, Disruption
from kube.api.workload import NODES, Node, Pod
from kube.clock import parse_timestamp, timestamp
from kube.errors import NotFound
from provisioner import metrics
from provisioner.claims import launch_time, owns
from provisioner.cloud import CloudError, ClusterNotRunning, Instance, InstanceExists, State
from provisioner.context import RETRY_SECONDS, Context, Draft
from provisioner.drain import attached_volumes, cordon, drain, look_again, protected
from provisioner.quantity import parse_duration
from provisioner.registration import let_go

log = logging.getLogger(__name__)

DETACH_AGAIN = timedelta(seconds=1)
WATCH_AGAIN = timedelta(seconds=30)  # only a safety net: the inventory wakes us
# Longer than a create request can be under way (10 s to connect, 60 s to answer): before that an unanswered one may land.
IN_FLIGHT = timedelta(seconds=75)
# Seconds until a deletion that came to nothing (a lock, a subnet in use) is asked for again, doubling.
DELETE_AGAIN, DELETE_AGAIN_LONGEST = 30.0, 600.0


class Deletion(NamedTuple):
    """Requests of ours to delete one pool, at monotonic moments."""

    first: float
    again: float  # when the next one may follow, should the pool fail to go
    pause: float


class Termination:
    """One per process: remembers what was proven, which a restart proves again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._gone: set[str] = set()  # UIDs of claims that had no pool when we asked, and get none any more
        self._outdated: set[str] = set()  # names whose entry in a LIST lagged behind the pool
        self._deletions: dict[str, Deletion] = {}

    async def finalize(self, draft: Draft) -> timedelta | None:
        """One step of a claim that is being deleted."""
        if labels.TERMINATION_FINALIZER not in draft.claim.metadata.finalizers:
            return None
        deadline = await self._deadline(draft)
        node = next(iter(self._context.own_nodes(draft.claim)), None)
        if node is not None and labels.TERMINATION_FINALIZER in node.metadata.finalizers:
            again = await self._empty(draft, node, deadline)
            if again is not None:
                return again
        return await self._end(draft)

    async def release_failed(self, draft: Draft) -> timedelta | None:
        """Delete the pool of a claim that has failed; the claim stays, for its reason to be read."""
        again = await self._delete_pool(draft)
        if again is None:
            await self._release_nodes(draft)
        return again

    def forget(self, name: str, uid: str) -> None:
        self._gone.discard(uid)
        self._context.inventory.settle(name)
        self._outdated.discard(name)
        self._deletions.pop(name, None)

    async def _deadline(self, draft: Draft) -> datetime | None:
        """When patience ends. Stored once, so that a restart does not grant it anew."""
        claim, grace = draft.claim, self._grace(draft)
        stored = claim.metadata.annotations.get(labels.TERMINATION_TIMESTAMP)
        if stored:
            return parse_timestamp(stored)
        if grace is None or claim.metadata.deletion_timestamp is None:
            return None
        moment = parse_timestamp(claim.metadata.deletion_timestamp) + grace
        draft.annotations[labels.TERMINATION_TIMESTAMP] = timestamp(moment)
        context, text = self._context, timestamp(moment)
        context.warn(claim, "TerminationGracePeriodExpiring", f"All pods will be deleted by {text}", action="Draining")
        return moment

    def _grace(self, draft: Draft) -> timedelta | None:
        """How long pods may take; None is for ever. On a node that was given up nobody answers for them any more."""
        disrupted = draft.conditions.get(DISRUPTION_REASON)
        if disrupted is not None and disrupted.reason == Disruption.UNHEALTHY:
            return timedelta()
        grace = draft.claim.spec.termination_grace_period
        return parse_duration(grace) if grace else None

    async def _empty(self, draft: Draft, node: Node, deadline: datetime | None) -> timedelta | None:
        """Drain and detach. None when there is nothing left to wait for, or nobody to wait for it."""
        if not node.ready and await self._machine_is_gone(draft):
            return None
        if not node.metadata.deleting:  # others should see that it goes; our finalizer keeps it until it may
            await self._context.delete_node(draft.key, node)
        node = await cordon(self._context, draft.claim, node)
        now = self._context.clock.now()
        over = deadline is not None and now >= deadline
        left = await drain(self._context, node, deadline)
        if left and not over:
            draft.wait(DRAINED, ClaimReason.DRAINING, _awaited(left))
            return look_again(left, deadline, now)
        if not left and not draft.conditions.is_true(DRAINED):
            draft.conditions.set(DRAINED, True, DRAINED)
            metrics.nodes_drained.labels(_nodepool(draft.claim)).inc()
        return await self._detach(draft, node, over=over)

    async def _detach(self, draft: Draft, node: Node, *, over: bool) -> timedelta | None:
        volumes = await attached_volumes(self._context, node)
        if not volumes:
            draft.conditions.set(VOLUMES_DETACHED, True, VOLUMES_DETACHED)
            return None
        message = f"Waiting for volumes to detach: {', '.join(volumes[:5])}"
        if over:
            draft.conditions.set(VOLUMES_DETACHED, False, ClaimReason.TERMINATION_GRACE_PERIOD_ELAPSED, message)
            return None
        draft.wait(VOLUMES_DETACHED, ClaimReason.AWAITING_VOLUME_DETACHMENT, message)
        self._context.warn(draft.claim, ClaimReason.AWAITING_VOLUME_DETACHMENT, message, action="Draining")
        return DETACH_AGAIN

    async def _end(self, draft: Draft) -> timedelta | None:
        try:
            again = await self._delete_pool(draft)
        except CloudError as error:
            draft.wait(INSTANCE_TERMINATING, error.reason, str(error))
            return timedelta(seconds=error.retry_after or RETRY_SECONDS)
        if again is not None:
            return again
        await self._release_nodes(draft)
        await draft.release()
        self._measure(draft.claim)
        self.forget(draft.name, draft.claim.metadata.uid)
        return None

    async def _delete_pool(self, draft: Draft) -> timedelta | None:
        """One step towards "gone"; None when the cloud has said so."""
        name, known = draft.name, self._known(draft)
        if known is None and draft.claim.metadata.uid in self._gone:
            return None
        if known is not None and known.state is State.DELETING:
            return self._wait(draft)
        instance = await self._verified(draft)
        if instance is None or not self._owns(draft, instance):
            again = self._maybe_in_flight(draft)
            if again is None:
                self._gone.add(draft.claim.metadata.uid)
            return again
        if instance.state is State.DELETING:
            return self._wait(draft)
        if instance.state is State.FAILED and (left := self._deletion_failed(draft, instance)) > 0:
            return timedelta(seconds=left)
        cluster = await self._context.cloud.cluster()
        if not cluster.running:
            raise ClusterNotRunning(f"The machine goes as soon as the cluster runs again: {cluster.detail}")
        log.info("Deleting agent pool", extra={"claim": name, "state": instance.state.value})
        try:
            await self._context.cloud.delete(instance)
        except InstanceExists:  # it has moved on since we looked: look again, and closer
            self._outdated.add(name)
            return timedelta()
        now, before = self._context.clock.monotonic(), self._deletions.get(name)
        pause = min(2 * before.pause, DELETE_AGAIN_LONGEST) if before else DELETE_AGAIN
        self._deletions[name] = Deletion(before.first if before else now, now + pause, pause)
        return self._wait(draft)

    def _deletion_failed(self, draft: Draft, instance: Instance) -> float:
        """Say what our last request came to; returns the seconds until the next one, none where there was no last one."""
        asked = self._deletions.get(draft.name)
        if asked is None:
            return 0.0
        message = f"Azure did not delete agent pool {draft.name}: {instance.failure}"
        draft.wait(INSTANCE_TERMINATING, ClaimReason.DELETION_FAILED, message)
        self._context.warn(draft.claim, ClaimReason.DELETION_FAILED, message, action="Deleting")
        self._context.inventory.settle(draft.name)  # it may stay like this for days
        return asked.again - self._context.clock.monotonic()

    async def _verified(self, draft: Draft) -> Instance | None:
        """The pool as it is now.

        A LIST that began now is as good as a GET, and thirty deletions can share it. Absence is proven by a GET alone,
        and so are a deletion that failed and the version of a pool for which a LIST was out of date. A cluster that is not
        found proves nothing: were it gone, so would be the API server that holds the claim.
        """
        inventory, name = self._context.inventory, draft.name
        if self._known(draft) is not None and name not in self._outdated:
            await inventory.refresh()
            known = self._known(draft)
            if known is not None and not (known.state is State.FAILED and name in self._deletions):
                return known
        return await inventory.verify(name)

    def _known(self, draft: Draft) -> Instance | None:
        """Our pool as last seen. Another's of the same name is none: a LIST that lags may show what was before ours."""
        known = self._context.inventory.get(draft.name)
        return known if known is not None and self._owns(draft, known) else None

    def _owns(self, draft: Draft, instance: Instance) -> bool:
        return owns(draft.claim, instance, self._context.cluster_id)

    def _wait(self, draft: Draft) -> timedelta:
        draft.conditions.set(INSTANCE_TERMINATING, True, INSTANCE_TERMINATING, f"Deleting agent pool {draft.name}")
        self._context.inventory.wait_for(draft.name)
        return WATCH_AGAIN

    def _maybe_in_flight(self, draft: Draft) -> timedelta | None:
        """A create whose answer we never saw may still arrive at Azure: "not there" counts only after its time is up."""
        sent = launch_time(draft.claim)
        seen = draft.claim.status.provider_id or draft.conditions.is_true(INSTANCE_TERMINATING)
        if sent is None or seen or self._context.inventory.answered(draft.claim.metadata.uid):
            return None
        left = sent + IN_FLIGHT - self._context.clock.now()
        if left <= timedelta():
            return None
        message = f"Making sure that no agent pool {draft.name} is still being created"
        draft.wait(INSTANCE_TERMINATING, ClaimReason.CREATING, message)
        self._context.inventory.wait_for(draft.name)
        return left

    async def _machine_is_gone(self, draft: Draft) -> bool:
        """Nobody will answer evictions on a node whose machine is no more."""
        self._context.inventory.wait_for(draft.name)
        if self._context.inventory.get(draft.name) is not None:
            return False
        try:
            instance = await self._context.inventory.verify(draft.name)
        except CloudError as error:
            log.info("Cannot tell whether the machine is gone: %s", error, extra={"claim": draft.name})
            return False
        return instance is None or not self._owns(draft, instance)

    async def _release_nodes(self, draft: Draft) -> None:
        """The machine is gone: so is its node, also where no cloud-node-manager sees to it."""
        for node in self._context.own_nodes(draft.claim):
            try:
                if not node.metadata.deleting:
                    await self._context.delete_node(draft.key, node)
                node = await self._context.client.get(NODES, node.metadata.key)
                if labels.TERMINATION_FINALIZER in node.metadata.finalizers:
                    await let_go(self._context, draft.key, node)
            except NotFound:
                continue

    def _measure(self, claim: NodeClaim) -> None:
        pool = _nodepool(claim)
        metrics.claims_terminated.labels(pool).inc()
        clock, asked = self._context.clock, self._deletions.get(claim.metadata.name)
        if asked is not None:
            metrics.instance_termination.labels(pool).observe(clock.monotonic() - asked.first)
        metrics.since(metrics.claim_termination.labels(pool), claim.metadata.deletion_timestamp or "", clock)


def _awaited(pods: Sequence[Pod]) -> str:
    names = ", ".join(sorted(str(pod.metadata.key) for pod in pods)[:5])
    kept = sum(protected(pod) for pod in pods)
    why = f"; {kept} of them may not be disrupted ({labels.DO_NOT_DISRUPT}): they end by themselves or with the grace period"
    return f"Waiting for {len(pods)} pods: {names}{why if kept else ''}"


def _nodepool(claim: NodeClaim) -> str:
    return claim.metadata.labels.get(labels.NODEPOOL, "")
