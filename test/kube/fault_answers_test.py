"""Requests that are answered wrongly: errors of every kind, lies about the length, no credential, no permission, no answer.

Each test is named in the table of fault_table_test.py. Waiting is skipped in virtual time; the sockets are real.
"""

import itertools
import json

import pytest

from kube.api.workload import ConfigMap
from kube.watch import State, Unknown
from test.expect import eventually
from test.kube.history import CUT_SHORT, HTML, too_large
from test.kube.looptime import LoopClock
from test.kube.mirror import Credential, Mirror, connected, follows, mirrored
from test.kube.proxy import FaultProxy
from test.kube.server import WatchServer
from test.kube.wire import Answer, Break, End, Fault, Request, Stall

# A step of backoff after the first failure: 0.8 s stretched by up to twice.
STEP = (0.8, 1.6)
LONGEST = 60.0
# A silent server pushes the clock second by second, also while the client is on its way to somewhere else.
SLACK = 5
# What may keep watches from us and let lists pass: a role, a proxy that knows no streams, a login page.
REFUSALS: dict[str, Fault] = {
    **{str(code): Answer(code) for code in (400, 401, 403, 405, 422, 500, 502, 503, 504)},
    "redirect": Answer(302, headers=("Location: /",)),
    "ends at once": Break(then=End.CLOSE),
    "RST": Break(then=End.RST),
    "FIN after 0.9 s": Break(then=End.FIN, lasts=0.9),
}


async def asked_again(server: WatchServer, clock: LoopClock, *faults: Fault, watch_list: str = "yes") -> list[Request]:
    """The requests of a reflector that followed, was cut off, and met `faults` on its way back, from the first of them."""
    server.watch_list = watch_list
    for name in "abc":
        server.history.put(name)
    async with mirrored(server, clock) as mirror:
        await eventually(lambda: mirror.shows(server) and server.streams)
        before, told = len(server.requests), len(mirror.told)
        server.faults.extend(faults)
        server.drop()
        await eventually(lambda: not server.faults)
        server.history.put("later")
        await follows(mirror, server)
        assert [event.object.metadata.name for event in mirror.told[told:]] == ["later"], "nothing else had changed"
        mirror.check_history()
    return server.requests[before:]


def wait_after(requests: list[Request], index: int = 0) -> float:
    return requests[index + 1].moment - requests[index].moment


@pytest.mark.parametrize("watch_list", ["yes", "refused"])
@pytest.mark.parametrize(("value", "asked"), [("7", 7), ("1000000000", LONGEST)])
async def test_retry_after_is_honoured_up_to_a_minute(
    server: WatchServer, clock: LoopClock, watch_list: str, value: str, asked: float
) -> None:
    answer = Answer(429, headers=(f"Retry-After: {value}",))
    requests = await asked_again(server, clock, answer, watch_list=watch_list)
    assert wait_after(requests) == pytest.approx(asked)


@pytest.mark.parametrize("watch_list", ["yes", "refused"])
@pytest.mark.parametrize("value", [None, "0", "soon", "-3", "Fri, 31 Dec 1999 23:59:59 GMT"])
async def test_retry_after_that_says_nothing_useful_leaves_the_backoff(
    server: WatchServer, clock: LoopClock, watch_list: str, value: str | None
) -> None:
    answer = Answer(429, headers=() if value is None else (f"Retry-After: {value}",))
    requests = await asked_again(server, clock, answer, watch_list=watch_list)
    low, high = STEP
    assert 2 * low <= wait_after(requests) <= 2 * high, "the cut was the first failure, so this is the second step"


async def test_retry_after_of_a_status_is_honoured(server: WatchServer, clock: LoopClock) -> None:
    body = b'{"kind":"Status","code":429,"reason":"TooManyRequests","details":{"retryAfterSeconds":9}}'
    requests = await asked_again(server, clock, Answer(429, body))
    assert wait_after(requests) == pytest.approx(9)


@pytest.mark.parametrize("code", [500, 503, 504])
@pytest.mark.parametrize(
    "body", [None, b"", HTML, b"null", b"\xff\xfe"], ids=["status", "empty", "html", "null", "no-text"]
)
async def test_server_error_of_any_shape_is_waited_out(
    server: WatchServer, clock: LoopClock, code: int, body: bytes | None
) -> None:
    requests = await asked_again(server, clock, Answer(code, body))
    assert wait_after(requests) >= STEP[0]


@pytest.mark.parametrize("announced", [0, 1, 9999])
@pytest.mark.parametrize("code", [200, 500])
async def test_length_that_lies_is_a_failure_like_any_other(
    server: WatchServer, clock: LoopClock, code: int, announced: int
) -> None:
    lie = Answer(code, b'{"metadata":{"resourceVersion":"99"},"items":[]}', announced=announced)
    requests = await asked_again(server, clock, Answer(410), lie, lie, watch_list="refused")
    assert min(wait_after(requests), wait_after(requests, 1)) >= STEP[0]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"items":[]}', b'{"kind":"Status","status":"Success"}', HTML, CUT_SHORT, b"[]"],
    ids=["empty", "nothing", "no-version", "status", "html", "truncated", "array"],
)
async def test_answer_that_is_no_list_is_not_taken_for_an_empty_one(
    server: WatchServer, clock: LoopClock, body: bytes
) -> None:
    await asked_again(server, clock, Answer(410), Answer(200, body), Answer(200, body), watch_list="refused")


@pytest.mark.parametrize("end", [End.FIN, End.RST])
async def test_list_that_breaks_off_is_asked_for_again(server: WatchServer, clock: LoopClock, end: End) -> None:
    broken = Break(then=end)
    requests = await asked_again(server, clock, Answer(410), broken, broken, watch_list="refused")
    assert min(wait_after(requests), wait_after(requests, 1)) >= STEP[0]


async def test_gone_in_the_answer_reads_everything_again_within_one_step(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.history.compact()
        server.expire()
        server.faults.append(Answer(410, b""))
        await eventually(lambda: len(server.requests) >= 3)
        *_, gone, again = server.requests[:3]
        assert not again.version
        assert again.moment - gone.moment <= 2 * STEP[1]


async def test_gone_page_restarts_the_list_and_nobody_sees_half_of_it(server: WatchServer, clock: LoopClock) -> None:
    server.watch_list, server.page_size = "refused", 1
    for name in "abc":
        server.history.put(name)
    async with connected(server, clock) as client:
        mirror = Mirror(client, clock)
        state: State[ConfigMap] = Unknown()
        while not any("continue" in request.params for request in server.requests):
            state = await mirror.reflector.step(state)
        server.history.put("d")
        server.history.compact()  # the continue token is from before
        state = await mirror.reflector.step(state)
        assert server.requests[-1].failed
        while not mirror.reflector.synced.is_set():
            assert not len(mirror.store)
            state = await mirror.reflector.step(state)
        assert mirror.shows(server)


async def test_missed_token_is_read_again_once(server: WatchServer, clock: LoopClock) -> None:
    credential = Credential("first")
    server.token = "first"
    async with mirrored(server, clock, credential) as mirror:
        await follows(mirror, server)
        server.token = credential.token = "second"
        server.history.put("a")
        await follows(mirror, server)
        assert len(server.requests) == 1, "the open watch does not mind"
        server.drop()
        server.history.put("b")
        await follows(mirror, server)
        refused = [request for request in server.requests if request.failed]
        assert len(refused) == 2, "the watch that was cut, and one 401"


async def test_unauthorized_once_is_asked_again(server: WatchServer, clock: LoopClock) -> None:
    requests = await asked_again(server, clock, Answer(401))
    assert wait_after(requests) >= STEP[0], "there was no other credential"


async def test_forbidden_is_asked_rarely_and_shown_until_it_is_allowed(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        assert not mirror.reflector.refused
        server.faults.extend([Answer(403)] * 4)
        server.drop()
        await eventually(lambda: mirror.reflector.refused)
        server.history.put("b")
        await follows(mirror, server)
        assert not mirror.reflector.refused
        refused = [request.moment for request in server.requests if request.failed][1:]
        assert all(30 <= after - before <= 60 for before, after in itertools.pairwise(refused))


@pytest.mark.parametrize("watch_list", ["yes", "refused"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_where_watches_are_refused_and_lists_are_not_reading_does(
    server: WatchServer, clock: LoopClock, refusal: str, watch_list: str
) -> None:
    server.watch_list = watch_list
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.lists_spared = True
        server.faults.extend([REFUSALS[refusal]] * 1000)
        server.drop()
        server.history.put("b")
        await follows(mirror, server)
        changed, asked = clock.monotonic(), len(server.requests)
        server.history.recreate("a")
        await follows(mirror, server)
        assert server.faults, "no watch has told"
        (first, *_) = [request for request in server.requests[asked:] if not request.watch]
        assert first.moment - changed <= 2 * LONGEST + SLACK, "WatchList is tried before a list"
    mirror.check_history()


async def test_position_outlasts_an_hour_without_a_server(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    async with FaultProxy(server.port, clock) as proxy, mirrored(proxy, clock) as mirror:
        await follows(mirror, server)
        begin, proxy.refusing = clock.monotonic(), True
        await proxy.cut()
        await eventually(lambda: clock.monotonic() - begin > 3600)
        proxy.refusing = False
        server.history.put("b")
        await follows(mirror, server)
        probe, resumed = server.requests[1:]
        assert (probe.params["limit"], resumed.version) == ("1", "11"), "nothing needed to be read again"


async def test_server_that_is_behind_our_version_is_read_from_anew(server: WatchServer, clock: LoopClock) -> None:
    requests = await asked_again(server, clock, Answer(504, json.dumps(too_large()).encode()))
    assert not requests[1].version


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
async def test_list_whose_headers_do_not_come_is_given_up(server: WatchServer, clock: LoopClock, drip: bool) -> None:
    stalled = Stall(drip)
    requests = await asked_again(server, clock, Answer(410), stalled, stalled, watch_list="refused")
    assert wait_after(requests, 1) <= (120 if drip else 60) + 4 * STEP[1] + SLACK


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
async def test_watch_whose_headers_do_not_come_is_given_up(server: WatchServer, clock: LoopClock, drip: bool) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        clock.jump(2)
        server.faults.append(Stall(drip))
        server.expire()
        await eventually(lambda: len(server.requests) >= 3)
        assert server.requests[1].watch
        assert wait_after(server.requests, 1) <= 75 + STEP[1] + SLACK
