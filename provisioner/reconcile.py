"""One NodeClaim, top to bottom. The list of phases is the table of contents; each decides one condition.

Nothing is remembered here that could not be lost: what a claim is to become follows from the claim, its pool and its node
as they are now.
"""

import logging
from datetime import timedelta

from kube.api.nodeclaim import INSTANCE_TERMINATING, NODE_CLAIMS
from kube.errors import NotFound
from kube.meta import Key
from provisioner.claims import failed, managed
from provisioner.cloud import CloudError
from provisioner.context import RETRY_SECONDS, Context, Draft
from provisioner.initialization import initialize
from provisioner.launch import LaunchPhase
from provisioner.registration import left_behind, let_go, register
from provisioner.repair import Repair
from provisioner.termination import Termination

log = logging.getLogger(__name__)

BEHIND = timedelta(seconds=1)  # safety net only: the event that we wait for queues the claim anyway


class Reconciler:
    """Brings one claim, its pool and its node a step closer to each other. Steps for one claim never overlap."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._launch = LaunchPhase(context)
        self._termination = Termination(context)
        self._repair = Repair(context)
        self._uids: dict[Key, str] = {}

    async def reconcile(self, key: Key) -> timedelta | None:
        """Return when to look again, None for not before something happens. Raises Conflict when out of date."""
        claim = self._context.claims.get(key)
        if not self._context.consistency.caught_up(key, claim.metadata.uid if claim else ""):
            return BEHIND
        if claim is None:
            self._forget(key)
            return await self._left_behind(key)
        if not managed(claim):
            return None
        if self._uids.setdefault(key, claim.metadata.uid) != claim.metadata.uid:  # a namesake took its place
            self._forget(key)
        draft = Draft(self._context, claim)
        if claim.metadata.deleting:
            return await self._finalize(draft)
        return await self._advance(draft)

    async def _advance(self, draft: Draft) -> timedelta | None:
        again = [
            await self._launch.reconcile(draft),
            await register(self._context, draft),
            await initialize(self._context, draft),
        ]
        await draft.save()
        if failed(draft.conditions):
            return await self._empty(draft)
        try:
            again.append(await self._repair.check(draft))
        except CloudError as error:
            log.info("Cannot check the machine: %s", error, extra={"claim": draft.name})
            again.append(timedelta(seconds=RETRY_SECONDS))
        waits = [each for each in again if each is not None]
        if not waits:
            self._context.inventory.settle(draft.name)
        return min(waits, default=None)

    async def _empty(self, draft: Draft) -> timedelta | None:
        """A failed claim costs nothing: its pool goes now, not when somebody has read why."""
        try:
            again = await self._termination.release_failed(draft)
        except CloudError as error:
            log.warning("Cannot delete the pool of a failed claim: %s", error, extra={"claim": draft.name})
            return timedelta(seconds=error.retry_after or RETRY_SECONDS)
        if again is None:
            draft.conditions.remove(INSTANCE_TERMINATING)  # the claim stays, and has nothing to end any more
            self._context.inventory.settle(draft.name)
        await draft.save()
        return again

    async def _finalize(self, draft: Draft) -> timedelta | None:
        again = await self._termination.finalize(draft)
        await draft.save()
        return again

    async def _left_behind(self, key: Key) -> timedelta | None:
        """Let go of nodes whose claim is gone (its finalizer was removed by force), once their machine is."""
        for node in left_behind(self._context, key.name):
            if await self._exists(key) or await self._context.inventory.verify(key.name) is not None:
                return timedelta(minutes=1)  # the collector of orphans deletes the pool first
            await let_go(self._context, key, node)
        return None

    async def _exists(self, key: Key) -> bool:
        try:
            await self._context.client.get(NODE_CLAIMS, key)
        except NotFound:
            return False
        return True

    def _forget(self, key: Key) -> None:
        uid = self._uids.pop(key, "")
        self._launch.forget(key.name, uid)
        self._repair.forget(uid)
        self._termination.forget(key.name, uid)
        self._context.inventory.forget(key.name, uid)
        self._context.consistency.forget(key)
