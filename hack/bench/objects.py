"""The objects that the bench's server serves in bulk, made from pod.json and workspace.json beside this file.

Those two are what a busy cluster has of them, managedFields included. Everything is encoded once; only an object's
resourceVersion and the moment at which it was sent are put in later.
"""

import functools
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# The annotation in which the server writes the moment of sending, in nanoseconds of the machine's monotonic clock.
SENT = "bench.kaito.sh/sent"
FIRST_VERSION = 1_000_000_000


@dataclass(frozen=True)
class Kind:
    """One kind that is served in bulk."""

    file: str
    path: str


KINDS: Mapping[str, Kind] = {
    "Pod": Kind("pod.json", "/api/v1/pods"),
    "Workspace": Kind("workspace.json", "/apis/kaito.sh/v1beta1/workspaces"),
}


@dataclass(frozen=True)
class Template:
    """The JSON of one object, cut at the two places that change."""

    head: bytes
    middle: bytes
    tail: bytes

    def at(self, version: int, sent: int = 0) -> bytes:
        return b"%b%d%b%d%b" % (self.head, version, self.middle, sent, self.tail)


@functools.lru_cache
def templates(kind: str, count: int) -> tuple[Template, ...]:
    """`count` objects that differ in name, uid, namespace, node, owner and address."""
    content = json.loads((Path(__file__).parent / KINDS[kind].file).read_text(encoding="utf-8"))
    text = string.Template(json.dumps(content, separators=(",", ":")))
    return tuple(
        _cut(text.safe_substitute(number=f"{number:05d}", team=f"{number % 100:02d}")) for number in range(count)
    )


def _cut(text: str) -> Template:
    head, rest = text.split("$version")
    middle, tail = rest.split("$sent")
    return Template(head.encode(), middle.encode(), tail.encode())
