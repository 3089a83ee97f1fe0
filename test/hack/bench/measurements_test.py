"""The registry of measurements: that every target of the design is in it, and what is read from which run."""

from typing import Any

import pytest

from hack.bench import plan
from hack.bench.measurements import IDS, MEASUREMENTS, results
from hack.bench.plan import Run

DESIGN = ["T1", "T2", "T3", "T4", "T5", "T6", "T7", "T8", "T9", "T10", "GC"]


def planned(*, peers: bool = True) -> list[Run]:
    return [run for runs in (plan.repeated, plan.busy, plan.patient) for run in runs(IDS, peers)]


class Anything(dict[str, Any]):
    """Figures of a run that printed whatever is asked for."""

    def __missing__(self, name: str) -> float:
        return 2.0


def test_every_target_of_the_design_is_measured() -> None:
    assert list(IDS) == DESIGN


def test_every_measurement_finds_its_runs_in_the_plan() -> None:
    figures = {run.name: [Anything()] for run in planned()}
    found = results(figures, IDS)
    assert [each.measurement for each in found] == list(MEASUREMENTS)
    assert all(each.value is not None for each in found)
    assert all(set(each.peers) == set(each.measurement.shown) for each in found)


def test_without_peers_only_what_needs_none_is_reported() -> None:
    figures = {run.name: [Anything()] for run in planned(peers=False)}
    names = [each.measurement.name for each in results(figures, IDS)]
    assert names
    assert not [name for name in names if "kopf" in name or "SharedInformer" in name]


def test_a_run_that_failed_once_leaves_its_measurements_unmet() -> None:
    figures = {run.name: [Anything()] for run in planned()} | {"ours, reconciled": []}
    cost = next(each for each in results(figures, ["T1"]) if "worker" in each.measurement.name)
    assert cost.value is None
    assert not cost.ok


def test_only_the_runs_that_are_needed_are_planned() -> None:
    assert [run.name for run in plan.repeated(["T6"], True)] == ["queue floor", "queue ours"]
    assert not plan.patient(["T6"], True)
    assert not plan.busy(["T6"], True)


def test_events_at_a_rate_are_sent_only_where_the_latency_is_wanted() -> None:
    with_latency, without = (
        {load.rate for load in plan.repeated([each], False)[-1].task.loads} for each in ("T4", "T3")
    )
    assert with_latency == {0.0, 300, 3000}
    assert without == {0.0}


def test_a_ratio_is_taken_within_each_repetition() -> None:
    figures = {
        "ours, to the queue": [{"event_us": 10}, {"event_us": 30}],
        "floor": [{"event_us": 5}, {"event_us": 10}],
    }
    [cost] = results(figures, ["T1"])
    assert cost.value is not None
    assert (cost.value.least, cost.value.most) == (2.0, 3.0)


@pytest.mark.parametrize("row", ["T5", "GC"])
def test_one_repetition_in_which_the_loop_stood_still_is_one_too_many(row: str) -> None:
    figures = {run.name: [Anything(), Anything(), Anything(sync_stall_ms=31.0)] for run in planned()}
    stalls = [each for each in results(figures, [row]) if "stall" in each.measurement.name]
    assert stalls
    assert not any(each.ok for each in stalls)


def test_the_cost_of_a_worker_is_that_of_events_whose_reconcile_has_run() -> None:
    loads = {run.name: run.task.loads for run in plan.repeated(["T1"], False)}
    assert [load.reconciled for load in loads["ours, reconciled"]] == [True]
