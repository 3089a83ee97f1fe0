"""What a candidate is asked to do, and how it is started and answers. Standard library only: every environment runs it."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Load:
    """Watch events to measure with: `rate` a second, or as fast as they are taken where it is zero.

    With `reconciled`, and at a rate, an event counts once its reconcile has run; else once its handler has.
    """

    events: int
    rate: float = 0.0
    reconciled: bool = False


@dataclass(frozen=True)
class Task:
    """One run of a candidate against the scenario on `port`."""

    action: str
    port: int = 0
    control: int = 0
    core: int = 0
    objects: int = 0
    loads: tuple[Load, ...] = ()
    seconds: float = 0.0
    mode: str = ""
    options: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Task":
        given = json.loads(text)
        given["loads"] = tuple(Load(**load) for load in given["loads"])
        given["options"] = tuple(given["options"])
        return cls(**given)

    @classmethod
    def given(cls) -> "Task":
        """Read argv, and keep to the core that it names."""
        task = cls.decode(sys.argv[1])
        os.sched_setaffinity(0, {task.core})
        return task


def answer(figures: Mapping[str, Any]) -> None:
    """Print a candidate's result: the last line of its output."""
    print(json.dumps(figures), flush=True)
