"""What a program is doing, for whoever asks: `/status`, `/metrics`, `/livez`, `/readyz` on STATUS_PORT.

`Reporter` holds the one mutable record; `StatusServer` shows it from a thread with the standard library alone, so that
the first answer comes long before torch is imported, and still comes while it is busy. Neither knows which program it
reports for, and neither calls anybody: the controller and the kubelet come and ask.
"""

import collections
import dataclasses
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from runtime import contract, log
from runtime.contract import ExitCode, Phase, Reason, Status, Warning_
from runtime.fault import Fault

logger = logging.getLogger(__name__)

SAMPLES = 5  # of the download speed's window, as KAITO's monitor has


def always(_status: Status) -> bool:
    """The answer to a probe of a program that is fit as long as it runs."""
    return True


class Reporter:
    """The record of this program, safe to use from any thread. Readers take `status`, a frozen snapshot."""

    def __init__(self, phase: Phase = Phase.FETCHING, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._status = Status(phase=phase)
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._samples: collections.deque[tuple[float, int]] = collections.deque(maxlen=SAMPLES)
        self.collectors: list[Any] = []  # further prometheus_client collectors that /metrics shows

    @property
    def status(self) -> Status:
        return self._status

    def update(self, **changes: Any) -> Status:
        """Replace fields of the status, atomically. A new phase is logged."""
        with self._lock:
            before, self._status = self._status, dataclasses.replace(self._status, **changes)
        if before.phase != self._status.phase:
            logger.info("phase %s", self._status.phase, extra={"phase": self._status.phase})
        return self._status

    def warn(self, code: str, message: str) -> Warning_:
        """Add a warning, once per code and message; the program goes on."""
        warning = Warning_(code, log.redact(message))
        with self._lock:
            if warning in self._status.warnings:
                return warning
            self._status = dataclasses.replace(self._status, warnings=(*self._status.warnings, warning))
        logger.warning("%s", message, extra={"code": code})
        return warning

    def withdraw(self, warning: Warning_) -> None:
        """Take a warning back whose cause is gone."""
        with self._lock:
            kept = tuple(other for other in self._status.warnings if other != warning)
            self._status = dataclasses.replace(self._status, warnings=kept)

    def downloaded(self, done: int, total: int) -> None:
        """Report bytes of a download; speed and remaining time follow from the last few reports."""
        self._samples.append((self._monotonic(), done))
        (since, start), (now, end) = self._samples[0], self._samples[-1]
        speed = (end - start) / (now - since) if now > since and end > start else None
        remaining = (total - done) / speed if speed and total else None
        self.update(bytes_done=done, bytes_total=total, bytes_per_second=speed, eta_seconds=remaining)

    def trouble(self, fault: Fault) -> None:
        """Show why the program is retrying. Cleared by `recovered`."""
        self.update(reason=fault.reason, message=log.redact(str(fault)))
        logger.warning("%s; trying again", fault, extra={"reason": fault.reason})

    def recovered(self) -> None:
        self.update(reason="", message="")

    def succeed(self) -> None:
        self.update(phase=Phase.SUCCEEDED, exit=int(ExitCode.OK), reason="", message="", eta_seconds=None)

    def fail(self, fault: Fault) -> None:
        phase = Phase.FAILED if fault.reason != Reason.PREEMPTED else self._status.phase
        self.update(phase=phase, exit=int(fault.exit), reason=fault.reason, message=log.redact(str(fault)))
        logger.error("%s", fault, extra={"reason": fault.reason, "exit": int(fault.exit)})


class StatusServer:
    """Serves a reporter over HTTP for as long as the context is open.

    `live` and `ready` answer the probes; they run in the server's thread of that request and must be quick.
    Retry protocol: none needed, every answer is a snapshot.
    """

    def __init__(
        self,
        reporter: Reporter,
        *,
        port: int = contract.STATUS_PORT,
        live: Callable[[Status], bool] = always,
        ready: Callable[[Status], bool] = always,
    ) -> None:
        self.reporter = reporter
        self.live = live
        self.ready = ready
        self._http = _listen(port)
        self._http.app = self
        self.port: int = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="status", daemon=True)

    def __enter__(self) -> "StatusServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    app: StatusServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Log an error as this program logs; a client that went away is none."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            logger.error("cannot answer %s", client_address, exc_info=error)


class _DualStack(_Http):
    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def _listen(port: int) -> _Http:
    if not socket.has_dualstack_ipv6():
        return _Http(("", port), _Handler)
    try:
        return _DualStack(("", port), _Handler)
    except OSError:  # IPv6 is compiled in and switched off, as in many node images
        return _Http(("", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        app = self.server.app
        match self.path.partition("?")[0]:
            case "/status":
                self._answer(HTTPStatus.OK, contract.encode(app.reporter.status), "application/json")
            case "/metrics":
                self._answer(HTTPStatus.OK, metrics_text(app.reporter), "text/plain; version=0.0.4; charset=utf-8")
            case "/livez":
                self._probe(app.live)
            case "/readyz":
                self._probe(app.ready)
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "see /status /metrics /livez /readyz\n", "text/plain")

    def _probe(self, fit: Callable[[Status], bool]) -> None:
        status = self.server.app.reporter.status
        passed = fit(status)
        text = "ok\n" if passed else f"{status.phase} {status.reason} {status.message}".strip() + "\n"
        self._answer(HTTPStatus.OK if passed else HTTPStatus.SERVICE_UNAVAILABLE, text, "text/plain")

    def _answer(self, code: HTTPStatus, text: str, content_type: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a kubelet asks every few seconds."""


# name, field of Status, help. Series exist from the start; a value that is not known is NaN.
_GAUGES = (
    ("runtime_tuning_step", "step", "Optimiser steps done."),
    ("runtime_tuning_target_steps", "total_steps", "Optimiser steps that the run will make."),
    ("runtime_tuning_loss", "loss", "Training loss of the last logged step."),
    ("runtime_tuning_eval_loss", "eval_loss", "Loss on held-out rows at the last evaluation."),
    ("runtime_tuning_tokens_per_second", "tokens_per_second", "Training throughput."),
    ("runtime_tuning_remaining_seconds", "eta_seconds", "Expected time to the end of this phase."),
    ("runtime_tuning_checkpoint_step", "checkpoint_step", "Step of the last complete checkpoint."),
    ("runtime_download_bytes", "bytes_done", "Bytes fetched so far."),
    ("runtime_download_size_bytes", "bytes_total", "Bytes to fetch; 0 while unknown."),
    ("kaito_model_download_speed_bytes_per_second", "bytes_per_second", "Download speed, as KAITO names it."),
)


class _StatusCollector:
    """Shows a `Status` as Prometheus metrics at the moment of the scrape."""

    def __init__(self, status: Status) -> None:
        self.status = status

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import GaugeMetricFamily

        for name, field, text in _GAUGES:
            value = getattr(self.status, field)
            yield GaugeMetricFamily(name, text, value=float("nan") if value is None else value)
        fetching = self.status.phase == Phase.FETCHING and self.status.eta_seconds is not None
        yield GaugeMetricFamily(
            "kaito_model_download_remaining_seconds",
            "Expected time to the end of the download; -1 while unknown, as KAITO names it.",
            value=self.status.eta_seconds if fetching else -1,
        )
        phases = GaugeMetricFamily("runtime_phase", "1 for what the program is doing now.", labels=["phase"])
        for phase in Phase:
            phases.add_metric([str(phase)], float(phase == self.status.phase))
        yield phases


def metrics_text(reporter: Reporter) -> str:
    """Render the reporter and its further collectors in the Prometheus text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    for collector in (_StatusCollector(reporter.status), *reporter.collectors):
        registry.register(collector)
    return generate_latest(registry).decode()


def write_report(status: Status, path: Path = Path(contract.TERMINATION_LOG)) -> None:
    """Leave the termination report where the kubelet reads it. Outside a pod there is no such file, and no reader."""
    if path.exists():
        path.write_text(contract.encode_report(status))
