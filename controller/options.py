"""Which options may stand in a user's configuration, so that a typo is refused before a node is paid for.

The names are the runtime's: two JSON files that lie beside `runtime.contract` and are shipped with it, taken from the
libraries that it pins. Values are the programs' business; what passes here may still be refused there, with its reason.
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
JSON_KIND = "json"  # options that can be addressed inside: compilation-config.level


def inference_problem(document: Mapping[str, Any]) -> str:
    """Return what is wrong with the keys of an `inference_config.yaml`; nothing ("") where all are known."""
    for key in document:
        if key not in ENGINE_KEYS:
            inside = _dashed(str(key)) in _engine()
            return f"{key} belongs under {ENGINE_SECTION}:" if inside else _unknown("key", str(key), ENGINE_KEYS)
    given = document.get(ENGINE_SECTION) or {}
    names = [str(key) for key in given] if isinstance(given, Mapping) else []
    return next((problem for name in names if (problem := _engine_problem(name))), "")


def training_problem(document: Mapping[str, Any]) -> str:
    """Return what is wrong with the keys of a `training_config.yaml`, below its root where it has one."""
    sections = _training()
    for section, body in document.items():
        if section not in sections:
            return _unknown("section", str(section), sections)
        for key in body if isinstance(body, Mapping) else ():
            if key not in sections[section]:
                return _unknown(f"option of {section}", str(key), sections[section])
    return ""


def _engine_problem(name: str) -> str:
    """Names may have underscores for dashes, a `no-` in front where they are switches, and a path where they are JSON."""
    head, dot, _ = _dashed(name).lstrip("-").partition(".")
    known = _engine()
    if head.removeprefix("no-") in known and (not dot or known.get(head) == JSON_KIND):
        return ""
    return "" if head in known and not dot else _unknown("vLLM option", name, known)


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
