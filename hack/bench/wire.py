"""HTTP and Kubernetes' JSON as the bench's server reads and writes them, as much as possible encoded once.

Knows no state: which object has which version is the server's to say.
"""

import asyncio
import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hack.bench.objects import FIRST_VERSION, templates

# Watch events per write to the socket: what a busy server's kernel hands over together, each still an HTTP chunk.
COALESCED = 20
WATCH_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    body: bytes

    @property
    def watch(self) -> bool:
        return self.query.get("watch", "").lower() in ("1", "true")


async def read(reader: asyncio.StreamReader) -> Request | None:
    """One request; None when the connection ends instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    return Request(method, url.path, {name: values[0] for name, values in parse_qs(url.query).items()}, body)


def chunk(line: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(line), line)


def bookmark(version: int, *, initial: bool = False) -> bytes:
    annotations = {"k8s.io/initial-events-end": "true"} if initial else {}
    content = {"metadata": {"resourceVersion": str(version), "annotations": annotations}}
    return chunk(json.dumps({"type": "BOOKMARK", "object": content}).encode() + b"\n")


@functools.lru_cache
def initial(kind: str, count: int) -> list[bytes]:
    """The ADDED events that begin a WatchList, in pieces of what goes into one write."""
    chunks = (chunk(b'{"type":"ADDED","object":%b}\n' % content) for content in _contents(kind, count))
    return list(iter(lambda: b"".join(itertools.islice(chunks, COALESCED)), b""))


@functools.lru_cache
def page(kind: str, count: int, begin: int, size: int) -> bytes:
    end = min(begin + size, count)
    items = b",".join(itertools.islice(_contents(kind, count), begin, end))
    metadata = {"resourceVersion": str(FIRST_VERSION + count), "continue": str(end) if end < count else ""}
    head = f'{{"kind":"{kind}List","apiVersion":"v1","metadata":{json.dumps(metadata)},"items":['
    return _raw_response(200, head.encode() + items + b"]}")


def _contents(kind: str, count: int) -> Iterator[bytes]:
    return (template.at(FIRST_VERSION + number) for number, template in enumerate(templates(kind, count), 1))


def refusal(code: int, reason: str) -> tuple[int, Mapping[str, Any]]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}


def response(code: int, content: Mapping[str, Any]) -> bytes:
    return _raw_response(code, json.dumps(content).encode())


def _raw_response(code: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {code} Answer\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
