"""A Workspace's status while it is being worked out, and the one place where it is written.

Phases say what they found with `done`, `wait` and `fail`; `summarise` computes the root, its two aliases and the state
from that; `write` sends one server-side apply, and only when something changed. Knows no phase.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import msgspec

from controller.events import Milestone, tell
from controller.world import FIELD_MANAGER, World
from kube.api.reasons import Reason
from kube.api.workspace import (
    WORKSPACES,
    ConditionType,
    ModelStatus,
    OnSuccess,
    PlanStatus,
    State,
    TuningStatus,
    Workspace,
    WorkspaceStatus,
)
from kube.clock import parse_timestamp, timestamp
from kube.conditions import ConditionSet, to_wire
from kube.meta import Condition

MESSAGE_LIMIT = 1024  # characters; a condition is for reading, and metav1 allows 32,768
REFUSED_SECONDS = 30.0  # a quota that is raised or a name that becomes free makes no event for us
ORDER = list(ConditionType)


@dataclass
class Draft:
    """What this reconcile has found so far. Starts from the stored status; a field nobody touches stays as it was."""

    workspace: Workspace
    conditions: ConditionSet
    worker_nodes: tuple[str, ...] = ()
    endpoint: str = ""
    plan: PlanStatus | None = None
    model: ModelStatus | None = None
    tuning: TuningStatus | None = None
    failed: bool = False  # the tuning Job has ended and will not succeed
    milestones: list[Milestone] = field(default_factory=list)
    again: timedelta | None = None

    @classmethod
    def of(cls, workspace: Workspace, now: str) -> "Draft":
        status = workspace.status
        return cls(
            workspace,
            ConditionSet(status.conditions, generation=workspace.metadata.generation, now=now),
            worker_nodes=status.worker_nodes,
            endpoint=status.endpoint,
            plan=status.plan,
            model=status.model,
            tuning=status.tuning,
        )

    def done(self, type_: ConditionType, reason: Reason, message: str = "") -> None:
        """The condition holds."""
        self._set(type_, True, reason, message, "Normal")

    def wait(self, type_: ConditionType, reason: str, message: str = "") -> None:
        """The condition does not hold yet, and nothing is wrong: no event."""
        self._set(type_, False, reason, message, "")

    def fail(self, type_: ConditionType, reason: str, message: str) -> None:
        """The condition does not hold and the user should know why."""
        self._set(type_, False, reason, message, "Warning")

    def look_again(self, seconds: float) -> None:
        """Ask for another reconcile after `seconds`; the soonest wish wins."""
        wish = timedelta(seconds=max(seconds, 0.05))
        self.again = wish if self.again is None else min(self.again, wish)

    def reason_of(self, type_: ConditionType) -> tuple[str, str]:
        condition = self.conditions.get(type_)
        return (condition.reason, condition.message) if condition else ("", "")

    def _set(self, type_: ConditionType, holds: bool, reason: str, message: str, event: str) -> None:
        message = message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"
        before = condition_of(self.workspace, type_)
        self.conditions.set(type_, holds, str(reason), message)
        if event and (before is None or before.true != holds or before.reason != reason):
            self.milestones.append(Milestone(event, str(reason), message, type_))


def counted(number: int, noun: str) -> str:
    """Begin a sentence about so many of a thing: 1 node is, 2 nodes are."""
    return f"1 {noun} is" if number == 1 else f"{number} {noun}s are"


def condition_of(workspace: Workspace, type_: ConditionType) -> Condition | None:
    """Return a stored condition."""
    return next((condition for condition in workspace.status.conditions if condition.type == type_), None)


def is_true(workspace: Workspace, type_: ConditionType) -> bool:
    """Whether a stored condition is True."""
    condition = condition_of(workspace, type_)
    return condition is not None and condition.true


def releases(workspace: Workspace) -> bool:
    """Whether the nodes are given back after tuning; absent means that the result is served."""
    return workspace.tuning is not None and workspace.tuning.on_success == OnSuccess.RELEASE


def summarise(draft: Draft) -> None:
    """Compute the root from what it depends on. A deleting Workspace keeps everything but the root as it was."""
    if draft.workspace.metadata.deleting:
        status, reason, message = "False", str(Reason.DELETING), draft.reason_of(ConditionType.WORKSPACE_DELETING)[1]
    else:
        status, reason, message = _root(draft)
    for type_ in (ConditionType.WORKSPACE_READY, ConditionType.READY, ConditionType.WORKSPACE_SUCCEEDED):
        draft.conditions.set(type_, status, reason, message)


def _root(draft: Draft) -> tuple[str, str, str]:
    for type_ in _dependents(draft):
        condition = draft.conditions.get(type_)
        if condition is None:
            return "False", str(Reason.PENDING), f"{type_} is not known yet"
        if not condition.true:
            return "False", condition.reason, condition.message
    if _released(draft):
        return "True", str(Reason.TUNED), draft.reason_of(ConditionType.TUNED)[1]
    return "True", str(Reason.SUCCEEDED), f"The model answers at {draft.endpoint}" if draft.endpoint else ""


def _dependents(draft: Draft) -> Sequence[ConditionType]:
    if draft.workspace.tuning is None:
        return ConditionType.RESOURCE_READY, ConditionType.INFERENCE_READY
    if _released(draft):
        return ConditionType.RESOURCE_READY, ConditionType.TUNED
    return ConditionType.RESOURCE_READY, ConditionType.TUNED, ConditionType.INFERENCE_READY


def _released(draft: Draft) -> bool:
    return releases(draft.workspace) and draft.conditions.is_true(ConditionType.TUNED)


def state_of(draft: Draft) -> str:
    """Return `status.state`. What has been Ready is NotReady afterwards, never Pending again."""
    if draft.workspace.metadata.deleting:
        return draft.workspace.status.state
    ready = draft.conditions.is_true(ConditionType.WORKSPACE_READY)
    tuning, tuned = draft.workspace.tuning is not None, draft.conditions.is_true(ConditionType.TUNED)
    if tuning and not tuned:
        started = draft.conditions.is_true(ConditionType.JOB_STARTED)
        return State.FAILED if draft.failed else State.RUNNING if started else State.PENDING
    if ready:
        return State.SUCCEEDED if _released(draft) else State.READY
    if draft.workspace.status.state in (State.READY, State.NOT_READY):
        return State.NOT_READY
    return State.RUNNING if tuning else State.PENDING


def result(draft: Draft) -> WorkspaceStatus:
    """Return the whole status, conditions in the order of their declaration."""
    present = {condition.type: condition for condition in draft.conditions.result()}
    return WorkspaceStatus(
        conditions=tuple(present[type_] for type_ in ORDER if type_ in present),
        worker_nodes=draft.worker_nodes,
        state=state_of(draft),
        target_node_count=draft.plan.nodes if draft.plan else draft.workspace.status.target_node_count,
        performance=draft.workspace.status.performance,
        endpoint=draft.endpoint,
        plan=draft.plan,
        model=draft.model,
        tuning=draft.tuning,
    )


def comparable(status: WorkspaceStatus) -> WorkspaceStatus:
    """Return a stored status with its conditions in our order: the API server keeps them in one of its own."""
    known = sorted((c for c in status.conditions if c.type in ORDER), key=lambda c: ORDER.index(ConditionType(c.type)))
    return msgspec.structs.replace(status, conditions=tuple(known))


async def write(world: World, draft: Draft) -> None:
    """Send the status in one apply, and tell about what changed; nothing is sent when nothing changed."""
    summarise(draft)
    workspace, wanted = draft.workspace, result(draft)
    if wanted != comparable(workspace.status):
        body = {
            "apiVersion": WORKSPACES.api_version,
            "kind": WORKSPACES.kind,
            "metadata": {
                "name": workspace.metadata.name,
                "namespace": workspace.metadata.namespace,
                "uid": workspace.metadata.uid,  # an apply must not speak for a namesake
                "resourceVersion": workspace.metadata.resource_version,  # nor from what is no longer there: Conflict
            },
            "status": msgspec.to_builtins(wanted) | {"conditions": to_wire(wanted.conditions)},
        }
        written = await world.client.apply(WORKSPACES, body, field_manager=FIELD_MANAGER, subresource="status")
        world.consistency.wrote(workspace.metadata.key, WORKSPACES, written)
        _measure(world, workspace, wanted)
    tell(world, workspace, draft.milestones)


def _measure(world: World, workspace: Workspace, wanted: WorkspaceStatus) -> None:
    """Observe the moments that happen once: a condition's first True."""
    age = (world.clock.now() - parse_timestamp(workspace.metadata.creation_timestamp)).total_seconds()
    became = {c.type for c in wanted.conditions if c.true and not is_true(workspace, ConditionType(c.type))}
    first = workspace.status.state not in (State.READY, State.NOT_READY)
    if ConditionType.WORKSPACE_READY in became and first:
        world.metrics.ready_seconds.observe(age)
    if ConditionType.TUNED in became:
        world.metrics.tuned_seconds.observe(age)
    if ConditionType.RESOURCE_READY in became and first:
        world.metrics.nodes_seconds.observe(age)


def now_of(world: World) -> str:
    """Return the moment that conditions of this reconcile are stamped with."""
    return timestamp(world.clock.now())
