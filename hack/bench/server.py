"""The one server that all candidates are measured against: `python -m hack.bench.server CORE` prints its control port.

Every scenario has a port of its own and serves one kind in bulk, pre-encoded: lists with limit and continue, WatchList,
watches. Leases can be written; whatever else is asked for is empty. A scenario can turn dead, silent, hanging, 403 or 500.
It is no API server: no selectors, no history, nothing is checked. Standard library only.
"""

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hack.bench import discovery, wire
from hack.bench.objects import FIRST_VERSION, KINDS, templates

# How often a quiet watch gets a bookmark, as from a real API server.
BOOKMARK_SECONDS = 60.0
# The finest steps in which events are paced; asyncio's timers are no finer.
TICK = 0.001
REFUSALS = {"forbidden": (403, "Forbidden"), "broken": (500, "InternalError")}


@dataclass
class Scenario:
    """What one port serves. `mode` is "well", or how it fails: dead, silent, hang, forbidden, broken."""

    kind: str
    count: int
    watch_list: bool = True  # False: an API server from before it
    mode: str = "well"
    requests: int = 0  # since the mode last changed
    spoke_at: float = 0.0  # when something last went to a watch
    left_after: float | None = None  # how long a watch had been silent when its other side closed it
    version: int = 0
    watches: set[asyncio.StreamWriter] = field(default_factory=set)
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    listener: asyncio.Server | None = None

    def __post_init__(self) -> None:
        self.version = FIRST_VERSION + self.count

    async def listen(self) -> int:
        self.listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self.listener.sockets[0].getsockname()[1]
        return port

    def fail(self, mode: str) -> None:
        """Begin to fail. A silent or hanging peer keeps its connections; the others lose them."""
        self.mode, self.requests = mode, 0
        if mode == "dead" and self.listener is not None:
            self.listener.close()
        if mode not in ("silent", "hang"):
            self.abort()

    def abort(self) -> None:
        for writer in list(self.connections):
            writer.transport.abort()

    async def push(self, events: int, rate: float) -> None:
        """Send MODIFIED events to whoever watches, `rate` a second; as fast as they are taken where it is zero."""
        await self.watched.wait()
        made = self._events(events)
        if not rate:
            while batch := list(itertools.islice(made, wire.COALESCED)):
                await self._send(batch)
            return
        started, sent = time.monotonic(), 0
        while sent < events:
            await asyncio.sleep(TICK)
            due = min(events, int((time.monotonic() - started) * rate)) - sent
            await self._send(list(itertools.islice(made, due)))
            sent += due

    def _events(self, events: int) -> Iterator[bytes]:
        """Round after round over all objects, each with a new version and the moment of its making."""
        objects = itertools.cycle(templates(self.kind, self.count))
        for template in itertools.islice(objects, events):
            self.version += 1
            yield wire.chunk(b'{"type":"MODIFIED","object":%b}\n' % template.at(self.version, time.monotonic_ns()))

    async def _send(self, chunks: Iterable[bytes]) -> None:
        piece = b"".join(chunks)
        for writer in list(self.watches):
            writer.write(piece)
            await writer.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while request := await wire.read(reader):
                self.requests += 1
                await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # candidates come and go, and some are killed
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _answer(self, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "hang":
            await reader.read()  # until the other side gives up
        elif self.mode in REFUSALS:
            writer.write(wire.response(*wire.refusal(*REFUSALS[self.mode])))
        elif "/leases" in request.path:
            writer.write(wire.response(*self._lease(request)))
        elif "sendInitialEvents" in request.query and not self.watch_list:
            writer.write(wire.response(*wire.refusal(422, "Invalid")))
        elif request.watch:
            await self._watch(request, reader, writer)
        elif request.path == KINDS[self.kind].path:
            size = int(request.query.get("limit") or self.count)
            begin = int(request.query.get("continue") or 0)
            writer.write(wire.page(self.kind, self.count, begin, size))
        else:
            writer.write(wire.response(200, discovery.document(request.path)))
        await writer.drain()

    async def _watch(self, request: wire.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stream until the other side closes; the events themselves come from `push`."""
        writer.write(wire.WATCH_HEAD)
        bulk = request.path == KINDS[self.kind].path
        if request.query.get("sendInitialEvents") == "true":
            for piece in wire.initial(self.kind, self.count) if bulk else ():
                writer.write(piece)
                await writer.drain()
            writer.write(wire.bookmark(self.version, initial=True))
        self.spoke_at = time.monotonic()
        if bulk:
            self.watches.add(writer)
            self.watched.set()
        try:
            while not await _closed(reader, BOOKMARK_SECONDS):
                if self.mode != "silent":
                    writer.write(wire.bookmark(self.version))
        finally:
            self.watches.discard(writer)
            if self.mode == "silent" and bulk:
                self.left_after = time.monotonic() - self.spoke_at

    def _lease(self, request: wire.Request) -> tuple[int, Mapping[str, Any]]:
        """Create, read, replace or merge one Lease, under optimistic concurrency like the real thing."""
        given = json.loads(request.body) if request.body else {}
        if request.method == "POST":
            path = f"{request.path}/{given['metadata']['name']}"
            self.leases[path] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **given}
            return 201, self._written(path)
        lease = self.leases.get(request.path)
        if lease is None:
            return wire.refusal(404, "NotFound")
        if request.method == "GET":
            return 200, lease
        expected = given["metadata"].get("resourceVersion")
        if expected not in (None, lease["metadata"]["resourceVersion"]):
            return wire.refusal(409, "Conflict")
        lease["spec"] = {**lease["spec"], **given["spec"]}
        return 200, self._written(request.path)

    def _written(self, path: str) -> Mapping[str, Any]:
        self.version += 1
        lease = self.leases[path]
        lease["metadata"] = {**lease["metadata"], "uid": "1", "resourceVersion": str(self.version)}
        return lease


async def _closed(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Whether the other side closes the connection within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await reader.read(1)
    except TimeoutError:
        return False
    return True


class Control:
    """The other side of `hack.bench.control.ask`."""

    def __init__(self) -> None:
        self._scenarios: dict[int, Scenario] = {}
        self._pushing: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = json.loads(await reader.readline())
        answer = await getattr(self, "do_" + command.pop("op"))(**command)
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    async def do_open(self, kind: str, count: int, watch_list: bool) -> Mapping[str, Any]:
        scenario = Scenario(kind, count, watch_list)
        wire.initial(kind, count)  # encoded before anybody is measured
        port = await scenario.listen()
        self._scenarios[port] = scenario
        return {"port": port}

    async def do_push(self, port: int, events: int, rate: float) -> Mapping[str, Any]:
        task = asyncio.create_task(self._scenarios[port].push(events, rate))
        self._pushing.add(task)
        task.add_done_callback(self._pushing.discard)
        return {}

    async def do_fail(self, port: int, mode: str) -> Mapping[str, Any]:
        self._scenarios[port].fail(mode)
        return {}

    async def do_state(self, port: int) -> Mapping[str, Any]:
        """Return requests since the mode changed, and after how many seconds of silence a watch was given up."""
        scenario = self._scenarios[port]
        return {"requests": scenario.requests, "left_after": scenario.left_after}

    async def do_close(self, port: int) -> Mapping[str, Any]:
        scenario = self._scenarios.pop(port)
        if scenario.listener is not None:
            scenario.listener.close()
        scenario.abort()
        return {}


async def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    listener = await asyncio.start_server(Control().serve, "127.0.0.1", 0)
    print(listener.sockets[0].getsockname()[1], flush=True)
    async with listener:
        # The parent's end is ours: it holds our stdin.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
