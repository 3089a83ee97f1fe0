"""The controller's figures: what exists from the first scrape, and what comes and goes with the Workspaces."""

import msgspec
from prometheus_client import CollectorRegistry

from controller.loop import Loop
from controller.metrics import PHASES, Metrics
from kube.api.workspace import Workspace
from test.controller.stage import INFERENCE, TUNING, Stage
from test.expect import eventually


def test_every_series_with_known_labels_exists_before_anything_has_happened() -> None:
    registry = CollectorRegistry()
    Metrics(registry, list)

    for name in PHASES:
        assert registry.get_sample_value("kaito_workspace_count", {"phase": name}) == 0
    for replacement in ("true", "false"):
        assert registry.get_sample_value("kaito_nodeclaims_created_total", {"replacement": replacement}) == 0
    assert registry.get_sample_value("kaito_tuning_job_failures_total") == 0
    for moment in ("nodes", "tuned", "ready"):
        assert registry.get_sample_value(f"kaito_workspace_time_to_{moment}_seconds_count") == 0


async def test_the_way_to_nodes_to_a_tuned_model_and_to_ready_is_measured_once_each(
    stage: Stage, controller: Loop
) -> None:
    metrics = controller.world.metrics

    def measured() -> list[float]:
        histograms = (metrics.nodes_seconds, metrics.tuned_seconds, metrics.ready_seconds)
        samples = [sample for each in histograms for family in each.collect() for sample in family.samples]
        return [sample.value for sample in samples if sample.name.endswith("_count")]

    stage.create(TUNING)
    await stage.tuned()
    await eventually(lambda: measured() == [1, 1, 0])
    await stage.serving()
    await eventually(lambda: measured() == [1, 1, 1])


def test_a_preset_has_a_series_while_a_workspace_uses_it() -> None:
    registry = CollectorRegistry()
    present: list[Workspace] = []
    Metrics(registry, lambda: present)
    labels = {"preset_name": INFERENCE["inference"]["preset"]["name"]}

    assert registry.get_sample_value("kaito_workspace_preset_count", labels) is None
    present.append(msgspec.convert(INFERENCE, Workspace))
    assert registry.get_sample_value("kaito_workspace_preset_count", labels) == 1
    present.clear()
    assert registry.get_sample_value("kaito_workspace_preset_count", labels) is None
