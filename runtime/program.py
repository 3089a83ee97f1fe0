"""The edge of every program in a GPU pod: status server up, work done, one exit code, one termination report.

It knows how a program ends and nothing of what it does.
"""

import argparse
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from runtime import contract, log
from runtime.contract import ExitCode, Phase, Reason, Status
from runtime.fault import Fault
from runtime.status import Reporter, StatusServer, always, write_report

logger = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """Ends with the contract's code on a bad command line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage()
        self.exit(ExitCode.CONFIG_INVALID, f"{self.prog}: {message}\n")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every program has."""
    parser.add_argument("--port", type=int, default=contract.STATUS_PORT, help="of the status server")
    parser.add_argument("--termination-log", type=Path, default=Path(contract.TERMINATION_LOG), metavar="FILE")


def preempt(_signal: int, _frame: FrameType | None) -> None:
    """Answer SIGTERM. Process 1 of a container ignores it unless somebody handles it."""
    raise Fault(ExitCode.PREEMPTED, Reason.PREEMPTED, "stopped by SIGTERM; the next pod goes on")


def ignore_sigterm() -> None:
    """Let nothing undo what is done. A handler instead of SIG_IGN, which programs that we start would inherit."""
    signal.signal(signal.SIGTERM, lambda *_: None)


def run(
    work: Callable[[Reporter], None],
    *,
    phase: Phase,
    port: int = contract.STATUS_PORT,
    termination_log: Path = Path(contract.TERMINATION_LOG),
    internal: Reason = Reason.INTERNAL,
    on_sigterm: Callable[[int, FrameType | None], None] = preempt,
    live: Callable[[Status], bool] = always,
    ready: Callable[[Status], bool] = always,
) -> int:
    """Run `work` under a status server and translate how it ended into an exit code and a termination report."""
    log.setup()
    signal.signal(signal.SIGTERM, on_sigterm)
    reporter = Reporter(phase)
    with StatusServer(reporter, port=port, live=live, ready=ready):
        try:
            try:
                work(reporter)
            finally:
                ignore_sigterm()  # how it ended is settled; what is left is to say so
            reporter.succeed()
        except Fault as fault:
            reporter.fail(fault)
        except Exception as error:
            logger.exception("unexpected error")
            reporter.fail(Fault(ExitCode.INTERNAL, internal, f"{type(error).__name__}: {error}"))
    write_report(reporter.status, termination_log)
    return reporter.status.exit or 0
