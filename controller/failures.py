"""What is remembered of failed Jobs: why each Workspace's last one failed, and from when on it is tried again.

A reason is found out once, so that it does not waver with a cache that is behind. Kept in memory alone: after a restart it is
found out again, and the waiting starts anew. Knows neither pods nor the status.
"""

from dataclasses import dataclass

from controller.diagnosis import Problem
from kube.api.workload import Job
from kube.api.workspace import Workspace
from kube.backoff import ItemExponential
from kube.clock import Clock
from runtime import contract

# What somebody may mend outside of the Workspace: the Job is tried again by itself, after 1, 2, 4, 8, 10 … minutes.
MENDABLE = frozenset(
    {
        contract.Reason.SECRET_MISSING,
        contract.Reason.DATA_UNREACHABLE,
        contract.Reason.WEIGHTS_UNREACHABLE,
        contract.Reason.ADAPTER_UNREACHABLE,
        contract.Reason.PULL_UNAUTHORIZED,
        contract.Reason.PUSH_UNAUTHORIZED,
        contract.Reason.PUSH_DENIED,
        contract.Reason.REGISTRY_UNAVAILABLE,
        contract.Reason.ACCELERATOR_MISSING,
    }
)
RETRY_SECONDS = (60.0, 600.0)


@dataclass(frozen=True)
class Failure:
    """Why a Job failed, and the moment from which on it is tried again; none where only an edit helps."""

    job: str  # its UID
    problem: Problem
    moment: float | None


class Failures:
    """By the Workspace's UID."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._backoff: ItemExponential[str] = ItemExponential(*RETRY_SECONDS)
        self._last: dict[str, Failure] = {}

    def of(self, workspace: Workspace, job: Job) -> Failure | None:
        """Return what is known of this very Job."""
        last = self._last.get(workspace.metadata.uid)
        return last if last is not None and last.job == job.metadata.uid else None

    def add(self, workspace: Workspace, job: Job, problem: Problem) -> Failure:
        """Remember why a Job failed, and decide when it is tried again."""
        uid, moment = workspace.metadata.uid, None
        if problem.reason in MENDABLE:
            moment = self._clock.monotonic() + self._backoff.when(uid)
        self._last[uid] = Failure(job.metadata.uid, problem, moment)
        return self._last[uid]

    def due(self, workspace: Workspace, job: Job) -> bool:
        """Whether this Job has failed and waited long enough to be tried again."""
        failure = self.of(workspace, job)
        return failure is not None and failure.moment is not None and self._clock.monotonic() >= failure.moment

    def forget(self, workspace: Workspace) -> None:
        """The Workspace is gone, or its training has succeeded."""
        self._backoff.forget(workspace.metadata.uid)
        self._last.pop(workspace.metadata.uid, None)
