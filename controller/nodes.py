"""`ResourceReady`: the nodes that a plan asks for, by NodeClaims of our own or among nodes that exist.

A claim's name follows from the Workspace's UID, an ordinal and an attempt, so that a retry can never make a second
node. Claims are created and deleted here, never changed; how they become nodes is a provisioner's business, whose
reasons are passed on word for word.
"""

from collections.abc import Iterable, Sequence

import msgspec

from controller.claims import claim_name, duration, progress_of, render_claim, seated, surplus, terminal
from controller.events import Milestone
from controller.planning import Decision, Rung
from controller.selection import matching
from controller.status import REFUSED_SECONDS, Draft, counted
from controller.world import World, belongs
from kube.api import labels
from kube.api.nodeclaim import (
    DISRUPTION_REASON,
    LAUNCHED,
    NODE_CLAIMS,
    NodeClaim,
)
from kube.api.reasons import Reason
from kube.api.workload import Node
from kube.api.workspace import ConditionType, Workspace
from kube.backoff import ItemExponential
from kube.clock import parse_timestamp
from kube.errors import AlreadyExists, ApiError, BadRequest, Forbidden, Invalid, NotFound
from kube.meta import Condition, Key

STALE_SECONDS = 1.0  # until the cache is looked at again that did not show the newest Workspace

# Between two claims for one ordinal. A node that was ready is replaced at once; one that never came is asked for again
# after 10 s, 20 s, … 10 min (the lifetime of a "no capacity" mark in Karpenter's providers is 3 min to 1 h).
BACKOFF_SECONDS = (10.0, 600.0)

Place = tuple[str, int]  # Workspace UID, ordinal


class Nodes:
    """The phase. Remembers, for as long as the process lives, when an ordinal's last claim was made and why it failed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._backoff: ItemExponential[Place] = ItemExponential(*BACKOFF_SECONDS)
        self._not_before: dict[Place, float] = {}
        self._failures: dict[Place, Condition] = {}

    async def ensure(self, workspace: Workspace, decision: Decision, draft: Draft) -> bool:
        """Bring the nodes about as far as possible now. Return whether all are ready."""
        if self._world.settings.byo:
            nodes = matching(self._world.nodes.all(), workspace)
            draft.conditions.remove(ConditionType.NODE_CLAIM_READY)
            return self._judge_nodes(decision.rung, nodes, draft)
        if not self._world.claims_served():
            return self._no_kind(draft)
        claims = self._world.claims_of(workspace)
        rung = decision.rung
        if not await self._leave_other_rungs(claims, rung, draft):
            return False
        seats = seated(claims, rung.nodes)
        await self._give_back(workspace, claims, seats, rung)
        if await self._next_rung(workspace, decision, seats, draft):
            return False
        for ordinal, seat in enumerate(seats):
            if not await self._fill(workspace, rung, ordinal, seat, claims, draft):
                return False
        return self._judge(workspace, rung, seats, draft)

    async def release(self, workspace: Workspace, *, confirm: bool) -> list[str]:
        """Delete all claims. Return the names of those that still exist; with `confirm`, past the cache.

        Where users bring their nodes claims are not watched: any from before that are found past the cache alone.
        """
        claims = self._world.claims_of(workspace)
        if not claims and confirm:
            claims = await self._read_claims(workspace)
        for claim in claims:
            await self._world.delete(NODE_CLAIMS, claim)
        return [claim.metadata.name for claim in claims]

    def forget(self, workspace: Workspace) -> None:
        """The Workspace is gone."""
        known = {*self._not_before, *self._failures}
        for place in [place for place in known if place[0] == workspace.metadata.uid]:
            self._settle(place)

    def note(self, claim: NodeClaim) -> None:
        """Remember why a provisioner ended a claim: it may be gone before its Workspace is looked at."""
        disrupted = claim.condition(DISRUPTION_REASON)
        uid, ordinal = (
            claim.metadata.labels.get(labels.WORKSPACE_UID),
            claim.metadata.annotations.get(labels.ORDINAL, ""),
        )
        if uid and ordinal.isdecimal() and disrupted is not None and disrupted.true:
            self._failures[uid, int(ordinal)] = disrupted

    async def _read_claims(self, workspace: Workspace) -> list[NodeClaim]:
        name, namespace = workspace.metadata.name, workspace.metadata.namespace
        selector = f"{labels.WORKSPACE}={name},{labels.WORKSPACE_NAMESPACE}={namespace}"
        try:
            found = await self._world.client.list(NODE_CLAIMS, label_selector=selector)
        except NotFound:  # no such kind: nothing can be left of it
            return []
        return [claim for claim in found.items if belongs(claim, workspace)]

    def _no_kind(self, draft: Draft) -> bool:
        message = "the NodeClaim kind (karpenter.sh/v1) is not served by this cluster, or may not be listed"
        draft.fail(ConditionType.NODE_CLAIM_READY, Reason.NODE_CLAIM_CRD_MISSING, message)
        draft.fail(ConditionType.RESOURCE_READY, Reason.NODE_CLAIM_CRD_MISSING, message)
        draft.look_again(REFUSED_SECONDS)
        return False

    async def _leave_other_rungs(self, claims: Sequence[NodeClaim], rung: Rung, draft: Draft) -> bool:
        """Delete claims of another instance type; the new one's are made once they are gone."""
        others = [claim for claim in claims if claim.instance_type != rung.instance_type]
        for claim in others:
            await self._world.delete(NODE_CLAIMS, claim)
        if others:
            message = f"waiting for {_names(others)} of {others[0].instance_type} to go; then {rung.instance_type}"
            draft.wait(ConditionType.NODE_CLAIM_READY, Reason.NODE_CLAIM_NOT_READY, message)
            draft.wait(ConditionType.RESOURCE_READY, Reason.RESOURCES_NOT_READY, message)
        return not others

    async def _give_back(
        self, workspace: Workspace, claims: Sequence[NodeClaim], seats: Sequence[Sequence[NodeClaim]], rung: Rung
    ) -> None:
        """Delete claims beyond what the plan asks for, once no server is left that may run on them.

        Of two for one node the one that is not ready, else the younger, at once.
        """
        servers = self._world.stateful_sets.get(workspace.metadata.key)
        if servers is not None and servers.spec.replicas > rung.nodes:
            return
        twins = {claim.metadata.name for seat in seats for claim in surplus(seat)}
        needed = {claim.metadata.name for seat in seats for claim in seat} - twins
        for claim in claims:
            if claim.metadata.name not in needed:
                await self._world.delete(NODE_CLAIMS, claim)

    async def _next_rung(
        self, workspace: Workspace, decision: Decision, seats: Sequence[Sequence[NodeClaim]], draft: Draft
    ) -> bool:
        """Turn to the next instance type when this one's claims failed. The choice is stored before anything is undone."""
        following = decision.following()
        if following is None:
            return False
        failures = [problem for seat in seats for claim in seat if (problem := self._failure(workspace, claim, draft))]
        if not failures:
            return False
        problem = failures[0]
        draft.plan = following.status()
        message = f"{decision.rung.instance_type}: {problem.message}; trying {following.instance_type}"
        for ordinal in range(len(seats)):
            place = (workspace.metadata.uid, ordinal)
            if decision.rungs.index(following) > decision.current:
                self._not_before.pop(place, None)  # another type is asked for at once; how often so far still counts
            self._failures[place] = msgspec.structs.replace(problem, message=message)
        draft.fail(ConditionType.NODE_CLAIM_READY, problem.reason, message)
        draft.fail(ConditionType.RESOURCE_READY, problem.reason, message)
        draft.look_again(0)
        return True

    async def _fill(
        self,
        workspace: Workspace,
        rung: Rung,
        ordinal: int,
        seat: Sequence[NodeClaim],
        claims: Sequence[NodeClaim],
        draft: Draft,
    ) -> bool:
        """See to it that an ordinal has a live claim, as soon as backoff allows. Return False where it cannot have one."""
        place = (workspace.metadata.uid, ordinal)
        failed = [claim for claim in seat if not claim.metadata.deleting and terminal(claim)]
        for claim in failed:
            self._failures[place] = terminal(claim) or Condition(type=LAUNCHED)
        if any(not claim.metadata.deleting for claim in seat if claim not in failed):
            return True
        due_in = self._not_before.get(place, 0.0) - self._world.clock.monotonic()
        if due_in > 0:
            draft.look_again(due_in)
            return True
        for claim in failed:
            await self._world.delete(NODE_CLAIMS, claim)
        if not await self._world.newest(workspace):  # a claim is never changed, and nobody may be left to delete it
            draft.look_again(STALE_SECONDS)
            return False
        try:
            created = await self._create(workspace, rung, ordinal, {claim.metadata.name for claim in claims})
        except (Invalid, Forbidden, BadRequest, NotFound) as error:
            return self._refused(error, draft)
        self._not_before[place] = self._world.clock.monotonic() + self._backoff.when(place)
        replacement = bool(seat) or place in self._failures or _held(draft, ConditionType.NODE_CLAIM_READY)
        self._world.metrics.claims_created.labels(str(replacement).lower()).inc()
        draft.milestones.append(_creation(created, rung, seat, self._failures.get(place), replacement=replacement))
        return True

    async def _create(self, workspace: Workspace, rung: Rung, ordinal: int, existing: set[str]) -> str:
        """Create the claim of the lowest attempt whose name is free. Return its name."""
        attempt = 0
        while True:
            name = claim_name(workspace.metadata.uid, ordinal, attempt)
            if name not in existing:
                body = render_claim(self._world.settings.node_class, workspace, rung, name, ordinal)
                try:
                    await self._world.create(workspace, NODE_CLAIMS, body)
                except AlreadyExists:
                    there = await self._world.client.get(NODE_CLAIMS, Key("", name))
                    if there.metadata.labels.get(labels.WORKSPACE_UID) == workspace.metadata.uid:
                        return name  # made by us a moment ago, before a restart or a lost answer
                else:
                    return name
            attempt += 1

    def _refused(self, error: ApiError, draft: Draft) -> bool:
        message = f"the API server refused the NodeClaim: {error.message}"
        draft.fail(ConditionType.NODE_CLAIM_READY, Reason.NODE_CLAIM_REJECTED, message)
        draft.fail(ConditionType.RESOURCE_READY, Reason.NODE_CLAIM_REJECTED, message)
        draft.look_again(REFUSED_SECONDS)
        return False

    def _failure(self, workspace: Workspace, claim: NodeClaim, draft: Draft) -> Condition | None:
        """Return why a claim will not become a node: its provisioner says so, or the user's patience is over."""
        if claim.metadata.deleting or claim.ready:
            return None
        if problem := terminal(claim):
            return problem
        patience = duration(workspace.resource.provisioning.timeout if workspace.resource.provisioning else "")
        if not patience or not claim.metadata.creation_timestamp:
            return None
        age = self._world.clock.now() - parse_timestamp(claim.metadata.creation_timestamp)
        if age < patience:
            draft.look_again((patience - age).total_seconds())
            return None
        message = f"no node after {workspace.resource.provisioning and workspace.resource.provisioning.timeout}"
        return Condition(type=LAUNCHED, status="False", reason=Reason.PROVISIONING_TIMED_OUT, message=message)

    def _judge(self, workspace: Workspace, rung: Rung, seats: Sequence[Sequence[NodeClaim]], draft: Draft) -> bool:
        """Derive the conditions from the claims and their nodes."""
        live = [[claim for claim in seat if not claim.metadata.deleting] for seat in seats]
        named = sorted({claim.status.node_name for seat in live for claim in seat if claim.status.node_name})
        draft.worker_nodes = tuple(named)
        for ordinal, seat in enumerate(live):
            place = (workspace.metadata.uid, ordinal)
            ready = next((claim for claim in seat if claim.ready), None)
            if ready is not None:
                self._settle(place)
            else:
                self._claim_not_ready(seat[0] if seat else None, self._failures.get(place), draft)
                return False
        message = f"{counted(len(seats), 'NodeClaim')} ready"
        draft.done(ConditionType.NODE_CLAIM_READY, Reason.NODE_CLAIMS_READY, message)
        nodes = [node for name in named if (node := self._world.nodes.get(Key("", name)))]
        return self._judge_nodes(rung, nodes, draft)

    def _claim_not_ready(self, claim: NodeClaim | None, failure: Condition | None, draft: Draft) -> None:
        """Pass the claim's reason on. Until a new attempt has news of its own, the last failure is the news."""
        news = progress_of(claim) if claim else None
        if failure is not None and (news is None or news.type == LAUNCHED):
            news = failure
        reason = news.reason if news and news.reason else str(Reason.NODE_CLAIM_NOT_READY)
        name = f"NodeClaim {claim.metadata.name}" if claim else "the next NodeClaim"
        message = news.message if news and news.message else f"waiting for {name}"
        if news is not None and news.type == DISRUPTION_REASON:
            message += f"; {name} is made in its place"
        say = draft.fail if news is not None and (news.false or news.type == DISRUPTION_REASON) else draft.wait
        say(ConditionType.NODE_CLAIM_READY, reason, message)
        draft.wait(ConditionType.NODES_READY, Reason.NODE_NOT_READY, f"waiting for {name}")
        say(ConditionType.RESOURCE_READY, reason, message)

    def _judge_nodes(self, rung: Rung, nodes: Sequence[Node], draft: Draft) -> bool:
        """Ready means: enough nodes are Ready and show the GPUs that the plan counts on."""
        draft.worker_nodes = tuple(sorted(node.metadata.name for node in nodes)) or draft.worker_nodes
        ready = [node for node in nodes if node.ready and not node.metadata.deleting]
        equipped = [node for node in ready if gpus(node, rung.gpu_resource) >= rung.gpus_per_node]
        if len(equipped) >= rung.nodes:
            message = f"{counted(len(equipped), 'node')} ready with {'its' if len(equipped) == 1 else 'their'} GPUs"
            draft.done(ConditionType.NODES_READY, Reason.NODES_READY, message)
            draft.done(ConditionType.RESOURCE_READY, Reason.RESOURCES_READY, message)
            return True
        if len(ready) < rung.nodes:
            reason, message = Reason.NODE_NOT_READY, f"{len(ready)} of {rung.nodes} nodes are ready"
            absent = sorted(set(draft.worker_nodes) - {node.metadata.name for node in ready})
            message += f"; not ready: {', '.join(absent)}" if absent else ""
        else:
            reason = Reason.NODE_PLUGINS_NOT_READY
            lacking = sorted(node.metadata.name for node in ready if node not in equipped)
            message = f"{', '.join(lacking)}: fewer than {rung.gpus_per_node} {rung.gpu_resource} allocatable"
        say = draft.fail if _held(draft, ConditionType.RESOURCE_READY) else draft.wait
        say(ConditionType.NODES_READY, reason, message)
        say(ConditionType.RESOURCE_READY, reason, message)
        return False

    def _settle(self, place: Place) -> None:
        self._backoff.forget(place)
        self._not_before.pop(place, None)
        self._failures.pop(place, None)


def gpus(node: Node, resource: str) -> int:
    """Return how many GPUs a node's device plugin offers."""
    offered = node.status.allocatable.get(resource, "0")
    return int(offered) if offered.isdecimal() else 0


def _names(claims: Iterable[NodeClaim]) -> str:
    return ", ".join(f"NodeClaim {claim.metadata.name}" for claim in claims)


def _held(draft: Draft, type_: ConditionType) -> bool:
    return any(condition.type == type_ and condition.true for condition in draft.workspace.status.conditions)


def _creation(
    name: str, rung: Rung, seat: Sequence[NodeClaim], failure: Condition | None, *, replacement: bool
) -> Milestone:
    if not replacement:
        created = f"Created NodeClaim {name} for {rung.instance_type}"
        return Milestone("Normal", "NodeClaimCreated", created, "CreateNodeClaim")
    fate = "failed" if any(terminal(claim) for claim in seat) else "was deleted"
    fate += f" ({failure.reason}: {failure.message})" if failure is not None else ""
    replaced = f"{_names(seat) or 'a NodeClaim'} {fate}; created {name}"
    return Milestone("Warning", "NodeClaimReplaced", replaced, "CreateNodeClaim")
