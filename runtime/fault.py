"""The one error type of the programs in GPU pods: why a program cannot go on, in the words that the user reads.

Foreign errors (subprocess, HTTP, torch, YAML) are translated into a `Fault` where they arise, by type or code and never
by message text. It knows the contract's codes and nothing of who reads them.
"""

from runtime.contract import ExitCode, Reason


class Fault(Exception):  # it is named after what it is, as in "page fault"
    """Ends the program with `exit`, unless the caller retries. `reason` and `str(fault)` reach the Workspace's condition.

    `retry` says whether the same attempt may succeed later without a change of the Workspace: a server that is down,
    a Secret that somebody may mend.
    """

    def __init__(self, exit: ExitCode, reason: Reason, message: str, *, retry: bool = False) -> None:  # noqa: A002
        super().__init__(message)
        self.exit = exit
        self.reason = reason
        self.retry = retry


def config_invalid(message: str) -> Fault:
    return Fault(ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID, message)
