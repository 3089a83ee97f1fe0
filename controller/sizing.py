"""The arithmetic under the planner: which ways of splitting a model are possible, and how many bytes each takes on a GPU.

Base line is KAITO's estimate; each constant stands here once and feeds both the estimate and the engine's options, so that
what was counted on is what the engine is told. Sizes are bytes, contexts tokens. Chooses nothing: that is `controller.plan`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from controller.catalogue import GIB, Model, Sku

UTILIZATION = 0.84  # of what the driver reports; the rest is CUDA's own and fragmentation
UTILIZATION_OF = {"NVIDIA A10": 0.82}
EXPANSION = 1.02  # tensors are a little larger loaded than stored
OVERHEAD = round(
    1.8 * GIB
)  # the engine itself, graphs, workspaces; KAITO has 2.3 of the nominal memory, which is larger
ACTIVATIONS = 0.05  # of the weights
CONTEXT_STEP = 256
PROMISED = 0.9  # of a cache whose size is an estimate, where nobody asked for a context
BASE_CONTEXT = 2048  # what must fit where no context is asked for

FREE_DISK_GIB = 80  # system, images and logs beside the weights
STARTUP = (15 * 60, 18, 30 * 60, 180 * 60)  # seconds: base, per GiB, least, most

# Tuning. Bytes per parameter: nf4 with its quantisation constants; 16 bit; a trained weight with gradient and two moments.
NF4, HALF, TRAINED = 0.55, 2, 16
VOCABULARY = 152_064  # the catalogue has none; the largest that is common, so that logits are never underestimated
LOGIT = 10  # bytes per token and word: 16-bit logits, their 32-bit copy and its gradient
LAYER = 34  # values per token and hidden unit that one layer keeps while it is computed anew (gradient checkpointing)
LORA_RANK = 16
LORA_MATRICES = 21.5  # sum of (rows + columns) of a layer's seven matrices, in hidden sizes, for a feed-forward of 3.5
TUNING_CONTEXT = 2048
MICRO_BATCHES = (8, 4, 2, 1)
TUNING_DISK_GIB = 20  # checkpoints, data, the result as an image


@dataclass(frozen=True)
class Layout:
    """How a model lies on GPUs: split by heads, by layers, and copied. `tensor x pipeline x data` is every GPU there is."""

    nodes: int
    tensor: int
    pipeline: int
    data: int


def layouts(model: Model, sku: Sku, nodes: int) -> Iterator[Layout]:
    """Yield every possible split over all GPUs of so many nodes. Tensor parallelism stays within a node.

    Layers need not divide by the number of stages: the engine spreads the rest, and the largest stage is what is counted.
    """
    for tensor in (size for size in range(1, sku.gpus + 1) if sku.gpus % size == 0 and _splits_heads(model, size)):
        total = nodes * sku.gpus // tensor
        stages = [total] if nodes > 1 else [size for size in range(1, total + 1) if total % size == 0]
        yield from (Layout(nodes, tensor, size, total // size) for size in stages if size <= model.layers)


def _splits_heads(model: Model, tensor: int) -> bool:
    """Attention heads must divide; key-value heads must divide, or be copied to equally many GPUs each."""
    shared = model.latent or model.kv_heads % tensor == 0 or tensor % model.kv_heads == 0
    return model.heads % tensor == 0 and shared


def utilization(sku: Sku) -> float:
    return UTILIZATION_OF.get(sku.gpu, UTILIZATION)


def available(sku: Sku) -> int:
    """Bytes of one GPU that the engine may take."""
    return math.floor(sku.usable * utilization(sku))


def weights(model: Model, layout: Layout) -> int:
    """Bytes of weights on a GPU of the largest stage."""
    return math.ceil(model.weights * EXPANSION * _largest_stage(model, layout) / layout.tensor)


def _largest_stage(model: Model, layout: Layout) -> float:
    """Return the share of the layers that the largest stage has."""
    return math.ceil(model.layers / layout.pipeline) / model.layers


def activations(model: Model, layout: Layout) -> int:
    return math.ceil(weights(model, layout) * ACTIVATIONS)


def kv_per_token(model: Model, layout: Layout) -> int:
    """Bytes of cache that one token takes on one GPU. A latent cache is copied to every GPU of a stage."""
    copies = 1 if model.latent else min(layout.tensor, model.kv_heads)
    return math.ceil(model.kv_bytes_per_token * _largest_stage(model, layout) / copies)


def cached_tokens(model: Model, sku: Sku, layout: Layout) -> int:
    """Tokens that one replica's cache holds beside everything else; 0 where not even the weights fit."""
    left = available(sku) - weights(model, layout) - activations(model, layout) - OVERHEAD
    return max(0, left // kv_per_token(model, layout))


def context(model: Model, sku: Sku, layout: Layout) -> int:
    """Return the longest context to promise: the model's own, or most of what the cache holds, in whole steps."""
    fits = cached_tokens(model, sku, layout)
    promised = max(min(fits, BASE_CONTEXT), math.floor(fits * PROMISED) // CONTEXT_STEP * CONTEXT_STEP)
    return min(model.context, promised)


def disk_gib(model: Model) -> int:
    return int(model.weights / GIB + FREE_DISK_GIB)


def tuning_disk_gib(model: Model) -> int:
    """Room for the weights twice: as a layer and unpacked."""
    return int(2 * model.weights / GIB + FREE_DISK_GIB + TUNING_DISK_GIB)


def startup_seconds(model: Model) -> int:
    base, per_gib, least, most = STARTUP
    return min(most, max(least, math.ceil(base + per_gib * model.weights / GIB)))


@dataclass(frozen=True)
class TuningMemory:
    """Bytes on the GPU that tunes: one, whatever the node has."""

    weights: int
    adapter: int
    activations: int
    overhead: int = OVERHEAD

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.overhead


def tuning_memory(model: Model, method: str, rank: int, micro_batch: int, length: int) -> TuningMemory:
    """Return what tuning takes with LoRA on all linear layers and gradient checkpointing."""
    parameters = model.weights / HALF
    kept = min(parameters / 2, VOCABULARY * model.hidden_size)  # embeddings stay as they are
    base = (parameters - kept) * NF4 + kept * HALF if method == "qlora" and not model.quantization else model.weights
    tokens = micro_batch * length
    values = tokens * model.hidden_size * HALF
    return TuningMemory(
        weights=math.ceil(base * EXPANSION),
        adapter=math.ceil(LORA_MATRICES * rank * model.hidden_size * model.layers * TRAINED),
        activations=math.ceil(values * model.layers + values * LAYER + tokens * VOCABULARY * LOGIT),
    )
