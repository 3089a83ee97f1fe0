"""A watch server on a loopback socket that keeps a small history and misbehaves on request.

It serves one collection of ConfigMaps: paged lists, watches from any version, WatchList, bookmarks, compaction, and going
back in time. `faults` are used up one per request, in order. It writes raw HTTP, so that it can stop in the middle of a
line. It is not an API server: no writes, no authentication, no selectors; `test/kube/client_test.py` has the real one.
"""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from test.kube.proxy import sockets_closed


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    `status` answers with that code and `body` at once. Otherwise a watch sends `lines` regular lines and then: `say` goes out
    as it is, and `then` is "close" (a clean end), "cut" (the connection dies), or "silence" (nothing more).
    """

    status: int = 0
    body: bytes | None = None
    headers: tuple[str, ...] = ()
    lines: int = 0
    say: bytes = b""
    then: str = "close"


@dataclass(frozen=True)
class Request:
    moment: float
    watch: bool
    params: dict[str, str]


@dataclass
class Entry:
    version: int
    type: str
    object: dict[str, Any]


def status_body(code: int, reason: str, message: str = "as the test asked") -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def line(kind: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


@dataclass
class WatchServer:
    """Start it with `async with`; change its content with put, delete, recreate, compact and roll_back."""

    moment: Callable[[], float] = lambda: 0.0
    watch_list: str = "yes"  # "refused" answers 422, "ignored" takes it for a plain watch
    page_size: int = 500
    version: int = 10
    compacted: int = 0
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    watches: int = 0  # open right now

    async def __aenter__(self) -> Self:
        self._uids = itertools.count(1)
        self._changed = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.drop_connections()
        if self._connections:
            await asyncio.wait(self._connections)
        await sockets_closed()

    def put(self, name: str, **data: str) -> None:
        known = self.objects.get(name)
        uid = known["metadata"]["uid"] if known else f"uid-{next(self._uids)}"
        self._record("MODIFIED" if known else "ADDED", name, uid, data)

    def delete(self, name: str) -> None:
        gone = self.objects.pop(name)
        self.version += 1
        metadata = {**gone["metadata"], "resourceVersion": str(self.version)}
        self._append(Entry(self.version, "DELETED", {**gone, "metadata": metadata}))

    def recreate(self, name: str) -> None:
        self.delete(name)
        self.put(name)

    def compact(self) -> None:
        """Forget the history: watches from before now are Gone."""
        self.compacted = self.version

    def roll_back(self, versions: int) -> None:
        """Be restored from a backup: newer objects and versions have never been."""
        self.version = max(1, self.version - versions)
        lost = [entry for entry in self.log if entry.version > self.version]
        for entry in lost:
            entry.version, entry.type = 0, "NEVER"
        self.objects = {}
        for entry in self.log:
            if entry.type not in ("ADDED", "MODIFIED", "DELETED"):
                continue
            name = entry.object["metadata"]["name"]
            self.objects.pop(name, None) if entry.type == "DELETED" else self.objects.update({name: entry.object})

    def drop_connections(self) -> None:
        for connection in self._connections:
            connection.cancel()

    def say(self, raw: bytes) -> None:
        """Send `raw` on every open watch."""
        self._append(Entry(0, "RAW", {"raw": raw}))

    def bookmark(self, version: int | None = None) -> None:
        metadata = {"resourceVersion": str(version or self.version)}
        self.say(line("BOOKMARK", {"kind": "ConfigMap", "metadata": metadata}))

    def _record(self, kind: str, name: str, uid: str, data: dict[str, str]) -> None:
        self.version += 1
        metadata = {"name": name, "namespace": "x", "uid": uid, "resourceVersion": str(self.version)}
        self.objects[name] = {"metadata": metadata, "data": data}
        self._append(Entry(self.version, kind, self.objects[name]))

    def _append(self, entry: Entry) -> None:
        self.log.append(entry)
        self._changed.set()
        self._changed = asyncio.Event()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Not in the coroutine: a task that is cancelled before its first step never enters it.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                target = head.split(b" ")[1].decode()
                params = {name: values[-1] for name, values in parse_qs(urlsplit(target).query).items()}
                if not await self._answer(writer, params):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test dropped us: a server just ends the connection

    async def _answer(self, writer: asyncio.StreamWriter, params: dict[str, str]) -> bool:
        """Answer one request; False when the connection must die."""
        watch = params.get("watch") == "1"
        self.requests.append(Request(self.moment(), watch, params))
        fault = self.faults.popleft() if self.faults else None
        if fault is not None and fault.status:
            body = json.dumps(status_body(fault.status, "")).encode() if fault.body is None else fault.body
            await self._respond(writer, fault.status, body, fault.headers)
            return True
        if not watch:
            if fault is not None and fault.then != "close":
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"items":[')  # less than announced
                await writer.drain()
                return False
            return await self._list(writer, params)
        return await self._watch(writer, params, fault)

    async def _list(self, writer: asyncio.StreamWriter, params: dict[str, str]) -> bool:
        offset, _, at = params.get("continue", "").partition(":")
        if at and int(at) < self.compacted:
            await self._respond(writer, 410, json.dumps(status_body(410, "Expired")).encode())
            return True
        begin, size = int(offset or 0), min(int(params["limit"]), self.page_size)
        names = sorted(self.objects)
        metadata = {"resourceVersion": at or str(self.version)}
        if begin + size < len(names):
            metadata["continue"] = f"{begin + size}:{at or self.version}"
        items = [self.objects[name] for name in names[begin : begin + size]]
        await self._respond(writer, 200, json.dumps({"metadata": metadata, "items": items}).encode())
        return True

    async def _watch(self, writer: asyncio.StreamWriter, params: dict[str, str], fault: Fault | None) -> bool:
        initial = "sendInitialEvents" in params
        if initial and self.watch_list == "refused":
            await self._respond(writer, 422, json.dumps(status_body(422, "Invalid")).encode())
            return True
        since = int(params.get("resourceVersion") or 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.watches += 1
        try:
            if since and since < self.compacted:
                await self._chunk(writer, line("ERROR", status_body(410, "Expired")))
            else:
                await self._stream(writer, since, initial, fault)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except _Cut:
            return False
        finally:
            self.watches -= 1
        return True

    async def _stream(self, writer: asyncio.StreamWriter, since: int, initial: bool, fault: Fault | None) -> None:
        left = fault.lines if fault else -1
        position = len(self.log)
        if since:
            position = next((at for at, entry in enumerate(self.log) if entry.version > since), position)
        backlog = [] if since else [line("ADDED", self.objects[name]) for name in sorted(self.objects)]
        if initial and self.watch_list == "yes":
            end = {"resourceVersion": str(self.version), "annotations": {"k8s.io/initial-events-end": "true"}}
            backlog.append(line("BOOKMARK", {"kind": "ConfigMap", "metadata": end}))
        while True:
            for raw in backlog:
                if left == 0:
                    break
                await self._chunk(writer, raw)
                left -= 1
            if left == 0 and fault is not None:
                await self._misbehave(writer, fault)
                return
            changed = self._changed
            news = self.log[position:]
            position += len(news)
            # A restored server has nothing to say about versions that it has not reached again.
            backlog = [_wire(entry) for entry in news if entry.type == "RAW" or entry.version > since]
            if not backlog:
                await changed.wait()

    async def _misbehave(self, writer: asyncio.StreamWriter, fault: Fault) -> None:
        if fault.say:
            await self._chunk(writer, fault.say)
        if fault.then == "cut":
            raise _Cut
        if fault.then == "silence":
            await asyncio.Event().wait()

    async def _chunk(self, writer: asyncio.StreamWriter, raw: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        await writer.drain()

    async def _respond(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: tuple[str, ...] = ()
    ) -> None:
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()


class _Cut(Exception):
    """The connection dies here."""


def _wire(entry: Entry) -> bytes:
    return bytes(entry.object["raw"]) if entry.type == "RAW" else line(entry.type, entry.object)
