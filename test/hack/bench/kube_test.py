"""The bench's command line and the tasks that it hands to candidates."""

import pytest

from hack.bench import kube, report
from hack.bench.measurements import IDS
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


def test_the_documentation_has_a_place_for_the_table() -> None:
    assert "a new table" in report.insert(kube.DOCUMENT.read_text(encoding="utf-8"), "a new table")


def test_a_task_survives_the_way_through_argv() -> None:
    task = Task("churn", 1, 2, 3, 4, (Load(5), Load(6, 300)), 7.0, "dead", ("collected",))
    assert Task.decode(task.encode()) == task
