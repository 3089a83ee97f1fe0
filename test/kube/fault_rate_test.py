"""How often a server in trouble is asked (F5): at most eight times in the first minute and 0.06 times a second after.

Ten minutes of virtual time each; every request is in the log of a scripted server, every connection in that of a proxy.
"""

import json
from collections.abc import Sequence

import pytest

from test.clock import VirtualClock
from test.expect import eventually
from test.kube.history import GONE, HTML, INTERNAL, too_large
from test.kube.mirror import follows, mirrored
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


@pytest.mark.parametrize("trouble", ["401", "403", "429", "500", "503 html", "ends at once", "FIN", "RST"])
async def test_server_with_trouble_in_watches_alone_is_asked_rarely(trouble: str) -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server, mirrored(server, clock) as mirror:
        await follows(mirror, server)
        await clock.advance(120)
        server.lists_spared = True
        server.faults.extend([TROUBLES[trouble]] * 1000)
        begin = len(server.requests)
        server.drop()
        await let_pass(clock, 60 * MINUTES)
        check_rate([request.moment for request in server.requests[begin:]])


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
    later = moments[len(first) :]
    assert len(later) <= PER_SECOND * 60 * (MINUTES - 1), later
