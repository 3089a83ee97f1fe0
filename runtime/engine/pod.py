"""What the engine finds in its pod: the plan, the weights, templates, places to write, limits. Reads, never decides."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runtime import contract, http, machine
from runtime.contract import ExitCode, Reason, ServePlan
from runtime.engine.render import Engine, Surroundings
from runtime.fault import Fault, config_invalid

TEMPLATE = "chat_template.jinja"
PACKAGE_ROOT = Path(__file__).parents[2]  # where `import runtime` works, for the child too


def read_plan(text: str) -> ServePlan:
    try:
        return contract.decode(ServePlan, text)
    except ValueError as error:
        raise config_invalid(f"{contract.PLAN_ENV} holds no plan for serving: {error}") from error


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    return Surroundings(
        cache=cache_root(Path(contract.CACHE_DIR)),
        cpus=machine.cpus(),
        memory=machine.memory(),
        pod_index=_number(environment, contract.POD_INDEX_ENV, _ordinal(environment.get("HOSTNAME", ""))),
        grace_seconds=_number(environment, contract.GRACE_ENV, 30),
    )


def cache_root(wanted: Path) -> Path:
    """The cache's mount, or a temporary folder where it is absent or read-only: caches may be lost."""
    return wanted if os.access(wanted, os.W_OK) else Path(tempfile.gettempdir()) / "runtime-cache"


def writable(folder: Path) -> Path:
    """Where files of this run go: the cache's mount exists in every pod, /tmp may be read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_weights(folder: Path) -> None:
    """Raise at once for what the engine would notice after its imports: no model where the plan has one."""
    if not any((folder / name).is_file() for name in ("config.json", "params.json")):
        found = sorted(path.name for path in folder.iterdir())[:5] if folder.is_dir() else []
        here = f"it holds {', '.join(found)}" if found else "it is empty or absent"
        raise Fault(ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE, f"no model (config.json) in {folder}: {here}")


def with_templates(around: Surroundings, adapter_dir: Path, chat_adapter: str) -> Surroundings:
    """Note which chat templates there are: the model's, and the one that came with the adapter of /chat."""
    folder = adapter_dir / chat_adapter
    places = (folder / TEMPLATE, folder / "data" / TEMPLATE) if chat_adapter else ()
    template = next((str(path) for path in places if path.is_file()), "")
    return dataclasses.replace(around, model_has_template=has_template(around.weights), adapter_template=template)


def has_template(model: Path) -> bool:
    if any((model / name).exists() for name in (TEMPLATE, "chat_template.json", "additional_chat_templates")):
        return True
    try:
        return bool(json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def environment(engine: Engine, inherited: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """The child's environment. What the pod's author set wins, but for a home that cannot be written to."""
    own = {
        http.SETTINGS_ENV: contract.encode(engine.settings),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PACKAGE_ROOT), inherited.get("PYTHONPATH", "")))),
    }
    if not os.access(inherited.get("HOME", ""), os.W_OK):
        own["HOME"] = engine.environment["HOME"]
    return {**engine.environment, "TMPDIR": str(temporary), **inherited, **own}


def _ordinal(hostname: str) -> int:
    """The number at the end of the name of a StatefulSet's pod."""
    number = hostname.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise config_invalid(f"{name} must be a whole number, not {text!r}")
    return int(text)
