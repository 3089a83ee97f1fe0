"""How a training goes on and ends: stopped early, preempted, killed, out of memory, with a loss that is no number.

What it leaves behind, and what is refused before it, is covered in tune_test.
"""

import contextlib
import itertools
import json
import os
import signal
from typing import Any

import pytest

from runtime import contract
from runtime.contract import ExitCode, Reason, TunePlan
from test.runtime.registry import Registry, running
from test.runtime.tuning import CONFIG, Job, image_plan

pytestmark = [pytest.mark.runtime, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


def test_a_run_that_brings_nothing_more_stops_and_says_of_how_many_steps(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = "TrainingArguments: {per_device_train_batch_size: 4, learning_rate: 1.0e-7}"
    job.config = f"training_config: {{{training}, DatasetConfig: {{train_test_split: 0.9}}}}"
    assert job.run(monkeypatch) == 0, job.status()
    assert (job.status().step, job.status().total_steps) == (20, 54)  # the first evaluation after an epoch of 18
    assert json.loads((job.results / "tuning_manifest.json").read_text())["steps"] == 20


def test_after_sigterm_the_next_pod_goes_on_and_ends_with_the_same_adapter(
    job: Job, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.plan = image_plan(registry)
    job.config = CONFIG.format(more=", learning_rate: 0.01").replace("num_train_epochs: 1", "num_train_epochs: 6")
    with job.running() as pod:
        pod.follow(r"step [3-9] of")
        assert pod.status().phase == "Training"
        pod.process.send_signal(signal.SIGTERM)
        assert pod.wait() == ExitCode.PREEMPTED
    stopped = job.status()
    assert stopped.reason == Reason.PREEMPTED
    assert stopped.step >= 3
    job.pod += 1
    with job.running() as pod:
        assert int(pod.follow(r"starting at step (\d+)")[1]) == stopped.step
        assert int(pod.follow(r"step (\d+) of")[1]) > stopped.step
        assert pod.wait() == 0
    resumed = job.status()
    assert resumed.artifact is not None
    assert registry.manifest("team/adapter", "1-checkpoint") is None
    job.pod, job.plan = 2, TunePlan(**{**vars(job.plan), "output_image": f"{registry.host}/team/whole:1"})
    assert job.run(monkeypatch) == 0
    whole = job.status().artifact
    assert whole is not None
    assert layers(registry, "team/adapter")[1] == layers(registry, "team/whole")[1]


def test_a_registry_that_is_away_at_sigterm_does_not_fail_the_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contract.GRACE_ENV, "12")
    job.config = CONFIG.format(more="").replace("num_train_epochs: 1", "num_train_epochs: 60")
    with contextlib.ExitStack() as pods:
        with running(job.folder / "registry") as registry:
            job.plan = image_plan(registry)
            pod = pods.enter_context(job.running())
            pod.follow(r"phase Training")
        pod.process.send_signal(signal.SIGTERM)
        assert pod.wait() == ExitCode.PREEMPTED
    assert job.status().reason == Reason.PREEMPTED
    assert "could not be kept" in job.status().message


def test_a_registry_that_answers_nothing_at_sigterm_does_not_outlast_the_grace(
    job: Job, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(contract.GRACE_ENV, "12")
    job.plan = image_plan(registry)
    job.config = CONFIG.format(more="").replace("num_train_epochs: 1", "num_train_epochs: 60")
    with job.running("import runtime.oci.skopeo as s; s.SILENT = float('inf')") as pod:  # skopeo is never given up
        pod.follow(r"step \d+ of")
        with registry.silent():
            pod.process.send_signal(signal.SIGTERM)
            assert pod.wait(80) == ExitCode.PREEMPTED
    assert f"step {job.status().step} could not be kept" in job.status().message


def test_sigterm_in_an_attempt_that_runs_out_of_memory_is_not_forgotten(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import trl

    compute = trl.SFTTrainer.compute_loss
    calls = itertools.count(1)

    def full(self: Any, *args: Any, **options: Any) -> Any:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            raise torch.OutOfMemoryError("too many rows")
        return compute(self, *args, **options)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", full)
    assert job.run(monkeypatch) == ExitCode.PREEMPTED
    assert next(calls) == 4  # nothing was begun anew


def test_the_grace_to_save_in_counts_from_sigterm() -> None:
    from runtime.training.watch import Preemption

    seconds = iter([100.0, 130.0, 500.0])
    with Preemption(lambda: next(seconds)) as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.wanted
    assert [preemption.left(50.0), preemption.left(50.0)] == [20.0, 0.0]


def layers(registry: Registry, repository: str) -> Any:
    found = registry.manifest(repository, "1")
    assert found is not None
    return found[1]["layers"]


def test_after_kill_9_the_next_pod_starts_at_the_last_checkpoint(job: Job, registry: Registry) -> None:
    job.plan = image_plan(registry)
    job.config = CONFIG.format(more="").replace("num_train_epochs: 1", "num_train_epochs: 6")
    with job.running("watch.SAVE_STEPS = 5") as pod:
        pod.follow(r"pushed .*-checkpoint")  # step 0
        pod.follow(r"pushed .*-checkpoint")
        pod.process.kill()
    job.pod += 1
    with job.running() as pod:
        started = int(pod.follow(r"starting at step (\d+)")[1])
        found = registry.manifest("team/adapter", "1-checkpoint")  # now: a push of the dead pod's may have gone on
        assert found is not None
        annotations: Any = found[1]["annotations"]
        assert started == int(annotations["sh.kaito.checkpoint.step"]) >= 5
        assert int(pod.follow(r"step (\d+) of")[1]) > started


def test_a_loss_that_is_no_number_ends_the_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.config = CONFIG.format(more=", learning_rate: 1.0e+30, max_grad_norm: 1.0e+30")
    assert job.run(monkeypatch) == ExitCode.LOSS_NOT_FINITE
    assert "lower TrainingArguments.learning_rate" in job.status().message
    assert not (job.results / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(("rows", "code"), [(2, ExitCode.OK), (0, ExitCode.OUT_OF_MEMORY)])
def test_too_little_memory_means_smaller_batches_of_the_same_effect(
    rows: int, code: ExitCode, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import trl

    compute = trl.SFTTrainer.compute_loss

    def bounded(self: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if len(inputs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("too many rows")
        return compute(self, model, inputs, *args, **options)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", bounded)
    assert job.run(monkeypatch) == code
    status = job.status()
    if code == ExitCode.OK:
        assert status.step == 20
        assert [warning.code for warning in status.warnings] == ["BatchReduced"] * 2
    else:
        assert status.reason == Reason.OUT_OF_MEMORY
        assert "max_length" in status.message


def test_activations_are_recomputed_before_a_batch_is_made_smaller(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import trl

    compute = trl.SFTTrainer.compute_loss
    rows: set[int] = set()

    def bounded(self: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        if model.training and not model.is_gradient_checkpointing:
            raise torch.OutOfMemoryError("too many activations")
        rows.add(len(inputs["input_ids"]))
        return compute(self, model, inputs, *args, **options)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", bounded)
    assert job.run(monkeypatch) == 0, job.status()
    assert rows == {4}  # as was asked for, and as the planner counts
    assert "gradient checkpointing" in job.status().warnings[0].message
