"""Which time counts: not that in which the managed cluster stood still, nor that in which this process did not see it.

Every age that can cost a claim its machine is asked for here. After a stop the nodes are not ready and have not been for
a night, and none of that is their fault. In memory alone: after a restart all time counts anew, the safe side.
"""

from datetime import datetime

from kube.clock import Clock


class Uptime:
    """One per process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.now()

    def interrupted(self) -> None:
        """The cluster was just seen not running."""
        self._since = self._clock.now()

    def elapsed(self, since: datetime | None) -> float:
        """Seconds since that moment that count; None for a moment that nobody knows."""
        return (self._clock.now() - max(since or self._since, self._since)).total_seconds()
