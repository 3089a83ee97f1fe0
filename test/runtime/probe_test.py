"""The exec probe against a real status server, and what it prints for people."""

import json
import sys
from collections.abc import Iterator

import pytest

from runtime import contract, probe
from runtime.contract import Phase, Reason, Status, Warning_
from runtime.status import Reporter, StatusServer


@pytest.fixture
def server() -> Iterator[StatusServer]:
    reporter = Reporter(Phase.READY)
    reporter.update(adapters=("tuned",))
    reporter.warn(Reason.ADAPTER_INVALID, "adapter other: rank 1024")
    with StatusServer(reporter, port=0, ready=lambda status: status.phase == Phase.READY) as started:
        yield started


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["probe", *words])
    return probe.main()


def test_yes_is_zero_and_no_is_one(server: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    port = f"--port={server.port}"
    assert run(monkeypatch, "ready", port) == 0
    server.reporter.update(phase=Phase.DRAINING)
    assert run(monkeypatch, "ready", port) == 1
    assert run(monkeypatch, "live", port) == 0


def test_no_program_is_a_no_with_its_reason(
    nowhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = nowhere.rpartition(":")[2]
    assert run(monkeypatch, "live", f"--port={port}") == 1
    assert f"no answer on port {port}" in capsys.readouterr().out


def test_the_status_as_json_is_the_contracts(
    server: StatusServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "status", "--json", f"--port={server.port}") == 0
    printed = capsys.readouterr().out
    assert json.loads(printed)["v"] == contract.VERSION
    assert contract.decode(Status, printed) == server.reporter.status


def test_people_read_what_is_known_and_no_more() -> None:
    status = Status(phase=Phase.TRAINING, step=3, total_steps=40, loss=0.25, warnings=(Warning_("Code", "words"),))
    assert probe.describe(status).splitlines() == [
        "phase:    Training",
        "step:     3/40",
        "loss:     0.2500",
        "warning:  Code: words",
    ]


def test_a_wrong_question_is_a_bad_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, "redy")
    assert caught.value.code == contract.ExitCode.CONFIG_INVALID
