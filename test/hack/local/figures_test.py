"""What a Recorder keeps of the objects that it sees, and what the figures make of it."""

from pathlib import Path
from typing import Any

import pytest

from hack.local import figures
from hack.local.figures import NEVER, Figure
from hack.local.recorder import Recorder, facts
from test.hack.local.demo_test import KUBECONFIG

CLAIM = {"metadata": {"name": "ws1", "labels": {"kaito.sh/workspace": "phi"}}, "status": {"nodeName": "node"}}


def seen(name: str, *true: str, **status: Any) -> dict[str, Any]:
    conditions = [{"type": type_, "status": "True", "reason": f"{type_}Now"} for type_ in true]
    return {"metadata": {"name": name}, "status": {"conditions": conditions, **status}}


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """It has seen one session: everything in one step each, half a second apart."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    recorder = Recorder(tmp_path / "kubeconfig")
    recorder.note("Workspace", seen("phi"), 0.0)
    recorder.note("NodeClaim", seen("ws1"), 0.5)
    recorder.note("Node", seen("node", "Ready"), 1.0)
    recorder.note("Node", seen("node", "Ready", allocatable={"nvidia.com/gpu": "1"}), 1.5)
    recorder.note("NodeClaim", seen("ws1", "Ready"), 2.0)
    return recorder


def values(recorder: Recorder) -> list[float]:
    return [figure.value for figure in figures.latencies(recorder, [CLAIM])]


def test_a_fact_keeps_the_moment_at_which_it_was_first_seen(recorder: Recorder) -> None:
    recorder.note("Node", seen("node", "Ready"), 9.0)
    assert recorder.when("Node", "node", "Ready") == 1.0
    assert recorder.names("Workspace") == ["phi"]


def test_reasons_are_facts_also_of_a_condition_that_is_not_true() -> None:
    lost = {"type": "WorkspaceReady", "status": "False", "reason": "NodeDeleted"}
    assert set(facts("Workspace", {"status": {"conditions": [lost]}})) == {"Added", "WorkspaceReady NodeDeleted"}


@pytest.mark.parametrize(("step", "known"), [(0, False), (1, True)])
def test_a_training_goes_on_from_its_first_step(step: int, known: bool) -> None:
    assert ("Step" in facts("Workspace", seen("phi", tuning={"step": step, "totalSteps": 60}))) is known


def test_a_delay_runs_from_the_last_of_its_causes(recorder: Recorder) -> None:
    recorder.note("Pod", seen("phi-0", "Ready"), 3.0)
    recorder.note("Workspace", seen("phi", "WorkspaceReady"), 3.25)
    assert values(recorder) == [0.5, 0.5, 0.25]


def test_what_was_never_seen_is_a_figure_that_is_missed(recorder: Recorder) -> None:
    recorder.note("Workspace", seen("phi", "WorkspaceReady"), 3.0)  # but no pod of it was ever Ready
    recorder.note("Workspace", seen("second"), 3.0)
    assert values(recorder) == [0.5, 0.5, NEVER]
    assert not Figure("pod Ready → WORKSPACEREADY True", NEVER, "s", 2).ok


def test_one_of_two_claims_that_was_not_seen_is_enough_to_miss(recorder: Recorder) -> None:
    unseen = {"metadata": {"name": "ws2", "labels": {"kaito.sh/workspace": "phi"}}}
    assert [figure.value for figure in figures.latencies(recorder, [CLAIM, unseen])][:2] == [NEVER, NEVER]
