"""A TCP proxy on loopback that can cut, stall and refuse what goes through it. It knows bytes, no HTTP and no TLS."""

import asyncio
from types import TracebackType
from typing import Self


async def sockets_closed() -> None:
    """Return after aborted transports have let go of their sockets: a task's callback, then a turn of the loop each."""
    for _ in range(4):
        await asyncio.sleep(0)


class FaultProxy:
    """Between a client and `port`: `cut` ends what is open, `refusing` what comes, `stalled` lets nothing pass."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.refusing = False
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """End every open connection, in the middle of whatever it carries."""
        for connection in self._connections:
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
        self.accepted += 1
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Not in the coroutine: a task that is cancelled before its first step never enters it.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outward: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            inward, outward = await asyncio.open_connection("127.0.0.1", self._target)
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
