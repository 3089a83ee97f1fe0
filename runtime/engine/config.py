"""KAITO's `inference_config.yaml`: parsed, typed, and refused with a remedy where it is wrong.

Owns which keys a user may write and how YAML values become vLLM option values. Knows nothing of the plan, which the
result is merged into elsewhere. KAITO forwards every value as a word, so that `false` switches an option on; here
booleans, lists and maps keep their type.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.engine import options
from runtime.fault import config_invalid

ROOT_KEYS = ("vllm", "kv_cache_cpu_memory_utilization", "max_probe_steps")

# The supervisor's own: what the Service, the probes and the pods of other nodes rely on.
_OWNED = {
    "config": "write the options into this file instead",
    "port": "the Service expects vLLM on its port",
    "host": "the Service expects vLLM on the pod's address",
    "uds": "the Service expects vLLM on a TCP port",
    "grpc": "the Service expects HTTP",
    "ssl-keyfile": "TLS ends before the pod, at a gateway or ingress",
    "ssl-certfile": "TLS ends before the pod, at a gateway or ingress",
    "nnodes": "it follows from resource.count",
    "node-rank": "it follows from the pod's index",
    "master-addr": "it follows from the pod with index 0",
    "master-port": "it is the Service's port 29500",
    "headless": "it follows from the pod's index",
    "api-server-count": "one server process counts the requests in flight",
}


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """What the user asks of the engine. `options` has vLLM's kebab-case names; None takes a planned option away."""

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kv_cache_cpu_memory_utilization: float = 0.0
    warnings: tuple[str, ...] = ()


def load(path: Path) -> InferenceConfig:
    """Read the file; an absent one is an empty one. Raises a `Fault` with ConfigInvalid."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return InferenceConfig()
    except (OSError, UnicodeDecodeError) as error:
        raise config_invalid(f"{path.name} cannot be read: {error}") from error
    return parse(text, path.name)


def parse(text: str, name: str = "inference_config.yaml") -> InferenceConfig:
    root = _mapping(_yaml(text, name), name)
    for key in root:
        if key not in ROOT_KEYS:
            raise config_invalid(_unknown_root(str(key), name))
    warnings = ("max_probe_steps has no effect: vLLM fits max-model-len itself",) if "max_probe_steps" in root else ()
    return InferenceConfig(
        options=vllm_options(_mapping(root.get("vllm"), f"{name}: vllm"), f"{name}: vllm"),
        kv_cache_cpu_memory_utilization=_fraction(root.get("kv_cache_cpu_memory_utilization"), name),
        warnings=warnings,
    )


def vllm_options(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Check and type options. Underscores are taken for dashes; `compilation-config.x.y` addresses inside a JSON option."""
    return {key: _value(key, value, where) for key, value in ((_name(k, where), v) for k, v in given.items())}


def _yaml(text: str, name: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise config_invalid(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def _mapping(value: Any, where: str) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise config_invalid(f"{where} must be a map of keys and values, not {type(value).__name__}")
    return value


def _unknown_root(key: str, name: str) -> str:
    if key.replace("_", "-") in options.kinds():
        return f"{name}: {key!r} is an option of vLLM: write it under the key 'vllm'"
    hint = options.nearest(key, ROOT_KEYS)
    return f"{name}: unknown key {key!r}" + (
        f"; did you mean {hint!r}?" if hint else f"; known: {', '.join(ROOT_KEYS)}"
    )


def _name(key: Any, where: str) -> str:
    """The kebab-case name, with the address inside a JSON option left as it is."""
    head, dot, rest = str(key).lstrip("-").partition(".")
    head = head.replace("_", "-")
    if head in _OWNED:
        raise config_invalid(f"{where}: {key!r} cannot be set: {_OWNED[head]}")
    positive = head.removeprefix("no-")
    if head not in options.kinds() and options.kinds().get(positive) == options.BOOL:
        raise config_invalid(f"{where}: write '{positive}: false' instead of {key!r}")
    if head not in options.kinds() or (dot and options.kinds()[head] != options.JSON):
        hint = options.nearest(head, options.kinds())
        remedy = f"did you mean {hint!r}?" if hint else f"see the options of vLLM {options.version()}"
        raise config_invalid(f"{where}: unknown option {key!r}; {remedy}")
    return head + dot + rest


def _value(name: str, value: Any, where: str) -> Any:
    kind = options.JSON if "." in name else options.kinds()[name]
    if value is None or kind == options.JSON:
        return value
    problem = config_invalid(
        f"{where}: {name!r} expects {_EXPECTS.get(kind, 'a list')}, not {json.dumps(value, default=str)}"
    )
    if kind in (options.BOOL, options.FLAG):
        if str(value).lower() not in ("true", "false"):
            raise problem
        return str(value).lower() == "true"
    if kind in (options.LIST, options.APPEND):
        return list(value) if isinstance(value, list) else [value]
    if isinstance(value, bool | list | dict):
        raise problem
    return _number(kind, value, problem)


def _number(kind: str, value: Any, problem: Exception) -> Any:
    """Numbers in quotes are numbers: KAITO's ConfigMaps have both."""
    if kind not in (options.INT, options.FLOAT):
        return value
    try:
        return int(str(value)) if kind == options.INT else float(str(value))
    except ValueError:
        raise problem from None


_EXPECTS = {
    options.BOOL: "true or false",
    options.FLAG: "true or false",
    options.INT: "a whole number",
    options.FLOAT: "a number",
    options.TEXT: "one value",
}


def _fraction(value: Any, name: str) -> float:
    try:
        fraction = float(str(value if value is not None else 0))
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction <= 1:
        raise config_invalid(f"{name}: kv_cache_cpu_memory_utilization must be a number from 0 to 1, not {value!r}")
    return fraction
