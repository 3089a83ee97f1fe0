"""Tuning a tiny model end to end on the CPU: results, pushes, and what is refused before training.

How training goes on and ends is covered in trainer_test; what a data set or a configuration may look like, in data_test
and training_config_test.
"""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from runtime import contract, tune
from runtime.contract import ExitCode, Reason, TunePlan
from runtime.fault import Fault
from runtime.training.checkpoint import Store
from test.runtime import tiny
from test.runtime.registry import Registry, write_secret
from test.runtime.tuning import CONFIG, Job, image_plan

pytestmark = [pytest.mark.runtime, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


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


@pytest.mark.parametrize(("method", "quantised"), [("qlora", {("nf4", True)}), ("lora", set())])
def test_qlora_trains_on_nf4_weights_with_double_quantisation_and_lora_on_whole_ones(
    method: str, quantised: set[tuple[str, bool]], job: Job
) -> None:
    import bitsandbytes

    from runtime.training import model as models
    from runtime.training.config import TrainingConfig

    plan = TunePlan(model="org/tiny", accelerator="cpu", method=method)
    loaded = models.load_model(job.folder / "model", plan, TrainingConfig(), models.device("cpu"))
    weights = [m.weight for m in loaded.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert {(weight.quant_type, weight.compress_statistics) for weight in weights} == quantised


@pytest.mark.parametrize(("train_on", "prompts_too"), [("assistant", False), ("all", True)])
def test_the_trainer_computes_its_loss_on_what_the_assistant_says_unless_all_is_asked_for(
    train_on: str, prompts_too: bool, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.data.mask import IGNORED
    from runtime.training import trainer

    build, built = trainer.build, []

    def noted(*given: Any) -> Any:
        built.append(build(*given))
        return built[-1]

    monkeypatch.setattr(trainer, "build", noted)
    job.config = CONFIG.format(more=", max_steps: 1")[:-1] + f", DatasetConfig: {{train_on: {train_on}}}}}"
    assert job.run(monkeypatch) == 0, job.status()
    batch = next(iter(built[0].get_train_dataloader()))
    for ids, labels, real in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        learned = built[0].processing_class.decode(ids[labels != IGNORED])
        assert ids[labels != IGNORED].equal(labels[labels != IGNORED])
        whole = built[0].processing_class.decode(ids[real])
        assert ("<|im_start|>user" in learned) == prompts_too
        assert learned.strip() == (whole if prompts_too else whole.partition("<|im_start|>assistant\n")[2]).strip()


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


@pytest.mark.parametrize(
    ("method", "wrapped", "advice"),
    [("lora", False, "use method qlora, or a larger GPU"), ("qlora", True, "use a larger GPU")],
)
def test_a_model_is_loaded_onto_one_gpu_or_not_at_all(
    method: str, wrapped: bool, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers

    from runtime.training import model as models
    from runtime.training.config import TrainingConfig

    given: dict[str, Any] = {}

    def full(_: Path, **options: Any) -> None:
        given.update(options)
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"num_ooms": 1})
        raise RuntimeError("see the report") if wrapped else torch.OutOfMemoryError("too large")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    config = TrainingConfig(model={"device_map": "auto"})  # KAITO's, which spreads the layers and then swaps
    with pytest.raises(Fault) as raised:
        models.load_model(Path(), TunePlan("org/tiny", method=method), config, models.Device("cuda", torch.bfloat16))
    assert given["device_map"] == {"": 0}
    assert raised.value.exit == ExitCode.OUT_OF_MEMORY
    assert str(raised.value) == f"the weights of org/tiny do not fit a GPU; {advice}"


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_an_error_at_loading_that_is_not_for_want_of_memory_stays_what_it_is(
    accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers

    from runtime.training import model as models
    from runtime.training.config import TrainingConfig

    def broken(_: Path, **__: Any) -> None:
        raise RuntimeError("see the report")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", broken)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"num_ooms": 1})  # of an attempt with a larger batch
    with pytest.raises(RuntimeError, match="see the report"):
        models.load_model(Path(), TunePlan("org/tiny"), TrainingConfig(), models.Device(accelerator, torch.bfloat16))


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
        ("training_config: {LoraConfig: {init_lora_weights: gausian}}", "init_lora_weights='gausian'"),
        ("training_config: {LoraConfig: {lora_dropout: 7}}", "dropout"),
        ("training_config: {LoraConfig: {bias: nonee}}", "bias: nonee"),
        (
            "training_config: {QuantizationConfig: {load_in_8bit: true, load_in_4bit: true}}",
            "QuantizationConfig: load_in",
        ),
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
