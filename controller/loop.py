"""The loop: informers fill stores, events become keys, workers reconcile keys. Written by hand, read in that order.

Owns what runs and when; knows nothing of what an event means and what a reconcile does. Stores fill before leadership, so
that a standby is known to be able to; handlers and workers run only while leading, and first everything is read once more:
the watches of a successor may be behind what its predecessor wrote last.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from controller.configs import Configs
from controller.handlers import Handlers
from controller.metrics import Metrics
from controller.progress import Progress
from controller.reconcile import Reconciler
from controller.settings import Settings
from controller.world import World
from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS
from kube.api.workload import JOBS, NODES, PODS, SERVICES, STATEFUL_SETS
from kube.api.workspace import WORKSPACES
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.delta import Event
from kube.errors import KubeError, NotFound
from kube.events import EventRecorder
from kube.informer import RESYNC_SECONDS, Informer
from kube.lease import LeaderElector
from kube.meta import Key, Resource
from kube.queue import WorkQueue
from kube.store import Store
from kube.worker import Workers

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
        self._clock = clock = clock or SystemClock()
        self._client = client
        self.queue: WorkQueue[Key] = WorkQueue(NAME, clock=clock)
        self.world = World(
            client=client,
            settings=settings,
            recorder=EventRecorder(client, controller="kaito.sh/workspace", instance=settings.identity, clock=clock),
            metrics=Metrics(registry, lambda: self.world.workspaces.all()),
            configs=Configs(client, self.queue.add, clock),
            progress=progress or Progress(clock),
            clock=clock,
        )
        self.reconciler = Reconciler(self.world)
        self.workers = Workers(NAME, self.queue, self.reconciler.reconcile, count=settings.workers, clock=clock)
        self._informers: list[tuple[Informer[Any], Callable[[Event[Any]], None], float]] = []
        self._claims: Informer[Any] | None = None  # none where all nodes are the user's own
        self._watch(Handlers(self.world, self.queue, self.reconciler.nodes))

    def _watch(self, handlers: Handlers) -> None:
        """What is watched, and which handler hears of it."""
        world, byo = self.world, self.world.settings.byo
        self._add(WORKSPACES, world.workspaces, handlers.on_workspace, resync=RESYNC_SECONDS)
        self._add(NODES, world.nodes, handlers.on_node, "" if byo else labels.WORKSPACE)
        self._add(PODS, world.pods, handlers.on_pod, labels.WORKSPACE)
        self._add(STATEFUL_SETS, world.stateful_sets, handlers.on_owned, labels.WORKSPACE)
        self._add(JOBS, world.jobs, handlers.on_owned, labels.WORKSPACE)
        self._add(SERVICES, world.services, handlers.on_owned, labels.WORKSPACE)
        if not byo:
            self._claims = self._add(NODE_CLAIMS, world.claims, handlers.on_claim, labels.WORKSPACE)
            world.claims_served = self._claims.synced.is_set
        self._required = [informer for informer, _, _ in self._informers]

    def _add(
        self,
        resource: Resource[Any],
        store: Store[Any],
        handler: Callable[[Event[Any]], None],
        label_selector: str = "",
        *,
        resync: float = 0.0,
    ) -> Informer[Any]:
        informer = Informer(self._client, resource, store, label_selector=label_selector, clock=self._clock)
        self._informers.append((informer, handler, resync))
        return informer

    async def run(self, elector: LeaderElector | None = None) -> None:
        """Run until cancelled. Raises LeadershipLost: the process must end, another one leads."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(informer.run()) for informer, _, _ in self._informers]
                running.append(tasks.create_task(self.world.configs.run()))
                await self._sync()
                await (elector.run(self.work) if elector else self.work())
                for task in running:
                    task.cancel()
        finally:
            await self.world.progress.close()

    async def _sync(self) -> None:
        """Wait for the stores."""
        self._required = await self._served()
        for informer in self._required:
            await informer.synced.wait()
        log.info("Stores are in sync", extra={"workspaces": len(self.world.workspaces)})

    async def _served(self) -> list[Informer[Any]]:
        """What to wait for: NodeClaims only where the cluster knows them now."""
        everything = [informer for informer, _, _ in self._informers]
        if self._claims is None:
            return everything
        try:
            await self._client.page(NODE_CLAIMS, namespace="", query={}, limit=1)
        except NotFound:
            log.warning("The cluster does not serve NodeClaims; Workspaces wait until it does")
            return [informer for informer in everything if informer is not self._claims]
        except KubeError as error:  # their watch goes on trying
            log.warning("Asking for NodeClaims failed: %s", error)
        return everything

    async def work(self) -> None:
        """Do what only the leader does, until cancelled or the queue is shut down."""
        self._required = await self._served()
        await asyncio.gather(*(informer.relist() for informer in self._required))
        for informer, handler, resync in self._informers:
            informer.subscribe(handler, resync=resync)
        async with asyncio.TaskGroup() as tasks:
            recorder = tasks.create_task(self.world.recorder.run())
            await self.workers.run()
            recorder.cancel()

    def synced(self) -> bool:
        """Whether every store that a reconcile reads holds what is there."""
        return all(informer.synced.is_set() for informer in self._required)

    def permitted(self) -> bool:
        """Whether the API server lets us read everything that we watch; if not, a role is missing."""
        return not any(informer.refused for informer, _, _ in self._informers)
