"""Fits one model on one instance type: how it is split, what context it gets, what is rendered for the runtime, or why not.

Pure, and blind to alternatives: `controller.plan` asks the same of many instance types. Every number in a text, in an
engine option and in the decision comes from `controller.sizing`, so that they cannot differ.
"""

from dataclasses import dataclass, replace
from typing import Any

from controller import sizing
from controller.catalogue import GIB, Model, Sku
from controller.sizing import Layout
from kube.api.reasons import Reason
from runtime.contract import Accelerator, ServePlan, TunePlan

CAPABILITY = (7, 5)  # the oldest GPUs that the pinned torch has kernels for
BFLOAT16 = (8, 0)  # the oldest that compute in bfloat16, which most models are stored in
MOST_NODES = 64
MOST_NODES_OVER_ETHERNET = 4  # pipelines over more hops than that wait more than they compute

# On a CPU there is no memory of its own to measure out: small, and enough to answer.
CPU_CONTEXT = 2048
CPU_SEQUENCES = 8
CPU_CACHE = GIB
CPU_SPARE_TOKENS = 256  # a block that the engine keeps for itself, and rounding up to whole ones


@dataclass(frozen=True)
class Configuration:
    """What the user asked for, beyond model and instance type; 0 and "" mean: decide."""

    accelerator: str = Accelerator.CUDA
    serve: bool = True  # serve the model, after tuning it where `method` is set
    method: str = ""  # lora or qlora: tune it
    context: int = 0  # tokens, max_model_len
    nodes: int = 0  # resource.count; 1 is KAITO's default and means no more than 0
    lora_rank: int = 0
    micro_batch: int = 0
    max_length: int = 0  # tokens per training row


@dataclass(frozen=True)
class Refusal:
    """Why there is no plan. The message has the numbers and the way out; the reason is the condition's."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """What was decided. `serve` and `tune` are the runtime's parts; the controller adds names, secrets and adapters."""

    model: Model
    sku: Sku
    nodes: int
    tensor_parallel_size: int
    pipeline_parallel_size: int
    data_parallel_size: int
    context: int  # tokens
    sequences: int  # of that length, at once
    disk_gib: int
    startup_seconds: int
    breakdown: str
    warnings: tuple[str, ...] = ()
    serve: ServePlan | None = None
    tune: TunePlan | None = None

    @property
    def gpus_per_node(self) -> int:
        return self.sku.gpus

    @property
    def cost(self) -> int:
        """GPUs x memory: what stands for a price here, since none is invented."""
        return self.nodes * self.sku.gpus * self.sku.usable


def fit(model: Model, sku: Sku, configuration: Configuration) -> Plan | Refusal:
    """Decide how to serve, to tune, or to tune and then serve a model on nodes of one instance type."""
    refused = _refuse_configuration(model, configuration) or _refuse_gpu(sku, configuration)
    if refused:
        return refused
    serving = _plan_serving(model, sku, configuration) if configuration.serve else None
    if serving is not None and (isinstance(serving, Refusal) or not configuration.method):
        return serving
    tuning = _plan_tuning(model, sku, configuration)
    if isinstance(tuning, Refusal) or serving is None:
        return tuning
    return _both(tuning, serving)


def _refuse_configuration(model: Model, configuration: Configuration) -> Refusal | None:
    if not configuration.serve and not configuration.method:
        return Refusal(Reason.CONFIG_INVALID, "neither serving nor tuning was asked for")
    for name, tokens in (("max-model-len", configuration.context), ("max_length", configuration.max_length)):
        if tokens > model.context:
            message = f"{name} is {tokens:,}; {model.label} takes at most {model.context:,} tokens"
            return Refusal(Reason.CONFIG_INVALID, message)
    return None


def _refuse_gpu(sku: Sku, configuration: Configuration) -> Refusal | None:
    """Refuse GPUs that the runtime cannot compute on; on a CPU the instance type is just a name."""
    if configuration.accelerator == Accelerator.CPU or (sku.capability and sku.capability >= CAPABILITY):
        return None
    needed = ".".join(map(str, CAPABILITY))
    has = f"compute capability {'.'.join(map(str, sku.capability))}" if sku.capability else "no CUDA"
    return Refusal(
        Reason.INSTANCE_TYPE_UNSUPPORTED,
        f"{sku.instance_type} has {sku.gpu} GPUs with {has}; the runtime needs {needed} or newer",
    )


def _plan_serving(model: Model, sku: Sku, configuration: Configuration) -> Plan | Refusal:
    if configuration.accelerator == Accelerator.CPU:
        return _serve_on_cpu(model, sku, configuration)
    needed = configuration.context or min(sizing.BASE_CONTEXT, model.context)
    layout = _layout(model, sku, configuration, needed)
    if layout is None:
        return Refusal(Reason.PLAN_FAILED, _too_large(model, sku, needed))
    if layout.nodes > MOST_NODES_OVER_ETHERNET and not sku.rdma:
        message = (
            f"{model.label} would need {layout.nodes} nodes of {sku.instance_type}, which has no fast network between"
            f" nodes: at most {MOST_NODES_OVER_ETHERNET} are sensible"
        )
        return Refusal(Reason.PLAN_FAILED, message)
    return _serve_on_gpus(model, sku, configuration, layout)


def _layout(model: Model, sku: Sku, configuration: Configuration, needed: int) -> Layout | None:
    """Return the best split over the fewest nodes, or over as many as were asked for if it fits those."""
    asked = [configuration.nodes] if configuration.nodes > 1 else []
    for nodes in (*asked, *range(1, MOST_NODES + 1)):
        fitting = [
            layout for layout in sizing.layouts(model, sku, nodes) if sizing.cached_tokens(model, sku, layout) >= needed
        ]
        if fitting:
            return max(fitting, key=lambda layout: _worth(model, sku, layout, configuration))
    return None


def _worth(model: Model, sku: Sku, layout: Layout, configuration: Configuration) -> tuple[int, int, int]:
    """Longest context first. Then copies of a model that is small for the node, or else the split with the least delay."""
    small = model.weights * sku.gpus * 2 < sku.usable * sku.gpus
    context = _context(model, sku, layout, configuration)
    return context, layout.data if small else layout.tensor, layout.tensor


def _context(model: Model, sku: Sku, layout: Layout, configuration: Configuration) -> int:
    return configuration.context or sizing.context(model, sku, layout)


def _serve_on_gpus(model: Model, sku: Sku, configuration: Configuration, layout: Layout) -> Plan:
    context = _context(model, sku, layout, configuration)
    engine: dict[str, Any] = {"gpu_memory_utilization": sizing.utilization(sku)}
    if layout.data > 1:
        engine["data_parallel_size"] = layout.data
    return Plan(
        model=model,
        sku=sku,
        nodes=layout.nodes,
        tensor_parallel_size=layout.tensor,
        pipeline_parallel_size=layout.pipeline,
        data_parallel_size=layout.data,
        context=context,
        sequences=sizing.cached_tokens(model, sku, layout) // context * layout.data,
        disk_gib=sizing.disk_gib(model),
        startup_seconds=sizing.startup_seconds(model),
        breakdown=_breakdown(model, sku, layout, context),
        warnings=_warnings(sku, configuration, layout.nodes),
        serve=ServePlan(
            model=model.label,
            accelerator=configuration.accelerator,
            dtype="auto" if sku.capability and sku.capability >= BFLOAT16 else "float16",
            max_model_len=context,
            tensor_parallel_size=layout.tensor,
            pipeline_parallel_size=layout.pipeline,
            nodes=layout.nodes,
            engine=engine | _model_options(model),
        ),
    )


def _serve_on_cpu(model: Model, sku: Sku, configuration: Configuration) -> Plan:
    """One node, one process, and a cache of a fixed size, since a node's memory is not the model's alone."""
    context = configuration.context or min(CPU_CONTEXT, model.context)
    sequence = context * model.kv_bytes_per_token
    sequences = max(1, min(CPU_SEQUENCES, CPU_CACHE // sequence))
    cache = sequences * sequence + CPU_SPARE_TOKENS * model.kv_bytes_per_token
    return Plan(
        model=model,
        sku=sku,
        nodes=1,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        context=context,
        sequences=sequences,
        disk_gib=sizing.disk_gib(model),
        startup_seconds=sizing.startup_seconds(model),
        breakdown=f"on the CPU: weights {_gib(model.weights)}, KV cache of {sequences} x {context:,} tokens {_gib(cache)}",
        warnings=_warnings(sku, configuration, 1),
        serve=ServePlan(
            model=model.label,
            accelerator=configuration.accelerator,
            max_model_len=context,
            engine={"kv_cache_memory_bytes": cache, "max_num_seqs": sequences} | _model_options(model),
        ),
    )


def _model_options(model: Model) -> dict[str, Any]:
    """Return the engine options that come with the model, under vLLM's names."""
    options: dict[str, Any] = {
        name: value
        for name, value in (
            ("reasoning_parser", model.reasoning_parser),
            ("tokenizer_mode", model.tokenizer_mode),
            ("load_format", model.load_format),
            ("config_format", model.config_format),
        )
        if value
    }
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": model.tool_parser} if model.tool_parser else {}
    return tools | options


def _plan_tuning(model: Model, sku: Sku, configuration: Configuration) -> Plan | Refusal:
    length = configuration.max_length or min(sizing.TUNING_CONTEXT, model.context)
    on_cpu = configuration.accelerator == Accelerator.CPU
    micro_batch = configuration.micro_batch if on_cpu else _micro_batch(model, sku, configuration, length)
    memory = sizing.tuning_memory(model, configuration.method, _rank(configuration), max(1, micro_batch), length)
    parts = (
        f"weights ({configuration.method}) {_gib(memory.weights)}, adapter and optimizer {_gib(memory.adapter)}, activations of"
        f" {max(1, micro_batch)} x {length:,} tokens {_gib(memory.activations)}, overhead {_gib(memory.overhead)}:"
        f" {_gib(memory.total)}"
    )
    if not on_cpu and memory.total > sizing.available(sku):
        message = (
            f"tuning {model.label} does not fit a GPU of {sku.instance_type}: {parts} of {_gib(sizing.available(sku))}"
        )
        return Refusal(Reason.PLAN_FAILED, message)
    return Plan(
        model=model,
        sku=sku,
        nodes=1,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        data_parallel_size=1,
        context=length,
        sequences=micro_batch,
        disk_gib=sizing.tuning_disk_gib(model),
        startup_seconds=sizing.startup_seconds(model),
        breakdown=parts if on_cpu else f"{parts} of {_gib(sizing.available(sku))} on 1 of {sku.gpus} GPUs",
        warnings=_warnings(sku, configuration, 1),
        tune=TunePlan(
            model=model.hub_id,
            revision=model.revision,
            method=configuration.method,
            accelerator=configuration.accelerator,
            micro_batch=micro_batch,
            max_length=configuration.max_length,
        ),
    )


def _micro_batch(model: Model, sku: Sku, configuration: Configuration, length: int) -> int:
    """Return the rows per step that were asked for, or the most that fit a GPU; 1 where nothing does."""
    if configuration.micro_batch:
        return configuration.micro_batch
    sizes = (
        size
        for size in sizing.MICRO_BATCHES
        if sizing.tuning_memory(model, configuration.method, _rank(configuration), size, length).total
        <= sizing.available(sku)
    )
    return next(sizes, 1)


def _rank(configuration: Configuration) -> int:
    return configuration.lora_rank or sizing.LORA_RANK


def _both(tuning: Plan, serving: Plan) -> Plan | Refusal:
    """Put both on the same nodes, one after the other: the larger disk, and one node, since tuning has no more."""
    if serving.nodes > 1:
        message = (
            f"{serving.model.label} is tuned on one node and would be served on {serving.nodes} of"
            f" {serving.sku.instance_type}: set tuning.onSuccess to Release, or choose larger nodes"
        )
        return Refusal(Reason.PLAN_FAILED, message)
    return replace(
        serving,
        tune=tuning.tune,
        disk_gib=max(tuning.disk_gib, serving.disk_gib),
        breakdown=f"tuning: {tuning.breakdown}; serving: {serving.breakdown}",
        warnings=tuple(dict.fromkeys(tuning.warnings + serving.warnings)),
    )


def _warnings(sku: Sku, configuration: Configuration, nodes: int) -> tuple[str, ...]:
    warnings = [f"{sku.instance_type} was retired by its cloud on {sku.retired}"] if sku.retired else []
    if configuration.nodes > 1 and configuration.nodes != nodes:
        warnings.append(f"resource.count {configuration.nodes} cannot work here; {nodes} nodes are used")
    return tuple(warnings)


def _breakdown(model: Model, sku: Sku, layout: Layout, context: int) -> str:
    """Return where one GPU's memory goes, as text for people."""
    weights, activations = sizing.weights(model, layout), sizing.activations(model, layout)
    cache = sizing.kv_per_token(model, layout) * context
    total = weights + activations + cache + sizing.OVERHEAD
    return (
        f"on each GPU: weights {_gib(weights)}, KV cache of {context:,} tokens {_gib(cache)}, activations"
        f" {_gib(activations)}, overhead {_gib(sizing.OVERHEAD)}: {_gib(total)} of {_gib(sizing.available(sku))}"
        f" ({_gib(sku.usable)} x {sizing.utilization(sku)})"
    )


def _too_large(model: Model, sku: Sku, needed: int) -> str:
    """Say why nothing fits, by the split that is the easiest on a GPU's memory within one node."""
    layouts = list(sizing.layouts(model, sku, 1))
    best = max(layouts, key=lambda layout: (layout.tensor * layout.pipeline, layout.tensor))
    return f"{model.label} does not fit {sku.instance_type}: {_breakdown(model, sku, best, needed)}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
