"""The loop: watches fill stores, events become keys, workers reconcile keys. Written by hand, read in that order.

Owns what runs and when; knows nothing of what a reconcile does. Watches run before leadership, so that a successor starts
from warm stores; workers run only while leading.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry

from controller.configs import Configs
from controller.metrics import Metrics
from controller.progress import Progress
from controller.reconcile import Reconciler
from controller.selection import selects
from controller.settings import Settings
from controller.world import World, owner_of
from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS, NodeClaim
from kube.api.workload import JOBS, NODES, PODS, SERVICES, STATEFUL_SETS, Node, Pod
from kube.api.workspace import WORKSPACES, Workspace
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import Conflict, NotFound, NotLeading
from kube.events import EventRecorder
from kube.lease import LeaderElector
from kube.meta import Key, Object, Resource
from kube.metrics import ReconcileMetrics
from kube.queue import INITIAL, WorkQueue
from kube.store import Store
from kube.watch import Event, EventType, Reflector

log = logging.getLogger(__name__)
NAME = "workspace"


class Loop:
    """One per process."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        *,
        clock: Clock | None = None,
        registry: CollectorRegistry = REGISTRY,
        progress: Progress | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.settings = settings
        self.client = client
        self.queue: WorkQueue[Key] = WorkQueue(NAME, clock=clock)
        self.metrics = ReconcileMetrics(NAME, workers=settings.workers)
        self.recorder = EventRecorder(client, controller="kaito.sh/workspace", instance=settings.pod_name, clock=clock)
        self.world = World(
            client=client,
            settings=settings,
            recorder=self.recorder,
            metrics=Metrics(registry, lambda: self.world.workspaces.all()),
            configs=Configs(client, self.queue.add, clock),
            progress=progress or Progress(clock),
            clock=clock,
        )
        self.reconciler = Reconciler(self.world)
        self.reflectors: list[Reflector[Any]] = []
        self._required: list[Reflector[Any]] = []
        self._watch(WORKSPACES, self.world.workspaces, self._on_workspace)
        self._watch(NODES, self.world.nodes, self._on_node, "" if settings.byo else labels.WORKSPACE)
        self._watch(PODS, self.world.pods, self._on_pod, labels.WORKSPACE)
        self._watch(STATEFUL_SETS, self.world.stateful_sets, self._on_owned, labels.WORKSPACE)
        self._watch(JOBS, self.world.jobs, self._on_owned, labels.WORKSPACE)
        self._watch(SERVICES, self.world.services, self._on_owned, labels.WORKSPACE)
        self._required += self.reflectors
        if not settings.byo:
            self._watch(NODE_CLAIMS, self.world.claims, self._on_claim, labels.WORKSPACE)
            self.world.claims_served = self.reflectors[-1].synced.is_set

    async def run(self, elector: LeaderElector | None = None) -> None:
        """Run until cancelled. Raises LeadershipLost: the process must end, another one leads."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(reflector.run()) for reflector in self.reflectors]
                running += [tasks.create_task(self.recorder.run()), tasks.create_task(self.world.configs.run())]
                await self._sync()
                await (elector.run(self.work) if elector else self.work())
                for task in running:
                    task.cancel()
        finally:
            await self.world.progress.close()

    async def work(self) -> None:
        """Run the workers, until cancelled or the queue is shut down."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.settings.workers):
                tasks.create_task(self._worker())

    def synced(self) -> bool:
        """Whether every store that a reconcile reads holds what is there."""
        return all(reflector.synced.is_set() for reflector in self._required)

    async def _sync(self) -> None:
        """Wait for the stores. NodeClaims are waited for only where the cluster knows them."""
        if not self.settings.byo:
            try:
                await self.client.page(NODE_CLAIMS, namespace="", query={}, limit=1)
                self._required.append(self.reflectors[-1])
            except NotFound:
                log.warning("The cluster does not serve NodeClaims; Workspaces wait until it does")
        for reflector in self._required:
            await reflector.synced.wait()
        log.info("Stores are in sync", extra={"workspaces": len(self.world.workspaces)})

    async def _worker(self) -> None:
        """Take keys until the queue shuts down; the only place where an exception is absorbed."""
        while (key := await self.queue.get()) is not None:
            self.metrics.active += 1
            started = time.perf_counter()
            result = "error"
            try:
                result = self._settle(key, await self.reconciler.reconcile(key))
            except (Conflict, NotLeading):
                result = "requeue"
                self.queue.retry(key)
            except Exception:  # one bad object must not stop the others
                log.exception("Reconciling failed", extra={"workspace": str(key)})
                self.queue.retry(key)
            finally:
                self.metrics.active -= 1
                self.metrics.observe(result, time.perf_counter() - started)
                self.queue.done(key)

    def _settle(self, key: Key, again: timedelta | None) -> str:
        self.queue.forget(key)
        if again is None:
            return "success"
        self.queue.add_after(key, again.total_seconds())
        return "requeue_after"

    def _watch(
        self,
        resource: Resource[Any],
        store: Store[Any],
        handler: Callable[[Event[Any]], None],
        label_selector: str = "",
    ) -> None:
        reflector = Reflector(
            self.client, resource, store, handler, label_selector=label_selector, clock=self.world.clock
        )
        self.reflectors.append(reflector)

    def _on_workspace(self, event: Event[Workspace]) -> None:
        self.queue.add(event.object.metadata.key, INITIAL if event.initial else 0)

    def _on_owned(self, event: Event[Any]) -> None:
        self._add(filter(None, {owner_of(event.object), owner_of(event.old) if event.old else None}), event)

    def _on_claim(self, event: Event[NodeClaim]) -> None:
        self.reconciler.nodes.note(event.object)
        self._on_owned(event)

    def _on_pod(self, event: Event[Pod]) -> None:
        if event.type == EventType.DELETED:
            self.world.progress.forget(event.object.metadata.uid)
        if not heartbeat(event):
            self._on_owned(event)

    def _on_node(self, event: Event[Node]) -> None:
        if heartbeat(event):
            return
        if not self.settings.byo:
            self._on_owned(event)
            return
        marks = [node.metadata.labels for node in (event.object, event.old) if node is not None]
        self._add((key for key, selector in self._selectors() if any(selects(selector, each) for each in marks)), event)

    def _selectors(self) -> Iterable[tuple[Key, Any]]:
        for workspace in self.world.workspaces.all():
            if workspace.resource.label_selector is not None:
                yield workspace.metadata.key, workspace.resource.label_selector

    def _add(self, keys: Iterable[Key], event: Event[Any]) -> None:
        for key in keys:
            self.queue.add(key, INITIAL if event.initial else 0)


def heartbeat(event: Event[Any]) -> bool:
    """Whether nothing changed that we read: nodes and pods are written every few seconds for the sake of a timestamp."""
    new, old = event.object, event.old
    return event.type == EventType.MODIFIED and old is not None and _at(new, old.metadata.resource_version) == old


def _at(seen: Object, resource_version: str) -> Object:
    metadata = msgspec.structs.replace(seen.metadata, resource_version=resource_version)
    return msgspec.structs.replace(seen, metadata=metadata)
