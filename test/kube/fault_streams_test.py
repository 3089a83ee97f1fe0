"""Watches that go wrong on the wire: cut, silent, dripping, full of nonsense, endless.

Each test is named in the table of fault_table_test.py. Waiting is skipped in virtual time, timeouts of sockets too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from test.expect import eventually
from test.kube.history import BUSY, CUT_SHORT, GONE, HTML, INTERNAL, TOO_LARGE, line
from test.kube.looptime import LoopClock
from test.kube.mirror import Mirror, follows, heard, mirrored
from test.kube.server import WatchServer
from test.kube.wire import Break, End, Request

MIB = 2**20


@asynccontextmanager
async def broken(server: WatchServer, clock: LoopClock, fault: Break) -> AsyncIterator[Mirror]:
    """A reflector whose first watch breaks after one object, the end bookmark and one change."""
    server.history.put("a")
    server.faults.append(fault)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.history.put("b")
        server.history.put("c")
        server.history.delete("a")
        await follows(mirror, server)
        yield mirror
        mirror.check_history()


def resumed(server: WatchServer) -> Request:
    """The first watch after the one that broke, which was there from the beginning."""
    return next(request for request in server.requests[1:] if request.watch)


@pytest.mark.parametrize("end", [End.RST, End.FIN])
@pytest.mark.parametrize("said", [b"", CUT_SHORT], ids=["between", "within"])
async def test_line_that_was_cut_short_comes_again_without_a_list(
    server: WatchServer, clock: LoopClock, end: End, said: bytes
) -> None:
    async with broken(server, clock, Break(after=3, say=said, then=end)):
        assert resumed(server).version in ("11", "12")
        assert all(request.watch or request.params["limit"] == "1" for request in server.requests)


async def test_line_cut_short_by_a_clean_end_comes_again_without_a_list(server: WatchServer, clock: LoopClock) -> None:
    async with broken(server, clock, Break(after=3, say=CUT_SHORT, then=End.CLOSE)):
        assert resumed(server).version == "12"


@pytest.mark.parametrize(
    "raw",
    [CUT_SHORT + b"\n", HTML + b"\n", b"\xff\xfe\n", b"null\n", b"[" * 20_000 + b"\n", line("ADDED", {})],
    ids=["cut", "html", "no-text", "null", "deep", "nameless"],
)
async def test_line_of_nonsense_reads_everything_again(server: WatchServer, clock: LoopClock, raw: bytes) -> None:
    async with broken(server, clock, Break(after=3, say=raw)):
        assert not resumed(server).version


@pytest.mark.parametrize("raw", [INTERNAL, TOO_LARGE, GONE], ids=["500", "too-large", "410"])
async def test_error_in_the_stream_reads_everything_again_after_a_step(
    server: WatchServer, clock: LoopClock, raw: bytes
) -> None:
    async with broken(server, clock, Break(after=3, say=raw, then=End.CLOSE)):
        assert not server.requests[1].version
        assert 0.8 <= server.requests[1].moment - server.requests[0].moment <= 1.6


async def test_busy_in_the_stream_is_waited_for_and_resumed(server: WatchServer, clock: LoopClock) -> None:
    async with broken(server, clock, Break(after=3, say=BUSY, then=End.CLOSE)):
        assert resumed(server).version == "12"
        assert server.requests[1].moment - server.requests[0].moment == pytest.approx(2)


async def test_stream_that_ends_at_once_is_backed_off_from_without_a_list(
    server: WatchServer, clock: LoopClock
) -> None:
    async with broken(server, clock, Break(after=3, then=End.CLOSE)):
        assert resumed(server).version == "12"
        assert server.requests[1].moment - server.requests[0].moment >= 0.8


async def test_silent_stream_is_given_up_after_73_seconds_and_not_before(server: WatchServer, clock: LoopClock) -> None:
    """Patience is by the loop's time, to which a busy machine adds its own: that may make it come sooner by the clock's."""
    patience = asyncio.get_running_loop().time
    server.history.put("a")
    begin = patience()
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        silent = clock.monotonic()
        while not mirror.reflector.metrics.failures and clock.monotonic() - silent < 76:
            await clock.elapse(1)
        assert mirror.reflector.metrics.failures == 1
        assert patience() - begin >= 73
        await eventually(lambda: len(server.requests) == 3)
        assert server.requests[-1].version == "11", "no need to read everything again"


async def test_quiet_stream_with_bookmarks_is_kept(server: WatchServer, clock: LoopClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        for _ in range(9):
            await clock.elapse(60)
            await heard(mirror, server)
        assert len(server.requests) == 1


async def test_dripping_line_is_given_up_after_30_seconds(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        patience = asyncio.get_running_loop().time
        begin, seconds = patience(), 0
        while not mirror.reflector.metrics.failures and seconds < 62:  # the watchdog looks every 30 s
            server.say(b"x")
            await clock.elapse(1)
            seconds += 1
        assert patience() - begin >= 30  # `seconds` may be fewer: a busy machine adds its own
        assert mirror.reflector.metrics.failures == 1
        server.history.put("b")
        await follows(mirror, server)


@pytest.mark.parametrize("size", [3 * MIB // 2, 39 * MIB // 10, 6 * MIB], ids=["1.5", "3.9", "6"])
async def test_huge_line_is_read(server: WatchServer, clock: LoopClock, size: int) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.history.put("huge", text="x" * size)
        await follows(mirror, server)
        (huge,) = mirror.store.all()
        assert len(huge.data["text"]) == size
        assert len(server.requests) == 1


async def test_line_beyond_every_limit_is_said_to_be_one(
    server: WatchServer, clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.say(b"x" * (9 * MIB))
        await eventually(lambda: mirror.reflector.metrics.failures)
        assert "longer than" in caplog.text
        server.history.put("b")
        await follows(mirror, server)


async def test_line_without_an_end_is_not_hoarded(server: WatchServer, clock: LoopClock) -> None:
    """The server can only send what the client takes, plus what the kernel holds for both."""
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        (stream,) = server.streams
        taken = 0
        while not mirror.reflector.metrics.failures:
            assert taken < 20 * MIB, "read on and on"
            stream.say(b"x" * (MIB // 4))
            taken += MIB // 4
            await eventually(lambda: stream.idle or mirror.reflector.metrics.failures)
        server.history.put("b")
        await follows(mirror, server)
