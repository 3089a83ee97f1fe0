"""What outlives the process: the World as one JSON file, replaced atomically, and the request log as JSON lines.

Without a folder both live in memory. Knows nothing of HTTP and never changes what it keeps.
"""

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from hack.local.aks.model import Kind, World


class Entry(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One ARM request as it was answered. `committed`: it changed the world, even where the reply was then dropped."""

    n: int
    time: float  # of arrival, seconds since the epoch
    seconds: float  # until the answer
    method: str
    path: str
    kind: Kind
    pool: str
    status: int  # 0: no answer was given
    reply: Literal["sent", "dropped"] = "sent"
    committed: bool = False
    code: str = ""  # of the error
    tags: dict[str, str] = {}  # properties.tags of a PUT
    if_match: str = ""
    if_none_match: str = ""
    ignore_budgets: bool = False
    api_version: str = ""
    user_agent: str = ""
    correlation: str = ""  # x-ms-correlation-request-id
    operation: str = ""  # id of the operation that it began


class Journal:
    """The run folder of one emulator, or its memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._saved: World | None = None
        self.entries: list[Entry] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.entries = [msgspec.json.decode(line, type=Entry) for line in _whole_lines(folder / "requests.jsonl")]

    def load(self) -> World | None:
        """Return the World that was saved last, None where there is none."""
        if self._folder is None or not (file := self._folder / "world.json").exists():
            return None
        return msgspec.json.decode(file.read_bytes(), type=World)

    def save(self, world: World) -> None:
        """Keep the World; survives kill -9 at any moment (not a power cut: nothing is fsynced, it is a box)."""
        if self._folder is None or world is self._saved:
            return
        new = self._folder / "world.json.new"
        new.write_bytes(msgspec.json.encode(world))
        new.replace(self._folder / "world.json")
        self._saved = world

    def append(self, entry: Entry) -> None:
        """Keep a log entry."""
        self.entries.append(entry)
        if self._folder is not None:
            with (self._folder / "requests.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")

    def clear(self) -> None:
        """Forget the log."""
        self.entries.clear()
        if self._folder is not None:
            (self._folder / "requests.jsonl").unlink(missing_ok=True)

    def select(self, **wanted: Any) -> list[Entry]:
        """Return the entries whose fields have all of these values."""
        return [entry for entry in self.entries if all(getattr(entry, key) == value for key, value in wanted.items())]


def _whole_lines(file: Path) -> list[bytes]:
    """Return the lines of `file`; one that a kill cut short is cut off, since nobody was answered from it."""
    if not file.exists():
        return []
    content = file.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(file, end)
    return content[:end].splitlines()
