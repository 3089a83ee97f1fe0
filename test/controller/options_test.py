"""Options of a user's configuration: the controller refuses, before a node is paid for, the keys that the pod would refuse."""

from typing import Any

import pytest
import yaml

from controller import options
from runtime.engine import config as engine
from runtime.engine.options import kinds
from runtime.fault import Fault
from runtime.training import config as training


def _pod_refuses(key: str) -> bool:
    """Whether the pod refuses the name of an engine option; what it thinks of the value is another matter."""
    try:
        engine._name(key, "vllm")
    except Fault:
        return True
    return False


@pytest.mark.parametrize(
    "key",
    [
        *(f"{front}{name}{end}" for name in [*kinds(), *engine._OWNED] for front in ("", "no-") for end in ("", ".x")),
        "max_model_len",
        "--max-model-len",
        "maximum-model-len",
    ],
)
def test_an_engine_option_is_refused_when_the_pod_refuses_it(key: str) -> None:
    assert bool(options.inference_problem({"vllm": {key: 1}})) == _pod_refuses(key)


def test_an_option_that_the_pod_owns_is_refused_with_the_reason() -> None:
    assert options.inference_problem({"vllm": {"port": 8080}}) == "vllm.port cannot be set: the runtime decides it"
    assert "TLS" in engine._OWNED["ssl-keyfile"]  # the pod says more


@pytest.mark.parametrize("key", ["no-enable-chunked-prefill", "no_enable_chunked_prefill"])
def test_a_negated_switch_is_refused_with_what_to_write(key: str) -> None:
    assert "write enable-chunked-prefill: false" in options.inference_problem({"vllm": {key: True}})


@pytest.mark.parametrize("vllm", [["port"], "abc", 3])
def test_options_of_the_engine_that_are_no_map_are_refused(vllm: Any) -> None:
    assert options.inference_problem({"vllm": vllm}) == "vllm: a map of options is expected"


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("", ""),
        ("training_config:", ""),
        ("training_config: {LoraConfig: }", ""),
        ("training_config: {LoraConfig: {r: 8}}", ""),
        ("training_config: abc", "expected"),
        ("training_config: [LoraConfig]", "expected"),
        ("training_config: 0", "expected"),
        ("LoraConfig: {r: 8}", "below training_config"),
        ("training_config: {LoraConfig: {r: 8}}\nTrainingArguments: {seed: 1}", "below training_config"),
        ("training_config: {}\ntraning: {}", "unknown key traning"),
        ("training_config: {LoraConfig: [r]}", "LoraConfig"),
        ("training_config: {LoraConfig: abc}", "LoraConfig"),
        ("training_config: {LoraConfg: {r: 8}}", "did you mean LoraConfig?"),
        ("training_config: {LoraConfig: {rr: 8}}", "did you mean r?"),
    ],
)
def test_a_training_configuration_is_refused_when_the_pod_refuses_it(text: str, refused: str) -> None:
    document = yaml.safe_load(text)
    problem = options.training_problem(document or {})
    assert refused in problem
    assert bool(problem) == bool(refused) == bool(training.problems(document))
