"""The controller's own figures. KAITO's names where it has one.

Every series whose labels are known beforehand exists from the first scrape, so that a first failure is an increase. The
presets of `kaito_workspace_preset_count` are not: a preset has a series while a Workspace uses it.
`kaito_workspace_count` is computed while scraping, from the store; nothing is counted on the way of a reconcile but
moments that happen once.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kube.api.workspace import ConditionType, Workspace

PHASES = ("succeeded", "error", "pending", "deleting")
# From a cached image on a warm node to a 400 GiB model on a new one.
BUCKETS = (5, 15, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200)


def phase(workspace: Workspace) -> str:
    """Return KAITO's phase, with pending told apart from error (KAITO counts both as error)."""
    if workspace.metadata.deleting:
        return "deleting"
    root = next((c for c in workspace.status.conditions if c.type == ConditionType.WORKSPACE_READY), None)
    if root is not None and root.true:
        return "succeeded"
    return "error" if workspace.status.state in ("Failed", "NotReady") else "pending"


class Metrics:
    """Registers with the given registry, once per process."""

    def __init__(self, registry: CollectorRegistry, workspaces: Callable[[], Iterable[Workspace]]) -> None:
        registry.register(_Workspaces(workspaces))
        self.ready_seconds = Histogram(
            "kaito_workspace_time_to_ready_seconds",
            "Seconds from the creation of a Workspace to its first WorkspaceReady=True.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.nodes_seconds = Histogram(
            "kaito_workspace_time_to_nodes_seconds",
            "Seconds from the creation of a Workspace to its first ResourceReady=True.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.tuned_seconds = Histogram(
            "kaito_workspace_time_to_tuned_seconds",
            "Seconds from the creation of a Workspace to its first Tuned=True.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.claims_created = Counter(
            "kaito_nodeclaims_created",
            "NodeClaims created, by whether they replace an earlier one. Alarm: a rising rate of replacements.",
            ["replacement"],
            registry=registry,
        )
        for replacement in ("false", "true"):
            self.claims_created.labels(replacement)
        self.tuning_failures = Counter(
            "kaito_tuning_job_failures", "Tuning Jobs that ended in failure.", registry=registry
        )


class _Workspaces(Collector):
    def __init__(self, workspaces: Callable[[], Iterable[Workspace]]) -> None:
        self._workspaces = workspaces

    def describe(self) -> Iterable[Metric]:
        """Return names alone: a registry asks before there is a store to count in."""
        yield GaugeMetricFamily("kaito_workspace_count", "")
        yield GaugeMetricFamily("kaito_workspace_preset_count", "")

    def collect(self) -> Iterable[Metric]:
        present = list(self._workspaces())
        tally = Tally(phase(workspace) for workspace in present)
        count = GaugeMetricFamily("kaito_workspace_count", "Workspaces by phase.", labels=["phase"])
        for name in PHASES:
            count.add_metric([name], tally[name])
        yield count
        presets = GaugeMetricFamily("kaito_workspace_preset_count", "Workspaces by preset.", labels=["preset_name"])
        for name, number in sorted(Tally(_preset(workspace) for workspace in present).items()):
            presets.add_metric([name], number)
        yield presets


def _preset(workspace: Workspace) -> str:
    spec = workspace.inference or workspace.tuning
    return spec.preset.name if spec is not None and spec.preset is not None else "custom"
