"""The reflector against a server that misbehaves: whatever happens, the store becomes what the server has.

Backoff is skipped in virtual time; the sockets are real.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube import auth
from kube import client as client_module
from kube.api.workload import CONFIG_MAPS, ConfigMap
from kube.client import Client
from kube.clock import Clock
from kube.meta import Key
from kube.store import Store
from kube.watch import Event, Reflector, Unknown
from test.clock import SkippingClock, VirtualClock
from test.expect import eventually
from test.kube.server import Fault, WatchServer, line, status_body

GONE = line("ERROR", status_body(410, "Expired"))


class Mirror:
    """A reflector with its store and everything that its handler was told."""

    def __init__(self, client: Client, clock: Clock, namespace: str = "x") -> None:
        self.store: Store[ConfigMap] = Store()
        self.told: list[Event[ConfigMap]] = []
        self.reflector = Reflector(client, CONFIG_MAPS, self.store, self.hear, namespace=namespace, clock=clock)

    def hear(self, event: Event[ConfigMap]) -> None:
        self.told.append(event)

    def versions(self) -> dict[str, str]:
        return {item.metadata.name: item.metadata.resource_version for item in self.store.all()}

    def kinds(self, name: str) -> list[str]:
        return [str(event.type) for event in self.told if event.object.metadata.name == name]

    def check_history(self) -> None:
        """Per object: ADDED, any number of MODIFIED, DELETED, and again; a changed UID is never a modification."""
        alive: dict[Key, str] = {}
        for event in self.told:
            key, uid = event.object.metadata.key, event.object.metadata.uid
            if event.type == "ADDED":
                assert key not in alive, f"{key} was added twice"
                alive[key] = uid
            else:
                assert alive.get(key) == uid, f"{event.type} of {key} that was never added"
                if event.type == "DELETED":
                    del alive[key]
        assert set(alive) == {item.metadata.key for item in self.store.all()}


def versions(server: WatchServer) -> dict[str, str]:
    return {name: item["metadata"]["resourceVersion"] for name, item in server.objects.items()}


@asynccontextmanager
async def connected(server: WatchServer, clock: Clock) -> AsyncIterator[Client]:
    async def source() -> auth.Identity:
        return auth.Identity(server.url)

    async with Client(await auth.Auth.load(source, clock), user_agent="test", clock=clock) as client:
        yield client


@asynccontextmanager
async def mirrored(server: WatchServer, clock: Clock) -> AsyncIterator[Mirror]:
    async with connected(server, clock) as client:
        mirror = Mirror(client, clock)
        running = asyncio.ensure_future(mirror.reflector.run())
        try:
            yield mirror
        finally:
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled(), running.exception()


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
async def server(clock: SkippingClock) -> AsyncIterator[WatchServer]:
    async with WatchServer(clock.monotonic) as running:
        yield running


async def follows(mirror: Mirror, server: WatchServer) -> None:
    await eventually(lambda: mirror.reflector.synced.is_set() and mirror.versions() == versions(server))


@pytest.mark.parametrize("watch_list", ["yes", "refused"])
async def test_content_is_mirrored_and_followed(server: WatchServer, clock: SkippingClock, watch_list: str) -> None:
    server.watch_list, server.page_size = watch_list, 2
    for name in "abcde":
        server.put(name)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        assert [event.initial for event in mirror.told] == [True] * 5
        server.put("a", colour="blue")
        server.put("f")
        server.delete("b")
        await follows(mirror, server)
        assert mirror.kinds("a") == ["ADDED", "MODIFIED"]
        assert mirror.kinds("b") == ["ADDED", "DELETED"]
        assert not mirror.told[-2].initial
    mirror.check_history()


async def test_clean_end_resumes_without_reading_everything_again(server: WatchServer, clock: SkippingClock) -> None:
    server.put("a")
    server.faults.append(Fault(lines=3))  # "a", the end bookmark and one event
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        clock.jump(300)
        server.put("b")
        await eventually(lambda: len(server.requests) == 3 and server.watches == 1)
        probe, resumed = server.requests[1:]
        assert probe.params["limit"] == "1"
        assert resumed.params["resourceVersion"] == str(server.version)
        server.put("c")
        await follows(mirror, server)


async def test_deletions_missed_while_away_are_reported_once(server: WatchServer, clock: SkippingClock) -> None:
    for name in "abc":
        server.put(name)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.faults.append(Fault(say=GONE))
        server.drop_connections()
        server.delete("b")
        server.recreate("c")
        await follows(mirror, server)
        assert mirror.kinds("a") == ["ADDED"], "an unchanged object was reported again"
        assert mirror.kinds("b") == ["ADDED", "DELETED"]
        assert mirror.kinds("c") == ["ADDED", "DELETED", "ADDED"]
    mirror.check_history()


async def test_gone_in_the_answer_reads_everything_again(server: WatchServer, clock: SkippingClock) -> None:
    server.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.drop_connections()
        server.faults.append(Fault(status=410, body=b""))
        server.delete("a")
        server.compact()
        await follows(mirror, server)
        assert mirror.kinds("a") == ["ADDED", "DELETED"]


async def test_expired_page_restarts_the_list_and_nobody_sees_half_of_it(
    server: WatchServer, clock: SkippingClock
) -> None:
    server.watch_list, server.page_size = "refused", 1
    for name in "ab":
        server.put(name)
    server.faults.extend([Fault(status=422), Fault(lines=1)])
    seen: list[int] = []
    async with connected(server, clock) as client:
        mirror = Mirror(client, clock)
        state = await mirror.reflector.step(await mirror.reflector.step(Unknown()))
        seen.append(len(mirror.store))
        server.put("c")
        server.compact()
        state = await mirror.reflector.step(state)
        seen.append(len(mirror.store))
        while not mirror.reflector.synced.is_set():
            state = await mirror.reflector.step(state)
            seen.append(len(mirror.store))
        assert set(seen) == {0, 3}
        assert mirror.versions() == versions(server)


@pytest.mark.parametrize(
    "raw",
    [
        b"\n\r\n",
        line("ADDED", {"metadata": {"name": "a", "namespace": "x", "uid": "uid-1", "resourceVersion": "11"}}),
        line("MODIFIED", {"metadata": {"name": "a", "namespace": "x", "uid": "uid-1", "resourceVersion": "3"}}),
        line("DELETED", {"metadata": {"name": "nobody", "namespace": "x", "uid": "u", "resourceVersion": "11"}}),
        line("FUTURE", {"metadata": {"name": "z", "namespace": "x", "resourceVersion": "11"}}),
    ],
    ids=["blank", "duplicate", "replay", "unknown-deletion", "unknown-type"],
)
async def test_line_that_says_nothing_new_changes_nothing(
    server: WatchServer, clock: SkippingClock, raw: bytes
) -> None:
    server.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.say(raw)
        server.put("b")
        await follows(mirror, server)
        assert [event.object.metadata.name for event in mirror.told] == ["a", "b"]
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "raw",
    [
        line("ERROR", status_body(500, "InternalError")),
        line("ERROR", status_body(429, "TooManyRequests")),
        line("ERROR", status_body(410, "Expired")),
        b"<html>gateway</html>\n",
        b'{"type":"ADDED","object":{"metadata":{"name":"a"',
        b"x" * 9_000_000,
    ],
    ids=["500", "429", "410", "html", "truncated", "over-long"],
)
async def test_broken_stream_is_recovered_from(server: WatchServer, clock: SkippingClock, raw: bytes) -> None:
    server.put("a")
    server.faults.append(Fault(lines=3, say=raw, then="cut"))
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.put("b")
        server.put("c")
        server.delete("a")
        await follows(mirror, server)
    mirror.check_history()


async def test_line_cut_short_is_asked_for_again_without_a_list(server: WatchServer, clock: SkippingClock) -> None:
    server.put("a")
    server.faults.append(Fault(lines=3, say=b'{"type":"MODIF'))
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.put("b")
        server.put("c")
        await follows(mirror, server)
        assert [request.params.get("resourceVersion") for request in server.requests] == [None, "12"]


async def test_field_of_surprising_shape_does_not_lose_the_object(server: WatchServer, clock: SkippingClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        metadata = {"name": "odd", "namespace": "x", "uid": "u", "resourceVersion": "11", "generation": "many"}
        server.say(line("ADDED", {"metadata": metadata, "data": [1, 2]}))
        await eventually(lambda: mirror.store.get(Key("x", "odd")))
        (odd,) = mirror.store.all()
        assert (odd.metadata.uid, odd.metadata.generation, odd.data) == ("u", 0, {})


async def test_silent_stream_is_given_up_and_resumed_without_a_list(
    server: WatchServer, clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_TIMEOUT", aiohttp.ClientTimeout(sock_read=0.2))
    server.put("a")
    server.faults.append(Fault(lines=2, then="silence"))
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.put("b")
        await follows(mirror, server)
        assert server.requests[1].params["resourceVersion"] == "11"


async def test_dripping_line_is_given_up(
    server: WatchServer, clock: SkippingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STALLED_SECONDS", 0.2)
    server.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.say(b'{"type":"ADDED",')  # and the rest never comes
        await eventually(lambda: len(server.requests) > 1)
        server.put("b")
        await follows(mirror, server)


async def test_server_that_ignores_watch_list_is_listed(server: WatchServer, clock: SkippingClock) -> None:
    server.watch_list = "ignored"
    server.put("a")
    server.faults.append(Fault(lines=1))
    async with mirrored(server, clock) as mirror:
        await eventually(lambda: len(server.requests) == 3)
        assert [request.watch for request in server.requests] == [True, False, True]
        server.put("b")
        await follows(mirror, server)


async def test_etcd_that_went_back_in_time_is_noticed(server: WatchServer, clock: SkippingClock) -> None:
    for name in "abc":
        server.put(name)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        told = len(mirror.told)
        server.roll_back(1)
        clock.jump(600)
        server.drop_connections()
        await follows(mirror, server)
        assert mirror.store.epoch == 1
        assert {event.object.metadata.name for event in mirror.told[told:]} == {"a", "b", "c"}, "all must be looked at"
        server.put("d")
        await follows(mirror, server)
    mirror.check_history()


async def test_bookmark_from_the_past_makes_us_look(server: WatchServer, clock: SkippingClock) -> None:
    for name in "abc":
        server.put(name)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.roll_back(2)
        server.bookmark()
        await follows(mirror, server)
        assert mirror.store.epoch == 1


async def test_bookmarks_move_the_position(server: WatchServer, clock: SkippingClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.version = 500
        server.bookmark()
        await eventually(lambda: mirror.store.last_resource_version == "500")


async def test_failing_handler_stops_nothing(server: WatchServer, clock: SkippingClock) -> None:
    async with connected(server, clock) as client:
        store: Store[ConfigMap] = Store()

        def fail(_: Event[ConfigMap]) -> None:
            raise RuntimeError("a mistake")

        reflector = Reflector(client, CONFIG_MAPS, store, fail, clock=clock)
        running = asyncio.ensure_future(reflector.run())
        server.put("a")
        await eventually(lambda: store.get(Key("x", "a")))
        running.cancel()
        await asyncio.wait({running})


async def test_synced_only_after_the_initial_handlers_ran(server: WatchServer, clock: SkippingClock) -> None:
    for number in range(300):
        server.put(f"n{number}")
    async with mirrored(server, clock) as mirror:
        await mirror.reflector.synced.wait()
        assert len(mirror.told) == 300


REFUSALS: dict[str, Callable[[WatchServer], None]] = {
    "403": lambda server: server.faults.extend([Fault(status=403)] * 1000),
    "500": lambda server: server.faults.extend([Fault(status=500)] * 1000),
    "html": lambda server: server.faults.extend([Fault(status=503, body=b"<html>")] * 1000),
    "in-stream": lambda server: server.faults.extend([Fault(say=line("ERROR", status_body(500, "")))] * 1000),
    "ends": lambda server: server.faults.extend([Fault()] * 1000),
    "cut": lambda server: server.faults.extend([Fault(then="cut")] * 1000),
}


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("synced", [False, True])
async def test_server_in_trouble_is_asked_rarely(refusal: str, synced: bool) -> None:
    clock = VirtualClock()
    async with WatchServer(clock.monotonic) as server:
        if not synced:
            REFUSALS[refusal](server)
        async with mirrored(server, clock) as mirror:
            if synced:
                await follows(mirror, server)
                REFUSALS[refusal](server)
                server.drop_connections()
            await _let_pass(clock, 600)
            begin = server.requests[int(synced)].moment
            minute = [request for request in server.requests[int(synced) :] if request.moment < begin + 60]
            assert 3 <= len(minute) <= 8
            later = [request for request in server.requests if request.moment >= begin + 60]
            assert len(later) / 540 <= 0.06


async def _let_pass(clock: VirtualClock, seconds: float) -> None:
    """Let time pass from one wait of the reflector to its next, giving the sockets the time they need between."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until:
        await eventually(lambda: clock.sleeping)
        await clock.advance(min(clock.next_due(), until - clock.monotonic()))


FAULTS = st.sampled_from(
    [
        Fault(status=403),
        Fault(status=410),
        Fault(status=429, headers=("Retry-After: 7",)),
        Fault(status=429, headers=("Retry-After: soon",)),
        Fault(status=500, body=b""),
        Fault(status=503, body=b"<html>"),
        Fault(status=504, headers=("Retry-After: 1000000000",)),
        Fault(then="cut"),
        Fault(lines=1, then="cut"),
        Fault(lines=2, say=b'{"type":"MODIF', then="cut"),
        Fault(lines=2),
        Fault(lines=3),
        Fault(lines=2, say=GONE),
        Fault(lines=1, say=line("ERROR", status_body(500, "InternalError"))),
        Fault(lines=3, say=b"\n\n", then="close"),
        Fault(lines=3, say=b"nonsense\n", then="cut"),
    ]
)
ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("abcd")),
    st.tuples(st.just("delete"), st.sampled_from("abcd")),
    st.tuples(st.just("recreate"), st.sampled_from("abcd")),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("drop"), st.none()),
    st.tuples(st.just("bookmark"), st.none()),
    st.tuples(st.just("fault"), FAULTS),
    st.tuples(st.just("settle"), st.none()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    watch_list=st.sampled_from(["yes", "refused"]),
    first=st.lists(FAULTS, max_size=4),
    actions=st.lists(ACTIONS, max_size=25),
)
def test_whatever_happens_the_store_becomes_what_the_server_has(
    watch_list: str, first: list[Fault], actions: list[tuple[str, object]]
) -> None:
    asyncio.run(_survive(watch_list, first, actions))


async def _survive(watch_list: str, first: list[Fault], actions: list[tuple[str, object]]) -> None:
    clock = SkippingClock()
    async with WatchServer(clock.monotonic, watch_list=watch_list, page_size=2) as server:
        server.faults.extend(first)
        async with mirrored(server, clock) as mirror:
            for action, argument in actions:
                await _act(server, mirror, action, argument)
            server.faults.clear()
            server.drop_connections()
            server.put("last")
            await follows(mirror, server)
        mirror.check_history()


async def _act(server: WatchServer, mirror: Mirror, action: str, argument: object) -> None:
    name = str(argument)
    if action == "put":
        server.put(name)
    elif action in ("delete", "recreate") and name in server.objects:
        server.delete(name) if action == "delete" else server.recreate(name)
    elif action == "compact":
        server.compact()
    elif action == "drop":
        server.drop_connections()
    elif action == "bookmark":
        server.bookmark()
    elif isinstance(argument, Fault):
        server.faults.append(argument)
    elif action == "settle":
        await eventually(lambda: mirror.versions() == versions(server) or server.faults)
