"""Which options may stand in a user's configuration, so that a typo is refused before a node is paid for.

The names are the runtime's: two JSON files that lie beside `runtime.contract` and are shipped with it, taken from the
libraries that it pins. Names and shape are judged as the pod judges them (a test holds the two together); values are the
programs' business: what passes here may still be refused there, with its reason.
"""

import difflib
import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from runtime import contract

ENGINE_SECTION = "vllm"
ENGINE_KEYS = (ENGINE_SECTION, "kv_cache_cpu_memory_utilization", "max_probe_steps")  # KAITO's top level
TRAINING_ROOT = "training_config"
BOOL_KIND = "bool"
JSON_KIND = "json"  # options that can be addressed inside: compilation-config.level

# Options of vLLM that the runtime decides itself: the Service, the probes and the other nodes' pods rely on them.
ENGINE_OWNED = frozenset(
    [
        *("config", "port", "host", "uds", "grpc", "ssl-keyfile", "ssl-certfile", "api-server-count"),
        *("nnodes", "node-rank", "master-addr", "master-port", "headless"),
    ]
)


def inference_problem(document: Mapping[str, Any]) -> str:
    """Return what is wrong with the keys of an `inference_config.yaml`; nothing ("") where all are known."""
    for key in document:
        if key not in ENGINE_KEYS:
            inside = _dashed(str(key)) in _engine()
            return f"{key} belongs under {ENGINE_SECTION}:" if inside else _unknown("key", str(key), ENGINE_KEYS)
    given = document.get(ENGINE_SECTION)
    if given is not None and not isinstance(given, Mapping):
        return f"{ENGINE_SECTION}: a map of options is expected"
    return next((problem for name in given or () if (problem := _engine_problem(str(name)))), "")


def training_problem(document: Mapping[str, Any]) -> str:
    """Return what is wrong with the keys of a `training_config.yaml`: all sections stand below its root."""
    for key in document:
        if key != TRAINING_ROOT:
            inside = key in _training()
            return f"{key} belongs below {TRAINING_ROOT}:" if inside else _unknown("key", str(key), (TRAINING_ROOT,))
    sections = document.get(TRAINING_ROOT)
    if sections is not None and not isinstance(sections, Mapping):
        return f"{TRAINING_ROOT}: a map of sections is expected"
    return next((problem for name, body in (sections or {}).items() if (problem := _section_problem(name, body))), "")


def _section_problem(section: object, body: object) -> str:
    sections = _training()
    if not isinstance(section, str) or section not in sections:
        return _unknown("section", str(section), sections)
    if body is not None and not isinstance(body, Mapping):
        return f"{section}: a map of options is expected"
    known = sections[section]
    return next((_unknown(f"option of {section}", str(key), known) for key in body or () if key not in known), "")


def _engine_problem(name: str) -> str:
    """Names may have underscores for dashes, and a path where they are JSON."""
    head, dot, _ = _dashed(name.lstrip("-")).partition(".")
    known, positive = _engine(), head.removeprefix("no-")
    if head in ENGINE_OWNED:
        return f"{ENGINE_SECTION}.{name} cannot be set: the runtime decides it"
    if head not in known and known.get(positive) == BOOL_KIND:
        return f"{ENGINE_SECTION}.{name}: write {positive}: false"
    fine = head in known and (not dot or known[head] == JSON_KIND)
    return "" if fine else _unknown("vLLM option", name, known)


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(_dashed(name) if what == "vLLM option" else name, list(known), n=1)
    return f"unknown {what} {name}" + (f"; did you mean {close[0]}?" if close else "")


def _dashed(name: str) -> str:
    head, dot, rest = name.partition(".")
    return head.replace("_", "-") + dot + rest


@functools.cache
def _engine() -> Mapping[str, str]:
    """Return kinds by option name in kebab case."""
    options: Mapping[str, str] = _read("engine")["options"]
    return options


@functools.cache
def _training() -> Mapping[str, Mapping[str, Any]]:
    """Return option names by section."""
    sections: Mapping[str, Mapping[str, Any]] = _read("training")["sections"]
    return sections


def _read(part: str) -> Mapping[str, Any]:
    file = Path(contract.__file__).parent / part / "options.json"
    loaded: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded
