"""Which Workspace an event is about: what the informers' handlers do, all of it.

Each maps an object to keys and puts them into the queue; what a reconcile then finds is none of its business. What is no
news, after a start or a resync, waits behind whatever users do meanwhile.
"""

from collections.abc import Iterable
from typing import Any

from controller.nodes import Nodes
from controller.selection import selects
from controller.world import World, owner_of
from kube.api.nodeclaim import NodeClaim
from kube.api.workload import Node, Pod
from kube.api.workspace import Workspace
from kube.delta import Event, EventType
from kube.meta import Key
from kube.queue import INITIAL, WorkQueue


class Handlers:
    """Handlers, one for each kind that is not mapped by its owner alone."""

    def __init__(self, world: World, queue: WorkQueue[Key], nodes: Nodes) -> None:
        self._world = world
        self._queue = queue
        self._nodes = nodes

    def on_workspace(self, event: Event[Workspace]) -> None:
        self._add([event.object.metadata.key], event)

    def on_owned(self, event: Event[Any]) -> None:
        """Whatever carries a Workspace's name in its labels, before the event or after it."""
        owners = {owner_of(event.object), owner_of(event.old) if event.old else None}
        self._add(filter(None, owners), event)

    def on_claim(self, event: Event[NodeClaim]) -> None:
        self._nodes.note(event.object)
        self.on_owned(event)

    def on_pod(self, event: Event[Pod]) -> None:
        if event.type == EventType.DELETED:
            self._world.progress.forget(event.object.metadata.uid)
        if not event.heartbeat:
            self.on_owned(event)

    def on_node(self, event: Event[Node]) -> None:
        """A node that we had made carries its Workspace's name; one that was there before is found by the selector."""
        if event.heartbeat:
            return
        if not self._world.settings.byo:
            self.on_owned(event)
            return
        marks = [node.metadata.labels for node in (event.object, event.old) if node is not None]
        self._add((key for key, selector in self._selectors() if any(selects(selector, each) for each in marks)), event)

    def _selectors(self) -> Iterable[tuple[Key, Any]]:
        for workspace in self._world.workspaces.all():
            if workspace.resource.label_selector is not None:
                yield workspace.metadata.key, workspace.resource.label_selector

    def _add(self, keys: Iterable[Key], event: Event[Any]) -> None:
        for key in keys:
            self._queue.add(key, 0 if event.news else INITIAL)
