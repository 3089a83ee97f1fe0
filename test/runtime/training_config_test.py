"""`training_config.yaml` and the defaults: typos, types, KAITO's own files, and what follows from sizes. No torch."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import ExitCode
from runtime.fault import Fault
from runtime.training import config, options, recipe

# What KAITO ships as its qlora defaults, section by section.
KAITO = """
training_config:
  ModelConfig:
    torch_dtype: "bfloat16"
    local_files_only: true
    device_map: "auto"
  QuantizationConfig:
    load_in_4bit: true
    bnb_4bit_quant_type: "nf4"
    bnb_4bit_compute_dtype: "bfloat16"
    bnb_4bit_use_double_quant: true
  LoraConfig:
    r: 8
    lora_alpha: 8
    lora_dropout: 0.0
    target_modules: ['q_proj', 'k_proj']
  TrainingArguments:
    output_dir: "/mnt/results"
    ddp_find_unused_parameters: false
    save_strategy: "no"
    per_device_train_batch_size: 1
  DataCollator:
    mlm: true
  DatasetConfig:
    shuffle_dataset: true
    train_test_split: 1
"""


def test_kaitos_own_file_is_accepted_and_what_is_not_used_is_said() -> None:
    loaded = config.parse(KAITO)
    assert loaded.lora["r"] == 8
    assert loaded.model["dtype"] == "bfloat16"
    assert loaded.dataset["train_test_split"] == 1.0
    assert loaded.training == {"per_device_train_batch_size": 1}
    assert any("output_dir" in warning for warning in loaded.warnings)
    assert any("DataCollator" in warning for warning in loaded.warnings)


def warned(section: str, body: str) -> list[str]:
    loaded = config.parse(f"training_config: {{{section}: {{{body}}}}}")
    return [warning.partition(" ")[0].partition(".")[2] for warning in loaded.warnings]


@pytest.mark.parametrize(
    ("section", "body", "named"),
    [
        ("TrainingArguments", "packing: true", ["packing"]),
        ("TrainingArguments", "packing: false", []),
        ("TrainingArguments", "logging_steps: 10", ["logging_steps"]),
        ("TrainingArguments", "logging_steps: 1, logging_strategy: steps", []),
        ("TrainingArguments", "logging_strategy: epoch", ["logging_strategy"]),
        ("TrainingArguments", "per_device_eval_batch_size: 8", ["per_device_eval_batch_size"]),
        ("TrainingArguments", "report_to: wandb", ["report_to"]),
        ("TrainingArguments", "report_to: none", []),
        ("ModelConfig", "revision: abc, cache_dir: /x", ["revision", "cache_dir"]),
        ("ModelConfig", "pretrained_model_name_or_path: org/other", ["pretrained_model_name_or_path"]),
        ("ModelConfig", "local_files_only: true, force_download: false, proxies: null", []),
        ("ModelConfig", "torch_dtype: bfloat16, device_map: auto, trust_remote_code: true", []),
        ("ModelConfig", "device_map: balanced", ["device_map"]),
        ("ModelConfig", "chat_template: x, attn_implementation: sdpa", []),
    ],
)
def test_what_would_change_nothing_is_said(section: str, body: str, named: list[str]) -> None:
    assert warned(section, body) == named


def test_what_is_overridden_does_not_reach_the_trainer() -> None:
    given = "packing: false, logging_steps: 10, logging_strategy: 'no', per_device_eval_batch_size: 8, report_to: all"
    assert config.parse(f"training_config: {{TrainingArguments: {{{given}}}}}").training == {}


def test_an_absent_file_is_an_empty_one(tmp_path: Path) -> None:
    assert config.load(tmp_path / "none.yaml") == config.TrainingConfig()
    assert config.parse("") == config.parse("training_config:\n") == config.TrainingConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training_config: {TrainingArguments: {lerning_rate: 1}}", "`lerning_rate`, did you mean `learning_rate`?"),
        ("training_config: {LoraConfg: {}}", "`LoraConfg`, did you mean `LoraConfig`?"),
        ("trainingconfig: {}", "`trainingconfig`, did you mean `training_config`?"),
        (
            "training_config: {TrainingArguments: {num_train_epochs: many}}",
            "num_train_epochs is 'many', expected float",
        ),
        ("training_config: {LoraConfig: {r: 1.5}}", "LoraConfig.r is 1.5, expected int"),
        ("training_config: {LoraConfig: {r: 0}}", "LoraConfig.r must be above 0"),
        ("training_config: {LoraConfig: {r: '-4'}}", "LoraConfig.r must be above 0"),
        ("training_config: {QuantizationConfig: {bnb_4bit_quant_type: nf5}}", "must be `nf4` or `fp4`"),
        ("training_config: {DatasetConfig: {train_on: prompts}}", "must be `assistant` or `all`"),
        ("training_config: {TrainingArguments: {padding_free: true}}", "padding_free must be false"),
        ("training_config: [1]", "expected a map"),
        ("training_config: {LoraConfig: 3}", "LoraConfig is a int, expected a map"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_mistake_is_refused_with_its_remedy(text: str, message: str) -> None:
    with pytest.raises(Fault) as raised:
        config.parse(text)
    assert raised.value.exit == ExitCode.CONFIG_INVALID
    assert message in str(raised.value)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    loaded = config.parse(
        "training_config: {TrainingArguments: {learning_rate: 1e-4, warmup_ratio: 0.1, max_steps: '5'}}"
    )
    assert loaded.training == {"learning_rate": 1e-4, "warmup_steps": 0.1, "max_steps": 5}


def test_false_stays_false() -> None:
    assert config.parse("training_config: {TrainingArguments: {bf16: false}}").training == {"bf16": False}


def test_every_known_option_may_be_left_empty() -> None:
    everything = {section: dict.fromkeys(known) for section, known in options.sections().items()}
    assert config.problems({"training_config": everything}) == []


@pytest.mark.runtime
@pytest.mark.filterwarnings("default")
def test_the_options_kept_as_data_are_those_of_the_installed_libraries() -> None:
    kept = json.loads(options.DATA.read_text())["sections"]
    assert kept == options.introspect(), "run: python -m runtime.training.options"


@given(st.integers(64, 20_000), st.integers(1, 10_000_000))
def test_defaults_are_within_their_bounds_for_any_model_and_data_set(width: int, rows: int) -> None:
    chosen = recipe.choose(width, rows)
    low, high = recipe.LEARNING_RATES
    assert low <= chosen.learning_rate <= high
    assert chosen.batch in (4, 8, 16)


def test_wide_models_learn_slower_and_large_data_sets_in_larger_batches() -> None:
    rates = [recipe.choose(width, 1000).learning_rate for width in (576, 3072, 4096, 8192)]
    assert rates == sorted(rates, reverse=True)
    assert rates[2] == pytest.approx(2e-4)
    assert [recipe.choose(4096, rows).batch for rows in (50, 240, 500, 1000, 15_000)] == [4, 4, 8, 16, 16]


@given(st.integers(1, 64), st.integers(0, 100))
def test_a_batch_is_split_without_changing_it(batch: int, fitting: int) -> None:
    micro, accumulation = recipe.micro_batch(batch, fitting)
    assert micro * accumulation == batch
    assert micro <= max(fitting, 1)


@pytest.mark.parametrize(
    ("rows", "share", "kept"),
    [(50, None, 0), (240, None, 12), (100_000, None, 500), (100, 1.0, 0), (100, 0.8, 20), (1, 0.0, 0)],
)
def test_rows_are_held_out_where_they_can_be_spared(rows: int, share: float | None, kept: int) -> None:
    assert recipe.held_out(rows, share) == kept


@pytest.mark.parametrize(
    ("losses", "epoch", "done"),
    [
        ([0.03, 0.002, 0.001, 0.001], 1.0, True),
        ([0.03, 0.002, 0.001, 0.001], 0.9, False),
        ([2.0, 1.5, 1.2, 1.0], 1.0, False),
        ([1.0, 0.9, 0.95, 0.97], 1.0, True),
        ([1.0, 0.9], 2.0, False),
    ],
)
def test_training_stops_when_held_out_rows_stop_profiting(losses: list[float], epoch: float, done: bool) -> None:
    assert recipe.converged(losses, epoch) is done


def test_the_last_evaluation_of_an_epoch_does_not_fall_before_its_end() -> None:
    assert recipe.evaluation_steps(228, 4) * recipe.EVALUATIONS >= 57
    assert recipe.evaluation_steps(3, 16) == 1


@given(st.integers(1, 32), st.integers(1, 8))
def test_running_out_of_memory_never_changes_the_batch_and_comes_to_an_end(micro: int, accumulation: int) -> None:
    batch: recipe.Batch | None = recipe.Batch(micro, accumulation)
    tried = 0
    while batch is not None:
        assert batch.rows == micro * accumulation
        batch = batch.smaller()
        tried += 1
    assert tried <= 8
