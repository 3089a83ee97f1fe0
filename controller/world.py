"""What the controller sees of the cluster, and the only way in which it writes to it.

Reads come from stores that the loop's informers fill; writes go through here, so that each is recorded for the
read-your-own-writes gate and carries the Workspace as its owner. Decides nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from controller.configs import Configs
from controller.metrics import Metrics
from controller.progress import Progress
from controller.settings import Settings
from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS, NodeClaim
from kube.api.workload import (
    JOBS,
    NODES,
    PODS,
    SERVICES,
    STATEFUL_SETS,
    Job,
    Node,
    Pod,
    Service,
    StatefulSet,
)
from kube.api.workspace import WORKSPACES, Workspace
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import NotFound
from kube.events import EventRecorder, ObjectReference
from kube.meta import Key, Object, Resource
from kube.store import Consistency, Store

T = TypeVar("T", bound=Object)
FIELD_MANAGER = "workspace-controller"
BY_WORKSPACE = "workspace"

BODY = dict[str, Any]


class NameTaken(Exception):
    """An object of the name that we need exists and belongs to somebody else."""


def owner_of(labelled: Object) -> Key | None:
    """Return the Workspace that a labelled object belongs to; cluster-scoped ones say the namespace in a label."""
    marks = labelled.metadata.labels
    if labels.WORKSPACE not in marks:
        return None
    return Key(labelled.metadata.namespace or marks.get(labels.WORKSPACE_NAMESPACE, ""), marks[labels.WORKSPACE])


def by_workspace(labelled: Object) -> Iterable[str]:
    """Index function of stores whose objects carry `kaito.sh/workspace`."""
    owner = owner_of(labelled)
    return [str(owner)] if owner else []


def digest(*inputs: object) -> str:
    """Hash JSON-like inputs, independent of the order of keys: 16 hex digits."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _by_workspace() -> Mapping[str, Callable[[Any], Iterable[str]]]:
    return {BY_WORKSPACE: by_workspace}


@dataclass
class World:
    """One per process. The stores are written by their informers alone."""

    client: Client
    settings: Settings
    recorder: EventRecorder
    metrics: Metrics
    configs: Configs
    progress: Progress
    clock: Clock = field(default_factory=SystemClock)
    consistency: Consistency = field(default_factory=Consistency)
    workspaces: Store[Workspace] = field(default_factory=Store)
    claims: Store[NodeClaim] = field(default_factory=lambda: Store(_by_workspace()))
    nodes: Store[Node] = field(default_factory=lambda: Store(_by_workspace()))
    pods: Store[Pod] = field(default_factory=lambda: Store(_by_workspace()))
    stateful_sets: Store[StatefulSet] = field(default_factory=Store)
    jobs: Store[Job] = field(default_factory=Store)
    services: Store[Service] = field(default_factory=Store)
    claims_served: Callable[[], bool] = lambda: True  # whether the NodeClaim kind has been listed

    def __post_init__(self) -> None:
        for resource, store in self._stores():
            self.consistency.watch(resource, store)

    def _stores(self) -> Iterable[tuple[Resource[Any], Store[Any]]]:
        yield WORKSPACES, self.workspaces
        yield NODE_CLAIMS, self.claims
        yield NODES, self.nodes
        yield PODS, self.pods
        yield STATEFUL_SETS, self.stateful_sets
        yield JOBS, self.jobs
        yield SERVICES, self.services

    def claims_of(self, workspace: Workspace) -> list[NodeClaim]:
        """Return its claims, by name. KAITO's claims carry no UID and are taken for ours; a namesake's are not."""
        found = self.claims.by_index(BY_WORKSPACE, str(workspace.metadata.key))
        return sorted((claim for claim in found if belongs(claim, workspace)), key=lambda claim: claim.metadata.name)

    def pods_of(self, workspace: Workspace, component: str) -> list[Pod]:
        """Return its pods of one component ("inference" or "tuning"), by name."""
        found = self.pods.by_index(BY_WORKSPACE, str(workspace.metadata.key))
        chosen = (pod for pod in found if pod.metadata.labels.get(labels.COMPONENT) == component)
        return sorted(chosen, key=lambda pod: pod.metadata.name)

    async def current_pods_of(self, workspace: Workspace, component: str) -> list[Pod]:
        """Return the same, read past the cache."""
        selector = f"{labels.WORKSPACE}={workspace.metadata.name},{labels.COMPONENT}={component}"
        return list(
            (await self.client.list(PODS, namespace=workspace.metadata.namespace, label_selector=selector)).items
        )

    async def apply(self, workspace: Workspace, resource: Resource[T], body: BODY, uid: str = "") -> T:
        """Apply desired state with our field manager. `uid` of what exists keeps an apply from resurrecting it."""
        if uid:
            body["metadata"]["uid"] = uid
        written = await self.client.apply(resource, body, field_manager=FIELD_MANAGER)
        self._wrote(workspace, resource, written)
        return written

    async def create(self, workspace: Workspace, resource: Resource[T], body: BODY) -> T:
        """Create. Raises AlreadyExists: whose it is, the caller must find out."""
        written = await self.client.create(resource, body)
        self._wrote(workspace, resource, written)
        return written

    async def delete(self, resource: Resource[T], existing: T, *, propagation: str = "Background") -> None:
        """Delete exactly this object; one that is gone already is as good."""
        if existing.metadata.deleting:
            return
        with suppress(NotFound):
            await self.client.delete(
                resource, existing.metadata.key, uid=existing.metadata.uid, propagation=propagation
            )
        if owner := owner_of(existing):
            self.consistency.deleted(owner, resource, existing)

    async def newest(self, workspace: Workspace) -> bool:
        """Ask past the cache, which may not show yet an edit, a deletion or, where etcd was restored, that it is gone."""
        try:
            there = (await self.client.get(WORKSPACES, workspace.metadata.key)).metadata
        except NotFound:
            return False
        known = workspace.metadata
        return (there.uid, there.resource_version) == (known.uid, known.resource_version)

    async def current(self, workspace: Workspace, resource: Resource[T], key: Key) -> T | None:
        """Read one object past the cache: what we are about to take over must be absent or ours. Raises NameTaken."""
        try:
            existing = await self.client.get(resource, key)
        except NotFound:
            return None
        owner = existing.metadata.controller()
        if owner is None or owner.uid != workspace.metadata.uid:
            raise NameTaken(f"{resource.kind} {key.name} exists and is not this Workspace's")
        return existing

    def event(self, workspace: Workspace, type_: str, reason: str, message: str, action: str) -> None:
        """Tell the user about a milestone."""
        regarding = ObjectReference.of(WORKSPACES, workspace)
        self.recorder.event(regarding, type_, reason, message, action=action)  # type: ignore[arg-type]  # Normal or Warning

    def _wrote(self, workspace: Workspace, resource: Resource[T], written: T) -> None:
        self.consistency.wrote(workspace.metadata.key, resource, written)


def belongs(claim: NodeClaim, workspace: Workspace) -> bool:
    """Whether a claim labelled with the Workspace's name is its own and not a namesake's leftover."""
    return claim.metadata.labels.get(labels.WORKSPACE_UID, workspace.metadata.uid) == workspace.metadata.uid


def metadata(
    workspace: Workspace, name: str, component: str = "", annotations: Mapping[str, str] | None = None
) -> BODY:
    """Render metadata of an object that the Workspace owns."""
    marks = {labels.WORKSPACE: workspace.metadata.name, labels.MANAGED_BY: FIELD_MANAGER}
    rendered: BODY = {
        "name": name,
        "namespace": workspace.metadata.namespace,
        "labels": marks | ({labels.COMPONENT: component} if component else {}),
        "ownerReferences": [
            {
                "apiVersion": WORKSPACES.api_version,
                "kind": WORKSPACES.kind,
                "name": workspace.metadata.name,
                "uid": workspace.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return rendered | ({"annotations": dict(annotations)} if annotations else {})
