"""A TCP proxy on loopback that can cut, stall and refuse what goes through it. It knows bytes, no HTTP and no TLS."""

import asyncio
from types import TracebackType
from typing import Self

from kube.clock import Clock, SystemClock
from test.kube.wire import End, reset_when_closed, sockets_closed


class FaultProxy:
    """Between a client and `target`: `cut` ends what is open, `refusing` what comes, `stall` lets nothing pass."""

    def __init__(self, target: int, clock: Clock | None = None) -> None:
        self.target = target  # a port; a new one is for new connections
        self.refusing = False
        self.attempts: list[float] = []  # when somebody connected, by the clock
        self._clock = clock or SystemClock()
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self.cut()

    async def cut(self, end: End = End.FIN) -> None:
        """End every open connection, in the middle of whatever it carries."""
        for connection, writer in self._connections.items():
            if end is End.RST:
                reset_when_closed(writer)
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await sockets_closed()

    def stall(self) -> None:
        """Keep connections open but let no byte through: the peer looks alive and says nothing."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts.append(self._clock.monotonic())
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)
        # Not in the coroutine: a task that is cancelled before its first step never enters it.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outward: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            inward, outward = await asyncio.open_connection("127.0.0.1", self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, outward))
                group.create_task(self._pump(inward, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # either side left, or the test cut us
        finally:
            if outward is not None:
                outward.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            await self._flowing.wait()
            sink.write(piece)
            await sink.drain()
        raise ConnectionResetError("one side is done, so is the other")
