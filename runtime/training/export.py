"""Writes what training is for: a folder with the adapter, its tokenizer and template, and where it came from.

The same run writes the same bytes, so that a repeated push gives the same digest. It knows nothing of pushing.
"""

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.contract import TUNING_SENTINEL, TunePlan

MANIFEST = "tuning_manifest.json"
ADAPTER = "adapter"


def export(trainer: Any, tokenizer: Any, plan: TunePlan, facts: Mapping[str, Any], results: Path) -> Path:
    """Write the adapter into `results/adapter`, complete or not at all. Returns that folder."""
    temporary, final = results / f".{ADAPTER}", results / ADAPTER
    shutil.rmtree(temporary, ignore_errors=True)
    trainer.model.save_pretrained(temporary, save_embedding_layers=False)
    tokenizer.save_pretrained(temporary)
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's, about nothing
    _name_base(temporary / "adapter_config.json", plan)
    document = {"base": plan.model, "revision": plan.revision, "method": plan.method, **facts, "releases": _releases()}
    (temporary / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    for path in temporary.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, and another pod's user reads an output volume
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    return final


def _name_base(path: Path, plan: TunePlan) -> None:
    """Name the base by its hub id instead of a folder in this pod, and sort what PEFT keeps as sets."""
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": plan.model, "revision": plan.revision or None}
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _releases() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "trl", "bitsandbytes")}


def publish_to_volume(adapter: Path, results: Path) -> None:
    """Put the files where KAITO's users look for them on an output volume: at its root."""
    for path in sorted(adapter.iterdir()):
        path.replace(results / path.name)
    adapter.rmdir()


def write_sentinel(results: Path) -> None:
    (results / TUNING_SENTINEL).touch()
