"""The folder that the engine loads an adapter from: the adapter's own, or a copy where something has to differ.

Strength: vLLM has no such setting, but a LoRA's effect is linear in its alpha: alpha times s is the adapter at strength s,
exactly (also with rsLoRA, whose scale is linear in alpha too). Names: those that the pre-flight found in the base model.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.adapters import safetensors
from runtime.adapters.preflight import CONFIG, KEY, WEIGHTS, Checked, Invalid


def prepare(adapter: Checked, strength: float, target: Path) -> Path:
    """Return the folder to load; `target` is made only where the adapter cannot be served as it is. Raises Invalid."""
    if strength == 1 and not adapter.names:
        return adapter.path
    try:
        _copy(adapter, strength, target)
    except OSError as error:  # its volume fails, or the cache is full, and the engine needs what room is left there
        shutil.rmtree(target, ignore_errors=True)
        raise Invalid(f"it cannot be copied for the engine: {error}") from error
    return target


def _copy(adapter: Checked, strength: float, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    own = {CONFIG, WEIGHTS} if adapter.names else {CONFIG}
    for file in adapter.path.iterdir():
        link = target / file.name
        link.unlink(missing_ok=True)
        if file.name not in own:
            link.symlink_to(file.resolve())
    config = json.loads((adapter.path / CONFIG).read_text(encoding="utf-8"))
    scaled = scaled_config(renamed_config(config, adapter.names), strength)
    (target / CONFIG).write_text(json.dumps(scaled, indent=2), encoding="utf-8")
    if adapter.names:
        safetensors.rename(adapter.path / WEIGHTS, target / WEIGHTS, lambda name: _renamed(name, adapter.names))


def scaled_config(config: Mapping[str, Any], strength: float) -> dict[str, Any]:
    pattern = {module: alpha * strength for module, alpha in (config.get("alpha_pattern") or {}).items()}
    return {**config, "lora_alpha": config["lora_alpha"] * strength, "alpha_pattern": pattern}


def renamed_config(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What a pattern says of a module under its old name, it says of the new one too."""
    patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    return {**config, **{key: _found(pattern, names) | pattern for key, pattern in patterns.items()}}


def _found(pattern: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """By PEFT's rule, which is vLLM's: of the keys that match the end of the name the first."""
    found: dict[str, Any] = {}
    for old, new in names.items():
        try:
            values = [value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", old)]
        except re.error as error:
            raise Invalid(f"{CONFIG} has a pattern that is no regular expression: {error}") from error
        found |= {new: values[0]} if values else {}
    return found


def _renamed(tensor: str, names: Mapping[str, str]) -> str:
    match = KEY.match(tensor)
    if match is None:
        return tensor
    start, end = match.span("module")
    return tensor[:start] + names.get(match["module"], match["module"]) + tensor[end:]
