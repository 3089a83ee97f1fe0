"""`kube`: informer, store with two indexes, handler, work queue, and workers whose reconcile reads the object from the store.

Options: "unworked" has no workers and enqueues what happens after the sync only, so that the way to the queue is measured
and every key is new to it; "collected" leaves the garbage collector as Python has it; "Workspace" is the kind.
"""

import asyncio
import gc
from collections.abc import Callable, Mapping
from typing import Any

from hack.bench.candidates import driver
from hack.bench.objects import SENT
from hack.bench.probe import Probe
from hack.bench.task import Task
from kube import auth
from kube.api.workload import PODS, Pod
from kube.api.workspace import WORKSPACES, Workspace
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.delta import Event
from kube.informer import Informer
from kube.meta import Key, Resource
from kube.queue import INITIAL, WorkQueue
from kube.store import Indexer, Store
from kube.worker import Workers

# As many as the workspace controller has.
WORKERS = 16
INSTANCE = "app.kubernetes.io/instance"


class Ours:
    """One informer and its workers, wired as the controllers do it."""

    async def run(self, task: Task, probe: Probe) -> None:
        resource = WORKSPACES if "Workspace" in task.options else PODS
        if "collected" in task.options:
            _keep_collecting()
        store: Store[Any] = Store(INDEXERS[resource])
        queue: WorkQueue[Key] = WorkQueue("bench")

        unworked = "unworked" in task.options

        def on_event(event: Event[Any]) -> None:
            if not (unworked and event.initial):
                queue.add(event.object.metadata.key, INITIAL if event.initial else 0)
            probe.handled()

        async def reconcile(key: Key) -> None:
            found = store.get(key)
            if found is not None:
                probe.reconciled(found.metadata.annotations[SENT])

        async with await connect(task.url) as client:
            informer: Informer[Any] = Informer(client, resource, store)
            informer.subscribe(on_event)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(informer.run())
                await informer.synced.wait()
                if not unworked:
                    tasks.create_task(Workers("bench", queue, reconcile, count=WORKERS).run())


async def connect(url: str, clock: Clock | None = None) -> Client:
    """A client of a server that asks for no credentials."""

    async def source() -> auth.Identity:
        return auth.Identity(url)

    clock = clock or SystemClock()
    return Client(await auth.Auth.load(source, clock), user_agent="bench", clock=clock)


def _keep_collecting() -> None:
    """Let nobody in this process touch the collector."""
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731  # four names for one nothing
    gc.disable = gc.enable = gc.freeze = gc.set_threshold = ignore


def _node(pod: Pod) -> tuple[str, ...]:
    return (pod.spec.node_name,)


def _instance(pod: Pod) -> tuple[str, ...]:
    return (pod.metadata.labels[INSTANCE],)


def _preset(workspace: Workspace) -> tuple[str, ...]:
    preset = workspace.inference.preset if workspace.inference else None
    return (preset.name,) if preset else ()


def _instance_type(workspace: Workspace) -> tuple[str, ...]:
    return (workspace.resource.instance_type,)


INDEXERS: Mapping[Resource[Any], Mapping[str, Indexer[Any]]] = {
    PODS: {"node": _node, "instance": _instance},
    WORKSPACES: {"preset": _preset, "instanceType": _instance_type},
}


if __name__ == "__main__":
    driver.run(Ours())
