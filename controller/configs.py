"""The ConfigMaps that Workspaces refer to, each watched by name and only while something refers to it.

One watch per name keeps the many other ConfigMaps of a cluster out of our memory. Knows who refers to what, and tells
the loop which Workspace to look at when a ConfigMap appears, changes or goes. Knows nothing of what is in them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from kube.api.workload import CONFIG_MAPS, ConfigMap
from kube.client import Client
from kube.clock import Clock, SystemClock
from kube.delta import Event
from kube.informer import Informer
from kube.meta import Key
from kube.store import Store

SYNC_SECONDS = 10  # a list of one object; longer means that the API server is in trouble, and the reconcile is retried


@dataclass
class _Watched:
    informer: Informer[ConfigMap]
    task: asyncio.Task[None]
    users: set[Key] = field(default_factory=set)


class Configs:
    """Ask with `get`; `run` must be running. A Workspace refers to at most one ConfigMap at a time."""

    def __init__(self, client: Client, changed: Callable[[Key], None], clock: Clock | None = None) -> None:
        self._client = client
        self._changed = changed
        self._clock = clock or SystemClock()
        self._watched: dict[Key, _Watched] = {}
        self._refers: dict[Key, Key] = {}
        self._started = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Hold the watches until cancelled."""
        async with self._tasks:
            self._started.set()
            await asyncio.Event().wait()

    async def get(self, workspace: Key, name: str) -> ConfigMap | None:
        """Return the ConfigMap that the Workspace refers to from now on, None where it does not exist."""
        config = Key(workspace.namespace, name)
        if self._refers.get(workspace) != config:
            self.forget(workspace)
        await self._started.wait()
        watched = self._watched.get(config) or self._watch(config)
        watched.users.add(workspace)
        self._refers[workspace] = config
        async with asyncio.timeout(SYNC_SECONDS):  # not wait_for, which in Python 3.11 may swallow a cancellation
            await watched.informer.synced.wait()
        return watched.informer.store.get(config)

    def forget(self, workspace: Key) -> None:
        """The Workspace refers to nothing any more; a watch without users ends."""
        config = self._refers.pop(workspace, None)
        if config is None:
            return
        watched = self._watched[config]
        watched.users.discard(workspace)
        if not watched.users:
            watched.task.cancel()
            del self._watched[config]

    def _watch(self, config: Key) -> _Watched:
        informer: Informer[ConfigMap] = Informer(
            self._client,
            CONFIG_MAPS,
            Store(),
            namespace=config.namespace,
            field_selector=f"metadata.name={config.name}",
            clock=self._clock,
        )
        informer.subscribe(lambda event: self._tell(config, event))
        watched = _Watched(informer, self._tasks.create_task(informer.run(), name=f"configmap {config}"))
        self._watched[config] = watched
        return watched

    def _tell(self, config: Key, event: Event[ConfigMap]) -> None:
        if event.initial:  # whoever asked first is waiting for it in `get`
            return
        for workspace in self._watched[config].users:
            self._changed(workspace)
