"""A server whose story does not hold together: replays, wrong types, bookmarks amiss, slow replicas, etcd gone back in time.

Each test is named in the table of fault_table_test.py. Waiting is skipped in virtual time; the sockets are real.
"""

import time
from collections.abc import AsyncIterator

import pytest

from test.expect import eventually
from test.kube.history import History, bookmark
from test.kube.looptime import LoopClock, turns
from test.kube.mirror import Mirror, follows, mirrored
from test.kube.proxy import FaultProxy
from test.kube.server import WatchServer

PROBE = 600  # seconds after which a watch has certainly ended and the server's position been looked at


@pytest.fixture
async def mirror(server: WatchServer, clock: LoopClock) -> AsyncIterator[Mirror]:
    """A reflector that has seen "a", "b" and "c" come, and "a" change."""
    for name in "abc":
        server.history.put(name)
    async with mirrored(server, clock) as running:
        await follows(running, server)
        server.history.put("a", colour="blue")
        await follows(running, server)
        yield running
    running.check_history()


async def test_same_change_twice_is_told_once(server: WatchServer, mirror: Mirror) -> None:
    told = len(mirror.told)
    server.say(server.history.changes[-1].line())
    server.history.put("d")
    await follows(mirror, server)
    assert [event.object.metadata.name for event in mirror.told[told:]] == ["d"]
    assert len(server.requests) == 1


async def test_replay_of_the_past_brings_nothing_back(server: WatchServer, mirror: Mirror) -> None:
    server.history.delete("b")
    server.history.recreate("c")
    await follows(mirror, server)
    told = len(mirror.told)
    for change in list(server.history.changes):
        server.say(change.line())
    server.history.put("d")
    await follows(mirror, server)
    assert [event.object.metadata.name for event in mirror.told[told:]] == ["d"]
    assert mirror.reflector.metrics.stale > 0
    assert len(server.requests) == 1


async def test_modification_of_an_unknown_object_adds_it(server: WatchServer, mirror: Mirror) -> None:
    server.history.put("d", called="MODIFIED")
    await follows(mirror, server)
    assert mirror.kinds("d") == ["ADDED"]


async def test_addition_of_a_known_object_changes_it(server: WatchServer, mirror: Mirror) -> None:
    server.history.put("b", called="ADDED")
    await follows(mirror, server)
    assert mirror.kinds("b") == ["ADDED", "MODIFIED"]


async def test_deletion_of_an_unknown_object_is_told_to_nobody(server: WatchServer, mirror: Mirror) -> None:
    server.history.delete("nobody")
    server.history.put("d")
    await follows(mirror, server)
    assert not mirror.kinds("nobody")
    assert len(server.requests) == 1


async def test_bookmark_that_goes_back_is_passed_over_and_counted(server: WatchServer, mirror: Mirror) -> None:
    position = mirror.store.last_resource_version
    server.say(bookmark(11))
    await eventually(lambda: mirror.reflector.metrics.stale)
    server.history.put("d")
    await follows(mirror, server)
    assert int(mirror.store.last_resource_version) == int(position) + 1
    assert mirror.store.epoch == 0
    assert all(request.watch or request.params["limit"] == "1" for request in server.requests), "one object was read"


async def test_bookmarks_out_of_order_leave_the_newest(server: WatchServer, mirror: Mirror) -> None:
    server.history.skip(100)
    for version in (50, 60, 40, 70, 30):
        server.say(bookmark(version))
    await eventually(lambda: mirror.store.last_resource_version == "70")
    await eventually(lambda: mirror.reflector.metrics.stale == 2)
    assert mirror.store.last_resource_version == "70"


async def test_bookmark_without_a_version_changes_nothing(server: WatchServer, mirror: Mirror) -> None:
    position = mirror.store.last_resource_version
    server.say(bookmark(""))
    await turns()
    assert mirror.store.last_resource_version == position
    assert not mirror.reflector.metrics.failures


async def test_watch_without_any_bookmark_resumes_from_its_last_event(
    server: WatchServer, clock: LoopClock, mirror: Mirror
) -> None:
    position = server.history.version
    server.history.skip(100)
    clock.jump(2)
    server.expire()
    await eventually(lambda: len(server.requests) == 2)
    assert server.requests[1].version == str(position)


async def test_watch_list_without_an_end_is_listed_after_a_minute(server: WatchServer, clock: LoopClock) -> None:
    server.watch_list = "ignored"
    server.history.put("a")
    async with mirrored(server, clock) as mirror:
        await eventually(lambda: server.streams)
        for _ in range(3):
            await clock.elapse(25)
            server.say(bookmark(server.history.version))
            await turns()
        await follows(mirror, server)
        watch, listed = server.requests[:2]
        assert not listed.watch
        assert 60 <= listed.moment - watch.moment <= 90


async def test_silent_watch_list_is_listed_after_75_seconds(server: WatchServer, clock: LoopClock) -> None:
    server.watch_list = "ignored"
    async with mirrored(server, clock) as mirror:
        await eventually(lambda: server.streams)
        await clock.elapse(77)
        await follows(mirror, server)
        watch, listed = server.requests[:2]
        assert not listed.watch
        assert listed.moment - watch.moment <= 80


async def test_replica_that_is_behind_is_followed_without_going_back(clock: LoopClock) -> None:
    """Two API servers before one etcd: the watch moves from the fresh one to one whose cache stands still."""
    history = History()
    async with (
        WatchServer(clock, history) as fresh,
        WatchServer(clock, history) as slow,
        FaultProxy(fresh.port) as balancer,
        mirrored(balancer, clock) as mirror,
    ):
        slow.lagging = True
        history.put("a")
        await follows(mirror, fresh)
        balancer.target = slow.port
        await balancer.cut()
        await eventually(lambda: slow.streams)
        history.put("b")
        slow.say(bookmark(5))
        await eventually(lambda: mirror.reflector.metrics.stale)
        assert mirror.versions() == {"a": "11"}
        assert mirror.store.epoch == 0
        slow.catch_up()
        await follows(mirror, slow)


@pytest.mark.parametrize("bump", [False, True], ids=["silent", "noisy"])
async def test_etcd_that_went_back_in_time_is_noticed_at_once(
    server: WatchServer, clock: LoopClock, mirror: Mirror, bump: bool
) -> None:
    clock.jump(61)  # since the last look at where the server is
    told, before = len(mirror.told), clock.monotonic()
    server.restore(1, bump=bump)
    await follows(mirror, server)
    assert clock.monotonic() - before < 10
    requeued = {event.object.metadata.name for event in mirror.told[told:]}
    if bump:
        assert requeued == {"a"}, "positions go on, so only what differs is new"
    else:
        assert mirror.store.epoch == 1
        assert requeued == {"a", "b", "c"}, "all must be looked at"
    server.history.put("d")
    await follows(mirror, server)


async def test_etcd_restored_while_the_server_was_stopped_in_order_is_noticed_at_once(clock: LoopClock) -> None:
    """A server that is told to stop ends its watches as agreed; only the connections after that are refused."""
    async with WatchServer(clock) as server, FaultProxy(server.port) as balancer, mirrored(balancer, clock) as mirror:
        for name in "abc":
            server.history.put(name)
        await follows(mirror, server)
        clock.jump(61)
        balancer.refusing = server.stopping = True
        server.expire()
        await eventually(lambda: mirror.reflector.metrics.failures >= 2)
        server.history.restore(1)
        before, balancer.refusing = clock.monotonic(), False
        await follows(mirror, server)
        assert mirror.store.epoch == 1
        assert clock.monotonic() - before <= 60


async def test_etcd_that_went_back_behind_an_open_watch_is_noticed_when_it_ends(
    server: WatchServer, clock: LoopClock, mirror: Mirror
) -> None:
    server.history.restore(1)  # and nobody's connection broke
    for _ in range(PROBE // 60):
        await clock.elapse(60)
        server.say(b"\n")
        await turns()
    server.expire()
    await follows(mirror, server)
    assert mirror.store.epoch == 1


async def test_clock_that_jumps_costs_no_more_than_a_reconnection(
    server: WatchServer, clock: LoopClock, mirror: Mirror
) -> None:
    for seconds in (30, 600, 86_400):
        clock.jump(seconds)
        await turns()
        server.history.put("a", at=str(seconds))
        await follows(mirror, server)
    assert mirror.store.epoch == 0
    assert mirror.reflector.metrics.lists == 0


@pytest.mark.parametrize("seconds", [1, 5, 20])
async def test_loop_that_stalls_loses_nothing_that_arrived_meanwhile(
    server: WatchServer, clock: LoopClock, mirror: Mirror, seconds: int
) -> None:
    server.history.put("d")
    server.history.delete("b")
    clock.jump(seconds)
    await follows(mirror, server)
    assert len(server.requests) == 1


async def test_loop_that_really_stalls_gives_up_no_stream(server: WatchServer, mirror: Mirror) -> None:
    server.history.put("d")
    time.sleep(0.3)  # noqa: ASYNC251  # a blocking call is what this is about
    server.history.put("e")
    await follows(mirror, server)
    assert len(server.requests) == 1
