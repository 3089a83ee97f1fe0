"""How often a server in trouble is asked (F5): at most eight times in the first minute and 0.06 times a second after.

Ten minutes of virtual time each; every request is in the log of a scripted server, every connection in that of a proxy.
"""

import itertools
import json
from collections.abc import Sequence

import pytest

from test.clock import VirtualClock
from test.expect import eventually
from test.kube.history import GONE, HTML, INTERNAL, bookmark, too_large
from test.kube.mirror import follows, heard, mirrored
from test.kube.proxy import FaultProxy
from test.kube.server import WatchServer
from test.kube.wire import Answer, Break, End, Fault

MINUTES = 10
PER_MINUTE = 8
PER_SECOND = 0.06

TROUBLES: dict[str, Fault] = {
    "401": Answer(401),
    "403": Answer(403),
    "404": Answer(404),
    "410": Answer(410),
    "429": Answer(429, headers=("Retry-After: 1",)),
    "429 at once": Answer(429, headers=("Retry-After: 0",)),
    "500": Answer(500),
    "503 html": Answer(503, HTML),
    "504 too large": Answer(504, json.dumps(too_large()).encode()),
    "redirect": Answer(302, headers=("Location: /",)),
    "not a list": Answer(200, b"{}"),
    "lies": Answer(200, b"{}", announced=99),
    "error in the stream": Break(say=INTERNAL, then=End.CLOSE),
    "gone in the stream": Break(say=GONE, then=End.CLOSE),
    "ends at once": Break(then=End.CLOSE),
    "FIN": Break(then=End.FIN),
    "RST": Break(then=End.RST),
}
# What befalls watches alone: they are refused, or live for a while and then break.
WATCH_TROUBLES: dict[str, Fault] = TROUBLES | {
    "400": Answer(400),
    "405": Answer(405),
    "422": Answer(422),
    "ends after 0.9 s": Break(then=End.CLOSE, lasts=0.9),
    "breaks after 2 s": Break(then=End.RST, lasts=2),
    "breaks after 20 s": Break(then=End.FIN, lasts=20),
    "breaks after 40 s": Break(then=End.RST, lasts=40),
}
# These cost us our position each time, so that a list comes before the next watch, as in client-go. It succeeds, and is no
# part of the trouble.
MISPLACED = ("404", "410", "504 too large", "error in the stream", "gone in the stream")


@pytest.mark.parametrize("synced", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("watch_list", ["yes", "refused"])
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_server_in_trouble_is_asked_rarely(trouble: str, watch_list: str, synced: bool) -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server:
        server.watch_list = watch_list
        server.faults.extend([] if synced else [TROUBLES[trouble]] * 1000)
        async with mirrored(server, clock) as mirror:
            if synced:
                await follows(mirror, server)
                await eventually(lambda: server.streams)
                server.faults.extend([TROUBLES[trouble]] * 1000)
                server.drop()
            begin = len(server.requests) if synced else 0
            await let_pass(clock, 60 * MINUTES)
            check_rate([request.moment for request in server.requests[begin:]])


@pytest.mark.parametrize("end", ["cut", "agreed"])
@pytest.mark.parametrize("watch_list", ["yes", "refused"])
@pytest.mark.parametrize("trouble", WATCH_TROUBLES)
async def test_server_with_trouble_in_watches_alone_is_asked_rarely(trouble: str, watch_list: str, end: str) -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server:
        server.watch_list = watch_list
        async with mirrored(server, clock) as mirror:
            await follows(mirror, server)
            await eventually(lambda: server.streams)
            await clock.advance(301)
            server.lists_spared = True
            server.faults.extend([WATCH_TROUBLES[trouble]] * 1000)
            begin = len(server.requests)
            server.drop() if end == "cut" else server.expire()
            await let_pass(clock, 60 * MINUTES)
            asked = server.requests[begin:]
            check_rate([each.moment for each in asked if each.failed or trouble not in MISPLACED])
            check_later([each.moment for each in asked if each.moment >= asked[0].moment + 60])


async def test_watch_that_had_lived_for_a_while_is_opened_again_at_once() -> None:
    """Something between us and the server cuts what is quiet, each time after 40 s: no reason to be blind for longer."""
    clock = VirtualClock()
    async with WatchServer(clock) as server, mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.lists_spared = True
        server.faults.extend([Break(then=End.RST, lasts=40)] * 1000)
        server.drop()
        await let_pass(clock, 60 * MINUTES)
        opened = [request.moment for request in server.requests[1:] if request.watch]
        assert len(opened) >= 60 * MINUTES // 42
        assert all(40.8 <= after - before <= 41.6 for before, after in itertools.pairwise(opened)), opened


async def test_bookmarks_that_keep_going_back_are_looked_into_once_a_minute() -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server, mirrored(server, clock) as mirror:
        await follows(mirror, server)
        for _ in range(60 * MINUTES):
            server.say(bookmark(1))
            await heard(mirror, server)
            await clock.advance(1)
        probes = [request.moment for request in server.requests if not request.watch]
        assert len(probes) == MINUTES
        assert all(60 <= after - before <= 61 for before, after in itertools.pairwise(probes)), probes


@pytest.mark.parametrize("synced", [False, True], ids=["before", "after"])
async def test_server_that_is_not_there_is_tried_rarely(synced: bool) -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server, FaultProxy(server.port, clock) as proxy:
        proxy.refusing = not synced
        async with mirrored(proxy, clock) as mirror:
            if synced:
                await follows(mirror, server)
                proxy.refusing = True
                await proxy.cut()
            await let_pass(clock, 60 * MINUTES)
            check_rate(proxy.attempts[int(synced) :])


async def let_pass(clock: VirtualClock, seconds: float) -> None:
    """Let time pass from one wait of the reflector to its next, giving the sockets the time they need between."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        await eventually(lambda: clock.sleeping)
        await clock.advance(min(clock.next_due(), until - clock.monotonic()))


def check_rate(moments: Sequence[float]) -> None:
    first = [moment for moment in moments if moment < moments[0] + 60]
    assert 2 <= len(first) <= PER_MINUTE, first
    check_later(moments[len(first) :])


def check_later(moments: Sequence[float]) -> None:
    """From the second minute on."""
    assert len(moments) <= PER_SECOND * 60 * (MINUTES - 1), moments
