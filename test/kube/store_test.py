"""The store and its indexes against a dictionary, and reading one's own writes."""

from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kube.api.workload import CONFIG_MAPS, PODS, ConfigMap, Pod
from kube.meta import Key, ObjectMeta, older
from kube.store import Consistency, Store
from test.clock import VirtualClock


def config_map(name: str, version: int, **labels: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(namespace="x", name=name, resource_version=str(version), labels=labels))


def changed(item: ConfigMap, **metadata: Any) -> ConfigMap:
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, **metadata))


def by_label_value(item: ConfigMap) -> Iterable[str]:
    return item.metadata.labels.values()


def by_colour(item: ConfigMap) -> Iterable[str]:
    return [item.metadata.labels["colour"]]  # fails without one


NAMES = st.sampled_from("abc")
LABELS = st.dictionaries(st.sampled_from(["colour", "size", "shape"]), st.sampled_from(["red", "big", "round"]))


class StoreMachine(RuleBasedStateMachine):
    """Puts, removals, bookmarks and replacements, as a reflector makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store({"value": by_label_value, "colour": by_colour})
        self.model: dict[Key, ConfigMap] = {}
        self.version = 0
        self.newest = 0

    def _next(self) -> int:
        self.version += 1
        self.newest = self.version
        return self.version

    @rule(name=NAMES, labels=LABELS)
    def put(self, name: str, labels: dict[str, str]) -> None:
        new = config_map(name, self._next(), **labels)
        assert self.store.advance(new.metadata.resource_version)
        assert self.store.put(new) == self.model.get(new.metadata.key)
        self.model[new.metadata.key] = new

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        key = Key("x", name)
        assert self.store.advance(str(self._next()))
        assert self.store.remove(key) == self.model.pop(key, None)

    @rule(back=st.integers(0, 5))
    def bookmark(self, back: int) -> None:
        version = max(1, self.version - back)
        assert self.store.advance(str(version)) == (version >= self.newest)
        self.newest = max(self.newest, version)

    @rule(items=st.dictionaries(NAMES, LABELS), rollback=st.booleans())
    def replace(self, items: dict[str, dict[str, str]], rollback: bool) -> None:
        epoch = self.store.epoch
        previous = dict(self.model)
        if rollback and self.newest > 2:
            self.version = self.newest // 2
        version = self._next()
        objects = [config_map(name, version, **labels) for name, labels in items.items()]
        self.model = {item.metadata.key: item for item in objects}
        was = self.store.last_resource_version
        content = self.store.empty()
        for item in objects:
            content.put(item)
        assert self.store.replace(content, str(version)) == previous
        assert self.store.epoch == epoch + older(str(version), was)
        self.newest = version

    @invariant()
    def content_is_the_models(self) -> None:
        assert len(self.store) == len(self.model)
        assert {item.metadata.key: item for item in self.store.all()} == self.model
        assert all(self.store.get(key) is item for key, item in self.model.items())

    @invariant()
    def indexes_are_what_filtering_says(self) -> None:
        for value in ("red", "big", "round"):
            expected = {item.metadata.key for item in self.model.values() if value in by_label_value(item)}
            assert {item.metadata.key for item in self.store.by_index("value", value)} == expected
            coloured = {
                item.metadata.key for item in self.model.values() if item.metadata.labels.get("colour") == value
            }
            found = self.store.by_index("colour", value)
            assert {item.metadata.key for item in found} == coloured
            assert all(item is self.model[item.metadata.key] for item in found)

    @invariant()
    def no_index_entry_is_empty(self) -> None:
        assert all(entry for index in self.store._indices.values() for entry in index.entries.values())

    @invariant()
    def position_never_goes_back_within_an_epoch(self) -> None:
        assert self.store.last_resource_version == (str(self.newest) if self.newest else "")


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


OWNER, OTHER = Key("x", "owner"), Key("x", "other")


def consistent(clock: VirtualClock | None = None) -> tuple[Consistency, Store[ConfigMap]]:
    consistency, store = Consistency(clock or VirtualClock()), Store[ConfigMap]()
    consistency.watch(CONFIG_MAPS, store)
    store.advance("1")
    assert consistency.caught_up(OWNER, "uid-1")
    return consistency, store


def test_a_write_that_the_cache_lacks_holds_the_owner_back() -> None:
    consistency, store = consistent()
    store.advance("99")
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 100))
    assert not consistency.caught_up(OWNER, "uid-1")
    assert consistency.caught_up(OTHER, "uid-1")
    assert consistency.skips == 1
    store.advance("100")
    store.put(config_map("a", 100))
    assert consistency.caught_up(OWNER, "uid-1")


def test_every_kind_that_was_written_is_waited_for() -> None:
    consistency, store = consistent()
    pods = Store[Pod]()
    consistency.watch(PODS, pods)
    pods.advance("1")
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 100))
    consistency.wrote(OWNER, PODS, Pod(metadata=ObjectMeta(namespace="x", name="p", resource_version="101")))
    store.advance("100")
    assert not consistency.caught_up(OWNER, "uid-1")
    pods.advance("101")
    assert consistency.caught_up(OWNER, "uid-1")


def test_older_of_two_writes_does_not_replace_the_newer() -> None:
    consistency, store = consistent()
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 100))
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("b", 9))
    store.advance("99")
    assert not consistency.caught_up(OWNER, "uid-1")


def test_a_deletion_is_waited_for_until_the_object_goes() -> None:
    consistency, store = consistent()
    for name in "abc":
        store.put(config_map(name, 1))
        consistency.deleted(OWNER, CONFIG_MAPS, config_map(name, 1))
    store.advance("1000")
    store.remove(Key("x", "a"))
    store.put(changed(config_map("b", 1002), deletion_timestamp="2030-01-01T00:00:00Z", finalizers=("held",)))
    assert not consistency.caught_up(OWNER, "uid-1"), "c is still there"
    store.put(changed(config_map("c", 1003), uid="another"))
    assert consistency.caught_up(OWNER, "uid-1")


def test_an_object_that_lost_its_last_finalizer_is_waited_for_until_it_is_gone() -> None:
    """The answer to the patch that ends an object may name a version from before its end."""
    consistency, store = consistent()
    dying = changed(config_map("a", 5), deletion_timestamp="2030-01-01T00:00:00Z", finalizers=("ours",))
    store.put(dying)
    store.advance("10")
    consistency.wrote(OWNER, CONFIG_MAPS, changed(dying, finalizers=()))
    assert not consistency.caught_up(OWNER, "uid-1")
    store.remove(Key("x", "a"))
    assert consistency.caught_up(OWNER, "uid-1")


def test_a_namesake_of_the_owner_is_not_held_back_by_its_predecessors_writes() -> None:
    consistency, _ = consistent()
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 100))
    assert not consistency.caught_up(OWNER, "uid-1")
    assert not consistency.caught_up(OWNER), "what it wrote before it went is still on its way"
    assert consistency.caught_up(OWNER, "uid-2")
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 100))
    consistency.forget(OWNER)
    assert consistency.caught_up(OWNER, "uid-2")


async def test_waiting_for_the_cache_ends_after_two_minutes() -> None:
    clock = VirtualClock()
    consistency, store = consistent(clock)
    store.put(config_map("b", 1))
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 2))
    consistency.deleted(OWNER, CONFIG_MAPS, config_map("b", 1))
    await clock.advance(119)
    assert not consistency.caught_up(OWNER, "uid-1")
    await clock.advance(1)
    assert consistency.caught_up(OWNER, "uid-1")
    assert consistency.timeouts == 2


def test_a_restored_etcd_frees_those_who_wait_for_its_lost_future() -> None:
    consistency, store = consistent()
    store.put(config_map("b", 7))
    store.advance("1000")
    consistency.wrote(OWNER, CONFIG_MAPS, config_map("a", 1001))
    consistency.deleted(OWNER, CONFIG_MAPS, config_map("b", 7))
    restored = store.empty()
    restored.put(config_map("b", 7))
    store.replace(restored, "500")
    assert consistency.caught_up(OWNER, "uid-1")


def test_versions_that_cannot_be_compared_hold_nobody_back() -> None:
    consistency, store = consistent()
    store.advance("5")
    opaque = changed(config_map("a", 0), resource_version="not-a-number")
    consistency.wrote(OWNER, CONFIG_MAPS, opaque)
    consistency.wrote(OWNER, PODS, config_map("nobody-watches-these", 77))
    assert consistency.caught_up(OWNER, "uid-1")


def test_versions_compare_as_numbers_of_any_length() -> None:
    assert older("9", "10")
    assert not older("10", "9")
    assert not older("7", "7")
    assert not older("", "7")
    assert not older("0", "7")
    assert not older("07", "8")
    assert older("18446744073709551615", "18446744073709551616")
