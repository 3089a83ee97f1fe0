"""The base model's own names for an adapter's modules, where the two begin differently.

transformers may train a part of what is served: of Qwen 3.5 the text alone, `model.layers.0…`, whose checkpoint has a
vision model around it, `model.language_model.layers.0…`. vLLM maps the checkpoint's names and passes over others without
a word, so that the adapter does nothing. Owns which names mean the same module. Pure; reads and writes no file.
"""

import re
from collections.abc import Iterable, Mapping

from runtime.adapters.safetensors import Tensor

Size = tuple[int, int]  # rows and columns of the base model's matrix

# `model.layers.0.self_attn.q_proj`: where the layers are, and which module of which layer.
_LAYERED = re.compile(r"^(?P<place>(?:.*?\.)??)(?P<inside>\w+\.\d+\..+)$")
_FLOATING = ("BF16", "F16", "F32")


def base_names(modules: Mapping[str, Size], base: Mapping[str, Tensor]) -> dict[str, str]:
    """The base's name by module, for those that it has elsewhere. Only where one place alone holds all of them.

    A layer's name is not enough: a vision tower and a draft head have a `layers.0.self_attn.q_proj` too.
    """
    known = {name.rpartition(".")[0] for name in base}
    places = _places(known)
    moved = {}
    for place, inside in _places(module for module in modules if module not in known).items():
        fitting = [
            other
            for other, held in places.items()
            if {name for name in inside if ".experts" not in name} <= held  # fused experts have other names
            and all(fits(base.get(f"{other}{name}.weight"), modules[place + name]) for name in inside)
        ]
        if len(fitting) == 1:
            moved[place] = fitting[0]
    named = {module: _named(module, moved, known) for module in modules if module not in known}
    return {module: name for module, name in named.items() if name not in ("", module)}


def fits(tensor: Tensor | None, size: Size) -> bool:
    """Whether a LoRA of that size can be added; a quantised matrix has another shape than what it stands for."""
    return tensor is None or tensor.dtype not in _FLOATING or len(tensor.shape) != 2 or tensor.shape == size


def _places(modules: Iterable[str]) -> dict[str, set[str]]:
    places: dict[str, set[str]] = {}
    for module in modules:
        if match := _LAYERED.match(module):
            places.setdefault(match["place"], set()).add(match["inside"])
    return places


def _named(module: str, moved: Mapping[str, str], known: set[str]) -> str:
    """The new name; empty where it has none. What is in no layer, as embeddings, goes along if it is there."""
    if match := _LAYERED.match(module):
        return moved[match["place"]] + match["inside"] if match["place"] in moved else ""
    found = (new + module.removeprefix(old) for old, new in moved.items() if module.startswith(old))
    return next((name for name in found if name in known), "")
