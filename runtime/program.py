"""The edge of every program in a GPU pod: status server up, work done, one exit code, one termination report.

It knows how a program ends and nothing of what it does.
"""

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from runtime import contract, log
from runtime.contract import ExitCode, Phase, Reason
from runtime.fault import Fault
from runtime.status import Reporter, StatusServer, write_report

logger = logging.getLogger(__name__)


def run(
    work: Callable[[Reporter], None],
    *,
    phase: Phase,
    port: int = contract.STATUS_PORT,
    termination_log: Path = Path(contract.TERMINATION_LOG),
    internal: Reason = Reason.INTERNAL,
) -> int:
    """Run `work` under a status server and translate how it ended into an exit code and a termination report."""
    log.setup()
    signal.signal(signal.SIGTERM, preempt)
    reporter = Reporter(phase)
    with StatusServer(reporter, port=port):
        try:
            work(reporter)
            reporter.succeed()
        except Fault as fault:
            reporter.fail(fault)
        except Exception as error:
            logger.exception("unexpected error")
            reporter.fail(Fault(ExitCode.INTERNAL, internal, f"{type(error).__name__}: {error}"))
    write_report(reporter.status, termination_log)
    return reporter.status.exit or 0


def preempt(_signal: int, _frame: FrameType | None) -> None:
    """Answer SIGTERM. Process 1 of a container ignores it unless somebody handles it."""
    raise Fault(ExitCode.PREEMPTED, Reason.PREEMPTED, "stopped by SIGTERM; the next pod goes on")
