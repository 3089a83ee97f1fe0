"""The hand-written loop: watches fill stores and queue the names of claims, workers take them, one per claim at a time.

Read top to bottom, it is the whole controller: what is watched, what an event means, who works, what an error costs. What a
claim needs is decided in `reconcile`; nothing here knows conditions or clouds.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS, NodeClaim
from kube.api.workload import NAMESPACES, NODES, Node
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.errors import Conflict, NotFound, NotLeading
from kube.events import EventRecorder
from kube.meta import Key
from kube.metrics import ReconcileMetrics
from kube.queue import INITIAL, WorkQueue
from kube.store import Consistency, Store
from kube.watch import Event, Reflector
from provisioner.claims import managed
from provisioner.cloud import CloudProvider
from provisioner.context import BY_POOL, Context
from provisioner.inventory import Inventory
from provisioner.orphans import Orphans
from provisioner.reconcile import Reconciler
from provisioner.settings import Settings

log = logging.getLogger(__name__)

CONTROLLER = "nodeclaim.lifecycle"  # Karpenter's name for it, in metrics


class Loop:
    """Everything that runs while this process leads. Made anew for each term: it carries nothing over."""

    def __init__(self, client: Client, cloud: CloudProvider, settings: Settings, *, clock: Clock | None = None) -> None:
        self._client, self._settings, self._cloud = client, settings, cloud
        self._clock = clock = clock or SystemClock()
        self.queue: WorkQueue[Key] = WorkQueue(CONTROLLER, clock=clock)
        self.claims: Store[NodeClaim] = Store()
        self.nodes: Store[Node] = Store({BY_POOL: lambda node: _pool(node)})
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
        self._recorder = EventRecorder(
            client, controller="kaito-node-provisioner", instance=settings.identity, clock=clock
        )
        self._reflectors = (
            Reflector(client, NODE_CLAIMS, self.claims, self._on_claim, clock=clock),
            Reflector(client, NODES, self.nodes, self._on_node, clock=clock),
        )
        self._metrics = ReconcileMetrics(CONTROLLER, workers=settings.workers)

    @property
    def synced(self) -> bool:
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    async def run(self) -> None:
        """Work until cancelled."""
        context = await self._context()
        reconciler, orphans = Reconciler(context), Orphans(context)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recorder.run())
            for reflector in self._reflectors:
                group.create_task(reflector.run())
            for reflector in self._reflectors:
                await reflector.synced.wait()
            group.create_task(self.inventory.run())
            group.create_task(orphans.run())
            for _ in range(self._settings.workers):
                group.create_task(self._work(reconciler))

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
            cluster_id=cluster_id,
        )

    def _on_claim(self, event: Event[NodeClaim]) -> None:
        if managed(event.object):
            self.queue.add(event.object.metadata.key, INITIAL if event.initial else 0)

    def _on_node(self, event: Event[Node]) -> None:
        """A node wakes the claim of its name; heartbeats reach us only when they change something."""
        for pool in _pool(event.object):
            self.queue.add(Key("", pool), INITIAL if event.initial else 0)

    async def _work(self, reconciler: Reconciler) -> None:
        """Take claims until the queue shuts down; the only place where an exception is absorbed."""
        while (key := await self.queue.get()) is not None:
            try:
                with self._measured() as outcome:
                    again = await reconciler.reconcile(key)
                    outcome.result = "success" if again is None else "requeue_after"
            except (Conflict, NotFound) as stale:  # somebody was faster; the event that says so is on its way
                log.debug("Reconciling on old data", extra={"claim": key.name, "error": str(stale)})
                self.queue.retry(key)
            except NotLeading:
                log.info("No longer leading", extra={"claim": key.name})
            except Exception:  # one bad object must not stop the others
                log.exception("Reconciling failed", extra={"claim": key.name})
                self.queue.retry(key)
            else:
                self._finished(key, again)
            finally:
                self.queue.done(key)

    def _finished(self, key: Key, again: timedelta | None) -> None:
        self.queue.forget(key)
        if again is not None:
            self.queue.add_after(key, again.total_seconds())

    @contextmanager
    def _measured(self) -> Iterator["_Outcome"]:
        began, outcome = self._clock.monotonic(), _Outcome()
        self._metrics.active += 1
        try:
            yield outcome
        finally:
            self._metrics.active -= 1
            self._metrics.observe(outcome.result, self._clock.monotonic() - began)


@dataclass
class _Outcome:
    result: str = "error"


def _pool(node: Node) -> tuple[str, ...]:
    name = node.metadata.labels.get(labels.AKS_AGENTPOOL)
    return (name,) if name else ()
