"""How long to wait: until the next try of a claim that was refused, and until a claim counts as failed.

Delays follow the class of the refusal; deadlines are those of the settings, of time that counts (`uptime`). In memory
alone: after a restart each claim is tried once more.
"""

import random
from collections.abc import Mapping

from kube.api.nodeclaim import LAUNCHED, REGISTERED
from kube.api.reasons import ClaimReason
from provisioner.claims import launch_time
from provisioner.cloud import (
    CloudError,
    ClusterBusy,
    ClusterNotRunning,
    Instance,
    InstanceExists,
    PolicyDenied,
    State,
    SubnetFull,
    Throttled,
    Unauthorized,
    UnknownOutcome,
)
from provisioner.context import Context, Draft

# First delay and longest delay in seconds, doubling in between, where the answer names none of its own.
DELAYS: Mapping[type[CloudError], tuple[float, float]] = {
    ClusterBusy: (10, 60),
    ClusterNotRunning: (10, 10),  # as often as the state of the cluster is read anyway
    UnknownOutcome: (1, 30),
    InstanceExists: (0.2, 30),  # taken, says the PUT; absent, says the GET: somebody's delete is about to end
    Throttled: (30, 60),
    SubnetFull: (120, 600),
    Unauthorized: (300, 300),
    PolicyDenied: (300, 300),
}
OTHERS = (10, 300)
JITTER = 0.2  # so that claims that were refused together do not come back together


class Patience:
    """One per process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._trouble: dict[str, tuple[int, float]] = {}  # name → refusals in a row, monotonic moment of the next try

    def refused(self, name: str, error: CloudError) -> float:
        """Note a refusal; returns the seconds until the next try, more each time."""
        if isinstance(error, ClusterNotRunning):
            self._context.uptime.interrupted()
        refusals = self._trouble.get(name, (0, 0.0))[0]
        first, longest = DELAYS.get(type(error), OTHERS)
        delay = min(longest, first * 2**refusals) * random.uniform(1 - JITTER, 1 + JITTER)
        seconds = error.retry_after or delay
        self._trouble[name] = (refusals + 1, self._context.clock.monotonic() + seconds)
        return seconds

    def wait(self, name: str) -> float:
        """Seconds until the next try; not positive when it is due."""
        return self._trouble.get(name, (0, 0.0))[1] - self._context.clock.monotonic()

    def forget(self, name: str) -> None:
        """The claim has its machine, or is gone."""
        self._trouble.pop(name, None)

    def left(self, draft: Draft, instance: Instance | None) -> float:
        """Seconds until the claim has failed for want of a node."""
        settings = self._context.settings
        if instance is not None and instance.state is State.SUCCEEDED:
            since = self._context.inventory.in_state_since(draft.name)
            return settings.registration_timeout - (self._context.uptime.elapsed(since) if since else 0.0)
        return self._limit(instance) - self._age(draft, instance)

    def expired(self, draft: Draft, instance: Instance | None = None) -> bool:
        """Whether the time is up, in which case the claim has now failed."""
        if self.left(draft, instance) > 0:
            return False
        last = draft.conditions.get(LAUNCHED)
        why = f"; the last obstacle: {last.message}" if last else ""
        if instance is not None and instance.state is State.SUCCEEDED:
            minutes = self._context.settings.registration_timeout / 60
            message = (
                f"No node of agent pool {draft.name} joined within {minutes:.0f} min: can its subnet reach the cluster?"
            )
            draft.fail(REGISTERED, ClaimReason.REGISTRATION_TIMEOUT, message)
        else:
            message = f"No machine within {self._limit(instance) / 60:.0f} min{why}"
            draft.fail(LAUNCHED, ClaimReason.LAUNCH_TIMEOUT, message)
        return True

    def _limit(self, instance: Instance | None) -> float:
        """Without a pool the cluster has been busy or the subnet full, and that may take as long again."""
        return self._context.settings.launch_timeout * (1 if instance else 2)

    def _age(self, draft: Draft, instance: Instance | None) -> float:
        """Seconds since the last request if that made a pool, else since the claim was first seen."""
        began = (launch_time(draft.claim) if instance else None) or draft.since(LAUNCHED)
        return self._context.uptime.elapsed(began)
