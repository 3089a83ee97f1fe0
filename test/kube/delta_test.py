"""How two contents differ, and what in an event is worth a look."""

from hypothesis import given
from hypothesis import strategies as st

from kube.api.workload import ConfigMap
from kube.delta import Event, EventType, changes, differences
from kube.meta import Key, ObjectMeta


def item(name: str, uid: str, version: int, **data: str) -> ConfigMap:
    metadata = ObjectMeta(namespace="x", name=name, uid=f"{name}-{uid}", resource_version=str(version))
    return ConfigMap(metadata=metadata, data=data)


CONTENTS = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.sampled_from("12"), st.integers(1, 3))).map(
    lambda drawn: {Key("x", name): item(name, uid, version) for name, (uid, version) in drawn.items()}
)


@given(CONTENTS, CONTENTS, st.booleans())
def test_differences_lead_from_one_content_to_the_other_by_legal_steps(
    previous: dict[Key, ConfigMap], objects: dict[Key, ConfigMap], everything: bool
) -> None:
    content, told = dict(previous), list(differences(previous, objects, initial=False, everything=everything))
    for event in told:
        known = content.get(event.object.metadata.key)
        if event.type == EventType.ADDED:
            assert known is None
            assert event.old is None
        else:
            assert known is not None
            assert event.old is known
            assert event.object.metadata.uid == known.metadata.uid
        content[event.object.metadata.key] = event.object
        if event.type == EventType.DELETED:
            del content[event.object.metadata.key]
    assert {key: each.metadata for key, each in content.items()} == {
        key: each.metadata for key, each in objects.items()
    }
    unchanged = [key for key, each in objects.items() if previous.get(key) == each]
    heard = [event.object.metadata.key for event in told if event.object.metadata.key in unchanged]
    assert sorted(heard) == (sorted(unchanged) if everything else [])


def test_what_was_there_when_a_handler_came_and_what_is_told_again_are_no_news() -> None:
    one, other = item("a", "1", 1), item("a", "1", 2)
    (first,) = changes(None, one, initial=True)
    (added,) = changes(None, one)
    (modified,) = changes(one, other)
    assert [event.news for event in (first, added, modified)] == [False, True, True]
    assert not Event(EventType.MODIFIED, one, one).news, "a resync"
    assert Event(EventType.DELETED, one, one).news


def test_change_of_nothing_that_we_read_is_a_heartbeat() -> None:
    before, after = item("a", "1", 1, colour="blue"), item("a", "1", 2, colour="blue")
    assert Event(EventType.MODIFIED, after, before).heartbeat
    assert not Event(EventType.MODIFIED, item("a", "1", 2, colour="red"), before).heartbeat
    assert not Event(EventType.ADDED, after).heartbeat
    assert not Event(EventType.DELETED, before, before).heartbeat
