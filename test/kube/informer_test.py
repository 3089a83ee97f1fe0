"""The informer: whoever comes, and whenever, is told a history that makes sense; nobody is told for another's sake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube import watch
from kube.api.workload import CONFIG_MAPS, ConfigMap
from kube.delta import Event
from kube.informer import Informer
from kube.meta import Key, Resource
from kube.metrics import Collector
from kube.store import Store
from test.background import endless
from test.clock import SkippingClock, VirtualClock
from test.expect import eventually
from test.kube.history import History
from test.kube.looptime import turns
from test.kube.mirror import connected
from test.kube.server import WatchServer
from test.kube.source import Source
from test.kube.wire import Answer

HOUR = 3600.0


class Listener:
    """A handler that keeps a copy of its own from what it is told, and notes what cannot follow on what it was told."""

    def __init__(self) -> None:
        self.copy: dict[Key, ConfigMap] = {}
        self.told: list[Event[ConfigMap]] = []
        self.wrong: list[str] = []

    def hear(self, event: Event[ConfigMap]) -> None:
        key, known = event.object.metadata.key, self.copy.get(event.object.metadata.key)
        fits = known is None if event.type == "ADDED" else known is not None and event.old == known
        if not fits:
            self.wrong.append(f"{event.type} {key} after {[each.type for each in self.about(key)]}")
        self.told.append(event)
        self.copy[key] = event.object
        if event.type == "DELETED":
            del self.copy[key]

    def about(self, key: Key) -> list[Event[ConfigMap]]:
        return [event for event in self.told if event.object.metadata.key == key]

    def check(self, store: Store[ConfigMap]) -> None:
        assert not self.wrong
        assert self.copy == {item.metadata.key: item for item in store.all()}


class Stage:
    """An informer of ConfigMaps, the history that it mirrors, and those who listen."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.source = Source()
        self.history: History = self.source.histories[CONFIG_MAPS.plural]
        self.answering = self.source.gates[CONFIG_MAPS.plural]
        self.store: Store[ConfigMap] = Store()
        self.informer = Informer(self.source.client, CONFIG_MAPS, self.store, namespace="x", clock=self.clock)
        self.listeners: list[Listener] = []

    def listen(self, resync: float = 0.0) -> Listener:
        listener = Listener()
        self.listeners.append(listener)
        self.informer.subscribe(listener.hear, resync=resync)
        return listener

    async def lose(self) -> None:
        """The position is lost, and the server does not answer whoever wants to read everything anew."""
        self.answering.clear()
        self.source.forget()
        await self.clock.advance(60)  # longer than any backoff

    def check(self) -> None:
        assert {item.metadata.name: item.metadata.resource_version for item in self.store.all()} == (
            self.history.versions()
        )
        for listener in self.listeners:
            listener.check(self.store)


@asynccontextmanager
async def staged(clock: VirtualClock | None = None) -> AsyncIterator[Stage]:
    stage = Stage(clock or VirtualClock())
    async with endless(stage.informer.run()):
        yield stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as running:
        yield running


# What happens while the server does not answer; then, once it does, what happens within the swap and after it.
NAMES = st.sampled_from("abcd")
CHANGES = st.tuples(st.sampled_from(["put", "delete", "recreate"]), NAMES)
MOMENTS = st.one_of(CHANGES, st.just(("listen", "")), st.tuples(st.just("turn"), st.integers(1, 6)))
ROUNDS = st.tuples(st.lists(CHANGES, max_size=6), st.lists(MOMENTS, max_size=8))


@settings(max_examples=200)
@given(st.lists(ROUNDS, min_size=1, max_size=4))
def test_whoever_comes_at_whatever_moment_hears_everything_once(script: list[tuple[list[Any], list[Any]]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch, "TURN", 1)  # the loop turns within every swap and every batch
        asyncio.run(_play(script))


async def _play(script: list[tuple[list[Any], list[Any]]]) -> None:
    async with staged() as stage:
        for away, back in script:
            await stage.lose()
            for action, about in away:
                await _act(stage, action, about)
            stage.answering.set()
            for action, about in back:
                await _act(stage, action, about)
        await stage.clock.advance(60)
        stage.listen()
        stage.check()


async def _act(stage: Stage, action: str, about: Any) -> None:
    match action:
        case "listen":
            stage.listen()
        case "turn":
            await turns(about)
        case "delete" if about not in stage.history.objects:
            pass
        case _:
            getattr(stage.history, action)(about)


async def test_who_comes_late_is_told_what_is_there_at_once(stage: Stage) -> None:
    stage.history.put("a")
    await stage.clock.settle()
    late = stage.listen()
    assert [(event.type, event.initial, event.old) for event in late.told] == [("ADDED", True, None)]


async def test_who_came_within_one_swap_hears_of_the_next_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TURN", 1)
    await stage.lose()
    for name in "abcdef":
        stage.history.put(name)
    stage.answering.set()
    while not len(stage.store):
        await turns(1)
    late = stage.listen()
    await stage.clock.settle()
    assert len(late.told) == 6
    await stage.lose()
    stage.history.delete("b")
    stage.history.recreate("c")
    stage.answering.set()
    await stage.clock.settle()
    stage.check()


@pytest.mark.parametrize("swapping", [False, True])
async def test_a_relist_shows_what_a_watch_that_is_behind_does_not(
    stage: Stage, swapping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "TURN", 1)
    for name in "abc":
        stage.history.put(name)
    await stage.clock.settle()
    if swapping:
        stage.source.forget()
        await stage.clock.advance(3)
    stage.source.stall()
    stage.history.delete("b")
    stage.history.recreate("c")
    stage.history.put("d")
    await stage.clock.settle()
    assert set(stage.store.objects()) == {Key("x", name) for name in "abc"}
    await stage.informer.relist()
    stage.listen()
    stage.history.put("e")
    await stage.clock.settle()
    stage.check()


async def test_a_relist_waits_for_a_server_that_does_not_answer(stage: Stage) -> None:
    await stage.clock.settle()
    stage.source.stall()
    stage.answering.clear()
    stage.history.put("a")
    relisting = asyncio.create_task(stage.informer.relist())
    await stage.clock.advance(60)
    assert not relisting.done()
    assert stage.informer.synced.is_set(), "what is there may still be read"
    stage.answering.set()
    await relisting
    stage.check()


async def test_resync_tells_who_asked_for_it_and_asks_the_server_nothing(stage: Stage) -> None:
    asking, other = stage.listen(resync=HOUR), stage.listen()
    for name in "abc":
        stage.history.put(name)
    await stage.clock.settle()
    before, asked = (len(asking.told), len(other.told)), len(stage.source.asked)
    await stage.clock.advance(HOUR - 60)
    assert (len(asking.told), len(other.told)) == before, "not before it is due"
    await stage.clock.advance(HOUR / 10 + 120)
    again = asking.told[before[0] :]
    assert [(event.type, event.object.metadata.name) for event in again] == [("MODIFIED", name) for name in "abc"]
    assert all(event.old is event.object for event in again)
    await stage.clock.advance(10 * HOUR)
    assert 3 * 9 <= len(asking.told) - before[0] <= 3 * 11
    assert len(other.told) == before[1]
    assert len(stage.source.asked) == asked
    stage.check()


async def test_resync_says_nothing_before_the_content_is_complete(stage: Stage) -> None:
    stage.answering.clear()
    asking = stage.listen(resync=HOUR)
    await stage.clock.advance(3 * HOUR)
    assert not asking.told


async def test_resync_in_the_middle_of_a_swap_says_nothing_that_does_not_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "TURN", 1)
    async with staged(SkippingClock()) as stage:  # the tick of resyncs comes at every turn
        eager = stage.listen(resync=1.0)
        for number in range(20):
            stage.history.put(f"n{number}")
        await turns()
        stage.source.forget()
        for number in range(5, 15):
            stage.history.recreate(f"n{number}")
        await turns()
        assert len(eager.told) > 1000
        stage.check()


def fail(event: Event[ConfigMap]) -> None:
    raise RuntimeError(f"what is {event.object.metadata.name}?")


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_handler_that_fails_fails_alone(stage: Stage, caplog: pytest.LogCaptureFixture, first: bool) -> None:
    def listen_and_fail() -> None:
        stage.informer.subscribe(fail, resync=HOUR)

    def listen() -> None:
        stage.listen(resync=HOUR)

    order: list[Callable[[], None]] = [listen_and_fail, listen] if first else [listen, listen_and_fail]
    stage.history.put("before")
    for subscribe in order:
        subscribe()
    await stage.clock.settle()
    for subscribe in order:
        subscribe()
    stage.history.put("a")
    stage.history.recreate("before")
    await stage.clock.settle()
    stage.source.forget()
    stage.history.delete("a")
    await stage.clock.advance(2 * HOUR)
    stage.check()
    assert all(len(listener.about(Key("x", "before"))) >= 3 for listener in stage.listeners)
    assert "what is before?" in caplog.text


async def test_kind_that_may_not_be_read_is_said_to_be_refused_until_it_may() -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server, connected(server, clock) as client:
        server.faults.extend([Answer(403)] * 2)
        informer = Informer(client, CONFIG_MAPS, Store[ConfigMap](), namespace="x", clock=clock)
        running = asyncio.ensure_future(informer.run())
        await eventually(lambda: informer.refused)
        assert not informer.synced.is_set()
        await clock.advance(60)
        await eventually(lambda: len(server.requests) == 2)
        assert informer.refused
        await eventually(lambda: clock.next_due() < 61 and clock.sleeping >= 2)
        await clock.advance(60)
        await eventually(informer.synced.is_set)
        assert not informer.refused
        running.cancel()
        await asyncio.wait({running})


async def test_how_far_the_cache_is_can_be_seen(stage: Stage) -> None:
    def shown() -> dict[str, float]:
        (family,) = stage.informer.collect()
        (sample,) = family.samples
        assert sample.labels == {"name": "configmaps", "group": "", "version": "v1", "resource": "configmaps"}
        return {sample.name: sample.value}

    stage.history.put("a")
    await stage.clock.settle()
    assert shown() == {"informer_store_resource_version": stage.history.version}
    stage.store.advance("9123456789012345678")
    assert shown() == {"informer_store_resource_version": 456789012345678}, "no more than a float holds"
    stage.store.last_resource_version = "opaque"
    assert shown() == {"informer_store_resource_version": 0}


async def test_cache_of_one_object_is_not_taken_for_one_of_its_kind() -> None:
    things = Resource(ConfigMap, "test.example", "v1", "things", "Thing")
    client = Source().client
    informers = Informer(client, things, Store()), Informer(client, things, Store(), field_selector="metadata.name=a")
    for informer in informers:
        informer.store.advance("7")
    families = {family.name: family for family in Collector().collect()}
    series = families["informer_store_resource_version"].samples
    assert [sample.value for sample in series if sample.labels["resource"] == "things"] == [7]
