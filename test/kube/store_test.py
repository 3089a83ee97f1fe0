"""The store and its indexes against a dictionary, and reading one's own writes."""

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kube.api.workload import CONFIG_MAPS, PODS, ConfigMap
from kube.meta import Key, ObjectMeta, older
from kube.store import Consistency, Store
from test.clock import VirtualClock


def config_map(name: str, version: int, **labels: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(namespace="x", name=name, resource_version=str(version), labels=labels))


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
        assert self.store.put(new) == self.model.get(new.metadata.key)
        self.model[new.metadata.key] = new

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        key = Key("x", name)
        assert self.store.remove(key, str(self._next())) == self.model.pop(key, None)

    @rule(back=st.integers(0, 5))
    def bookmark(self, back: int) -> None:
        self.store.bookmark(str(max(1, self.version - back)))
        self.newest = max(self.newest, self.version - back, 1)

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
        assert self.store.replace(self.model, str(version)) == previous
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


def test_a_write_that_the_cache_lacks_holds_the_owner_back() -> None:
    store: Store[ConfigMap] = Store()
    consistency = Consistency(VirtualClock())
    consistency.watch(CONFIG_MAPS, store)
    owner, other = Key("x", "owner"), Key("x", "other")
    store.bookmark("99")
    consistency.wrote(owner, CONFIG_MAPS, "100")
    assert not consistency.caught_up(owner)
    assert consistency.caught_up(other)
    store.put(config_map("a", 100))
    assert consistency.caught_up(owner)


def test_older_of_two_writes_does_not_replace_the_newer() -> None:
    store: Store[ConfigMap] = Store()
    consistency = Consistency(VirtualClock())
    consistency.watch(CONFIG_MAPS, store)
    consistency.wrote(Key("x", "owner"), CONFIG_MAPS, "100")
    consistency.wrote(Key("x", "owner"), CONFIG_MAPS, "9")
    store.bookmark("99")
    assert not consistency.caught_up(Key("x", "owner"))


async def test_waiting_for_the_cache_ends_after_two_minutes() -> None:
    clock = VirtualClock()
    store: Store[ConfigMap] = Store()
    consistency = Consistency(clock)
    consistency.watch(CONFIG_MAPS, store)
    store.bookmark("1")
    consistency.wrote(Key("x", "owner"), CONFIG_MAPS, "2")
    await clock.advance(119)
    assert not consistency.caught_up(Key("x", "owner"))
    await clock.advance(1)
    assert consistency.caught_up(Key("x", "owner"))
    assert consistency.timeouts == 1


def test_a_restored_etcd_frees_those_who_wait_for_its_lost_future() -> None:
    store: Store[ConfigMap] = Store()
    consistency = Consistency(VirtualClock())
    consistency.watch(CONFIG_MAPS, store)
    store.bookmark("1000")
    consistency.wrote(Key("x", "owner"), CONFIG_MAPS, "1001")
    store.replace({}, "500")
    assert consistency.caught_up(Key("x", "owner"))


def test_versions_that_cannot_be_compared_hold_nobody_back() -> None:
    store: Store[ConfigMap] = Store()
    consistency = Consistency(VirtualClock())
    consistency.watch(CONFIG_MAPS, store)
    store.bookmark("5")
    consistency.wrote(Key("x", "owner"), CONFIG_MAPS, "not-a-number")
    consistency.wrote(Key("x", "owner"), PODS, "77")  # nobody watches these
    assert consistency.caught_up(Key("x", "owner"))


def test_versions_compare_as_numbers_of_any_length() -> None:
    assert older("9", "10")
    assert not older("10", "9")
    assert not older("7", "7")
    assert not older("", "7")
    assert not older("0", "7")
    assert not older("07", "8")
    assert older("18446744073709551615", "18446744073709551616")
