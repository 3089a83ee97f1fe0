"""A Job's end is heard before its pods': the two watches are not in step, and what is kept for good must be whole."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.loop import Loop
from hack.local.controlplane import ControlPlane
from kube.client import Client
from test.clock import VirtualClock
from test.controller.stage import TUNING, Stage, at_rest, report, running
from test.expect import eventually
from test.kube.gateway import gateway

LAG = 1.0  # seconds that everything comes late that the watch of pods says


@pytest.fixture
async def lagging(apiserver: ControlPlane, tmp_path: Path) -> AsyncIterator[Client]:
    async with gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig):
        between.lag = lambda path: LAG if path.endswith("/pods") else 0.0
        async with await Client.connect(user_agent="controller", kubeconfig=kubeconfig) as client:
            yield client


@pytest.fixture
async def controller(lagging: Client, stage: Stage) -> AsyncIterator[Loop]:
    async with running(lagging) as loop:
        yield loop


async def test_the_digest_of_what_was_pushed_is_kept(stage: Stage, controller: Loop) -> None:
    digest = "sha256:" + "ef" * 32
    stage.create(TUNING)
    await stage.tuned(digest)
    assert stage.status()["tuning"]["artifact"] == {"ref": "private.example/team/adapter:1", "digest": digest}
    assert stage.status()["tuning"]["step"] == 40
    assert digest in stage.condition("Tuned")["message"]
    await eventually(lambda: digest in str(stage.stateful_set()))


async def test_why_a_job_failed_is_what_its_pod_says(stage: Stage, controller: Loop) -> None:
    stage.create(TUNING)
    pod = await stage.training()
    stage.end_main(pod, 65, report(65, "DatasetInvalid", "row 3 has no answer"))
    stage.end_job("Failed", "Job has reached the specified backoff limit")
    await stage.reads(JobStarted="F WorkspaceTuningJobStatusFailed")
    assert stage.row()["Tuned"] == "F DatasetInvalid"
    assert stage.condition("Tuned")["message"] == "row 3 has no answer"


async def test_the_reason_of_a_failure_does_not_waver_and_a_final_one_stays_final(
    lagging: Client, stage: Stage
) -> None:
    """While the cache still has the last pod at work, what it knows of an older one is no news."""
    clock = VirtualClock()
    async with running(lagging, clock=clock) as loop:
        stage.create(TUNING)
        first = await stage.training()
        stage.end_main(first, 66, report(66, "SecretMissing", "Secret registry-push does not exist"))
        await stage.reads(Tuned="F SecretMissing")
        second = await stage.next_job_pod("b1")
        stage.run_main(second)
        await stage.reads(Tuned="F Tuning")
        stage.end_main(second, 65, report(65, "DatasetInvalid", "row 3 has no answer"))
        stage.end_job("Failed")
        await stage.reads(Tuned="F DatasetInvalid", state="Failed")
        await at_rest(loop)
        assert stage.row()["Tuned"] == "F DatasetInvalid"
        job = stage.job()["metadata"]["uid"]
        await clock.advance(601)
        await at_rest(loop)
        assert stage.job()["metadata"]["uid"] == job
