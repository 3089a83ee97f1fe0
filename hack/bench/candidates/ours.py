"""`kube`: reflector, store with two indexes, handler, work queue, and a worker that reads the object from the store.

The option "collected" leaves the garbage collector as Python has it, to show what `kube`'s policy is worth.
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
from kube.meta import Key, Resource
from kube.queue import INITIAL, WorkQueue
from kube.store import Indexer, Store
from kube.watch import Reflector

INDEXERS: Mapping[Resource[Any], Mapping[str, Indexer[Any]]] = {
    PODS: {"node": lambda pod: _node(pod), "owner": lambda pod: _owner(pod)},
    WORKSPACES: {"preset": lambda workspace: _preset(workspace), "type": lambda workspace: _type(workspace)},
}


class Ours:
    """One informer and one worker, wired as the controllers do it."""

    async def run(self, task: Task, probe: Probe) -> None:
        resource = WORKSPACES if "Workspace" in task.options else PODS
        if "collected" in task.options:
            _keep_collecting()
        store: Store[Any] = Store(INDEXERS[resource])
        queue: WorkQueue[Key] = WorkQueue("bench")

        def on_event(event: Any) -> None:
            queue.add(event.object.metadata.key, INITIAL if event.initial else 0)
            probe.handled()

        async with await connect(task.url) as client:
            reflector = Reflector(client, resource, store, on_event)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reflector.run())
                await reflector.synced.wait()
                tasks.create_task(_work(queue, store, probe))


async def connect(url: str, clock: Clock | None = None) -> Client:
    """A client of a server that asks for no credentials."""

    async def source() -> auth.Identity:
        return auth.Identity(url)

    clock = clock or SystemClock()
    return Client(await auth.Auth.load(source, clock), user_agent="bench", clock=clock)


async def _work(queue: WorkQueue[Key], store: Store[Any], probe: Probe) -> None:
    while (key := await queue.get()) is not None:
        found = store.get(key)
        if found is not None:
            probe.reconciled(found.metadata.annotations[SENT])
        queue.forget(key)
        queue.done(key)


def _keep_collecting() -> None:
    """Let nobody in this process touch the collector."""
    ignore: Callable[..., None] = lambda *_: None  # noqa: E731  # four names for one nothing
    gc.disable = gc.enable = gc.freeze = gc.set_threshold = ignore


def _node(pod: Pod) -> tuple[str, ...]:
    return (pod.spec.node_name,)


def _owner(pod: Pod) -> tuple[str, ...]:
    owner = pod.metadata.controller()
    return (owner.uid,) if owner else ()


def _preset(workspace: Workspace) -> tuple[str, ...]:
    preset = workspace.inference.preset if workspace.inference else None
    return (preset.name,) if preset else ()


def _type(workspace: Workspace) -> tuple[str, ...]:
    return (workspace.resource.instance_type,)


if __name__ == "__main__":
    driver.run(Ours())
