"""When things happened in the cluster, by this machine's own clock.

Timestamps in Kubernetes objects have whole seconds, too coarse for the figures that the demo and e2e print. A Recorder
watches the few kinds that matter with the official client and notes the monotonic time at which each *fact* about an
object was first seen: `Added`, a condition that is True, what a condition gave as its reason, GPUs that became
allocatable, a first training step. Each watch goes on where the one before it ended, so that what was true for a
moment only is seen too. It judges nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu")
WATCH_SECONDS = 20  # one watch request; short, so that a stopped recorder's threads end soon
RECONNECT_SECONDS = 0.5

Fact = tuple[str, str, str]  # kind, name, what


def facts(kind: str, item: Mapping[str, Any]) -> Iterator[str]:
    """Name what is true of an object now, in words that stay stable: "Added", "Ready", "Ready KubeletReady", "Gpus" …"""
    yield "Added"
    status = item.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["status"] == "True":
            yield condition["type"]
        yield f"{condition['type']} {condition.get('reason', '')}"
    if kind == "Workspace" and (status.get("tuning") or {}).get("step", 0) > 0:
        yield "Step"
    if kind == "Node" and any(int((status.get("allocatable") or {}).get(name, 0)) for name in GPU_RESOURCES):
        yield "Gpus"


class Recorder:
    """Watches Workspaces, NodeClaims, Nodes and Pods from `start` to `stop`."""

    def __init__(self, kubeconfig: Path) -> None:
        self._api = config.new_client_from_config(config_file=str(kubeconfig))
        self._seen: dict[Fact, float] = {}  # written under _lock, first sight only
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> "Recorder":
        custom = client.CustomObjectsApi(self._api)
        core = client.CoreV1Api(self._api)
        sources: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "Workspace": (
                custom.list_cluster_custom_object,
                {"group": "kaito.sh", "version": "v1beta1", "plural": "workspaces"},
            ),
            "NodeClaim": (
                custom.list_cluster_custom_object,
                {"group": "karpenter.sh", "version": "v1", "plural": "nodeclaims"},
            ),
            "Node": (core.list_node, {}),
            "Pod": (core.list_pod_for_all_namespaces, {}),
        }
        for kind, (list_call, arguments) in sources.items():
            thread = threading.Thread(target=self._record, args=(kind, list_call, arguments), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        self._stopping.set()

    def when(self, kind: str, name: str, what: str) -> float | None:
        """Monotonic seconds at which the fact was first seen; None when it was not."""
        with self._lock:
            return self._seen.get((kind, name, what))

    def names(self, kind: str) -> list[str]:
        """Names of that kind, in the order in which they appeared."""
        with self._lock:
            added = [(moment, fact[1]) for fact, moment in self._seen.items() if fact[0] == kind and fact[2] == "Added"]
        return [name for _, name in sorted(added)]

    def note(self, kind: str, item: Mapping[str, Any], moment: float) -> None:
        """Keep what is true of an object, at that moment, unless it was seen before."""
        with self._lock:
            for what in facts(kind, item):
                self._seen.setdefault((kind, item["metadata"]["name"], what), moment)

    def _record(self, kind: str, list_call: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        watcher = watch.Watch()
        while not self._stopping.is_set():
            try:
                since = {"resource_version": watcher.resource_version} if watcher.resource_version else {}
                for event in watcher.stream(list_call, timeout_seconds=WATCH_SECONDS, **since, **arguments):
                    self.note(kind, event["raw_object"], time.monotonic())
                    if self._stopping.is_set():
                        return
            except (client.ApiException, OSError, client.rest.urllib3.exceptions.HTTPError):
                # The kind is not served yet, the API server is away or has forgotten where we were: begin anew.
                watcher = watch.Watch()
                self._stopping.wait(RECONNECT_SECONDS)
