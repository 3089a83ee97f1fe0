"""The planner: KAITO's node counts and where we differ, the invariants under any input, and what people read."""

import csv
import dataclasses
import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies as st

from controller import catalogue, plan, sizing
from controller.catalogue import GIB, Model, Sku
from controller.plan import Configuration, Plan, Refusal
from kube.api.reasons import Reason
from runtime.contract import Accelerator, ServePlan, decode, encode

DATA = pathlib.Path(__file__).parent
CPU = Configuration(accelerator=Accelerator.CPU)
BOTH = Configuration(method="qlora")


def model(name: str) -> Model:
    found = plan.find_model(name)
    assert isinstance(found, Model)
    return found


def sku(instance_type: str) -> Sku:
    found = plan.find_sku(instance_type)
    assert isinstance(found, Sku)
    return found


def planned(name: str, instance_type: str, configuration: Configuration = Configuration()) -> Plan:  # noqa: B008  # frozen
    decided = plan.plan(model(name), sku(instance_type), configuration)
    assert isinstance(decided, Plan), decided
    return decided


def refused(name: str, instance_type: str, configuration: Configuration = Configuration()) -> Refusal:  # noqa: B008
    decided = plan.plan(model(name), sku(instance_type), configuration)
    assert isinstance(decided, Refusal), decided
    return decided


# Against KAITO ------------------------------------------------------------------------------------------------------


def fewest_nodes(of: Model, on: Sku) -> int:
    """The nodes that serving needs, before slow networks are refused; 0 where no number of nodes is enough."""
    fitting = (
        nodes
        for nodes in range(1, 65)
        if any(sizing.cached_tokens(of, on, layout) >= sizing.BASE_CONTEXT for layout in sizing.layouts(of, on, nodes))
    )
    return next(fitting, 0)


def test_node_counts_are_kaitos_but_for_the_exceptions_that_are_listed_with_their_reason() -> None:
    ours = {
        (row["hub_id"], instance_type): (int(count), fewest_nodes(model(row["hub_id"]), sku(instance_type)))
        for row in csv.DictReader((DATA / "kaito_nodes.csv").read_text().splitlines())
        for instance_type, count in row.items()
        if instance_type != "hub_id"
    }
    listed = csv.DictReader((DATA / "kaito_exceptions.csv").read_text().splitlines())
    exceptions = {(row["hub_id"], row["instance_type"]): (int(row["kaito"]), int(row["ours"])) for row in listed}

    assert len(ours) == 60 * 8
    assert {cell: counts for cell, counts in ours.items() if counts[0] != counts[1]} == exceptions


# What the session and its neighbours need -----------------------------------------------------------------------------


def test_the_box_tunes_and_serves_on_the_seeds_instance_type() -> None:
    decided = planned("smollm2-135m-instruct", "Standard_NC6s_v3", dataclasses.replace(CPU, method="qlora"))

    assert decided.nodes == decided.gpus_per_node == 1
    assert decided.serve is not None
    assert decided.serve.max_model_len == 2048
    assert decided.serve.engine["kv_cache_memory_bytes"] < GIB
    assert decided.tune is not None
    assert decided.tune.model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert decided.tune.accelerator == "cpu"
    assert decided.warnings == ("Standard_NC6s_v3 was retired by its cloud on 2025-09-30",)


def test_a_v100_is_refused_on_cuda_with_what_fits_instead() -> None:
    refusal = refused("phi-3-mini-128k-instruct", "Standard_NC6s_v3", BOTH)

    assert refusal.reason is Reason.INSTANCE_TYPE_UNSUPPORTED
    assert "compute capability 7.0" in refusal.message
    assert refusal.message.endswith("use Standard_NC4as_T4_v3, Standard_NC8as_T4_v3 or Standard_NC16as_T4_v3")


def test_a_gpu_without_bfloat16_is_told_to_compute_in_float16() -> None:
    old, new = (
        planned("phi-4-mini-instruct", name).serve for name in ("Standard_NC4as_T4_v3", "Standard_NV36ads_A10_v5")
    )

    assert old is not None
    assert new is not None
    assert (old.dtype, new.dtype) == ("float16", "auto")


def test_an_amd_gpu_is_refused_since_the_runtime_is_built_for_cuda() -> None:
    assert refused("phi-4", "Standard_ND96isr_MI300X_v5").reason is Reason.INSTANCE_TYPE_UNSUPPORTED


@pytest.mark.parametrize("instance_type", ["Standard_ND96asr_A100_v4", "g5.12xlarge", "g5.48xlarge"])
def test_phi_4_with_its_40_heads_gets_a_split_that_divides_them(instance_type: str) -> None:
    decided = planned("phi-4", instance_type)

    assert decided.tensor_parallel_size in (1, 2, 5, 10)
    assert decided.nodes == 1


def test_an_explicit_context_is_kept_and_takes_more_nodes_when_it_must() -> None:
    short = planned("phi-4", "Standard_NV72ads_A10_v5", Configuration(context=4096))
    long = planned("phi-4", "Standard_NV72ads_A10_v5", Configuration(context=16384))

    assert (short.context, long.context) == (4096, 16384)
    assert short.nodes <= long.nodes


def test_a_context_beyond_the_models_is_refused_with_both_numbers() -> None:
    refusal = refused("phi-4", "Standard_NC24ads_A100_v4", Configuration(context=20_000))

    assert refusal == Refusal(Reason.CONFIG_INVALID, "max-model-len is 20,000; phi-4 takes at most 16,384 tokens")


def test_a_long_pipeline_over_ethernet_is_refused_with_what_fits() -> None:
    refusal = refused("deepseek-r1-0528", "Standard_NC24ads_A100_v4")

    assert refusal.reason is Reason.PLAN_FAILED
    assert "no fast network" in refusal.message
    assert "Standard_ND96isr_H200_v5" in refusal.message


def test_what_does_not_fit_is_refused_with_the_bytes() -> None:
    tiny = dataclasses.replace(sku("Standard_NC4as_T4_v3"), usable=GIB)
    refusal = plan.plan(model("phi-4"), tiny, Configuration())

    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.PLAN_FAILED
    assert "weights 27.86 GiB, KV cache of 2,048 tokens 0.39 GiB" in refusal.message


def test_a_count_is_honoured_where_it_works_and_warned_about_where_not() -> None:
    more = planned("phi-4-mini-instruct", "Standard_NC24ads_A100_v4", Configuration(nodes=2))
    fewer = planned("gpt-oss-120b", "Standard_NV72ads_A10_v5", Configuration(nodes=2))

    assert (more.nodes, more.warnings) == (2, ())
    assert fewer.nodes > 2
    assert fewer.warnings == (f"resource.count 2 cannot work here; {fewer.nodes} nodes are used",)


def test_a_model_that_is_tuned_on_one_node_and_served_on_several_is_refused_unless_released() -> None:
    both = refused("phi-4", "Standard_NV36ads_A10_v5", BOTH)
    released = planned("phi-4", "Standard_NV36ads_A10_v5", dataclasses.replace(BOTH, serve=False))

    assert "set tuning.onSuccess to Release" in both.message
    assert released.serve is None
    assert released.tune is not None


def test_tuning_uses_one_gpu_which_the_model_must_fit_however_many_the_node_has() -> None:
    released = dataclasses.replace(BOTH, serve=False)
    qlora = planned("llama-3.3-70b-instruct", "Standard_NC96ads_A100_v4", released)
    lora = refused("llama-3.3-70b-instruct", "Standard_NC96ads_A100_v4", dataclasses.replace(released, method="lora"))

    assert qlora.data_parallel_size == 1
    assert qlora.breakdown.endswith("on 1 of 4 GPUs")
    assert "does not fit a GPU of Standard_NC96ads_A100_v4" in lora.message


def test_tuning_and_serving_share_the_larger_disk() -> None:
    serving = planned("phi-4", "Standard_NC24ads_A100_v4")
    tuning = planned("phi-4", "Standard_NC24ads_A100_v4", dataclasses.replace(BOTH, serve=False))
    both = planned("phi-4", "Standard_NC24ads_A100_v4", BOTH)

    assert serving.disk_gib == 107  # KAITO's
    assert both.disk_gib == max(serving.disk_gib, tuning.disk_gib)


def test_an_impossible_micro_batch_is_refused_before_a_node_is_made() -> None:
    refusal = refused("phi-4", "Standard_NC24ads_A100_v4", dataclasses.replace(BOTH, micro_batch=64))

    assert refusal.reason is Reason.PLAN_FAILED
    assert "activations of 64 x 2,048 tokens" in refusal.message


def test_startup_budget_grows_with_the_weights_between_its_limits() -> None:
    budgets = {
        name: sizing.startup_seconds(model(name)) // 60
        for name in ("phi-4", "llama-3.3-70b-instruct", "deepseek-r1-0528")
    }

    assert budgets == {"phi-4": 30, "llama-3.3-70b-instruct": 54, "deepseek-r1-0528": 180}


def test_the_parsers_of_a_model_become_engine_options_under_vllms_names() -> None:
    serve = planned("deepseek-r1-distill-qwen-14b", "Standard_NC24ads_A100_v4").serve

    assert serve is not None
    assert serve.engine["tool_call_parser"] == "deepseek_v3"
    assert serve.engine["reasoning_parser"] == "deepseek_r1"
    assert serve.engine["enable_auto_tool_choice"] is True


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_are_found_in_any_case_by_alias_and_by_hub_id() -> None:
    assert model("Phi-4") is model("microsoft/phi-4")
    assert sku("standard_nc24ADS_a100_v4").instance_type == "Standard_NC24ads_A100_v4"


@pytest.mark.parametrize(
    ("name", "reason", "told"),
    [
        ("phi-4-mini-instrukt", Reason.PRESET_UNKNOWN, "did you mean phi-4-mini-instruct"),
        ("falcon-7b", Reason.PRESET_RETIRED, "use mistral-7b"),
        ("meta-llama/Llama-2-7b-chat-hf", Reason.PRESET_RETIRED, "use llama-3.1-8b-instruct"),
        ("somebody/something", Reason.MODEL_UNRESOLVED, "ids outside it are not supported yet"),
        ("Qwen/Qwen2.5-Coder-14B-Instruct", Reason.MODEL_UNRESOLVED, "did you mean Qwen/Qwen2.5-Coder-7B-Instruct"),
    ],
)
def test_a_name_that_cannot_be_served_is_refused_with_the_way_on(name: str, reason: Reason, told: str) -> None:
    refusal = plan.find_model(name)

    assert isinstance(refusal, Refusal)
    assert refusal.reason is reason
    assert told in refusal.message


def test_an_unknown_instance_type_is_refused_with_the_nearest_names() -> None:
    refusal = plan.find_sku("Standard_NC24ads_A100_v3")

    assert isinstance(refusal, Refusal)
    assert "Standard_NC24ads_A100_v4" in refusal.message


def test_the_gpus_of_a_node_are_read_from_its_labels_and_named_as_the_catalogue_does() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A10",
        "nvidia.com/gpu.count": "2",
        "nvidia.com/gpu.memory": "23028",
        "nvidia.com/gpu.compute.major": "8",
        "nvidia.com/gpu.compute.minor": "6",
    }
    found = plan.sku_of_labels(labels)

    assert found is not None
    assert sizing.utilization(found) == 0.82
    assert (found.gpus, found.usable) == (2, 23028 << 20)
    assert plan.sku_of_labels({}) is None


def test_without_instance_type_the_cheapest_that_fits_is_chosen() -> None:
    small, large = (
        plan.choose(model("phi-4-mini-instruct"), Configuration()),
        plan.choose(model("deepseek-r1-0528"), Configuration()),
    )

    assert isinstance(small, Plan)
    assert small.sku.instance_type == "Standard_NC4as_T4_v3"
    assert isinstance(large, Plan)
    assert large.sku.rdma


@pytest.mark.parametrize(
    ("arguments", "code", "key"),
    [
        (["phi-4", "Standard_NC24ads_A100_v4"], 0, "serve"),
        (["phi-4", "--tune", "qlora"], 0, "tune"),
        (["phi-44", "x"], 1, "reason"),
    ],
)
def test_the_command_prints_one_json_document(
    arguments: list[str], code: int, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(arguments) == code
    assert key in json.loads(capsys.readouterr().out)


# Whatever the input -----------------------------------------------------------------------------------------------------

models = st.builds(
    lambda weights, layers, kv_heads, groups, head_dim, context, latent, quantization: Model(
        hub_id="org/model",
        weights=weights,
        context=context,
        layers=layers,
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        hidden_size=kv_heads * groups * head_dim,
        kv_bytes_per_token=4 * kv_heads * head_dim * layers,
        latent=latent,
        quantization=quantization,
    ),
    weights=st.integers(1, 2000 * GIB),
    layers=st.integers(1, 130),
    kv_heads=st.integers(1, 128),
    groups=st.integers(1, 16),
    head_dim=st.sampled_from([64, 96, 128, 256]),
    context=st.integers(1, 1 << 20),
    latent=st.booleans(),
    quantization=st.sampled_from(["", "fp8", "awq"]),
)
skus = st.one_of(
    st.sampled_from(catalogue.skus()),
    st.builds(
        Sku,
        instance_type=st.just("any"),
        gpu=st.sampled_from(["NVIDIA A10", "NVIDIA H100"]),
        gpus=st.integers(1, 16),
        usable=st.integers(1, 300 * GIB),
        capability=st.sampled_from([None, (7, 0), (7, 5), (9, 0)]),
        rdma=st.booleans(),
    ),
)
configurations = st.builds(
    Configuration,
    accelerator=st.sampled_from([Accelerator.CUDA, Accelerator.CUDA, Accelerator.CPU]),
    serve=st.booleans(),
    method=st.sampled_from(["", "lora", "qlora"]),
    context=st.one_of(st.just(0), st.integers(0, 1 << 20)),
    nodes=st.integers(0, 8),
    lora_rank=st.integers(0, 256),
    micro_batch=st.integers(0, 64),
    max_length=st.integers(0, 1 << 16),
)


@hypothesis.settings(max_examples=1000, deadline=None)
@hypothesis.given(models, skus, configurations)
def test_it_never_raises_and_what_it_decides_is_consistent(of: Model, on: Sku, configuration: Configuration) -> None:
    decided = plan.plan(of, on, configuration)

    if isinstance(decided, Refusal):
        assert decided.message
        return
    assert decided.nodes >= 1
    assert 0 < decided.context <= of.context
    assert not configuration.context or not configuration.serve or decided.context == configuration.context
    assert (decided.serve is not None) == configuration.serve
    assert (decided.tune is not None) == bool(configuration.method)
    if decided.serve:
        assert_flags_are_the_estimates(decided, decided.serve)
    if decided.serve and configuration.accelerator == Accelerator.CUDA:
        assert_it_divides_and_fits(decided)


def assert_flags_are_the_estimates(decided: Plan, serve: ServePlan) -> None:
    assert serve.max_model_len == decided.context
    assert serve.tensor_parallel_size == decided.tensor_parallel_size
    assert serve.pipeline_parallel_size == decided.pipeline_parallel_size
    assert serve.nodes == decided.nodes
    assert serve.engine.get("data_parallel_size", 1) == decided.data_parallel_size
    if serve.accelerator == Accelerator.CUDA:
        assert serve.engine["gpu_memory_utilization"] == sizing.utilization(decided.sku)
    assert decode(ServePlan, encode(serve)) == serve


def assert_it_divides_and_fits(decided: Plan) -> None:
    of, on = decided.model, decided.sku
    layout = sizing.Layout(
        decided.nodes, decided.tensor_parallel_size, decided.pipeline_parallel_size, decided.data_parallel_size
    )
    taken = (
        sizing.weights(of, layout)
        + sizing.activations(of, layout)
        + sizing.OVERHEAD
        + decided.context * sizing.kv_per_token(of, layout)
    )

    assert layout.tensor * layout.pipeline * layout.data == layout.nodes * on.gpus
    assert on.gpus % layout.tensor == 0
    assert of.heads % layout.tensor == 0
    assert of.latent or of.kv_heads % layout.tensor == 0 or layout.tensor % of.kv_heads == 0
    assert layout.pipeline <= of.layers
    assert taken <= sizing.available(on)
    assert decided.sequences >= 1
    assert layout.nodes <= 4 or on.rdma


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(models, skus, st.integers(1, 64 * GIB))
def test_more_memory_never_takes_more_nodes_nor_gives_less_context(of: Model, on: Sku, more: int) -> None:
    configuration = Configuration()
    less = plan.plan(of, on, configuration)
    decided = plan.plan(of, dataclasses.replace(on, usable=on.usable + more), configuration)

    if isinstance(less, Plan):
        assert isinstance(decided, Plan)
        assert decided.nodes <= less.nodes
        assert decided.nodes < less.nodes or decided.context >= less.context


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(models, skus, st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_a_longer_context_never_takes_fewer_nodes(of: Model, on: Sku, one: int, other: int) -> None:
    short, long = sorted((one, other))
    larger = plan.plan(of, on, Configuration(context=long))

    if isinstance(larger, Plan):
        smaller = plan.plan(of, on, Configuration(context=short))
        assert isinstance(smaller, Plan)
        assert smaller.nodes <= larger.nodes
