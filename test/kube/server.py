"""An HTTP server on a loopback socket that serves a `History` and misbehaves on request.

It does what a reflector needs of an API server: paged lists, watches from any version, WatchList, bookmarks, 410 for what
was compacted, bearer tokens. `faults` are used up one per request, in order. It writes raw HTTP, so that it can stop in
the middle of a line, and keeps time by a clock of the test's. It is not an API server: no writes, no selectors;
`test/kube/client_test.py` has the real one.
"""

import asyncio
import json
import ssl
from collections import deque
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from kube.clock import Clock
from test.kube.history import Change, History, end_bookmark, line, status
from test.kube.looptime import turns
from test.kube.wire import (
    Answer,
    Break,
    End,
    Fault,
    Request,
    Stall,
    Stream,
    chunk,
    reset_when_closed,
    sockets_closed,
)

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
# Longer than any patience that the client may have.
SILENT_SECONDS = 300


class Broken(Exception):
    """The connection ends here, so."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end = end


class WatchServer:
    """Start it with `async with`; change `history` and its own attributes at any time. Two may serve one history."""

    def __init__(self, clock: Clock, history: History | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.clock = clock
        self.tls = tls
        self.history = history or History()
        self.watch_list = "yes"  # "refused" answers 422, "ignored" takes it for a plain watch
        self.page_size = 500
        self.token = ""  # who does not bring it is Unauthorized
        self.lagging = False  # watches say nothing of what happens; lists are quorum reads and know
        self.stopping = False  # connections end with the watches on them
        self.faults: deque[Fault] = deque()
        self.lists_spared = False  # only watches use up a fault
        self.requests: list[Request] = []
        self.streams: list[Stream] = []  # open watches
        self.ended = 0  # watches that ended as agreed
        self._held: list[Change] = []
        self._pages: dict[str, list[dict[str, Any]]] = {}
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self.history.listeners.append(self._tell)
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self.tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.history.listeners.remove(self._tell)
        self._server.close()
        self.drop()
        if self._connections:
            await asyncio.wait(self._connections)
        await sockets_closed()

    def drop(self, end: End = End.RST) -> None:
        """End every connection in the middle of what it carries."""
        for stream in self.streams:
            stream.request.failed = True
        for task, (_, writer) in self._connections.items():
            if end is End.RST:
                reset_when_closed(writer)
            task.cancel()

    def expire(self) -> None:
        """End every watch as the server does when its `timeoutSeconds` are over."""
        for stream in self.streams:
            stream.say(b"")

    def say(self, raw: bytes) -> None:
        """Send `raw` on every open watch."""
        for stream in self.streams:
            stream.say(raw)

    def restore(self, versions: int, *, bump: bool = False) -> None:
        """Come back with etcd restored from a backup; nobody's connection survives that."""
        self.drop()
        self.history.restore(versions, bump=bump)
        self.lagging = False
        self._held.clear()
        self._pages.clear()

    def catch_up(self) -> None:
        """Lag no longer."""
        self.lagging = False
        held, self._held = self._held, []
        for change in held:
            self._tell(change)

    def _tell(self, change: Change) -> None:
        if self.lagging:
            self._held.append(change)
            return
        for stream in self.streams:
            if change.version > stream.since:  # a restored server is silent until it gets there again
                stream.say(change.line())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections[task] = reader, writer
        task.add_done_callback(self._connections.pop)
        # Not in the coroutine: a task that is cancelled before its first step never enters it.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._answer(await reader.readuntil(b"\r\n\r\n"), writer)
        except Broken as broken:
            if broken.end is End.RST:
                reset_when_closed(writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test dropped us: a server just ends the connection

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        target = urlsplit(head.split(b" ")[1].decode())
        params = {name: values[-1] for name, values in parse_qs(target.query).items()}
        certificate = writer.get_extra_info("peercert")
        who = certificate["subject"][-1][0][1] if certificate else ""
        request = Request(self.clock.monotonic(), params.get("watch") == "1", params, who)
        self.requests.append(request)
        if self.token and f"authorization: bearer {self.token}\r\n" not in head.decode().lower():
            fault: Fault | None = Answer(401)
        else:
            hit = self.faults and (request.watch or not self.lists_spared)
            fault = self.faults.popleft() if hit else None
        match fault:
            case Answer():
                request.failed = not self._may_refuse(request, fault)
                await self._respond(writer, fault)
            case Stall():
                request.failed = True
                writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: " if fault.drip else b"")
                await self._hang(writer, End.DRIP if fault.drip else End.SILENCE, b"x")
            case Break() if not request.watch:
                request.failed = True
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"items":[')  # less than announced
                await self._hang(writer, fault.then, b" ")
            case _ if request.watch:
                await self._watch(writer, request, fault)
            case _:
                await self._list(writer, request)

    def _may_refuse(self, request: Request, answer: Answer) -> bool:
        """Whether the answer only tells a client that this server knows no WatchList."""
        return "sendInitialEvents" in request.params and answer.status in (400, 422)

    async def _list(self, writer: asyncio.StreamWriter, request: Request) -> None:
        token = request.params.get("continue", "")
        version = token.partition(":")[0] or str(self.history.version)
        if token and (int(version) < self.history.compacted or token not in self._pages):
            request.failed = True
            await self._respond(writer, Answer(410, json.dumps(status(410, "Expired")).encode()))
            return
        left = self._pages[token] if token else [item for _, item in sorted(self.history.objects.items())]
        size = min(int(request.params["limit"]), self.page_size)
        metadata = {"resourceVersion": version}
        if left[size:]:
            metadata["continue"] = f"{version}:{len(self._pages)}"
            self._pages[metadata["continue"]] = left[size:]
        await self._respond(writer, Answer(200, json.dumps({"metadata": metadata, "items": left[:size]}).encode()))

    async def _watch(self, writer: asyncio.StreamWriter, request: Request, fault: Break | None) -> None:
        initial = "sendInitialEvents" in request.params
        if initial and self.watch_list == "refused":
            await self._respond(writer, Answer(422, json.dumps(status(422, "Invalid")).encode()))
            return
        stream = Stream(request, int(request.version or 0))
        self._begin(stream, initial and self.watch_list == "yes")
        writer.write(HEADERS)
        self.streams.append(stream)
        try:
            await self._stream(writer, stream, fault)
        finally:
            self.streams.remove(stream)
        self.ended += 1
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        if self.stopping:
            raise Broken(End.FIN)

    def _begin(self, stream: "Stream", end: bool) -> None:
        """Say what the watch begins with: the content, or what happened since its version."""
        if not stream.since:
            for _, item in sorted(self.history.objects.items()):
                stream.say(line("ADDED", item))
            if end:
                stream.say(end_bookmark(self.history.version))
            stream.since = self.history.version
        elif stream.since < self.history.compacted:
            stream.request.failed = True
            stream.say(line("ERROR", status(410, "Expired")))
            stream.say(b"")
        else:
            for change in self.history.since(stream.since):
                if change not in self._held:
                    stream.say(change.line())

    async def _stream(self, writer: asyncio.StreamWriter, stream: "Stream", fault: Break | None) -> None:
        left = fault.after if fault else -1
        while left != 0:
            if not (raw := await stream.next()):
                return
            writer.write(chunk(raw))
            await writer.drain()
            left -= 1
        assert fault is not None
        await self.clock.sleep(fault.lasts)
        stream.request.failed = fault.then is not End.CLOSE or b'"ERROR"' in fault.say
        if fault.say:
            writer.write(chunk(fault.say))
            await writer.drain()
        if fault.then is not End.CLOSE:
            await self._hang(writer, fault.then, chunk(b"x"))

    async def _hang(self, writer: asyncio.StreamWriter, end: End, drop: bytes) -> None:
        """Never finish: go away at once, or say nothing or a drop per second until the client leaves."""
        if end is End.FIN:
            await writer.drain()
            writer.write_eof()
        elif end in (End.SILENCE, End.DRIP):
            for _ in range(SILENT_SECONDS):
                if self._left(writer):
                    break
                writer.write(drop if end is End.DRIP else b"")
                await writer.drain()
                await self.clock.sleep(1)
                await turns(5)  # or seconds would run away while the end of the connection is on its way to us
        raise Broken(end)

    def _left(self, writer: asyncio.StreamWriter) -> bool:
        return any(reader.at_eof() for reader, other in self._connections.values() if other is writer)

    async def _respond(self, writer: asyncio.StreamWriter, answer: Answer) -> None:
        body = json.dumps(status(answer.status, "")).encode() if answer.body is None else answer.body
        length = len(body) if answer.announced is None else answer.announced
        lines = [f"HTTP/1.1 {answer.status} X", f"Content-Length: {length}", *answer.headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        await writer.drain()
        if length != len(body):
            raise Broken(End.FIN)
