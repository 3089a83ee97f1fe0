"""What can go wrong with one request, as values, and the small parts that servers and proxies of the tests are made of.

`test.kube.server` uses the values up, one per request, in order.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """How a connection ends, or fails to."""

    CLOSE = "close"  # as a server ends a watch whose time is up
    FIN = "fin"  # the peer is gone, politely, in the middle of whatever it said
    RST = "rst"  # the peer is gone
    SILENCE = "silence"  # open, and nothing comes any more
    DRIP = "drip"  # a byte per second of a line that never ends


@dataclass(frozen=True)
class Answer:
    """This, and not what was asked for. Without a body it is a Status of that code."""

    status: int
    body: bytes | None = None
    headers: tuple[str, ...] = ()
    announced: int | None = None  # a Content-Length that lies


@dataclass(frozen=True)
class Break:
    """A watch sends `after` regular lines, lasts, sends `say` as it is, and ends. A list ends in the middle of its page."""

    after: int = 0
    say: bytes = b""
    then: End = End.FIN
    lasts: float = 0.0  # seconds by the server's clock


@dataclass(frozen=True)
class Stall:
    """Not even the headers come, or byte by byte."""

    drip: bool = False


Fault = Answer | Break | Stall


@dataclass
class Request:
    """One request, and whether the server failed at it: refused it, or broke off."""

    moment: float
    watch: bool
    params: dict[str, str]
    who: str = ""  # the name on the client's certificate
    failed: bool = False

    @property
    def version(self) -> str:
        return self.params.get("resourceVersion", "")


class Stream:
    """An open watch: what is still to be said on it."""

    def __init__(self, request: Request, since: int) -> None:
        self.request = request
        self.since = since
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()
        self.say = self._lines.put_nowait  # nothing at all ends the watch
        self.next = self._lines.get

    @property
    def idle(self) -> bool:
        """Whether everything was taken."""
        return self._lines.empty()


def chunk(raw: bytes) -> bytes:
    """HTTP/1.1 chunked transfer encoding."""
    return b"%x\r\n%s\r\n" % (len(raw), raw)


def reset_when_closed(writer: asyncio.StreamWriter) -> None:
    """Have the kernel send RST instead of FIN: what was sent but not read yet is lost to the peer, too."""
    plug: socket.socket | None = writer.get_extra_info("socket")
    if plug is not None and plug.fileno() >= 0:  # else it has gone already
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def sockets_closed() -> None:
    """Return after aborted transports have let go of their sockets: a task's callback, then a turn of the loop each."""
    for _ in range(4):
        await asyncio.sleep(0)
