"""KAITO's `training_config.yaml`: parsed, typed, and refused with a remedy where it is wrong.

Owns which keys a user may write and what the runtime decides itself. Knows nothing of defaults (`recipe`) or libraries.
The controller has refused unknown names before a node was paid for (`controller.options`). Standard library only until
YAML is read.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.contract import TRAINING_CONFIG
from runtime.fault import config_invalid
from runtime.training import options
from runtime.training.options import ANY, BOOL, FLOAT, INT, LIST, MAP, TEXT

ROOT = "training_config"

# TrainingArguments that are the runtime's own: where results go, how they are saved, resumed and reported.
OWNED = frozenset(
    [
        "output_dir",
        "do_train",
        "do_eval",
        "do_predict",
        "resume_from_checkpoint",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "save_on_each_node",
        "enable_jit_checkpoint",
        "auto_find_batch_size",
        "push_to_hub",
        "hub_token",
        "hub_model_id",
        "hub_strategy",
        "hub_private_repo",
        "hub_always_push",
        "hub_revision",
        "load_best_model_at_end",
        "disable_tqdm",
        "use_cpu",
        "logging_nan_inf_filter",
        "remove_unused_columns",
        "dataset_kwargs",
        "dataset_text_field",
        "local_rank",
        "ddp_find_unused_parameters",
        "assistant_only_loss",
        "completion_only_loss",
        "full_determinism",
        "ignore_data_skip",
        "packing",
        "eval_packing",
        "packing_strategy",
        "logging_strategy",
        "logging_steps",
        "per_device_eval_batch_size",
        "report_to",
    ]
)
# ModelConfig names the model again, which the plan has chosen and fetched. These of its options are read.
MODEL_READ = frozenset(["dtype", "trust_remote_code", "chat_template", "attn_implementation"])
# What holds anyway: who asks for it gets it, and needs no warning.
_SETTLED = {
    "packing": False,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "report_to": "none",
    "local_files_only": True,
    "force_download": False,
    "output_loading_info": False,
    "device_map": "auto",  # on one device, the same
}


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """What the user set, by section, under today's option names and with the libraries' types."""

    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quantization: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lora: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load(path: Path) -> TrainingConfig:
    """Read the file; an absent one is an empty one. Raises a `Fault` with ConfigInvalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return TrainingConfig()
    except (OSError, UnicodeDecodeError) as error:
        raise config_invalid(f"{path.name} cannot be read: {error}") from error
    return parse(text, path.name)


def parse(text: str, name: str = TRAINING_CONFIG) -> TrainingConfig:
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise config_invalid(f"{name} is not YAML: {error}") from error
    found = problems(document)
    if found:
        raise config_invalid(f"{name}: {'; '.join(found)}")
    sections = (document or {}).get(ROOT) or {}
    typed = {section: _typed(section, body or {}) for section, body in sections.items()}
    return _assemble(typed)


def problems(document: object) -> list[str]:
    """Everything that is wrong with a decoded `training_config.yaml`, each with what to do. Empty when it is fine."""
    if document is None:
        return []
    if not isinstance(document, Mapping) or not isinstance(document.get(ROOT, {}), Mapping | None):
        return [f"expected a map with the key `{ROOT}`"]
    found = [_unknown(str(key), "top-level key", (ROOT,)) for key in document if key != ROOT]
    for section, body in (document.get(ROOT) or {}).items():
        if section not in options.sections():
            found.append(_unknown(str(section), "section", options.sections()))
        elif body is not None and not isinstance(body, Mapping):
            found.append(f"{section} is {_kind(body)}, expected a map")
        else:
            found += _section_problems(section, body or {})
    return found


def _section_problems(section: str, body: Mapping[str, Any]) -> list[str]:
    known = options.sections()[section]
    found = []
    for key, value in body.items():
        if key not in known:
            found.append(_unknown(str(key), f"key in {section}", known))
        elif not _fits(value, known[key]):
            found.append(f"{section}.{key} is {value!r}, expected {' or '.join(known[key])}")
    if section == "DatasetConfig" and body.get("train_on") not in (None, "assistant", "all"):
        found.append("DatasetConfig.train_on must be `assistant` or `all`")
    if section == "LoraConfig" and (rank := _convert(body.get("r"), INT)) is not None and rank <= 0:
        found.append("LoraConfig.r must be above 0")
    if section == "QuantizationConfig" and body.get("bnb_4bit_quant_type") not in (None, "nf4", "fp4"):
        found.append("QuantizationConfig.bnb_4bit_quant_type must be `nf4` or `fp4`")
    if section == "TrainingArguments" and _convert(body.get("padding_free"), "bool"):
        found.append("TrainingArguments.padding_free must be false: without it, TRL keeps to max_length")
    return found


def _unknown(name: str, what: str, known: Any) -> str:
    close = options.nearest(name, known)
    return f"unknown {what} `{name}`" + (
        f", did you mean `{close}`?" if close else f"; known: {', '.join(sorted(known)[:8])} …"
    )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _fits(value: object, kinds: list[str]) -> bool:
    return value is None or ANY in kinds or any(_convert(value, kind) is not None for kind in kinds)


def _convert(value: Any, kind: str) -> Any:
    """`value` as `kind`, or None. YAML reads `1e-4` as text and `3` as an integer; both are fine floats."""
    match kind:
        case "bool":
            return {"true": True, "false": False}.get(str(value).lower()) if isinstance(value, bool | str) else None
        case "int":
            return value if isinstance(value, int) and not isinstance(value, bool) else _number(value, int)
        case "float":
            return (
                float(value)
                if isinstance(value, int | float) and not isinstance(value, bool)
                else _number(value, float)
            )
    wanted = {TEXT: str, LIST: list, MAP: dict, ANY: object}[kind]
    return value if isinstance(value, wanted) else None


def _number(value: Any, kind: type[int] | type[float]) -> int | float | None:
    try:
        return kind(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _typed(section: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The section's values, converted, under today's names. None stays: it takes a default away."""
    known = options.sections()[section]
    result = {}
    for key, value in body.items():
        order = sorted(known[key], key=(BOOL, INT, FLOAT, LIST, MAP, TEXT, ANY).index)
        converted = next((c for kind in order if (c := _convert(value, kind)) is not None), None)
        result[options.ALIASES.get((section, key), key)] = converted
    return result


def _assemble(typed: Mapping[str, Mapping[str, Any]]) -> TrainingConfig:
    given = dict(typed.get("TrainingArguments", {}))
    model = typed.get("ModelConfig", {})
    warnings = [
        *_ignored("TrainingArguments", {key: value for key, value in given.items() if key in OWNED}),
        *_ignored("ModelConfig", {key: value for key, value in model.items() if key not in MODEL_READ}),
    ]
    if typed.get("DataCollator"):
        warnings.append("DataCollator is not used: a causal model is trained without masked language modelling")
    return TrainingConfig(
        model=model,
        quantization=typed.get("QuantizationConfig", {}),
        lora=typed.get("LoraConfig", {}),
        training={key: value for key, value in given.items() if key not in OWNED},
        dataset=typed.get("DatasetConfig", {}),
        warnings=tuple(warnings),
    )


def _ignored(section: str, given: Mapping[str, Any]) -> list[str]:
    asked = [key for key, value in given.items() if value is not None and value != _SETTLED.get(key)]
    return [f"{section}.{key} is decided by the runtime; yours is not used" for key in asked]
