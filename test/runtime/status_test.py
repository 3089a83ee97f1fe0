"""The status server, the reporter and the edge of a program. What the programs report is covered in their own tests."""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runtime import contract, log, program
from runtime.contract import ExitCode, Phase, Reason, Status
from runtime.fault import Fault, config_invalid
from runtime.status import Reporter, StatusServer, metrics_text, write_report
from test.expect import TIMEOUT, wait_until


def get(server: StatusServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=TIMEOUT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Ticks:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_status_shows_the_snapshot_as_the_contract_encodes_it() -> None:
    reporter = Reporter(Phase.TRAINING)
    reporter.update(step=3, total_steps=40, loss=1.5)
    reporter.warn("TemplatePatched", "prefix masks")
    with StatusServer(reporter, port=0) as server:
        code, body = get(server, "/status")
    assert code == 200
    assert contract.decode(Status, body) == reporter.status
    assert json.loads(body)["step"] == 3


def test_probes_follow_their_hooks_and_say_why_not() -> None:
    reporter = Reporter(Phase.LOADING)
    with StatusServer(reporter, port=0, ready=lambda status: status.phase == Phase.READY) as server:
        assert get(server, "/livez") == (200, "ok\n")
        code, body = get(server, "/readyz")
        assert code == 503
        assert "Loading" in body
        reporter.update(phase=Phase.READY)
        assert get(server, "/readyz")[0] == 200
        assert get(server, "/nothing")[0] == 404


def test_a_client_that_resets_its_connection_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with StatusServer(Reporter(), port=0) as server:
        answered = threading.Event()
        end = server._http.shutdown_request

        def ended(request: Any) -> None:
            end(request)
            answered.set()

        monkeypatch.setattr(server._http, "shutdown_request", ended)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset
            client.sendall(b"GET /sta")
        assert answered.wait(TIMEOUT)
    assert "Error" not in capfd.readouterr().err


def test_a_handler_that_breaks_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_status: Status) -> bool:
        raise KeyError("no such thing")

    with StatusServer(Reporter(), port=0, live=broken) as server, pytest.raises(http.client.RemoteDisconnected):
        get(server, "/livez")
    assert "no such thing" in caplog.text


def test_every_metric_series_exists_before_anything_happened() -> None:
    text = metrics_text(Reporter())
    assert "kaito_model_download_remaining_seconds -1.0" in text
    assert "kaito_model_download_speed_bytes_per_second NaN" in text
    assert 'runtime_phase{phase="Fetching"} 1.0' in text
    assert 'runtime_phase{phase="Training"} 0.0' in text
    assert "runtime_tuning_loss NaN" in text


def test_download_speed_and_remaining_time_follow_from_the_reports() -> None:
    ticks = Ticks()
    reporter = Reporter(monotonic=ticks)
    reporter.downloaded(0, 1000)
    ticks.now = 2.0
    reporter.downloaded(200, 1000)
    assert reporter.status.bytes_per_second == 100
    assert reporter.status.eta_seconds == 8


def test_trouble_shows_its_reason_until_it_is_over() -> None:
    reporter = Reporter()
    reporter.trouble(Fault(ExitCode.INPUT_MISSING, Reason.DATA_UNREACHABLE, "no answer", retry=True))
    assert (reporter.status.reason, reporter.status.message) == ("DataUnreachable", "no answer")
    reporter.recovered()
    assert reporter.status.reason == ""


def test_a_warning_may_be_taken_back_and_others_stay() -> None:
    reporter = Reporter()
    first, second = reporter.warn("A", "one"), reporter.warn("B", "two")
    assert reporter.warn("A", "one") == first
    reporter.withdraw(first)
    assert reporter.status.warnings == (second,)


@pytest.mark.parametrize(
    "text",
    [
        "https://user:s3cretpass@host/x",
        "https://h/x?sv=1&sig=s3cretpass%2B",
        "Authorization: Basic s3cretpass==",
        "hf_s3cretpasss3cretpass",
        "X-Amz-Signature: ?X-Amz-Signature=s3cretpass",
    ],
)
def test_credentials_do_not_reach_a_log_line(text: str) -> None:
    assert "s3cretpass" not in log.redact(text)


def test_a_concealed_value_is_never_shown_again() -> None:
    log.conceal("correct horse battery")
    assert "horse" not in log.redact("password correct horse battery was wrong")


def test_a_failed_program_leaves_its_code_and_reason_in_the_report(tmp_path: Path) -> None:
    report = tmp_path / "termination-log"
    report.touch()

    def work(_: Reporter) -> None:
        raise config_invalid("unknown key `lerning_rate`")

    code = program.run(work, phase=Phase.VALIDATING, port=0, termination_log=report)
    status = contract.decode(Status, report.read_text())
    assert code == ExitCode.CONFIG_INVALID
    assert (status.exit, status.reason, status.phase) == (64, "ConfigInvalid", "Failed")
    assert "lerning_rate" in status.message


def test_an_unexpected_error_is_the_programs_own_fault(tmp_path: Path) -> None:
    def work(_: Reporter) -> None:
        raise KeyError("x")

    assert program.run(work, phase=Phase.LOADING, port=0, termination_log=tmp_path / "none") == ExitCode.INTERNAL


def test_a_report_fits_the_kubelets_limit_and_keeps_its_reason() -> None:
    status = Status(exit=65, reason=Reason.DATASET_INVALID, message="ü" * 10_000)
    text = contract.encode_report(status)
    assert len(text.encode()) <= contract.TERMINATION_LIMIT
    assert contract.decode(Status, text).reason == Reason.DATASET_INVALID


HANGING = """
import sys, threading
from pathlib import Path
from runtime import contract, program
from runtime.contract import Phase
def work(reporter):
    print("up", flush=True)
    threading.Event().wait()
sys.exit(program.run(work, phase=Phase.FETCHING, port=0, termination_log=Path(sys.argv[1])))
"""


def test_sigterm_ends_a_program_with_the_preempted_code(tmp_path: Path) -> None:
    report = tmp_path / "termination-log"
    report.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(report)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."}
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == ExitCode.PREEMPTED
    assert contract.decode(Status, report.read_text()).reason == Reason.PREEMPTED


def test_sigterm_while_the_report_is_written_changes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "termination-log"
    report.touch()

    def disturbed(status: Status, path: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write_report(status, path)

    monkeypatch.setattr(program, "write_report", disturbed)
    assert program.run(lambda _: None, phase=Phase.FETCHING, port=0, termination_log=report) == ExitCode.OK
    assert contract.decode(Status, report.read_text()).phase == Phase.SUCCEEDED


def test_the_server_answers_at_once() -> None:
    """One of many is enough: a busy machine delays some of them, a timer of ours would delay all."""
    wait_until(lambda: _answers_after() < 0.2)


def _answers_after() -> float:
    started = time.monotonic()
    with StatusServer(Reporter(), port=0) as server:
        assert get(server, "/status")[0] == 200
        return time.monotonic() - started
