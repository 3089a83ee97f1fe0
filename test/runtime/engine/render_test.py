"""From plans to vLLM's YAML and environment: the whole file for the cases that matter, and who wins over whom."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import Accelerator, Adapter, ServePlan
from runtime.engine import options
from runtime.engine.config import InferenceConfig
from runtime.engine.render import GIB, Engine, Surroundings, arguments, render, to_yaml

NOTHING = InferenceConfig()
POD = Surroundings(cache=Path("/cache"), cpus=4, memory=64 * GIB, grace_seconds=60)
PHI = ServePlan(model="phi-3-mini-4k-instruct")

PLAIN = """\
dtype: auto
max-model-len: auto
model: /workspace/weights
pipeline-parallel-size: 1
port: 5000
served-model-name:
- phi-3-mini-4k-instruct
shutdown-timeout: 50
tensor-parallel-size: 1
uvicorn-log-level: warning
"""
ADAPTERS = """\
dtype: bfloat16
enable-lora: true
gpu-memory-utilization: 0.9
max-cpu-loras: 3
max-lora-rank: 64
max-loras: 3
max-model-len: 4096
model: /workspace/weights
pipeline-parallel-size: 1
port: 5000
served-model-name:
- phi-3-mini-4k-instruct
shutdown-timeout: 50
tensor-parallel-size: 2
trust-remote-code: true
uvicorn-log-level: warning
"""
SECOND_NODE = """\
dtype: auto
headless: true
master-addr: ws-0.ws-headless.default.svc
master-port: 29500
max-model-len: auto
model: /workspace/weights
nnodes: 2
node-rank: 1
pipeline-parallel-size: 2
port: 5000
served-model-name:
- phi-3-mini-4k-instruct
shutdown-timeout: 50
tensor-parallel-size: 8
uvicorn-log-level: warning
"""
ON_A_CPU = """\
dtype: auto
enforce-eager: true
kv-cache-memory-bytes: 1073741824
max-model-len: auto
model: /workspace/weights
pipeline-parallel-size: 1
port: 5000
served-model-name:
- phi-3-mini-4k-instruct
shutdown-timeout: 50
tensor-parallel-size: 1
uvicorn-log-level: warning
"""


def rendered(
    plan: ServePlan = PHI, user: dict[str, Any] | None = None, ranks: tuple[int, ...] = (), **around: Any
) -> Engine:
    return render(plan, InferenceConfig(options=user or {}), ranks, dataclasses.replace(POD, **around), "secret")


def test_a_plain_plan() -> None:
    assert to_yaml(rendered()) == PLAIN


def test_three_adapters_of_different_rank_on_two_gpus() -> None:
    plan = dataclasses.replace(
        PHI,
        dtype="bfloat16",
        max_model_len=4096,
        tensor_parallel_size=2,
        engine={"gpu-memory-utilization": 0.9},
        adapters=(Adapter("a"), Adapter("b"), Adapter("c")),
        trust_remote_code=True,
    )
    engine = rendered(plan, ranks=(8, 33, 16))
    assert to_yaml(engine) == ADAPTERS
    assert engine.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_the_second_of_two_nodes_has_no_server_of_its_own() -> None:
    plan = dataclasses.replace(
        PHI, tensor_parallel_size=8, pipeline_parallel_size=2, nodes=2, leader_address="ws-0.ws-headless.default.svc"
    )
    engine = rendered(plan, pod_index=1)
    assert to_yaml(engine) == SECOND_NODE
    assert engine.headless
    assert not rendered(plan, pod_index=0).headless


def test_a_cpu_gets_a_small_cache_and_threads_that_do_not_spin() -> None:
    engine = rendered(dataclasses.replace(PHI, accelerator=Accelerator.CPU))
    assert to_yaml(engine) == ON_A_CPU
    threads = {key: engine.environment[key] for key in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    assert threads == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}
    assert "OMP_NUM_THREADS" not in rendered().environment


def test_the_user_wins_over_the_planned_engine_options_and_they_over_the_plan() -> None:
    plan = dataclasses.replace(PHI, max_model_len=4096, engine={"max_model_len": 2048, "max-num-seqs": 64})
    assert rendered(plan).options["max-model-len"] == 2048
    engine = rendered(plan, {"max-model-len": "1k", "max-num-seqs": None})
    assert engine.options["max-model-len"] == "1k"
    assert "max-num-seqs" not in engine.options


def test_values_are_written_as_vllms_reader_of_yaml_takes_them() -> None:
    user = {
        "enable-prefix-caching": False,
        "disable-log-stats": False,
        "allowed-origins": ["https://a"],
        "lora-modules": [{"name": "x", "path": "/x"}],
        "compilation-config.pass_config.fuse_allreduce_rms": False,
        "speculative-config": {"method": "ngram"},
        "middleware": ["user.One", "user.Two"],
    }
    engine = rendered(user=user)
    written = yaml.safe_load(to_yaml(engine))
    assert {key: written.get(key) for key in user} == {
        "enable-prefix-caching": False,
        "disable-log-stats": None,
        "allowed-origins": '["https://a"]',
        "lora-modules": ['{"name": "x", "path": "/x"}'],
        "compilation-config.pass_config.fuse_allreduce_rms": "false",
        "speculative-config": {"method": "ngram"},
        "middleware": None,
    }
    flags = ["--middleware", "user.One", "--middleware", "user.Two", "--middleware", "runtime.http.Middleware"]
    assert arguments(engine) == flags


def test_chat_speaks_with_the_tuned_adapter_and_else_with_the_first_name_of_the_model() -> None:
    tuned = dataclasses.replace(PHI, chat_adapter="tuned", adapters=(Adapter("tuned"),))
    assert rendered(tuned).settings.chat_model == "tuned"
    engine = rendered(user={"served-model-name": ["mine", "other"]})
    assert (engine.settings.chat_model, engine.model) == ("mine", "mine")
    assert engine.settings.secret == "secret"


@pytest.mark.parametrize(
    ("around", "user", "has_template", "rendered_template"),
    [
        ({"model_has_template": True, "adapter_template": "/a.jinja"}, {}, True, None),
        ({"model_has_template": False, "adapter_template": "/a.jinja"}, {}, True, "/a.jinja"),
        ({"model_has_template": False}, {}, False, None),
        ({"model_has_template": False}, {"chat-template": "/mine.jinja"}, True, "/mine.jinja"),
    ],
)
def test_a_chat_template_comes_from_the_user_the_model_or_the_adapter(
    around: dict[str, Any], user: dict[str, Any], has_template: bool, rendered_template: str | None
) -> None:
    engine = rendered(user=user, **around)
    assert engine.settings.chat_template == has_template
    assert engine.options.get("chat-template") == rendered_template


@pytest.mark.parametrize(
    ("accelerator", "user", "limit"),
    [("cpu", {}, 256), ("cuda", {}, 2048), ("cuda", {"max-num-seqs": 8, "data-parallel-size": 2}, 32)],
)
def test_as_many_requests_may_wait_as_run(accelerator: str, user: dict[str, Any], limit: int) -> None:
    assert rendered(dataclasses.replace(PHI, accelerator=accelerator), user).settings.max_pending == limit


@pytest.mark.parametrize(
    ("accelerator", "memory", "size", "warned"),
    [("cuda", 64 * GIB, 28, False), ("cuda", 9 * GIB, None, True), ("cpu", 64 * GIB, None, True)],
)
def test_kaitos_share_of_memory_becomes_offloading_where_there_is_memory(
    accelerator: str, memory: int, size: int | None, warned: bool
) -> None:
    user = InferenceConfig(kv_cache_cpu_memory_utilization=0.5)
    plan = dataclasses.replace(PHI, accelerator=accelerator)
    engine = render(plan, user, [], dataclasses.replace(POD, memory=memory))
    assert engine.options.get("kv-offloading-size") == size
    assert bool(engine.warnings) == warned


def test_every_cache_is_below_the_one_writable_mount() -> None:
    places = {key: value for key, value in rendered().environment.items() if "/" in value}
    assert "HOME" in places
    assert all(value.startswith("/cache") for value in places.values())


def test_a_model_by_name_may_be_fetched_and_weights_in_the_pod_are_not() -> None:
    assert rendered().environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in rendered(user={"model": "org/model"}).environment


@given(st.integers(0, 4096), st.integers(1, 8), st.integers(1, 4), st.lists(st.integers(1, 512), max_size=10))
def test_every_rendered_key_is_an_option_of_vllm(length: int, gpus: int, nodes: int, ranks: list[int]) -> None:
    plan = ServePlan("m", max_model_len=length, tensor_parallel_size=gpus, nodes=nodes, leader_address="leader")
    engine = render(plan, NOTHING, ranks, POD)
    assert set(engine.options) <= set(options.kinds())
    assert not ranks or max(ranks) <= engine.options["max-lora-rank"]
    assert isinstance(yaml.safe_load(to_yaml(engine)), dict)
