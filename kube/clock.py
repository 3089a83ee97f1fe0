"""Where the time comes from.

Everything that waits or stamps for somebody takes a `Clock`, so that a test can jump hours without waiting. Two times exist:
`monotonic` measures durations and deadlines (leases, backoff) and never jumps; `now` is wall time for humans and wire formats.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of the code knows about time."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time; at once when not positive."""


class SystemClock:
    """The machine's time."""

    monotonic = staticmethod(time.monotonic)

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0))


def timestamp(moment: datetime) -> str:
    """Format as metav1.Time does: RFC 3339, UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(moment: datetime) -> str:
    """Format as metav1.MicroTime does (Lease, Event): six digits of fraction."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """Parse metav1.Time or MicroTime. Raises ValueError on anything else."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
