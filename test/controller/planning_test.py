"""From a Workspace's words to a decision: configuration files, weights, own nodes."""

import itertools
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from controller.catalogue import Model, Sku
from controller.loop import Loop
from controller.plan import Configuration, Refusal, find_model
from controller.planning import Decision, Rung, _configuration, _parsed, _provisioned, _sku_of, _weights, decide
from kube.api.workload import Node
from kube.api.workspace import Preset, Workspace
from test.clock import VirtualClock
from test.controller.stage import INFERENCE, SETTINGS, TUNING, Stage, changed
from test.kube.source import Source


def workspace(manifest: dict[str, Any]) -> Workspace:
    return msgspec.convert(manifest, Workspace)


def known(name: str) -> Model:
    found = find_model(name)
    assert isinstance(found, Model)
    return found


def test_weights_come_from_the_users_image_then_the_registry_then_the_hub() -> None:
    model = known("smollm2-135m-instruct")
    own = msgspec.convert(
        {"name": model.name, "presetOptions": {"image": "mine/w:1", "imagePullSecrets": ["s"]}}, Preset
    )
    assert _weights(SETTINGS, model, own).image == "mine/w:1"
    packed = _weights(SETTINGS, model, Preset(name=model.name))
    assert packed.image == f"registry.example/models/kaito-smollm2-135m-instruct:{model.image_tag}"
    hub = _weights(replace(SETTINGS, weights_registry=""), model, Preset(name=model.name, revision="abc"))
    assert (hub.image, hub.hub_id, hub.revision) == ("", "HuggingFaceTB/SmolLM2-135M-Instruct", "abc")


def test_the_context_of_the_engines_configuration_is_planned_with() -> None:
    config = {"inference_config.yaml": "vllm:\n  max-model-len: 4096\n"}
    wanted = _configuration(SETTINGS, workspace(INFERENCE), config)
    assert wanted == Configuration(accelerator="cpu", context=4096)


def test_kaitos_training_configuration_is_planned_with() -> None:
    text = "training_config:\n  LoraConfig:\n    r: 8\n  TrainingArguments:\n    per_device_train_batch_size: 2\n"
    wanted = _configuration(SETTINGS, workspace(TUNING), {"training_config.yaml": text})
    assert isinstance(wanted, Configuration)
    assert (wanted.method, wanted.lora_rank, wanted.micro_batch) == ("qlora", 8, 2)


def test_a_method_is_known_in_any_case() -> None:
    """R10."""
    wanted = _configuration(SETTINGS, workspace(changed(TUNING, tuning={"method": "QLoRA"})), {})
    assert isinstance(wanted, Configuration)
    assert wanted.method == "qlora"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("vllm: [", "line 1"),
        ("- a list", "mapping is expected at the top"),
        ("vllm:\n  max-model-len: true\n", "vllm.max-model-len"),
        ("vllm: 7\n", "vllm: a map"),
    ],
)
def test_a_broken_configuration_is_named_with_its_place(text: str, named: str) -> None:
    refused = _configuration(SETTINGS, workspace(INFERENCE), {"inference_config.yaml": text})
    assert isinstance(refused, Refusal)
    assert refused.reason == "ConfigInvalid"
    assert named in refused.message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("vllm:\n  max-modle-len: 1\n", "did you mean max-model-len?"),
        ("vllm:\n  max_modle_len: 1\n", "did you mean max-model-len?"),
        ("vlm: {}\n", "did you mean vllm?"),
        ("max-model-len: 1\n", "belongs under vllm:"),
        ("vllm:\n  enforce-eager.x: 1\n", "enforce-eager.x"),
    ],
)
def test_a_typo_in_an_engine_option_is_refused_with_the_nearest(text: str, named: str) -> None:
    refused = _configuration(SETTINGS, workspace(INFERENCE), {"inference_config.yaml": text})
    assert isinstance(refused, Refusal)
    assert named in refused.message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("training_config:\n  LoraConfg: {}\n", "did you mean LoraConfig?"),
        ("training_config:\n  LoraConfig:\n    lora_alhpa: 16\n", "did you mean lora_alpha?"),
        ("LoraConfig:\n  lora_alpha: 16\n", "LoraConfig belongs below training_config:"),
        ("training_config: abc\n", "a map of sections is expected"),
        ("training_config: [LoraConfig]\n", "a map of sections is expected"),
    ],
)
def test_a_typo_in_a_training_option_is_refused_with_the_nearest(text: str, named: str) -> None:
    refused = _configuration(SETTINGS, workspace(TUNING), {"training_config.yaml": text})
    assert isinstance(refused, Refusal)
    assert named in refused.message


def test_options_are_known_however_people_write_them() -> None:
    text = "max_probe_steps: 6\nvllm:\n  gpu_memory_utilization: 0.5\n  enable-prefix-caching: false\n  compilation-config.level: 3\n"
    wanted = _configuration(SETTINGS, workspace(INFERENCE), {"inference_config.yaml": text})
    assert isinstance(wanted, Configuration)
    older = "training_config: {TrainingArguments: {max_seq_length: 512}, ModelConfig: {torch_dtype: bfloat16}}"
    tuned = _configuration(SETTINGS, workspace(TUNING), {"training_config.yaml": older})
    assert isinstance(tuned, Configuration)
    assert tuned.max_length == 512


def test_an_empty_configuration_asks_for_nothing() -> None:
    assert _parsed("", "k") == {}
    assert _parsed("# only a comment\n", "k") == {}


def test_a_typo_in_an_alternative_is_found_before_it_is_needed() -> None:
    spec = workspace(changed(INFERENCE, resource={"instanceTypes": ["Standard_NC24ads_A100_v5"]}))
    refused = _provisioned(spec, known("smollm2-135m-instruct"), Configuration(accelerator="cpu"))
    assert isinstance(refused, Refusal)
    assert refused.reason == "InstanceTypeUnknown"


def test_without_an_instance_type_the_planner_chooses_and_stays_with_it() -> None:
    manifest = changed(INFERENCE, resource={"instanceType": ""})
    rungs = _provisioned(workspace(manifest), known("phi-4"), Configuration())
    assert isinstance(rungs, tuple)
    assert len(rungs) == 1
    settled = manifest | {"status": {"plan": {"instanceType": "Standard_ND96isr_H100_v5"}}}
    again = _provisioned(workspace(settled), known("phi-4"), Configuration())
    assert isinstance(again, tuple)
    assert again[0].instance_type == "Standard_ND96isr_H100_v5"
    assert rungs[0].instance_type != again[0].instance_type


def test_after_the_last_instance_type_the_first_is_tried_again() -> None:
    rungs = tuple(Rung(name, 1, 1, "nvidia.com/gpu", 100) for name in ("a", "b"))
    first = Decision(rungs=rungs)
    following = first.following()
    assert following is not None
    assert following.instance_type == "b"
    last = replace(first, current=1).following()
    assert last is not None
    assert last.instance_type == "a"
    assert Decision(rungs=rungs[:1]).following() is None


def test_own_nodes_say_what_they_have_by_labels_type_or_device_plugin() -> None:
    def node(labels: dict[str, str], gpus: str = "0") -> Node:
        return msgspec.convert(
            {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}, Node
        )

    feature = {
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.memory": "23028",
        "nvidia.com/gpu.product": "NVIDIA-A10",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "6",
    }
    discovered = _sku_of(node(feature), Configuration())
    assert isinstance(discovered, Sku)
    assert (discovered.gpu, discovered.gpus) == ("NVIDIA A10", 2)  # R14: the name with dashes is the same GPU
    typed = _sku_of(node({"node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4"}), Configuration())
    assert isinstance(typed, Sku)
    assert _sku_of(node({}, "1"), Configuration()) is None
    plugged = _sku_of(node({}, "1"), Configuration(accelerator="cpu"))
    assert isinstance(plugged, Sku)
    assert plugged.gpus == 1


T4S = ("Standard_NC8as_T4_v3", "Standard_NC4as_T4_v3", "Standard_NC16as_T4_v3")


@pytest.mark.parametrize("order", list(itertools.permutations(T4S)))
@pytest.mark.parametrize(("stored", "expected"), [("", min(T4S)), *((name, name) for name in T4S), ("gone", min(T4S))])
async def test_own_nodes_of_several_sizes_give_one_plan_and_keep_it(
    order: tuple[str, ...], stored: str, expected: str
) -> None:
    """The same GPU comes in several sizes. What a server is rendered from must not hang on who is listed first."""
    settings = replace(SETTINGS, node_provisioner="byo")
    world = Loop(Source().client, settings, clock=VirtualClock(), registry=CollectorRegistry()).world
    for name in order:
        marks = {"team": "a", "node.kubernetes.io/instance-type": name}
        world.nodes.put(msgspec.convert({"metadata": {"name": f"node-{name}", "labels": marks}}, Node))
    manifest = changed(INFERENCE, resource={"labelSelector": {"matchLabels": {"team": "a"}}})
    decided = await decide(
        world, workspace(manifest | ({"status": {"plan": {"instanceType": stored}}} if stored else {}))
    )
    assert isinstance(decided, Decision)
    assert decided.rung.instance_type == expected


async def test_a_template_needs_no_config_map(stage: Stage, controller: Loop) -> None:
    """`config` has no effect there, so that one that does not exist is no reason for a refusal."""
    containers = [{"name": "server", "image": "r.example/server:1"}]
    manifest = changed(INFERENCE)
    manifest["inference"] = {"template": {"spec": {"containers": containers}}, "config": "absent"}
    stage.create(manifest)
    await stage.nodes_ready()
