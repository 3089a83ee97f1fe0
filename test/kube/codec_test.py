"""What the API server says and we did not expect: the object is kept, whatever one of its fields looks like."""

import sys
import threading
from collections.abc import Mapping
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.api.workload import NODES, PODS, Pod
from kube.codec import DEEPEST, Codec, codec, lenient
from kube.meta import Key, Object, Resource, Wire

METADATA = b'{"name": "a", "namespace": "x", "uid": "u", "resourceVersion": "7", "labels": {"app": "a"}}'


def nested(depth: int) -> bytes:
    return b'{"metadata": %s, "unknown": %s}' % (METADATA, b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("depth", [1, 900, 1_100, 9_000])
def test_object_as_deep_as_the_api_server_allows_is_read_by_every_way_in(depth: int) -> None:
    limit, pods = sys.getrecursionlimit(), codec(PODS)
    raw = nested(depth)
    (item,) = pods.page(b'{"metadata": {"resourceVersion": "9"}, "items": [%s]}' % raw).items
    frame = pods.frame(b'{"type": "ADDED", "object": %s}' % raw)
    for each in (pods.object(raw), item, frame.object):
        assert isinstance(each, Pod)
        assert (each.metadata.key, each.metadata.labels) == (Key("x", "a"), {"app": "a"})
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("depth", [3 * DEEPEST, 100 * DEEPEST])
def test_what_is_deeper_than_anything_may_be_is_no_json(depth: int) -> None:
    limit, pods = sys.getrecursionlimit(), codec(PODS)
    for decode, text in (
        (pods.object, nested(depth)),
        (pods.page, b'{"items": [%s]}' % nested(depth)),
        (pods.frame, b'{"type": "ADDED", "object": %s}' % nested(depth)),
    ):
        with pytest.raises(ValueError, match="nested deeper"):
            decode(text)
    assert sys.getrecursionlimit() == limit


def test_deep_object_is_read_on_a_small_stack_too() -> None:
    """Threads have smaller stacks than the main one; C recursion must not end the process."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(codec(PODS).object(nested(9_000)).metadata.name))
    thread.start()
    thread.join()
    assert found == ["a"]


class Inner(Wire, frozen=True, kw_only=True):
    count: int = 3
    words: tuple[str, ...] = ("default",)


class Outer(Object, frozen=True, kw_only=True):
    inner: Inner = Inner()
    text: str = ""
    several: tuple[Inner, ...] = ()
    counts: Mapping[str, int] = {}
    maybe: Annotated[Inner | None, msgspec.Meta(description="As the kinds say it.")] = None


OUTERS = Resource(Outer, "example.test", "v1", "outers", "Outer")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["count", "words", "x"]), inner),
    max_leaves=6,
)


@given(inner=JSON, text=JSON)
def test_field_of_any_shape_costs_at_most_itself(inner: object, text: object) -> None:
    found = lenient(Outer, {"metadata": {"name": "a", "generation": 4}, "inner": inner, "text": text})
    assert (found.metadata.name, found.metadata.generation) == ("a", 4)
    if isinstance(text, str):
        assert found.text == text
    elif text is not None and not isinstance(text, int):
        assert found.text == ""
    if not isinstance(inner, dict):
        assert found.inner == Inner()


def test_salvaged_objects_are_counted_and_nameless_ones_are_none() -> None:
    outers = Codec(OUTERS)
    found = outers.object(b'{"metadata": {"name": "a"}, "inner": {"count": "many", "words": ["w"]}}')
    assert found.inner == Inner(words=("w",))
    assert outers.salvaged == 1
    page = outers.page(b'{"items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}, "text": []}]}')
    assert [item.metadata.name for item in page.items] == ["a", "b"]
    assert outers.salvaged == 2
    with pytest.raises(ValueError, match="no Outer can be read"):
        outers.object(b'{"metadata": "surprise"}')


@given(items=st.lists(JSON))
def test_item_of_any_shape_costs_at_most_itself(items: list[object]) -> None:
    found = lenient(Outer, {"inner": {"words": items}, "counts": {str(at): item for at, item in enumerate(items)}})
    assert found.inner.words == tuple(item for item in items if isinstance(item, str))
    for at, item in enumerate(items):
        if isinstance(item, int) and not isinstance(item, bool) and abs(item) < 2**63:
            assert found.counts[str(at)] == item
        elif isinstance(item, list | dict):
            assert str(at) not in found.counts


def test_what_fits_is_kept_within_lists_and_within_what_may_be_absent() -> None:
    found = lenient(
        Outer, {"several": [{"count": 1}, "odd", {"count": "many", "words": ["w"]}], "maybe": {"count": []}}
    )
    assert found.several == (Inner(count=1), Inner(words=("w",)))
    assert found.maybe == Inner()
    assert lenient(Outer, {"several": {"count": 1}, "counts": [1], "maybe": "odd"}) == Outer()


def test_node_with_one_odd_condition_is_as_ready_as_the_others_say() -> None:
    conditions = b'[{"type": "Ready", "status": "True"}, {"status": "True"}, 7]'
    node = codec(NODES).object(b'{"metadata": {"name": "n"}, "status": {"conditions": %s}}' % conditions)
    assert node.ready
    assert [condition.type for condition in node.status.conditions] == ["Ready"]


@pytest.mark.parametrize("nameless", [b"{}", b'{"metadata": {}}', b'{"metadata": {"name": "", "uid": "u"}}'])
@pytest.mark.parametrize("called", [b"ADDED", b"MODIFIED", b"DELETED"])
def test_event_about_nothing_is_no_event(called: bytes, nameless: bytes) -> None:
    with pytest.raises(ValueError, match="no Pod can be read"):
        codec(PODS).frame(b'{"type": "%s", "object": %s}' % (called, nameless))
    assert codec(PODS).frame(b'{"type": "FUTURE", "object": %s}' % nameless).type == "FUTURE"


def test_page_with_a_nameless_item_is_no_page() -> None:
    with pytest.raises(ValueError, match="no Pod can be read"):
        codec(PODS).page(b'{"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "a"}}, {}]}')
