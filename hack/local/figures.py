"""The figures of one session, each with its target: what the demo prints and e2e asserts.

Latencies are differences between two facts that one Recorder saw (this machine's clock, both through a watch), so they
include the watch's own delay on either side.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config

from hack.local.meter import Peak
from hack.local.recorder import Recorder


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    target: float  # at most
    where: str = ""  # in which step it was reached, where that is of interest

    @property
    def ok(self) -> bool:
        return self.value <= self.target

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "MISSED"
        words = f"{self.name:<58}{self.value:>10.3f} {self.unit:<4} target ≤ {self.target:g} {self.unit}  {verdict}"
        return f"{words}  (in: {self.where})" if self.where else words


def latencies(recorder: Recorder, kubeconfig: Path) -> Iterator[Figure]:
    """How long the controllers let the user wait; the worst of the session's Workspaces for each."""
    yield Figure("Workspace seen → NodeClaim seen", _worst(_claim_delays(recorder, kubeconfig)), "s", 0.1)
    yield Figure(
        "Node Ready and GPUs allocatable → NodeClaim Ready", _worst(_ready_delays(recorder, kubeconfig)), "s", 1
    )
    yield Figure("pod Ready → WORKSPACEREADY True", _worst(_workspace_delays(recorder)), "s", 2)


def controllers(kubeconfig: Path) -> Iterator[Figure]:
    """Resident memory of each controller, from its own metrics."""
    core = client.CoreV1Api(config.new_client_from_config(config_file=str(kubeconfig)))
    for pod in core.list_namespaced_pod("kaito-system").items:
        metrics = core.connect_get_namespaced_pod_proxy_with_path(
            f"{pod.metadata.name}:8080", "kaito-system", "metrics"
        )
        match = re.search(r"^process_resident_memory_bytes (\S+)$", metrics, re.MULTILINE)
        if match:
            name = pod.metadata.name.rsplit("-", 2)[0]
            yield Figure(f"memory of {name}", float(match[1]) / 1024 / 1024, "MiB", 120)


def machine(memory: Peak, disk: Peak, cached_mib: float) -> Iterator[Figure]:
    """What the whole demo needs; `cached_mib` is what earlier runs left on the disk for it."""
    yield Figure("memory of the whole demo, peak", memory.mib / 1024, "GiB", 16, memory.step)
    yield Figure("disk of the whole demo, peak", (disk.mib + cached_mib) / 1024, "GiB", 35, disk.step)


def _worst(delays: Iterator[float]) -> float:
    return max(delays, default=float("inf"))  # nothing seen is no success


def _claim_delays(recorder: Recorder, kubeconfig: Path) -> Iterator[float]:
    owners = _owners(kubeconfig)
    for claim in recorder.names("NodeClaim"):
        asked = recorder.when("Workspace", owners.get(claim, ""), "Added")
        made = recorder.when("NodeClaim", claim, "Added")
        if asked is not None and made is not None:
            yield made - asked


def _ready_delays(recorder: Recorder, kubeconfig: Path) -> Iterator[float]:
    for claim in _claims(kubeconfig):
        node = claim.get("status", {}).get("nodeName", "")
        moments = [recorder.when("Node", node, "Ready"), recorder.when("Node", node, "Gpus")]
        ready = recorder.when("NodeClaim", claim["metadata"]["name"], "Ready")
        known = [moment for moment in moments if moment is not None]
        if ready is not None and len(known) == len(moments):
            yield ready - max(known)


def _workspace_delays(recorder: Recorder) -> Iterator[float]:
    for workspace in recorder.names("Workspace"):
        pod = recorder.when("Pod", f"{workspace}-0", "Ready")
        ready = recorder.when("Workspace", workspace, "WorkspaceReady")
        if pod is not None and ready is not None:
            yield ready - pod


def _owners(kubeconfig: Path) -> dict[str, str]:
    """NodeClaim name → Workspace name, of the claims that exist now."""
    named = [claim["metadata"] for claim in _claims(kubeconfig)]
    return {metadata["name"]: metadata["labels"].get("kaito.sh/workspace", "") for metadata in named}


def _claims(kubeconfig: Path) -> list[dict[str, Any]]:
    custom = client.CustomObjectsApi(config.new_client_from_config(config_file=str(kubeconfig)))
    found: list[dict[str, Any]] = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
    return found
