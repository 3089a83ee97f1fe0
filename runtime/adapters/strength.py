"""How strongly an adapter speaks. vLLM has no such setting, but a LoRA's effect is linear in its alpha: a copy of the
configuration with alpha times s, beside a link to the same weights, is the adapter at strength s, exactly (also with
rsLoRA, whose scale is linear in alpha too).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.adapters.preflight import CONFIG


def scaled_config(config: Mapping[str, Any], strength: float) -> dict[str, Any]:
    pattern = {module: alpha * strength for module, alpha in (config.get("alpha_pattern") or {}).items()}
    return {**config, "lora_alpha": config["lora_alpha"] * strength, "alpha_pattern": pattern}


def scale(source: Path, strength: float, target: Path) -> Path:
    """Make `target` the adapter of `source` at `strength`; returns the folder to load. 1 needs no copy."""
    if strength == 1:
        return source
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        link = target / file.name
        link.unlink(missing_ok=True)
        if file.name != CONFIG:
            link.symlink_to(file.resolve())
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    (target / CONFIG).write_text(json.dumps(scaled_config(config, strength), indent=2), encoding="utf-8")
    return target
