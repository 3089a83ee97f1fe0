"""Tuning a tiny model end to end on the CPU: results, pushes, resumption, and every way in which it ends early.

What a data set or a configuration may look like is covered in data_test and training_config_test.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime import contract, tune
from runtime.contract import ExitCode, Reason, Status, TunePlan
from runtime.fault import Fault
from runtime.training.checkpoint import Store
from test.runtime import tiny
from test.runtime.registry import Registry, free_port, running, write_secret

pytestmark = [pytest.mark.runtime, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]

CONFIG = "training_config: {{TrainingArguments: {{num_train_epochs: 1, per_device_train_batch_size: 4{more}}}}}"


@dataclass
class Job:
    """One tuning Job: what its pods share (weights, data, Secrets), and where the current pod leaves its results."""

    folder: Path
    plan: TunePlan
    pod: int = 0
    config: str = ""

    @property
    def results(self) -> Path:
        return self.folder / f"results-{self.pod}"

    def arguments(self, port: int = 0) -> list[str]:
        (self.folder / "training_config.yaml").write_text(self.config)
        self.results.mkdir(exist_ok=True)
        self.report.write_text("")
        named = {"weights": "model", "data": "data", "secrets": "secrets", "config": "training_config.yaml"}
        words = [word for option, name in named.items() for word in (f"--{option}", str(self.folder / name))]
        common = ["--results", str(self.results), "--push-deadline", "0", "--port", str(port)]
        return [*words, *common, "--termination-log", str(self.report)]

    @property
    def report(self) -> Path:
        return self.folder / "termination-log"

    def status(self) -> Status:
        return contract.decode(Status, self.report.read_text())

    def run(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Run a pod in this process."""
        monkeypatch.setenv(contract.PLAN_ENV, contract.encode(self.plan))
        return tune.main(self.arguments())

    @contextlib.contextmanager
    def running(self, patches: str = "") -> Iterator["Pod"]:
        """Run a pod in a process of its own. `patches` is code that runs before it."""
        port = free_port()
        code = (
            f"import sys, runtime.tune as t, runtime.training.watch as watch\n{patches}\nsys.exit(t.main(sys.argv[1:]))"
        )
        environment = os.environ | {
            contract.PLAN_ENV: contract.encode(self.plan),
            "PYTHONPATH": ".",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code, *self.arguments(port)], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            yield Pod(process, port)
        finally:
            process.kill()
            process.communicate()


@dataclass
class Pod:
    """A running pod, followed by its log lines, which say each step and each push."""

    process: "subprocess.Popen[str]"
    port: int

    def status(self) -> Status:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=60) as answer:
            return contract.decode(Status, answer.read())

    def follow(self, pattern: str) -> "re.Match[str]":
        """Read on to the first line whose message matches."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if line.startswith("{") and (found := re.match(pattern, json.loads(line)["message"])):
                return found
        raise AssertionError(f"ended before `{pattern}`:\n{''.join(seen)}")

    def wait(self) -> int:
        self.process.communicate(timeout=300)
        return self.process.returncode


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, tiny.conversations(80))))
    plan = TunePlan(model="org/tiny", revision="abc", accelerator="cpu")
    return Job(tmp_path, plan, config=CONFIG.format(more=", learning_rate: 0.01"))


def image_plan(registry: Registry, secret: str = "") -> TunePlan:
    image = f"{registry.host}/team/adapter:1"
    return TunePlan(model="org/tiny", accelerator="cpu", output_image=image, push_secret=secret)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_run_leaves_an_adapter_that_peft_loads_and_that_learned(
    method: str, job: Job, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft
    import transformers

    job.plan = TunePlan(model="org/tiny", revision="abc", accelerator="cpu", method=method)
    job.config = CONFIG.format(more=", learning_rate: 0.01").replace("num_train_epochs: 1", "num_train_epochs: 3")
    assert job.run(monkeypatch) == 0, job.status()
    status = job.status()
    assert (status.phase, status.step, status.total_steps) == ("Succeeded", 60, 60)
    assert status.loss is not None
    assert status.loss < 4.0  # untrained it is ln(448) = 6.1
    kept = json.loads((job.results / "adapter_config.json").read_text())
    assert (kept["base_model_name_or_path"], kept["revision"], kept["r"]) == ("org/tiny", "abc", 16)
    assert kept["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (job.results / contract.TUNING_SENTINEL).exists()
    assert (job.results / "tokenizer.json").exists()
    assert (job.results / "adapter_model.safetensors").stat().st_mode & 0o044 == 0o044
    base = transformers.AutoModelForCausalLM.from_pretrained(model)
    peft.PeftModel.from_pretrained(base, job.results)


@pytest.mark.parametrize("train_on", ["assistant", "all"])
def test_of_several_chat_templates_the_default_is_learned_and_kept(
    train_on: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    (job.folder / "model").unlink()
    tiny.write_model(job.folder / "model", {"tool_use": "{{ tools }}", "default": tiny.TEMPLATE})
    training = "TrainingArguments: {max_steps: 1}"
    job.config = f"training_config: {{{training}, DatasetConfig: {{train_on: {train_on}}}}}"
    assert job.run(monkeypatch) == 0, job.status()
    assert [path.name for path in job.results.iterdir() if path.is_dir()] == ["checkpoints"]
    assert transformers.AutoTokenizer.from_pretrained(job.results).chat_template == tiny.TEMPLATE


def test_evaluations_in_between_do_not_stop_4_bit_training_on_a_cpu(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    import peft
    import torch

    from runtime.training import model as models
    from runtime.training import recipe
    from runtime.training.config import TrainingConfig

    job.plan = TunePlan(model="org/tiny", accelerator="cpu", method="qlora")
    loaded = models.load_model(job.folder / "model", job.plan, TrainingConfig(), models.device("cpu"))
    lora = recipe.choose(128, 80)
    adapted = peft.get_peft_model(loaded, peft.LoraConfig(**models.lora_options(TrainingConfig(), lora, loaded)))
    ids = torch.arange(12).view(1, 12)
    adapted.eval()
    with torch.no_grad():
        adapted(input_ids=ids)
    adapted.train()
    adapted(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: p.grad for name, p in adapted.named_parameters() if "lora_B" in name}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_a_run_that_brings_nothing_more_stops_and_says_of_how_many_steps(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = "TrainingArguments: {per_device_train_batch_size: 4, learning_rate: 1.0e-7}"
    job.config = f"training_config: {{{training}, DatasetConfig: {{train_test_split: 0.9}}}}"
    assert job.run(monkeypatch) == 0, job.status()
    assert (job.status().step, job.status().total_steps) == (20, 54)  # the first evaluation after an epoch of 18
    assert json.loads((job.results / "tuning_manifest.json").read_text())["steps"] == 20


def test_the_adapter_is_pushed_and_a_repeated_run_gives_the_same_digest(
    job: Job, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.plan = image_plan(registry)
    assert job.run(monkeypatch) == 0, job.status()
    first = job.status().artifact
    assert first is not None
    found = registry.manifest("team/adapter", "1")
    assert found is not None
    assert found[0] == first.digest
    annotations: Any = found[1]["annotations"]
    assert annotations["sh.kaito.model.name"] == "org/tiny"
    job.pod, job.plan = 1, dataclasses.replace(job.plan, output_image=f"{registry.host}/team/again:1")
    assert job.run(monkeypatch) == 0, job.status()
    again = job.status().artifact
    assert again is not None
    assert again.digest == first.digest


def test_a_result_that_a_pod_before_has_pushed_is_reported_and_not_made_again(
    job: Job, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.plan = image_plan(registry)
    assert job.run(monkeypatch) == 0, job.status()
    made = job.status()
    assert registry.manifest("team/adapter", "1-checkpoint") is None

    def prepare(*_: object) -> None:
        raise AssertionError("the model was loaded once more")

    monkeypatch.setattr(tune, "prepare", prepare)
    job.pod += 1
    assert job.run(monkeypatch) == 0, job.status()
    found = job.status()
    assert (found.artifact, found.step, found.total_steps) == (made.artifact, made.step, made.total_steps)
    job.config = CONFIG.format(more=", learning_rate: 0.02")
    assert job.run(monkeypatch) == ExitCode.INTERNAL  # another run's result is none of this one's


def test_sigterm_while_checkpoints_are_discarded_does_not_undo_a_result(
    job: Job, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    discard = Store.discard

    def disturbed(store: Store) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        discard(store)

    monkeypatch.setattr(Store, "discard", disturbed)
    job.plan = image_plan(registry)
    assert job.run(monkeypatch) == 0, job.status()
    assert job.status().phase == "Succeeded"
    assert registry.manifest("team/adapter", "1-checkpoint") is None


def test_a_wrong_push_secret_is_found_before_anything_is_loaded(
    job: Job, private_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object) -> None:
        raise AssertionError("the model was loaded before the push was tried")

    monkeypatch.setattr(tune, "prepare", too_late)
    write_secret(job.folder / "secrets" / "push", private_registry.host, "wrong-password")
    job.plan = image_plan(private_registry, "push")
    assert job.run(monkeypatch) == ExitCode.PUSH_FAILED
    assert job.status().reason == Reason.PUSH_UNAUTHORIZED
    job.plan = image_plan(private_registry, "absent")
    assert job.run(monkeypatch) == ExitCode.PUSH_FAILED
    assert job.status().reason == Reason.SECRET_MISSING


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


def test_a_precision_that_the_device_decides_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.config = CONFIG.format(more=", max_steps: 1, fp16: true, bf16: true").replace(
        "{TrainingArguments", "{QuantizationConfig: {bnb_4bit_compute_dtype: float16}, TrainingArguments"
    )
    assert job.run(monkeypatch) == 0, job.status()
    said = {warning.message.partition(" ")[0] for warning in job.status().warnings if warning.code == "ConfigIgnored"}
    assert said == {"TrainingArguments.fp16", "QuantizationConfig.bnb_4bit_compute_dtype"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, []),
        ({"bf16": True, "fp16": False}, []),
        ({"fp16": True, "bf16": False}, ["bf16", "fp16"]),
        ({"bf16": False}, ["bf16"]),
        ({"bf16": False, "fp16": False}, []),  # full precision is a choice that every device has
    ],
)
def test_only_a_precision_that_is_not_used_is_named(given: dict[str, bool], named: list[str]) -> None:
    from runtime.training import model as models
    from runtime.training.config import TrainingConfig

    config = TrainingConfig(model={"dtype": "half"}, training=given)  # torch's other name of float16
    messages = models.overridden(config, models.device("cpu"))
    assert [message.partition(" ")[0].partition(".")[2] for message in messages] == named


@pytest.mark.parametrize(
    ("lengths", "cap", "micro"),
    [
        ([60] * 100, 0, 4),
        ([60] * 100, 2048, 4),  # a cap that no row comes near
        ([300] * 999 + [590], 0, 4),  # what nearly every batch is as long as
        ([60] * 999 + [2000], 2048, 2),  # but one long row must fit with its neighbours too
        ([900] * 100, 0, 2),
        ([4000] * 100, 0, 1),
    ],
)
def test_on_a_cpu_the_length_of_the_rows_says_how_many_are_computed_at_once(
    lengths: list[int], cap: int, micro: int
) -> None:
    from runtime.data.mask import Encoded, Encodings
    from runtime.training import recipe
    from runtime.training.config import TrainingConfig
    from runtime.training.trainer import Run

    rows = [Encoded([1] * length, [1] * length) for length in lengths]
    chosen = dataclasses.replace(recipe.choose(576, 100), batch=4)
    train = Encodings(rows, cap or max(lengths), 0, 0)
    run = Run(Path(), TrainingConfig(), chosen, None, train, None, lambda _: {}, lambda: None, {})
    batch = tune.choose_batch(TunePlan(model="org/tiny", accelerator="cpu"), TrainingConfig(), run, None, cpu=True)
    assert (batch.micro, batch.accumulation) == (micro, 4 // micro)


def test_cuda_without_a_gpu_is_an_exit_of_its_own(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job.plan = TunePlan(model="org/tiny")
    assert job.run(monkeypatch) == ExitCode.ACCELERATOR_MISSING
    assert job.status().reason == Reason.ACCELERATOR_MISSING


def test_a_model_is_loaded_onto_one_gpu_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers

    from runtime.training import model as models
    from runtime.training.config import TrainingConfig

    given: dict[str, Any] = {}

    def full(_: Path, **options: Any) -> None:
        given.update(options)
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    config = TrainingConfig(model={"device_map": "auto"})  # KAITO's, which spreads the layers and then swaps
    with pytest.raises(Fault) as raised:
        models.load_model(Path(), TunePlan(model="org/tiny"), config, models.Device("cuda", torch.bfloat16))
    assert given["device_map"] == {"": 0}
    assert raised.value.exit == ExitCode.OUT_OF_MEMORY
    assert "weights of org/tiny" in str(raised.value)


@pytest.mark.parametrize(("before", "seen"), [(None, "0"), ("2,3", "2"), ("GPU-8932f937", "GPU-8932f937")])
def test_of_several_gpus_the_first_is_seen(before: str | None, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tune.quieten()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("training_config: {LoraConfig: {target_modules: [qkv_proj, o_proj]}}", "this model has no qkv_proj; it has"),
        ("training_config: {TrainingArguments: {lerning_rate: 1}}", "did you mean `learning_rate`"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    config: str, message: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.config = config
    assert job.run(monkeypatch) == ExitCode.CONFIG_INVALID
    assert message in job.status().message


@pytest.mark.parametrize("given", ["lr_scheduler_type: cosin", "optim: adamw_8bits", "padding_free: true"])
def test_a_value_that_no_library_knows_is_refused_before_the_model_is_loaded(
    given: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.training import model as models

    def load(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(models, "load_model", load)
    job.config = f"training_config: {{TrainingArguments: {{{given}}}}}"
    assert job.run(monkeypatch) == ExitCode.CONFIG_INVALID
    assert "TrainingArguments" in job.status().message


def test_missing_weights_and_a_broken_plan_are_told_apart(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    (job.folder / "model").unlink()
    assert job.run(monkeypatch) == ExitCode.INPUT_MISSING
    assert job.status().reason == Reason.WEIGHTS_UNREACHABLE
    monkeypatch.setenv(contract.PLAN_ENV, "{")
    assert tune.main(job.arguments()) == ExitCode.CONFIG_INVALID
