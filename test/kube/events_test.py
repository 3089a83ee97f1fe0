"""Events: what a user sees on the real server, and what a busy or broken controller may do to it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from kubernetes import client as independent

from kube import errors, events
from kube.api.workload import CONFIG_MAPS, NODES, Node
from kube.client import Client
from kube.codec import encode
from kube.events import EVENTS, NOTE_LIMIT, QUEUE_SIZE, EventRecorder, ObjectReference
from kube.meta import Key, ObjectMeta
from test.clock import VirtualClock
from test.expect import TIMEOUT, eventually

ABOUT = ObjectReference("v1", "ConfigMap", "x", "one", "uid-1")


class Desk:
    """Takes events in memory, and fails as told. Not an API server: it validates nothing."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.open = asyncio.Event()  # patches wait until it is
        self.open.set()
        self.requests = 0
        self.events: dict[Key, dict[str, Any]] = {}

    async def create(self, _: object, body: dict[str, Any]) -> None:
        self._fail()
        self.events[Key(body["metadata"]["namespace"], body["metadata"]["name"])] = dict(body)

    async def merge_patch(self, _: object, key: Key, patch: dict[str, Any]) -> None:
        await self.open.wait()
        self._fail()
        if key not in self.events:
            raise errors.NotFound(404, "NotFound", "expired")
        self.events[key].update(patch)

    def _fail(self) -> None:
        self.requests += 1
        if self.failures:
            raise self.failures.pop(0)

    def counts(self) -> list[int]:
        return [event.get("series", {}).get("count", 1) for event in self.events.values()]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def recorder(desk: Desk, clock: VirtualClock) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(cast(Client, desk), controller="test.example/c", instance="pod-1", clock=clock)
    running = asyncio.ensure_future(recorder.run())
    yield recorder
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()


def say(recorder: EventRecorder, message: str = "No quota", about: ObjectReference = ABOUT) -> None:
    recorder.event(about, "Warning", "LaunchFailed", message, action="Launch")


async def test_repeated_event_becomes_one_series(recorder: EventRecorder, desk: Desk, clock: VirtualClock) -> None:
    for count in (1, 2):
        say(recorder)
        await clock.settle()
        assert desk.counts() == [count]
    for _ in range(5):
        say(recorder)
    await clock.settle()
    assert desk.requests == 2, "later repetitions are counted locally"
    await clock.advance(6 * 60 + 60)
    assert desk.counts() == [7], "the end of a series is written"
    say(recorder)
    await clock.settle()
    assert desk.counts() == [7, 1], "after the end a new series begins"


async def test_long_series_is_refreshed_every_half_hour(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    for _ in range(40):
        say(recorder)
        await clock.advance(300)
    assert len(desk.events) == 1
    assert desk.requests == 2 + 40 * 300 // 1860
    assert desk.counts()[0] >= 37


async def test_repetition_that_comes_while_the_end_of_its_series_is_written_counts(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    for _ in range(3):
        say(recorder)
    await clock.settle()
    desk.open.clear()
    await clock.advance(6 * 60 + 60)
    say(recorder)
    await clock.settle()
    desk.open.set()
    await clock.settle()
    assert desk.counts() == [3]
    await clock.advance(6 * 60 + 60)
    assert desk.counts() == [4]


async def test_different_notes_are_different_events(recorder: EventRecorder, desk: Desk, clock: VirtualClock) -> None:
    say(recorder, "No quota in zone 1")
    say(recorder, "No quota in zone 2")
    await clock.settle()
    assert sorted(event["note"] for event in desk.events.values()) == ["No quota in zone 1", "No quota in zone 2"]


async def test_spam_about_one_object_is_dropped_and_others_are_heard(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    for number in range(100):
        say(recorder, f"message {number}")
    say(recorder, about=ABOUT._replace(uid="uid-2"))
    await clock.settle()
    assert len(desk.events) == 25 + 1
    assert recorder.dropped == 100 - 25
    for seconds, heard in ((299, 0), (1, 1), (0, 0), (300, 1)):
        before = len(desk.events)
        await clock.advance(seconds)
        say(recorder, f"one more at {clock.monotonic()}")
        await clock.settle()
        assert len(desk.events) - before == heard


async def test_patience_for_an_object_does_not_grow_beyond_its_burst(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    say(recorder)
    await clock.advance(100 * 3600)
    for number in range(100):
        say(recorder, f"message {number}")
    await clock.settle()
    assert len(desk.events) == 1 + 25


async def test_full_queue_drops_the_newest(desk: Desk, clock: VirtualClock) -> None:
    recorder = EventRecorder(cast(Client, desk), controller="c", instance="i", clock=clock)
    for number in range(QUEUE_SIZE + 10):
        say(recorder, about=ABOUT._replace(uid=str(number)))
    assert recorder.dropped == 10
    running = asyncio.ensure_future(recorder.run())
    await clock.settle()
    heard = [event["regarding"]["uid"] for event in desk.events.values()]
    assert heard == [str(number) for number in range(1000)]
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize("message", ["caf\udce9", "x" * 5000 + "\udce9", "\0", "", "é" * 1023])
async def test_no_message_is_too_odd_to_be_sent(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock, message: str
) -> None:
    say(recorder, message)
    await clock.settle()
    (event,) = desk.events.values()
    assert len(encode(event["note"])) <= NOTE_LIMIT + 2
    say(recorder, "the next one")
    await clock.settle()
    assert len(desk.events) == 2


async def test_answer_that_nobody_understands_costs_one_event(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    desk.failures = [ValueError("a proxy's idea of JSON")]
    say(recorder, "lost")
    say(recorder, "heard")
    await clock.settle()
    assert [event["note"] for event in desk.events.values()] == ["heard"]
    assert recorder.dropped == 1


async def test_event_that_was_refused_begins_no_series(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    desk.failures = [errors.Forbidden(403, "Forbidden", "namespace is terminating")]
    say(recorder)
    await clock.settle()
    say(recorder)
    await clock.settle()
    assert desk.counts() == [1]


async def test_of_many_objects_those_least_recently_heard_of_are_forgotten(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REMEMBERED", 3)
    old, *others = (ABOUT._replace(uid=str(number)) for number in range(5))
    for about in (old, others[0], others[1], old, others[2], others[3], old):
        say(recorder, about=about)
        await clock.settle()
    counts = {event["regarding"]["uid"]: event.get("series", {}).get("count", 1) for event in desk.events.values()}
    assert counts == {"0": 2, "1": 1, "2": 1, "3": 1, "4": 1}
    assert desk.requests == 6, "the series of the first is known throughout: its third event is only counted"
    assert len(recorder._series) == len(recorder._buckets) == 3


async def test_patience_with_an_object_is_remembered_while_others_come_and_go(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "REMEMBERED", 3)
    for number in range(60):
        say(recorder, f"message {number}")
        say(recorder, about=ABOUT._replace(uid=str(number)))
        await clock.settle()
    assert sum(event["regarding"]["uid"] == ABOUT.uid for event in desk.events.values()) == 25
    (dropped,) = recorder.collect()
    assert [sample.value for sample in dropped.samples] == [60 - 25]


async def test_event_is_rendered_as_events_v1_wants_it(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    say(recorder)
    await clock.settle()
    ((key, event),) = desk.events.items()
    assert event == {
        "metadata": {"namespace": "x", "name": key.name},
        "eventTime": "2030-01-01T00:00:00.000000Z",
        "reportingController": "test.example/c",
        "reportingInstance": "pod-1",
        "type": "Warning",
        "reason": "LaunchFailed",
        "action": "Launch",
        "note": "No quota",
        "regarding": {"apiVersion": "v1", "kind": "ConfigMap", "namespace": "x", "name": "one", "uid": "uid-1"},
    }
    await clock.advance(7)
    say(recorder)
    await clock.settle()
    assert event | {"series": desk.events[key]["series"]} == desk.events[key]
    assert desk.events[key]["series"] == {"count": 2, "lastObservedTime": "2030-01-01T00:00:07.000000Z"}
    assert EVENTS.path("x") == "/apis/events.k8s.io/v1/namespaces/x/events"


async def test_what_waits_at_the_end_is_sent_before_it(desk: Desk, clock: VirtualClock) -> None:
    recorder = EventRecorder(cast(Client, desk), controller="c", instance="i", clock=clock)
    desk.failures = [errors.ConnectionFailed("refused")]
    running = asyncio.ensure_future(recorder.run())
    say(recorder, "being retried")
    await clock.settle()
    say(recorder, "still waiting")
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert [event["note"] for event in desk.events.values()] == ["being retried", "still waiting"]


async def test_server_that_does_not_answer_holds_the_end_up_for_a_moment_only(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FLUSH_SECONDS", 0.1)

    class Silent(Desk):
        async def create(self, _: object, body: dict[str, Any]) -> None:
            await asyncio.Event().wait()

    recorder = EventRecorder(cast(Client, Silent()), controller="c", instance="i", clock=clock)
    running = asyncio.ensure_future(recorder.run())
    say(recorder)
    await clock.settle()
    running.cancel()
    await asyncio.wait({running}, timeout=TIMEOUT)
    assert running.cancelled()


async def test_absent_server_is_tried_for_two_minutes(recorder: EventRecorder, desk: Desk, clock: VirtualClock) -> None:
    desk.failures = [errors.ConnectionFailed("refused")] * 5
    say(recorder)
    await clock.advance(5 * 12.5)
    assert len(desk.events) == 1
    desk.failures = [errors.ConnectionFailed("refused")] * 12
    say(recorder, "lost")
    say(recorder, "delivered")
    await clock.advance(12 * 12.5)
    assert [event["note"] for event in desk.events.values()] == ["No quota", "delivered"]
    assert recorder.dropped == 1


async def test_tries_are_spread_so_that_not_all_controllers_come_back_at_once(
    recorder: EventRecorder, desk: Desk, clock: VirtualClock
) -> None:
    desk.failures = [errors.ConnectionFailed("refused")] * 11
    say(recorder)
    waits = []
    await clock.settle()
    while desk.failures:
        begin, tried = clock.monotonic(), desk.requests
        while desk.requests == tried:  # the recorder also wakes up for its series
            await clock.advance(clock.next_due())
        waits.append(clock.monotonic() - begin)
    assert 10 <= min(waits) < max(waits) <= 12.5


async def test_refusal_is_final(recorder: EventRecorder, desk: Desk, clock: VirtualClock) -> None:
    desk.failures = [errors.Forbidden(403, "Forbidden", "namespace is terminating")]
    say(recorder)
    await clock.settle()
    assert desk.requests == 1
    assert recorder.dropped == 1


async def test_series_whose_event_expired_begins_anew(recorder: EventRecorder, desk: Desk, clock: VirtualClock) -> None:
    say(recorder)
    await clock.settle()
    desk.events.clear()
    say(recorder)
    await clock.settle()
    say(recorder)
    await clock.settle()
    assert len(desk.events) == 1


async def test_user_sees_the_event_on_the_real_server(
    client: Client, api: independent.ApiClient, namespace: str
) -> None:
    about = await client.create(CONFIG_MAPS, {"metadata": {"namespace": namespace, "name": "one"}})
    recorder = EventRecorder(client, controller="test.example/c", instance="pod-1")
    running = asyncio.ensure_future(recorder.run())
    reference = ObjectReference.of(CONFIG_MAPS, about)
    for _ in range(2):
        recorder.event(reference, "Normal", "Launched", "é" * NOTE_LIMIT, action="Launch")

    def listed() -> list[Any]:
        return list(independent.EventsV1Api(api).list_namespaced_event(namespace).items)

    await eventually(lambda: [event.series.count for event in listed() if event.series] == [2])
    (event,) = listed()
    assert (event.regarding.uid, event.type, event.reason) == (about.metadata.uid, "Normal", "Launched")
    assert len(event.note.encode()) <= NOTE_LIMIT
    assert recorder.dropped == 0
    running.cancel()
    await asyncio.wait({running})


async def test_event_about_a_node_is_in_the_default_namespace(client: Client, api: independent.ApiClient) -> None:
    recorder = EventRecorder(client, controller="test.example/c", instance="pod-1")
    node = Node(metadata=ObjectMeta(name="n" * 253, uid="uid-n"))
    recorder.event(ObjectReference.of(NODES, node), "Normal", "Joined", "Hello", action="Register")
    running = asyncio.ensure_future(recorder.run())
    await eventually(lambda: not recorder._pending and recorder._series)
    found = independent.EventsV1Api(api).list_namespaced_event("default", field_selector="reason=Joined").items
    assert [event.regarding.name for event in found] == ["n" * 253]
    running.cancel()
    await asyncio.wait({running})
