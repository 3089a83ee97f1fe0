"""The reflector's normal day: it fills the store, follows, resumes, and tells its handler a history that makes sense.

Waiting is skipped in virtual time; the sockets are real. What goes wrong has files of its own: fault_*_test.py.
"""

import pytest

from kube.meta import Key
from kube.watch import Unknown
from test.expect import eventually
from test.kube.history import GONE, bookmark, line
from test.kube.looptime import LoopClock, turns
from test.kube.mirror import Mirror, connected, follows, heard, mirrored
from test.kube.server import WatchServer
from test.kube.wire import Answer, Break, End


@pytest.mark.parametrize("watch_list", ["yes", "refused"])
async def test_content_is_mirrored_and_followed(server: WatchServer, clock: LoopClock, watch_list: str) -> None:
    server.watch_list, server.page_size = watch_list, 2
    for name in "abcde":
        server.history.put(name)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        assert [event.initial for event in mirror.told] == [True] * 5
        server.history.put("a", colour="blue")
        server.history.put("f")
        server.history.delete("b")
        await follows(mirror, server)
        assert mirror.kinds("a") == ["ADDED", "MODIFIED"]
        assert mirror.kinds("b") == ["ADDED", "DELETED"]
        assert not mirror.told[-2].initial
    mirror.check_history()


async def test_clean_end_resumes_without_reading_everything_again(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.history.put("b")
        await follows(mirror, server)
        for _ in range(5):
            clock.jump(60)
            await heard(mirror, server)
        server.expire()
        await eventually(lambda: len(server.requests) == 3 and server.streams)
        probe, resumed = server.requests[1:]
        assert probe.params["limit"] == "1", "a look at where the server is, once in a while"
        assert resumed.version == str(server.history.version)
        assert resumed.moment - server.requests[0].moment == 300, "no backoff after a clean end"
        server.history.put("c")
        await follows(mirror, server)


async def test_watch_that_was_cut_resumes_from_its_last_line(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    server.faults.append(Break(after=3, then=End.RST))
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.history.put("b")
        server.history.put("c")
        await follows(mirror, server)
        watches = [request.version for request in server.requests if request.watch]
        assert watches[1] in ("11", "12"), "from the last line that arrived"


async def test_deletions_missed_while_away_are_reported_once(server: WatchServer, clock: LoopClock) -> None:
    for name in "abc":
        server.history.put(name)
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.faults.extend([Answer(410), Break(say=GONE)])
        server.drop()
        server.history.delete("b")
        server.history.recreate("c")
        await follows(mirror, server)
        assert mirror.kinds("a") == ["ADDED"], "an unchanged object was reported again"
        assert mirror.kinds("b") == ["ADDED", "DELETED"]
        assert mirror.kinds("c") == ["ADDED", "DELETED", "ADDED"]
    mirror.check_history()


async def test_nobody_sees_half_a_list(server: WatchServer, clock: LoopClock) -> None:
    server.watch_list, server.page_size = "refused", 1
    for name in "abc":
        server.history.put(name)
    async with connected(server, clock) as client:
        mirror = Mirror(client, clock)
        state, seen = await mirror.reflector.step(Unknown()), set()
        while not mirror.reflector.synced.is_set():
            seen.add(len(mirror.store))
            state = await mirror.reflector.step(state)
    assert seen == {0}
    assert len(mirror.store) == 3


async def test_synced_only_after_the_initial_handlers_ran(server: WatchServer, clock: LoopClock) -> None:
    for number in range(300):
        server.history.put(f"n{number}")
    async with mirrored(server, clock) as mirror:
        await mirror.reflector.synced.wait()
        assert len(mirror.told) == 300
        assert not mirror.early


async def test_nothing_is_told_after_the_end(server: WatchServer, clock: LoopClock) -> None:
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
    server.history.put("b")
    await turns()
    assert mirror.versions() == {"a": "11"}
    assert [event.object.metadata.name for event in mirror.told] == ["a"]


async def test_bookmarks_move_the_position(server: WatchServer, clock: LoopClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.history.skip(490)
        server.say(bookmark(500))
        await eventually(lambda: mirror.store.last_resource_version == "500")


async def test_blank_lines_and_unknown_types_are_passed_over(server: WatchServer, clock: LoopClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        server.say(b"\n\r\n")
        server.say(line("FUTURE", {"metadata": {"name": "z", "namespace": "x", "resourceVersion": "11"}}))
        server.history.put("b")
        await follows(mirror, server)
        assert [event.object.metadata.name for event in mirror.told] == ["b"]
        assert len(server.requests) == 1


async def test_field_of_surprising_shape_does_not_lose_the_object(server: WatchServer, clock: LoopClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        metadata = {"name": "odd", "namespace": "x", "uid": "u", "resourceVersion": "11", "generation": "many"}
        server.say(line("ADDED", {"metadata": metadata, "data": [1, 2]}))
        await eventually(lambda: mirror.store.get(Key("x", "odd")))
        (odd,) = mirror.store.all()
        assert (odd.metadata.uid, odd.metadata.generation, odd.data) == ("u", 0, {})


async def test_object_nested_deeper_than_python_recurses_is_mirrored(server: WatchServer, clock: LoopClock) -> None:
    async with mirrored(server, clock) as mirror:
        await follows(mirror, server)
        metadata = b'{"name": "deep", "namespace": "x", "uid": "u", "resourceVersion": "11"}'
        nested = b"[" * 5000 + b"]" * 5000
        server.say(b'{"type": "ADDED", "object": {"metadata": %s, "unknown": %s}}\n' % (metadata, nested))
        await eventually(lambda: mirror.store.get(Key("x", "deep")))
        assert not mirror.reflector.metrics.failures
