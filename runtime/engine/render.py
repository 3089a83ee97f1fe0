"""From a plan, a user's config and the pod's surroundings to one vLLM configuration. Pure: values in, values out.

Owns which vLLM options follow from a plan and who wins (user over planned engine options over plan over our defaults).
Knows no process and reads no file. What vLLM's YAML reader does with each kind of value is known here alone.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime import contract, http
from runtime.adapters import preflight
from runtime.contract import Accelerator, ServePlan
from runtime.engine import options
from runtime.engine.config import InferenceConfig, vllm_options

GIB = 1024**3
CPU_KV_CACHE = GIB  # bytes; vLLM's own choice on a CPU is 92 % of the node's memory
MIDDLEWARE = "runtime.http.Middleware"
MAX_LORAS = 8  # in one batch; each costs memory of the size of the largest
STOP_MARGIN = 10  # seconds of the grace period that vLLM does not get, so that the report is written before SIGKILL
# max-num-seqs where nobody sets it: vLLM's default on a CPU, and its largest on a GPU, lest a big one be held back.
DEFAULT_SEQUENCES = {Accelerator.CPU: 128, Accelerator.CUDA: 1024}
# What vLLM's processes hold on a GPU node besides offloaded cache: server and core, and each worker. An estimate.
SERVER_MEMORY, WORKER_MEMORY = 4 * GIB, 4 * GIB


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the pod is, as far as the configuration depends on it."""

    weights: Path = Path(contract.WEIGHTS_DIR)
    cache: Path = Path(contract.CACHE_DIR)
    cpus: int = 1
    memory: int = 0  # bytes
    pod_index: int = 0
    grace_seconds: int = 30
    port: int = contract.API_PORT
    model_has_template: bool = True
    adapter_template: str = ""  # a template file that came with the adapter of /chat


@dataclasses.dataclass(frozen=True)
class Engine:
    """Everything that a vLLM process is started with."""

    options: Mapping[str, Any]
    environment: Mapping[str, str]
    settings: http.Settings
    model: str  # the name under which the base model answers
    headless: bool = False  # a further node of one engine: no HTTP server
    beyond_text: bool = False  # adapters work outside the language model too, as vLLM lets them only if it is told to
    api_key: str = ""
    warnings: tuple[str, ...] = ()


def render(
    plan: ServePlan, user: InferenceConfig, ranks: Sequence[int], around: Surroundings, secret: str = ""
) -> Engine:
    """`ranks` are those of the adapters to serve."""
    offload, warnings = _offload(plan, user, around)
    planned = {**_base(plan, around), **_adapters(ranks), **offload, **vllm_options(plan.engine, "plan")}
    merged = {key: value for key, value in {**planned, **user.options}.items() if value is not None}
    name = str(merged["served-model-name"][0])
    template = around.model_has_template or "chat-template" in merged
    return Engine(
        options=merged,
        environment=_environment(plan, around, lora=bool(ranks), offline=merged["model"] == str(around.weights)),
        settings=http.Settings(secret, plan.chat_adapter or name, template, _max_pending(plan, merged)),
        model=name,
        headless=bool(merged.get("headless")),
        beyond_text=bool(merged.get("enable-tower-connector-lora")),
        api_key=str(merged.get("api-key", [""])[0]),
        warnings=(*user.warnings, *warnings),
    )


def to_yaml(engine: Engine) -> str:
    import yaml

    shown = {key: _written(key, value) for key, value in engine.options.items() if _kind(key) != options.APPEND}
    return yaml.safe_dump({key: value for key, value in shown.items() if value is not None}, sort_keys=True)


def arguments(engine: Engine) -> list[str]:
    """What the YAML cannot say: an option that is repeated. Ours comes last, which is outermost."""
    repeated = [(key, item) for key, items in engine.options.items() if _kind(key) == options.APPEND for item in items]
    return [word for key, item in [*repeated, ("middleware", MIDDLEWARE)] for word in (f"--{key}", str(item))]


def _kind(key: str) -> str:
    return options.JSON if "." in key else options.kinds()[key]


def _written(key: str, value: Any) -> Any:
    """A value in the form that vLLM's reader of YAML takes: it turns lists into words and only whole maps into JSON."""
    kind = _kind(key)
    if kind == options.JSON and ("." in key or not isinstance(value, str | dict)):
        return json.dumps(value)
    if kind == options.LIST:
        return [json.dumps(item) if isinstance(item, dict) else item for item in value]
    return None if kind == options.FLAG and not value else value


def _base(plan: ServePlan, around: Surroundings) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": str(around.weights),
        "served-model-name": [plan.model],
        "port": around.port,
        "dtype": plan.dtype,
        "max-model-len": plan.max_model_len or "auto",
        "tensor-parallel-size": plan.tensor_parallel_size,
        "pipeline-parallel-size": plan.pipeline_parallel_size,
        "shutdown-timeout": max(1, around.grace_seconds - STOP_MARGIN),
        "uvicorn-log-level": "warning",
    }
    if plan.trust_remote_code:
        base["trust-remote-code"] = True
    if plan.accelerator == Accelerator.CPU:
        # Compiling takes a CPU minutes, of which a model that fits one gains little.
        base |= {"kv-cache-memory-bytes": CPU_KV_CACHE, "enforce-eager": True}
    if around.adapter_template and not around.model_has_template:
        base["chat-template"] = around.adapter_template
    return base | _nodes(plan, around)


def _nodes(plan: ServePlan, around: Surroundings) -> dict[str, Any]:
    if plan.nodes == 1:
        return {}
    nodes: dict[str, Any] = {
        "nnodes": plan.nodes,
        "node-rank": around.pod_index,
        "master-addr": plan.leader_address,
        "master-port": contract.MASTER_PORT,
    }
    return nodes | ({"headless": True} if around.pod_index else {})


def _adapters(ranks: Sequence[int]) -> dict[str, Any]:
    """They are loaded once the server answers, not by `lora-modules`, where one bad adapter ends the server."""
    if not ranks:
        return {}
    return {
        "enable-lora": True,
        "max-loras": min(len(ranks), MAX_LORAS),
        "max-cpu-loras": len(ranks),
        "max-lora-rank": preflight.lora_rank(ranks),
    }


def _offload(plan: ServePlan, user: InferenceConfig, around: Surroundings) -> tuple[dict[str, Any], tuple[str, ...]]:
    """KAITO's share of the pod's memory for cache blocks that no longer fit the GPU, in vLLM's own terms."""
    if not user.kv_cache_cpu_memory_utilization:
        return {}, ()
    if plan.accelerator == Accelerator.CPU:
        return {}, ("kv_cache_cpu_memory_utilization has no effect: without a GPU the cache is in the CPU's memory",)
    free = around.memory - SERVER_MEMORY - WORKER_MEMORY * plan.tensor_parallel_size
    size = int(free * user.kv_cache_cpu_memory_utilization) // GIB
    if size < 1:
        return {}, ("kv_cache_cpu_memory_utilization has no effect: the pod's memory leaves less than 1 GiB for it",)
    return {"kv-offloading-size": size, "kv-offloading-backend": "native"}, ()


def _max_pending(plan: ServePlan, merged: Mapping[str, Any]) -> int:
    """As many waiting as running, KAITO's rule, per replica."""
    sequences = merged.get("max-num-seqs") or DEFAULT_SEQUENCES[Accelerator(plan.accelerator)]
    return 2 * int(sequences) * int(merged.get("data-parallel-size") or 1)


def _environment(plan: ServePlan, around: Surroundings, *, lora: bool, offline: bool) -> dict[str, str]:
    """Every cache goes where the pod may write; the root is read-only and the user has no home and no name."""
    cache = str(around.cache)
    environment = {
        "HOME": cache,
        "USER": "runtime",
        "XDG_CACHE_HOME": cache,
        "XDG_CONFIG_HOME": cache,
        "HF_HOME": f"{cache}/huggingface",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    if lora:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if plan.accelerator == Accelerator.CPU:
        # A pod's CPU limit does not show in the CPU set that vLLM would bind its threads to; two pods on a node would
        # bind to the same cores. One core stays for the server, as vLLM does it; waiting threads must not spin, since
        # on a shared core they keep the ones from working that they wait for.
        threads = str(max(1, around.cpus - 1))
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    return environment
