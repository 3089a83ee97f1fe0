"""The lines of a watch, however they arrive: in one piece or in many, endless, or one byte at a time."""

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from typing import cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import errors, stream
from kube.stream import LINE_SECONDS, WatchStream
from test.kube.looptime import LoopClock, turns


class Pieces:
    """A response whose body arrives in pieces of the test's choice. Its owner may close it in the middle of a read."""

    def __init__(self, *pieces: bytes) -> None:
        self.content = self
        self._pieces = deque(pieces)
        self._ended = bool(pieces)
        self._news = asyncio.Event()
        self.closed = False

    def arrive(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._news.set()

    def close(self) -> None:
        self.closed = True
        self._news.set()

    async def readany(self) -> bytes:
        while not self._pieces and not self._ended and not self.closed:
            self._news.clear()
            await self._news.wait()
        if self.closed:
            raise aiohttp.ClientConnectionError("Connection closed")
        return self._pieces.popleft() if self._pieces else b""


def watch(pieces: Pieces) -> WatchStream:
    return WatchStream(cast(aiohttp.ClientResponse, pieces), AsyncExitStack())


LINES = st.lists(st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")), max_size=8)


@given(lines=LINES, cuts=st.lists(st.integers(0, 200)), rest=st.sampled_from([b"", b"cut off"]))
def test_lines_are_the_same_wherever_they_were_cut(lines: list[bytes], cuts: list[int], rest: bytes) -> None:
    asyncio.run(_read(lines, cuts, rest))


async def _read(lines: list[bytes], cuts: list[int], rest: bytes) -> None:
    text = b"".join(line + b"\n" for line in lines) + rest
    ends = sorted({cut for cut in cuts if 0 < cut < len(text)})
    pieces = [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    opened = watch(Pieces(*pieces))
    batches = []
    while batch := await opened.lines():
        batches.append(batch)
    assert [line for batch in batches for line in batch] == lines
    assert len(batches) <= len(pieces), "what arrives together is handed out together"
    await opened.close()


async def test_line_that_grows_beyond_every_limit_is_refused_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LINE_BYTES", 100)
    allowed, pieces = b"x" * 100 + b"\n", Pieces()
    opened = watch(pieces)
    for _ in range(5):
        for part in (allowed[:60], allowed[60:]):
            pieces.arrive(part)
        assert await opened.lines() == [allowed[:-1]], "one line counts, not all of them"
    pieces.arrive(b"x" * 60)
    for part in (b"x" * 41, b"\n"):
        pieces.arrive(part)
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        await opened.lines()
    await opened.close()


async def test_line_that_is_never_finished_is_given_up_half_a_minute_after_it_began() -> None:
    clock, pieces = LoopClock(alone=True), Pieces()
    opened = watch(pieces)
    clock.jump(LINE_SECONDS - 1)  # the watchdog looks soon; silence alone is none of its business
    reading = asyncio.ensure_future(opened.lines())
    for _ in range(int(LINE_SECONDS) - 1):
        pieces.arrive(b"x")
        await clock.elapse(1)
        assert not reading.done()
    await clock.elapse(2)
    assert isinstance(reading.exception(), errors.ConnectionFailed)
    await opened.close()


async def test_lines_that_are_finished_and_silence_are_kept_for_ever() -> None:
    clock, pieces = LoopClock(alone=True), Pieces()
    opened = watch(pieces)
    for seconds in (1, 20, 29, 20, 3600):
        pieces.arrive(b"begun ")
        reading = asyncio.ensure_future(opened.lines())
        await clock.elapse(min(seconds, 29))
        pieces.arrive(b"ended\n")
        assert await reading == [b"begun ended"]
        await clock.elapse(seconds)
    assert not pieces.closed
    await opened.close()


async def test_closed_stream_leaves_nothing_behind() -> None:
    clock, pieces, released = LoopClock(alone=True), Pieces(), []
    resources = AsyncExitStack()
    resources.callback(lambda: released.append("connection"))
    opened = WatchStream(cast(aiohttp.ClientResponse, pieces), resources)
    pieces.arrive(b"begun")
    reading = asyncio.ensure_future(opened.lines())
    await turns()
    await opened.close()
    assert released == ["connection"]
    assert pieces.closed, "the rest of a stream is in no pool's way"
    with pytest.raises(errors.ConnectionFailed):
        await reading
    pieces.closed = False
    await clock.elapse(2 * LINE_SECONDS)
    assert not pieces.closed, "nobody watches over it any more"


async def test_end_of_the_stream_is_told_from_its_break() -> None:
    ended = watch(Pieces(b"a\nb\n", b"cut off"))
    assert await ended.lines() == [b"a", b"b"]
    assert await ended.lines() == []
    await ended.close()
    pieces = Pieces()
    broken = watch(pieces)
    reading = asyncio.ensure_future(broken.lines())
    await turns()
    pieces.close()
    with pytest.raises(errors.ConnectionFailed, match="the watch broke"):
        await reading
    await broken.close()
