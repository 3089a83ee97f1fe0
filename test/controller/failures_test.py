"""What is remembered of failed Jobs: each waits twice as long as the one before, up to ten minutes; no other Job's failure counts."""

from controller.diagnosis import Problem
from controller.failures import Failures
from kube.api.workload import Job
from kube.api.workspace import Workspace
from kube.meta import ObjectMeta
from runtime import contract
from test.clock import VirtualClock

WORKSPACE = Workspace(metadata=ObjectMeta(name="demo", namespace="ns", uid="w"))
SECRET_MISSING = Problem(contract.Reason.SECRET_MISSING, "Secret registry-push does not exist")
DATASET_INVALID = Problem(contract.Reason.DATASET_INVALID, "row 3 has no answer")


def job(number: int) -> Job:
    return Job(metadata=ObjectMeta(name="demo", namespace="ns", uid=f"j{number}"))


async def test_a_mendable_failure_is_due_after_one_two_four_eight_and_ten_minutes() -> None:
    clock = VirtualClock()
    failures = Failures(clock)
    for number, minutes in enumerate([1, 2, 4, 8, 10, 10]):
        failures.add(WORKSPACE, job(number), SECRET_MISSING)
        await clock.advance(minutes * 60 - 1)
        assert not failures.due(WORKSPACE, job(number))
        await clock.advance(1)
        assert failures.due(WORKSPACE, job(number))
    failures.forget(WORKSPACE)
    assert not failures.due(WORKSPACE, job(5))
    assert failures.add(WORKSPACE, job(6), SECRET_MISSING).moment == clock.monotonic() + 60


async def test_what_only_an_edit_mends_is_never_due() -> None:
    clock = VirtualClock()
    failures = Failures(clock)
    failures.add(WORKSPACE, job(1), DATASET_INVALID)
    await clock.advance(86400)
    assert not failures.due(WORKSPACE, job(1))


async def test_nothing_is_known_of_another_job_than_the_one_that_failed() -> None:
    clock = VirtualClock()
    failures = Failures(clock)
    failures.add(WORKSPACE, job(1), SECRET_MISSING)
    await clock.advance(600)
    assert failures.of(WORKSPACE, job(2)) is None
    assert not failures.due(WORKSPACE, job(2))
    known = failures.of(WORKSPACE, job(1))
    assert known is not None
    assert known.problem == SECRET_MISSING
