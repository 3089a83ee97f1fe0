"""The bench's command line and the tasks that it hands to candidates."""

import json
import sys
from pathlib import Path

import pytest

from hack.bench import kube, report
from hack.bench.measurements import IDS, MEASUREMENTS, Result
from hack.bench.stats import Summary
from hack.bench.task import Load, Task


def test_everything_is_measured_unless_told_otherwise() -> None:
    assert kube.parse([]) == kube.Options(IDS, kube.REPETITIONS, peers=True, write_docs=False)


def test_measurements_are_chosen_by_their_ids() -> None:
    options = kube.parse(["--only", "T1,T6", "--quick", "--no-peers"])
    assert options == kube.Options(("T1", "T6"), kube.QUICK_REPETITIONS, peers=False, write_docs=False)


def test_an_unknown_measurement_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kube.parse(["--only", "T99"])
    assert "no such measurement: T99" in capsys.readouterr().err


@pytest.mark.parametrize("less", [["--only", "T1"], ["--no-peers"]])
def test_the_documentation_is_not_overwritten_with_a_part(less: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        kube.parse(["--write-docs", *less])
    assert "shows everything" in capsys.readouterr().err


@pytest.mark.parametrize("less", [["--only", "T1"], ["--no-peers"]])
def test_the_results_of_a_part_do_not_replace_those_of_a_whole_run(
    less: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measure(options: kube.Options) -> tuple[list[Result], list[str]]:
        return [Result(measurement, Summary(1, 1, 1), {}) for measurement in MEASUREMENTS], []

    output = tmp_path / "bench" / "kube.json"
    monkeypatch.setattr(kube, "measure", measure)
    monkeypatch.setattr(kube, "OUTPUT", output)
    monkeypatch.setattr(kube, "PEERS_PYTHON", Path(sys.executable))
    assert kube.main([]) == 0
    assert len(json.loads(output.read_text())) == len(MEASUREMENTS)
    output.write_text("what was measured")
    assert kube.main(less) == 0
    assert output.read_text() == "what was measured"


def test_the_documentation_has_a_place_for_the_table() -> None:
    assert "a new table" in report.insert(kube.DOCUMENT.read_text(encoding="utf-8"), "a new table")


def test_a_task_survives_the_way_through_argv() -> None:
    task = Task("churn", 1, 2, 3, 4, (Load(5, reconciled=True), Load(6, 300)), 7.0, "dead", ("collected",))
    assert Task.decode(task.encode()) == task
