"""Condition Launched: exactly one agent pool for the claim, and a node of it.

Owns the create protocol. The name of the claim is the name of the pool, so a second request cannot make a second machine;
before each request the claim carries a finalizer and the time of the request, so a crash at any point is found again; what
is not known is asked for, never assumed. Refuses to wait for Azure: what the pool has come to is read from the inventory.
"""

import logging
from datetime import timedelta

from kube.api import labels
from kube.api.nodeclaim import LAUNCHED, NodeClaim
from kube.api.nodeclass import NODE_CLASSES, KaitoNodeClassSpec
from kube.api.reasons import ClaimReason
from kube.api.workload import Node
from kube.clock import timestamp
from kube.errors import NotFound
from kube.meta import Key
from provisioner import metrics
from provisioner.claims import NAME, failed, launch_time, owns
from provisioner.cloud import (
    CloudError,
    ClusterMissing,
    ClusterNotRunning,
    Instance,
    InsufficientCapacity,
    InvalidSpec,
    Launch,
    Offering,
    State,
    SubnetFull,
)
from provisioner.context import Context, Draft
from provisioner.offerings import Shortages, offerings
from provisioner.patience import Patience
from provisioner.registration import left_behind, let_go

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2  # machines that may come up broken before the claim has failed
ALL_UNAVAILABLE = "all requested instance types were unavailable during launch"  # KAITO looks for these very words

LOOK_AGAIN = 30.0  # seconds; only a safety net, and the grain of the deadlines


class LaunchPhase:
    """One per process: remembers what was refused, and when to ask again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._shortages = Shortages(context.clock)
        self._patience = Patience(context)

    async def reconcile(self, draft: Draft) -> timedelta | None:
        if failed(draft.conditions):
            return None
        if draft.conditions.is_true(LAUNCHED):
            await self._keep(draft)
            return None
        waiting = self._patience.wait(draft.name)
        if waiting > 0 and self._context.inventory.get(draft.name) is None:
            return None if self._patience.expired(draft) else timedelta(seconds=waiting)
        try:
            return await self._advance(draft)
        except CloudError as error:
            return self._refused(draft, error)

    def forget(self, claim_name: str, claim_uid: str) -> None:
        self._patience.forget(claim_name)
        self._shortages.forget(claim_uid)

    async def _advance(self, draft: Draft) -> timedelta | None:
        """One step: create, or look at what has been created."""
        cluster = await self._context.cluster()
        if not cluster.exists:
            raise ClusterMissing(cluster.detail)
        if not cluster.running:
            raise ClusterNotRunning(f"Waiting for the cluster: {cluster.detail}")
        instance = await self._find(draft.claim)
        if instance is None:
            return None if self._patience.expired(draft) else await self._create(draft)
        if not owns(draft.claim, instance, self._context.cluster_id):
            return await self._taken(draft)
        await self._keep(draft)
        if instance.state is State.FAILED:
            return await self._recover(draft)
        if instance.state is State.DELETING:
            self._creating(draft, f"Waiting for the previous agent pool {draft.name} to be gone")
            return None if self._patience.expired(draft) else self._watch(draft)
        return self._await_node(draft, instance)

    async def _keep(self, draft: Draft) -> None:
        """A claim with a machine has our finalizer, also where somebody else made the machine or took the finalizer.

        And it has the name for itself: nodes of an earlier claim have no machine any more.
        """
        if labels.TERMINATION_FINALIZER not in draft.claim.metadata.finalizers:
            await draft.hold()
        for node in left_behind(self._context, draft.name, claim_uid=draft.claim.metadata.uid):
            await let_go(self._context, draft.key, node)

    async def _find(self, claim: NodeClaim) -> Instance | None:
        """The pool of this name, ours or not. None is as good as proof: by GET if a PUT may ever have been sent."""
        inventory, name = self._context.inventory, claim.metadata.name
        if inventory.get(name) is None:
            if launch_time(claim) is not None:
                return await inventory.verify(name)
            await inventory.refresh()  # shared by all claims that begin now
        return inventory.get(name)

    async def _create(self, draft: Draft) -> timedelta | None:
        context, claim = self._context, draft.claim
        if not NAME.fullmatch(draft.name):
            raise InvalidSpec(f"{draft.name!r} cannot name an agent pool: 1 to 12 letters and digits, a letter first")
        node_class = await self._node_class(claim)
        if node_class is None:
            message = f"There is no KaitoNodeClass {claim.spec.node_class_ref.name!r}; create it or name another"
            draft.wait(LAUNCHED, ClaimReason.NODE_CLASS_NOT_READY, message)
            return timedelta(seconds=10)
        offering = self._shortages.choose(claim.metadata.uid, offerings(claim.spec, node_class))
        if offering is None:  # all refused, and the write that was to say so was lost
            self._exhausted(draft)
            return None
        now = context.clock.now()
        # Conditional on the version that was read: a claim that has been deleted meanwhile is not launched any more.
        await draft.hold(**{labels.LAUNCH_TIME: timestamp(now)})
        if draft.claim.metadata.deleting:
            return timedelta()
        log.info("Creating agent pool", extra={"claim": draft.name, "offering": str(offering)})
        self._creating(draft, f"Creating agent pool {draft.name}: {offering}")
        try:
            await self._send(Launch(draft.claim, offering, node_class, context.cluster_id, now))
        except InsufficientCapacity as error:
            return self._next_offering(draft, offering, node_class, error)
        self._count_created(draft, offering)
        return self._watch(draft)

    async def _send(self, launch: Launch) -> Instance:
        """The one place from which a create request goes out."""
        inventory, metadata = self._context.inventory, launch.claim.metadata
        inventory.asked(metadata.uid)
        try:
            instance = await self._context.cloud.create(launch)
        except CloudError as error:
            if error.decided:
                inventory.note_answer(metadata.uid)
            raise
        inventory.record(metadata.name, instance)
        return instance

    async def _node_class(self, claim: NodeClaim) -> KaitoNodeClassSpec | None:
        """The class's spec; defaults where nothing is said; None when a class that is not there was asked for."""
        ref = claim.spec.node_class_ref
        if ref.kind != NODE_CLASSES.kind or not ref.name:
            return KaitoNodeClassSpec()
        try:
            return (await self._context.client.get(NODE_CLASSES, Key("", ref.name))).spec
        except NotFound:  # KAITO's claims all refer to `default`, which nobody ever makes
            return KaitoNodeClassSpec() if ref.name == "default" else None

    def _next_offering(
        self, draft: Draft, refused: Offering, node_class: KaitoNodeClassSpec, error: InsufficientCapacity
    ) -> timedelta | None:
        """Go on to what has not been tried; when that is nothing, the claim has failed."""
        uid = draft.claim.metadata.uid
        self._shortages.refused(uid, refused, error)
        following = self._shortages.choose(uid, offerings(draft.claim.spec, node_class))
        if following is not None:
            draft.wait(LAUNCHED, error.reason, f"{error} Trying {following} next")
            return timedelta()
        self._exhausted(draft)
        return None

    def _exhausted(self, draft: Draft) -> None:
        """Nothing is left to try: the claim has failed, for the reason of its last refusal."""
        uid = draft.claim.metadata.uid
        refused, error = self._shortages.last(uid)
        wait = self._shortages.retry_after(uid) / 60
        draft.fail(LAUNCHED, error.reason, f"{error} ({refused}; {ALL_UNAVAILABLE}; try again in about {wait:.0f} min)")
        self._context.warn(draft.claim, "InsufficientCapacityError", str(error), action="Launching")

    async def _recover(self, draft: Draft) -> timedelta | None:
        """The pool came to nothing: say why, delete it (it costs money), and try what is left to try."""
        instance = await self._context.inventory.verify(draft.name)
        if instance is None or instance.state is not State.FAILED or instance.failure is None:
            return timedelta()  # the LIST was behind: look again
        error = instance.failure
        if isinstance(error, InsufficientCapacity):
            node_class = await self._node_class(draft.claim) or KaitoNodeClassSpec()
            again = self._next_offering(draft, instance.offering, node_class, error)
        elif isinstance(error, SubnetFull):
            draft.wait(LAUNCHED, error.reason, str(error))
            again = timedelta(seconds=self._patience.refused(draft.name, error))
        else:
            again = await self._count_broken(draft, instance.attempt, error)
        if failed(draft.conditions) or self._patience.expired(draft):
            return None  # the pool goes once the reason is stored
        await self._context.cloud.delete(instance)
        self._context.inventory.wait_for(draft.name)
        return self._watch(draft) if again is None else max(again, timedelta(seconds=1))

    async def _count_broken(self, draft: Draft, attempt: int, error: CloudError) -> timedelta | None:
        if attempt >= MAX_ATTEMPTS:
            draft.fail(LAUNCHED, error.reason, f"{error}. {attempt} machines came up like this")
            return None
        # Stored before the pool goes: the next pool is made as the second, whatever becomes of this process. The pool
        # knows its own number, so however often its deletion is refused it counts once.
        await draft.hold(**{labels.LAUNCH_ATTEMPTS: str(attempt)})
        draft.wait(LAUNCHED, error.reason, f"{error}. Trying another machine")
        return None

    async def _taken(self, draft: Draft) -> timedelta | None:
        """A pool of this name belongs to somebody else. It is never touched."""
        instance = await self._context.inventory.verify(draft.name)
        if instance is None:  # a namesake's, and gone: the LIST was behind
            return await self._create(draft)
        if owns(draft.claim, instance, self._context.cluster_id):
            return timedelta()  # the LIST was behind: look again
        message = f"Agent pool {draft.name} exists and was not made for this claim"
        if instance.state is State.DELETING:
            draft.wait(LAUNCHED, ClaimReason.NAME_CONFLICT, f"{message}; it is being deleted: waiting")
            return None if self._patience.expired(draft) else self._watch(draft)
        message = f"{message}. Delete this claim; its owner makes one under another name"
        draft.fail(LAUNCHED, ClaimReason.NAME_CONFLICT, message)
        return None

    def _await_node(self, draft: Draft, instance: Instance) -> timedelta | None:
        node = self._context.node_of(draft.claim)
        if node is not None:
            self._launched(draft, instance, node)
            return None
        if instance.state is State.SUCCEEDED:
            self._creating(draft, f"Agent pool {draft.name} is there; waiting for its node to join the cluster")
        else:
            self._creating(draft, f"Creating agent pool {draft.name}: {instance.offering}")
        return None if self._patience.expired(draft, instance) else self._watch(draft, instance)

    def _launched(self, draft: Draft, instance: Instance, node: Node) -> None:
        self._patience.forget(draft.name)
        offering = instance.offering
        zone = node.metadata.labels.get(labels.ZONE) or offering.zone
        draft.labels |= _single_values(draft.claim)
        draft.labels |= {labels.INSTANCE_TYPE: offering.instance_type, labels.CAPACITY_TYPE: offering.capacity_type}
        draft.labels |= {labels.ZONE: zone} if zone else {}
        draft.status |= {
            "providerID": node.spec.provider_id,
            "imageID": instance.image_id,
            "capacity": dict(node.status.capacity),
            "allocatable": dict(node.status.allocatable),
        }
        draft.conditions.set(LAUNCHED, True, LAUNCHED, f"Agent pool {draft.name}: {offering}")

    def _creating(self, draft: Draft, message: str) -> None:
        draft.wait(LAUNCHED, ClaimReason.CREATING, message)

    def _watch(self, draft: Draft, instance: Instance | None = None) -> timedelta:
        """Come back when the inventory or a node says so; the delay is for the deadlines alone."""
        self._context.inventory.wait_for(draft.name)
        return timedelta(seconds=min(LOOK_AGAIN, max(0.1, self._patience.left(draft, instance))))

    def _refused(self, draft: Draft, error: CloudError) -> timedelta | None:
        """Turn an answer of the cloud into the condition, and into the time of the next try."""
        log.warning("Launch refused", extra={"claim": draft.name, "reason": error.reason, "error": str(error)})
        if error.terminal:
            draft.fail(LAUNCHED, error.reason, str(error))
            return None
        if not error.decided:
            self._context.inventory.wait_for(draft.name)
        draft.wait(LAUNCHED, error.reason, str(error))
        return timedelta(seconds=self._patience.refused(draft.name, error))

    def _count_created(self, draft: Draft, offering: Offering) -> None:
        metadata = draft.claim.metadata
        metrics.claims_created.labels(metadata.labels.get(labels.NODEPOOL, "")).inc()
        metrics.since(metrics.create_to_put, metadata.creation_timestamp, self._context.clock)


def _single_values(claim: NodeClaim) -> dict[str, str]:
    """Requirements that leave one value are labels of the node, as in Karpenter."""
    keys = {requirement.key for requirement in claim.spec.requirements}
    return {key: values[0] for key in keys if len(values := claim.spec.values(key)) == 1}
