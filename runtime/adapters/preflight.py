"""Whether vLLM will serve an adapter, decided from its files alone before the engine is asked.

Owns the rules: PEFT features that vLLM implements (vllm/lora/peft_helper.py), ranks, tensor names and shapes against
the base model. vLLM itself refuses late, or worse, serves the base model's answers for an adapter whose names do not
match (vllm#34186). Knows nothing of HTTP and does not change a file.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime.adapters import naming, safetensors
from runtime.adapters.naming import Size
from runtime.adapters.safetensors import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's max-lora-rank may be

# Starts that leave the base model's weights alone; PEFT's others change them when it loads the adapter.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA bias",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}
# The name of a tensor, and in it that of the module which it belongs to.
KEY = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?$"
)
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")  # owner/name


class Invalid(ValueError):
    """The adapter cannot be served; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """An adapter that vLLM should accept."""

    path: Path  # the folder with the two files
    rank: int  # the largest of its modules
    warnings: tuple[str, ...] = ()
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)  # the base's, of modules named differently there


def check(folder: Path, base: Mapping[str, Tensor], model: str = "") -> Checked:
    """Check the adapter in `folder` against the tensors of the base model (empty: unknown). Raises Invalid."""
    try:
        return _check(folder, base, model)
    except OSError as error:  # of its volume
        raise Invalid(f"its files cannot be read: {error}") from error


def _check(folder: Path, base: Mapping[str, Tensor], model: str) -> Checked:
    path = folder if (folder / CONFIG).is_file() else folder / "data"  # an image volume shows the image's root
    config = _read_config(path / CONFIG, folder)
    rank = _check_config(config)
    tensors = _read_weights(path / WEIGHTS)
    modules = _modules(tensors)
    names = naming.base_names(modules, base)
    warnings = [*_check_modules(modules, names, base), *_check_base_name(config, model)]
    _check_numbers(path / WEIGHTS, tensors)
    return Checked(path, rank, tuple(warnings), names)


def lora_rank(ranks: Iterable[int]) -> int:
    """The smallest max-lora-rank of vLLM that fits; a larger one costs memory and speed."""
    largest = max(ranks, default=1)
    return next(rank for rank in RANKS if rank >= largest)


def base_tensors(model: Path) -> dict[str, Tensor]:
    """All tensors of a model folder; empty when it has no safetensors or a damaged one, of which the engine will tell."""
    found: dict[str, Tensor] = {}
    try:
        for file in sorted(model.glob("*.safetensors")):
            found.update(safetensors.read_header(file))
    except (safetensors.Malformed, OSError):
        return {}
    return found


def _read_config(path: Path, folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Invalid(f"{CONFIG} is missing in {folder}") from None
    except ValueError as error:
        raise Invalid(f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise Invalid(f"{CONFIG} is not a JSON object")
    return config


def _check_config(config: Mapping[str, Any]) -> int:
    """The adapter's largest rank."""
    if str(config.get("peft_type", "LORA")).upper() != "LORA":
        raise Invalid(f"peft_type is {config['peft_type']}: vLLM serves LoRA adapters only")
    for key, feature in _UNSUPPORTED.items():
        if config.get(key):
            raise Invalid(f"vLLM does not support {feature} ({key}); merge the adapter into the model to serve it")
    if config.get("bias", "none") != "none":
        raise Invalid(f"vLLM does not support bias={config['bias']!r}; train with bias='none'")
    if extra := set(config.get("modules_to_save") or ()) - {"classifier", "score"}:
        raise Invalid(f"vLLM cannot serve fully trained modules (modules_to_save: {', '.join(sorted(extra))})")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        raise Invalid(
            f"init_lora_weights={start!r} changes the base model; convert the adapter to a plain LoRA with PEFT"
        )
    return _largest_rank(config)


def _largest_rank(config: Mapping[str, Any]) -> int:
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise Invalid(f"r and rank_pattern must be positive whole numbers, not {ranks}")
    if (largest := max(int(str(rank)) for rank in ranks)) > RANKS[-1]:
        raise Invalid(f"rank {largest} is more than the {RANKS[-1]} that vLLM serves")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise Invalid("lora_alpha is missing")
    return largest


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.read_header(path)
    except FileNotFoundError:
        raise Invalid(f"{WEIGHTS} is missing; save the adapter with safe_serialization=True") from None
    except safetensors.Malformed as error:
        raise Invalid(str(error)) from error
    if not tensors:
        raise Invalid(f"{WEIGHTS} holds no tensors")
    return tensors


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    """Every module has an A [r, in] and a B [out, r]; [out, in] is the size of the base model's matrix."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        if (match := KEY.match(name)) is None:
            raise Invalid(f"{WEIGHTS} holds {name!r}, which is not part of a LoRA adapter")
        shape = tensor.shape[::-1] if match["embedding"] else tensor.shape
        modules.setdefault(match["module"], {})[match["side"]] = shape
    return {module: _size(module, sides) for module, sides in modules.items()}


def _size(module: str, sides: Mapping[str, tuple[int, ...]]) -> Size:
    if sides.keys() != {"A", "B"} or any(len(shape) != 2 for shape in sides.values()):
        raise Invalid(f"module {module}: lora_A and lora_B must both be there, as matrices")
    if sides["A"][0] != sides["B"][1]:
        raise Invalid(f"module {module}: lora_A has rank {sides['A'][0]} and lora_B {sides['B'][1]}")
    return sides["B"][0], sides["A"][1]


def _check_modules(modules: Mapping[str, Size], names: Mapping[str, str], base: Mapping[str, Tensor]) -> Iterable[str]:
    """The base model has a matrix of that size, under that name or the one that was found for it."""
    doubtful = [module for module, size in modules.items() if not _is_there(names.get(module, module), size, base)]
    if doubtful:
        yield f"the base model names {doubtful[0]} (and {len(doubtful) - 1} more modules) differently"


def _is_there(module: str, size: Size, base: Mapping[str, Tensor]) -> bool:
    """False where the name's end is there in more than one place; Invalid where nothing fits."""
    if not base or module.rpartition(".")[2] in ("lm_head", "embed_tokens"):  # tied, or padded by vLLM
        return True
    tensor = base.get(f"{module}.weight")
    if tensor is None:
        if any(name.startswith(f"{module}.") for name in base) or ".experts" in module:
            return True  # quantised, or fused experts: other tensor names
        tail = "." + ".".join(module.split(".")[-4:]) + "."
        if not any(tail in "." + name for name in base):
            raise Invalid(f"module {module} does not exist in the base model: the adapter was trained on another one")
        return False
    if not naming.fits(tensor, size):
        raise Invalid(
            f"module {module} is {size[0]}x{size[1]} in the adapter and {tensor.shape[0]}x{tensor.shape[1]} "
            "in the base model: the adapter was trained on another one"
        )
    return True


def _check_numbers(path: Path, tensors: dict[str, Tensor]) -> None:
    trained = False
    for name, tensor, data in safetensors.contents(path, tensors):
        if not safetensors.is_finite(tensor.dtype, data):
            raise Invalid(f"{name} holds numbers that are not finite: the training diverged")
        trained = trained or (("lora_B" in name or "lora_embedding_B" in name) and data.count(0) != len(data))
    if not trained:
        raise Invalid("every lora_B is zero: the adapter was never trained and answers as the base model does")


def _check_base_name(config: Mapping[str, Any], model: str) -> Iterable[str]:
    """Compare the two names where both are hub ids: a preset's short name or a path says nothing of the repository."""
    trained_on = str(config.get("base_model_name_or_path") or "")
    both = _HUB_ID.match(trained_on) and _HUB_ID.match(model)
    if both and trained_on.rpartition("/")[2].lower() != model.rpartition("/")[2].lower():
        yield f"the adapter says that it was trained on {trained_on}, the served model is {model}"
