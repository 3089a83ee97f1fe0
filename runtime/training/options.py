"""The names and kinds of training options, kept as data so that a typo is refused without importing torch (7 s, no GPU).

Owns `options.json`, which `python -m runtime.training.options` rewrites from the installed TRL, PEFT and transformers
whenever their pins move. The sections are those of KAITO's `training_config.yaml`. Knows nothing of what an option does.
"""

import dataclasses
import difflib
import functools
import inspect
import json
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("options.json")

# Kinds, as JSON knows them. A field may allow several.
BOOL, INT, FLOAT, TEXT, LIST, MAP, ANY = "bool", "int", "float", "text", "list", "map", "any"
Kinds = Mapping[str, list[str]]

# Sections of KAITO's that are no library's class.
_MODEL: Kinds = {
    "pretrained_model_name_or_path": [TEXT],
    "cache_dir": [TEXT],
    "force_download": [BOOL],
    "proxies": [TEXT, MAP],
    "output_loading_info": [BOOL],
    "local_files_only": [BOOL],
    "revision": [TEXT],
    "trust_remote_code": [BOOL],
    "torch_dtype": [TEXT],
    "dtype": [TEXT],
    "device_map": [TEXT, MAP],
    "chat_template": [TEXT],
    "state_dict": [MAP],
    "attn_implementation": [TEXT],
}
_DATASET: Kinds = {
    "dataset_path": [TEXT],
    "dataset_extension": [TEXT],
    "shuffle_dataset": [BOOL],
    "shuffle_seed": [INT],
    "context_column": [TEXT],
    "response_column": [TEXT],
    "messages_column": [TEXT],
    "train_test_split": [FLOAT],
    "train_on": [TEXT],  # ours: assistant | all
}
# Names of earlier releases that KAITO's examples and users' files still have.
ALIASES = {
    ("TrainingArguments", "max_seq_length"): "max_length",
    ("TrainingArguments", "evaluation_strategy"): "eval_strategy",
    ("TrainingArguments", "warmup_ratio"): "warmup_steps",  # a number below 1 is a fraction of all steps
    ("ModelConfig", "torch_dtype"): "dtype",
}


@functools.cache
def sections() -> Mapping[str, Kinds]:
    """Kinds by option name by section."""
    loaded: dict[str, dict[str, list[str]]] = json.loads(DATA.read_text())["sections"]
    return loaded


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that `name` most likely stands for; empty when none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), "")


def introspect() -> dict[str, dict[str, list[str]]]:
    """Read the sections from the installed libraries."""
    import peft
    import transformers
    import trl

    quantisation = inspect.signature(transformers.BitsAndBytesConfig.__init__)
    collator = inspect.signature(transformers.DataCollatorForLanguageModeling.__init__)
    found = {
        "ModelConfig": {name: list(kinds) for name, kinds in _MODEL.items()},
        "QuantizationConfig": {**_of_signature(quantisation), "quant_method": [TEXT]},
        "LoraConfig": _of_dataclass(peft.LoraConfig),
        "TrainingArguments": _of_dataclass(trl.SFTConfig),
        "DatasetConfig": {name: list(kinds) for name, kinds in _DATASET.items()},
        "DataCollator": _of_signature(collator),
    }
    for (section, old), new in ALIASES.items():
        found[section][old] = found[section][new]
    return {section: dict(sorted(kinds.items())) for section, kinds in found.items()}


def _of_dataclass(kind: Any) -> dict[str, list[str]]:
    hints = typing.get_type_hints(kind)
    return {field.name: _kinds(hints[field.name]) for field in dataclasses.fields(kind) if field.init}


def _of_signature(signature: inspect.Signature) -> dict[str, list[str]]:
    names = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    return {
        name: _kind_of_default(signature.parameters[name].default)
        for name in names
        if name not in ("self", "tokenizer")
    }


def _kind_of_default(default: Any) -> list[str]:
    return _kinds(type(default)) if default not in (None, inspect.Parameter.empty) else [ANY]


def _kinds(annotation: Any) -> list[str]:
    plain = {bool: BOOL, int: INT, float: FLOAT, str: TEXT, dict: MAP, list: LIST, tuple: LIST, set: LIST}
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [kind for part in typing.get_args(annotation) if part is not type(None) for kind in _kinds(part)]
        return sorted(set(inner))
    if origin is typing.Literal:
        return [TEXT]
    return [plain.get(origin or annotation, ANY)]


def main() -> None:
    import importlib.metadata

    releases = {name: importlib.metadata.version(name) for name in ("trl", "peft", "transformers")}
    DATA.write_text(json.dumps({"releases": releases, "sections": introspect()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
