"""The figures of one session, each with its target: what the demo prints and e2e asserts.

Latencies are differences between two facts that one Recorder saw (this machine's clock, both through a watch), so they
include the watch's own delay on either side.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config

from hack.local.meter import Peak
from hack.local.recorder import Recorder

NEVER = float("inf")  # a delay whose end, or beginning, was not seen


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


def latencies(recorder: Recorder, claims: Sequence[Mapping[str, Any]]) -> Iterator[Figure]:
    """How long the controllers let the user wait; the worst of the session's Workspaces for each."""
    yield Figure("Workspace seen → NodeClaim seen", _worst(_claim_delays(recorder, claims)), "s", 0.1)
    yield Figure("Node Ready and GPUs allocatable → NodeClaim Ready", _worst(_ready_delays(recorder, claims)), "s", 1)
    yield Figure("pod Ready → WORKSPACEREADY True", _worst(_workspace_delays(recorder)), "s", 2)


def claims(kubeconfig: Path) -> list[dict[str, Any]]:
    """The NodeClaims that exist now."""
    custom = client.CustomObjectsApi(config.new_client_from_config(config_file=str(kubeconfig)))
    found: list[dict[str, Any]] = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
    return found


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


def memory(peak: Peak) -> Figure:
    return Figure("memory of the whole session, peak", peak.mib / 1024, "GiB", 16, peak.step)


def disk(peak: Peak, cached_mib: float) -> Figure:
    """`cached_mib` is what earlier runs left on the disk for this one: it needs that too."""
    return Figure("disk of the whole session, peak", (peak.mib + cached_mib) / 1024, "GiB", 35, peak.step)


def _worst(delays: Iterator[float]) -> float:
    return max(delays, default=NEVER)  # nothing seen is no success


def _claim_delays(recorder: Recorder, claims: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    for claim in claims:
        name, owner = claim["metadata"]["name"], claim["metadata"]["labels"].get("kaito.sh/workspace", "")
        yield _delay([recorder.when("Workspace", owner, "Added")], recorder.when("NodeClaim", name, "Added"))


def _ready_delays(recorder: Recorder, claims: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    for claim in claims:
        node = claim.get("status", {}).get("nodeName", "")
        causes = [recorder.when("Node", node, what) for what in ("Ready", "Gpus")]
        yield _delay(causes, recorder.when("NodeClaim", claim["metadata"]["name"], "Ready"))


def _workspace_delays(recorder: Recorder) -> Iterator[float]:
    for workspace in recorder.names("Workspace"):
        pod = recorder.when("Pod", f"{workspace}-0", "Ready")
        yield _delay([pod], recorder.when("Workspace", workspace, "WorkspaceReady"))


def _delay(causes: Sequence[float | None], effect: float | None) -> float:
    """From the last of the causes to the effect; NEVER when one of them was not seen."""
    moments = [moment for moment in causes if moment is not None]
    return effect - max(moments) if effect is not None and len(moments) == len(causes) else NEVER
