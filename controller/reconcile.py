"""One Workspace, top to bottom: hold, plan, nodes, tuning, inference, status; or, when it is being deleted, release.

Level-based: what to do follows from what is there, never from what happened. Each phase says what it found in the draft
of the status, which is written once at the end; a phase whose turn has not come says so there too.
"""

from datetime import timedelta

from controller.events import Milestone
from controller.inference import Inference, Tuned, owned
from controller.nodes import Nodes
from controller.plan import Refusal
from controller.planning import Decision, decide
from controller.status import Draft, now_of, releases, write
from controller.tuning import Tuning
from controller.world import World
from kube.api import labels
from kube.api.reasons import Reason
from kube.api.workload import JOBS
from kube.api.workspace import WORKSPACES, ConditionType, DataDestination, Workspace
from kube.meta import Key

CATCH_UP = timedelta(seconds=1)  # insurance: the event that brings our own write queues the key too


class Reconciler:
    """Owns the phases. `reconcile` runs for one key at a time; different keys run at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes = Nodes(world)
        self.inference = Inference(world)
        self.tuning = Tuning(world, self.inference)

    async def reconcile(self, key: Key) -> timedelta | None:
        """Bring one Workspace as far as possible now. Return when to look again without being told to."""
        workspace = self.world.workspaces.get(key)
        if workspace is None:
            self.forget(key)
            return None
        if not self.world.consistency.caught_up(key, workspace.metadata.uid):
            return CATCH_UP
        if workspace.metadata.deleting:
            return await self.release(workspace)
        if await self.hold(workspace):
            return CATCH_UP  # the answer comes back as an event
        draft = Draft.of(workspace, now_of(self.world))
        try:
            await self.advance(workspace, draft)
        except Exception:  # not a cancellation: who is told to end writes nothing more
            await write(self.world, draft)
            raise
        await write(self.world, draft)
        return draft.again

    async def hold(self, workspace: Workspace) -> bool:
        """Set the finalizer before anything that costs money. Return whether that was needed."""
        if labels.WORKSPACE_FINALIZER in workspace.metadata.finalizers:
            return False
        await self._set_finalizers(workspace, [*workspace.metadata.finalizers, labels.WORKSPACE_FINALIZER])
        return True

    async def advance(self, workspace: Workspace, draft: Draft) -> None:
        """Go through the phases. Each says what it found in the draft."""
        decision = await decide(self.world, workspace)
        if releases(workspace) and self.tuning.finished(workspace, decision):
            await self._give_back_when_tuned(workspace, draft)
            return
        if isinstance(decision, Refusal):
            self._refused(workspace, decision, draft)
            return
        draft.plan, draft.model = decision.rung.status(), decision.model
        draft.milestones += planned(workspace, decision)
        nodes_ready = await self.nodes.ensure(workspace, decision, draft)
        if workspace.tuning is None:
            await self.inference.ensure(workspace, decision, draft, nodes_ready=nodes_ready)
            return
        if await self.tuning.ensure(workspace, workspace.tuning, decision, draft, nodes_ready=nodes_ready):
            await self._after_tuning(workspace, decision, draft, nodes_ready=nodes_ready)
        elif draft.conditions.is_true(ConditionType.TUNED):
            draft.wait(ConditionType.INFERENCE_READY, Reason.INFERENCE_PENDING, "waiting for the training pod to end")

    async def _after_tuning(self, workspace: Workspace, decision: Decision, draft: Draft, *, nodes_ready: bool) -> None:
        """Serve what was tuned on the same nodes; with `onSuccess: Release` the next pass gives them back."""
        if releases(workspace):
            draft.conditions.remove(ConditionType.INFERENCE_READY)
            draft.look_again(0)
            return
        output = workspace.tuning.output if workspace.tuning else None
        artifact = draft.tuning.artifact if draft.tuning else None
        if artifact is None:
            raise ValueError("Tuned without an artifact")  # written together, in one patch
        tuned = Tuned(artifact, output or DataDestination())
        await self.inference.ensure(workspace, decision, draft, nodes_ready=nodes_ready, tuned=tuned)

    async def _give_back_when_tuned(self, workspace: Workspace, draft: Draft) -> None:
        """The result is there and nobody wants to serve it: no servers, no address, no nodes (draining is a provisioner's)."""
        await self.inference.withdraw(workspace)
        left = await self.nodes.release(workspace, confirm=False)
        draft.worker_nodes, draft.endpoint = (), ""
        draft.conditions.remove(ConditionType.NODE_CLAIM_READY)
        draft.conditions.remove(ConditionType.NODES_READY)
        draft.conditions.remove(ConditionType.INFERENCE_READY)
        message = f"waiting for {', '.join(left)} to go" if left else "the nodes were given back"
        draft.done(ConditionType.RESOURCE_READY, Reason.RELEASED, message)
        draft.done(ConditionType.TUNED, Reason.TUNED, draft.reason_of(ConditionType.TUNED)[1])  # of this generation

    def _refused(self, workspace: Workspace, refusal: Refusal, draft: Draft) -> None:
        """Say why there is no plan. What runs already is left alone: an edit that cannot work must not stop a server."""
        draft.fail(ConditionType.RESOURCE_READY, refusal.reason, refusal.message)
        if draft.conditions.get(ConditionType.INFERENCE_READY) is None:
            reason = Reason.INFERENCE_PENDING if workspace.tuning is None else Reason.TUNING
            draft.wait(ConditionType.INFERENCE_READY, reason, "waiting for a plan")
        if workspace.tuning is not None and draft.conditions.get(ConditionType.TUNED) is None:
            draft.wait(ConditionType.JOB_STARTED, Reason.JOB_PENDING, "waiting for a plan")
            draft.wait(ConditionType.TUNED, Reason.TUNING, "waiting for a plan")

    async def release(self, workspace: Workspace) -> timedelta | None:
        """Delete workloads and nodes; once the nodes are gone, the finalizer. Says meanwhile what is waited for."""
        if labels.WORKSPACE_FINALIZER not in workspace.metadata.finalizers:
            return None
        await self._delete_workloads(workspace)
        left = await self.nodes.release(workspace, confirm=True)
        if not left:
            others = [name for name in workspace.metadata.finalizers if name != labels.WORKSPACE_FINALIZER]
            await self._set_finalizers(workspace, others)
            self.nodes.forget(workspace)
            self.tuning.forget(workspace)
            return None
        draft = Draft.of(workspace, now_of(self.world))
        message = f"waiting for NodeClaim {', '.join(left)} to go"
        draft.conditions.set(ConditionType.WORKSPACE_DELETING, True, Reason.DELETED, message)
        await write(self.world, draft)
        return timedelta(seconds=30)

    async def _delete_workloads(self, workspace: Workspace) -> None:
        await self.inference.withdraw(workspace)
        job = self.world.jobs.get(workspace.metadata.key)
        if job is not None and owned(job, workspace):
            await self.world.delete(JOBS, job)

    async def _set_finalizers(self, workspace: Workspace, finalizers: list[str]) -> None:
        """Replace the list; the resourceVersion guards the others' entries in it."""
        version = workspace.metadata.resource_version
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": version}}
        written = await self.world.client.merge_patch(WORKSPACES, workspace.metadata.key, patch)
        self.world.consistency.wrote(workspace.metadata.key, WORKSPACES, written)

    def forget(self, key: Key) -> None:
        """The Workspace is gone: so is what was remembered of it."""
        self.world.consistency.forget(key)
        self.world.configs.forget(key)


def planned(workspace: Workspace, decision: Decision) -> list[Milestone]:
    """Return the milestones of a plan that is not the stored one: what was counted on, and what is doubtful about it."""
    plan = decision.rung.plan
    if plan is None or workspace.status.plan == decision.rung.status():
        return []
    warnings = [Milestone("Warning", "PlanDoubtful", warning, "Plan") for warning in plan.warnings]
    nodes = f"{decision.rung.nodes} node(s) of {decision.rung.instance_type}: {plan.breakdown}"
    return [Milestone("Normal", "Planned", nodes, "Plan"), *warnings]
