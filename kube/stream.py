"""The lines of an open watch, in batches of what has arrived.

Owns the patience with a peer: one that sends nothing, and one that never finishes a line, end the stream with
ConnectionFailed; a line without end is a ValueError. Buffers what the socket's buffer holds and one unfinished line, never more.
Refuses to know what a line says.
"""

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from aiohttp.http import HttpProcessingError

from kube import errors

# What aiohttp raises where a peer is absent, silent, gone, or speaks no HTTP.
TRANSPORT_FAILURES = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError)
# A line that has not arrived complete after this long comes from a peer that is as good as dead. Single bytes satisfy a
# socket's timeout for ever.
LINE_SECONDS = 30.0
# etcd stores at most 1.5 MiB per object and JSON may double that.
LINE_BYTES = 8 * 2**20


class WatchStream:
    """An open watch. Whoever opened it closes it."""

    def __init__(self, response: aiohttp.ClientResponse, resources: AsyncExitStack) -> None:
        self._response = response
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        # The pieces of a line that is still coming, their size, and when the first of them came.
        self._pieces: list[bytes] = []
        self._pending = 0
        self._since = 0.0
        self._watchdog = self._loop.call_later(LINE_SECONDS, self._check)

    async def lines(self) -> list[bytes]:
        """The lines that have arrived, at least one, without their newlines; none where the stream ends.

        What stands after the last newline at the end was cut off; what it meant to say comes again.
        """
        while True:
            try:
                data: bytes = await self._response.content.readany()
            except TRANSPORT_FAILURES as error:
                raise errors.ConnectionFailed(f"the watch broke: {error or type(error).__name__}") from error
            if not data:
                return []
            if lines := self._complete(data):
                return lines

    def _complete(self, data: bytes) -> list[bytes]:
        """Whole lines, as far as `data` completes any."""
        lines, begin = [], 0
        # Not bytes.split: it looks at each byte, and takes a microsecond more for a line of usual length.
        while (end := data.find(b"\n", begin)) >= 0:
            lines.append(data[begin:end])
            begin = end + 1
        rest = data[begin:]
        if lines and self._pieces:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces.clear()
            self._pending = 0
        if rest:
            if not self._pieces:
                self._since = self._loop.time()
            self._pieces.append(rest)
            self._pending += len(rest)
            if self._pending > LINE_BYTES:
                # Not a failed connection: the same line would come again. A list has no such limit.
                raise ValueError(f"a line of the watch is longer than {LINE_BYTES} bytes")
        return lines

    async def close(self) -> None:
        self._watchdog.cancel()
        self._response.close()  # never back into the pool: the rest of the stream is still coming
        await self._resources.aclose()

    def _check(self) -> None:
        remaining = LINE_SECONDS
        if self._pieces:
            remaining += self._since - self._loop.time()
        if remaining <= 0:
            self._response.close()
            return
        self._watchdog = self._loop.call_later(remaining, self._check)
