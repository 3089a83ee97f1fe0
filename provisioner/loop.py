"""The hand-written loop: informers fill stores, events queue the names of claims, workers take them, one per claim at a time.

Read top to bottom, it is the whole controller: what is watched, what an event means, who works. What a claim needs is decided
in `reconcile`; nothing here knows conditions or clouds. Stores fill before leadership, so that a standby is known to be able
to; handlers and workers run only while leading, and first everything is read once more: the watches of a successor may be
behind what its predecessor wrote last.
"""

import asyncio
from typing import Any

from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS, NodeClaim
from kube.api.workload import NAMESPACES, NODES, Node
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.delta import Event
from kube.events import EventRecorder
from kube.informer import RESYNC_SECONDS, Informer
from kube.lease import LeaderElector
from kube.meta import Key
from kube.queue import INITIAL, WorkQueue
from kube.store import Consistency, Store
from kube.worker import Workers
from provisioner.claims import managed
from provisioner.cloud import CloudProvider
from provisioner.context import BY_POOL, Context
from provisioner.inventory import Inventory
from provisioner.orphans import Orphans
from provisioner.reconcile import Reconciler
from provisioner.settings import Settings
from provisioner.uptime import Uptime

CONTROLLER = "nodeclaim.lifecycle"  # Karpenter's name for it, in metrics


class Loop:
    """One per process."""

    def __init__(self, client: Client, cloud: CloudProvider, settings: Settings, *, clock: Clock | None = None) -> None:
        self._client, self._settings, self._cloud = client, settings, cloud
        self._clock = clock = clock or SystemClock()
        self.queue: WorkQueue[Key] = WorkQueue(CONTROLLER, clock=clock)
        self.claims: Store[NodeClaim] = Store()
        self.nodes: Store[Node] = Store({BY_POOL: _pool})
        self._claims = Informer(client, NODE_CLAIMS, self.claims, clock=clock)
        self._nodes = Informer(client, NODES, self.nodes, clock=clock)
        self.inventory = Inventory(
            cloud,
            clock,
            busy=settings.list_seconds,
            idle=settings.idle_list_seconds,
            on_change=lambda name: self.queue.add(Key("", name)),
        )
        self._consistency = Consistency(clock)
        self._consistency.watch(NODE_CLAIMS, self.claims)
        self._consistency.watch(NODES, self.nodes)
        self._recorder = EventRecorder(client, controller=settings.NAME, instance=settings.identity, clock=clock)

    async def run(self, elector: LeaderElector | None = None) -> None:
        """Run until cancelled. Raises LeadershipLost: the process must end, another one leads."""
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(informer.run()) for informer in (self._claims, self._nodes)]
            for informer in (self._claims, self._nodes):
                await informer.synced.wait()
            await (elector.run(self.work) if elector else self.work())
            for task in running:
                task.cancel()

    async def work(self) -> None:
        """Do what only the leader does, until cancelled or the queue is shut down."""
        await asyncio.gather(*(informer.relist() for informer in (self._claims, self._nodes)))
        context = await self._context()
        workers = Workers(
            CONTROLLER, self.queue, Reconciler(context).reconcile, count=self._settings.workers, clock=self._clock
        )
        self._claims.subscribe(self._on_claim, resync=RESYNC_SECONDS)
        self._nodes.subscribe(self._on_node)
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(task) for task in (self._recorder.run(), self.inventory.run(), Orphans(context).run())
            ]
            await workers.run()
            for task in beside:
                task.cancel()

    async def _context(self) -> Context:
        # The cluster's identity in tags: this namespace lives exactly as long as the cluster.
        cluster_id = (await self._client.get(NAMESPACES, Key("", "kube-system"))).metadata.uid
        return Context(
            client=self._client,
            claims=self.claims,
            nodes=self.nodes,
            cloud=self._cloud,
            inventory=self.inventory,
            recorder=self._recorder,
            consistency=self._consistency,
            settings=self._settings,
            clock=self._clock,
            uptime=Uptime(self._clock),
            cluster_id=cluster_id,
        )

    def _on_claim(self, event: Event[NodeClaim]) -> None:
        if managed(event.object):
            self._add(event.object.metadata.name, event)

    def _on_node(self, event: Event[Node]) -> None:
        """A node wakes the claim that its pool is named after."""
        if not event.heartbeat:
            for pool in {*_pool(event.object), *(_pool(event.old) if event.old else ())}:
                self._add(pool, event)

    def _add(self, claim: str, event: Event[Any]) -> None:
        self.queue.add(Key("", claim), 0 if event.news else INITIAL)

    def synced(self) -> bool:
        """Whether the stores hold what is there."""
        return self._claims.synced.is_set() and self._nodes.synced.is_set()

    def permitted(self) -> bool:
        """Whether the API server lets us read what we watch; if not, a role is missing."""
        return not (self._claims.refused or self._nodes.refused)


def _pool(node: Node) -> tuple[str, ...]:
    name = node.metadata.labels.get(labels.AKS_AGENTPOOL)
    return (name,) if name else ()
