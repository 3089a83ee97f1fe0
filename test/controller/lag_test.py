"""A Job's end is heard before its pods': the two watches are not in step, and what is kept for good must be whole."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.loop import Loop
from hack.local.controlplane import ControlPlane
from kube.client import Client
from test.controller.stage import TUNING, Stage, report, running
from test.expect import eventually
from test.kube.gateway import gateway

LAG = 1.0  # seconds that everything comes late that the watch of pods says


@pytest.fixture
async def controller(apiserver: ControlPlane, stage: Stage, tmp_path: Path) -> AsyncIterator[Loop]:
    async with gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig):
        between.lag = lambda path: LAG if path.endswith("/pods") else 0.0
        async with (
            await Client.connect(user_agent="controller", kubeconfig=kubeconfig) as client,
            running(client) as loop,
        ):
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
