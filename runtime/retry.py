"""Trying again: exponential backoff with jitter until a deadline, the reason shown in `/status` all the while.

It decides by `Fault.retry` alone. What an attempt does, and that it reads its Secret anew each time, is the caller's.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from runtime.fault import Fault
from runtime.status import Reporter

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Seconds. `longest` bounds how long after its repair a Secret goes unnoticed."""

    deadline: float
    first: float = 1.0
    longest: float = 20.0


def until_deadline(schedule: Schedule, attempt: Callable[[], Result], reporter: Reporter) -> Result:
    """Return what `attempt` returns, once it does. Raises the last fault when it is final or the deadline has passed."""
    import tenacity

    def show(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, Fault):
            reporter.trouble(error)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, Fault) and error.retry),
        wait=tenacity.wait_exponential_jitter(multiplier=schedule.first, max=schedule.longest, jitter=schedule.first),
        stop=tenacity.stop_after_delay(schedule.deadline),
        before_sleep=show,
        reraise=True,
    )
    result = retrying(attempt)
    reporter.recovered()
    return result
