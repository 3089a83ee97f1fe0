"""Conditions: a state machine against the API conventions, and the root of dependents."""
# ruff: noqa: A001, A002  # `type` is the name that metav1.Condition gives it

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kube.conditions import ConditionSet, to_wire
from kube.meta import Condition

TYPES = st.sampled_from(["Ready", "Launched", "Registered"])
STATUSES = st.sampled_from(["True", "False", "Unknown", True, False])
WORDS = st.sampled_from(["", "Waiting", "Failed"])


class ConditionMachine(RuleBasedStateMachine):
    """Reconciles that set, remove and write conditions, as time and generations go on."""

    def __init__(self) -> None:
        super().__init__()
        self.second = 0
        self.generation = 1
        self.stored: tuple[Condition, ...] = ()
        self.begin()

    def begin(self) -> None:
        self.before = {condition.type: condition for condition in self.stored}
        self.conditions = ConditionSet(self.stored, generation=self.generation, now=self.now())
        self.touched: set[str] = set()

    def now(self) -> str:
        return f"2030-01-01T00:00:{self.second:02}Z"

    @rule(type=TYPES, status=STATUSES, reason=WORDS, message=WORDS)
    def set(self, type: str, status: str | bool, reason: str, message: str) -> None:
        known = self.conditions.get(type)
        self.conditions.set(type, status, reason, message)
        self.touched.add(type)
        condition = self.conditions.get(type)
        assert condition is not None
        assert (condition.status, condition.reason, condition.message) == (str(status), reason, message)
        assert condition.observed_generation == self.generation
        moved = known is None or known.status != condition.status
        assert condition.last_transition_time == (self.now() if moved or known is None else known.last_transition_time)
        assert self.conditions.is_true(type) == (str(status) == "True")
        assert self.conditions.is_false(type) == (str(status) == "False")

    @rule(type=TYPES)
    def remove(self, type: str) -> None:
        self.conditions.remove(type)
        self.touched.add(type)
        assert self.conditions.get(type) is None
        assert not self.conditions.is_true(type)

    @rule()
    def set_again_what_is_there(self) -> None:
        fresh = ConditionSet(self.conditions.result(), generation=self.generation, now="2099-01-01T00:00:00Z")
        for condition in self.conditions.result():
            if condition.observed_generation == self.generation:
                fresh.set(condition.type, condition.status, condition.reason, condition.message)
        assert not fresh.changed, "setting what is there must write nothing"

    @rule(seconds=st.integers(0, 3), edited=st.booleans())
    def the_status_is_written(self, seconds: int, edited: bool) -> None:
        self.stored = self.conditions.result()
        self.second = min(59, self.second + seconds)
        self.generation += edited
        self.begin()

    @invariant()
    def changed_means_different(self) -> None:
        assert self.conditions.changed == (dict(self.before) != {c.type: c for c in self.conditions.result()})

    @invariant()
    def untouched_conditions_stay(self) -> None:
        now = {condition.type: condition for condition in self.conditions.result()}
        assert {type: now.get(type) for type in self.before if type not in self.touched} == {
            type: condition for type, condition in self.before.items() if type not in self.touched
        }

    @invariant()
    def order_is_by_type_and_types_are_unique(self) -> None:
        types = [condition.type for condition in self.conditions.result()]
        assert types == sorted(set(types))


TestConditions = ConditionMachine.TestCase
TestConditions.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def fresh() -> ConditionSet:
    return ConditionSet((), generation=3, now="2030-01-01T00:00:00Z")


def test_root_is_true_when_all_dependents_are() -> None:
    conditions = fresh()
    conditions.set("A", True, "Done")
    conditions.set("B", True, "Done")
    conditions.root("Ready", ["A", "B"])
    assert conditions.is_true("Ready")


def test_root_says_what_the_first_failed_dependent_says() -> None:
    conditions = fresh()
    conditions.set("A", "Unknown", "Waiting", "wait")
    conditions.set("B", False, "NoQuota", "ask for more")
    conditions.set("C", False, "Later")
    conditions.root("Ready", ["A", "B", "C"])
    root = conditions.get("Ready")
    assert root is not None
    assert (root.status, root.reason, root.message) == ("False", "NoQuota", "ask for more")


def test_root_of_undecided_dependents_is_unknown() -> None:
    conditions = fresh()
    conditions.set("A", True, "Done")
    conditions.root("Ready", ["A", "B"])
    root = conditions.get("Ready")
    assert root is not None
    assert (root.status, root.reason) == ("Unknown", "AwaitingReconciliation")


def test_time_of_the_last_transition_moves_with_the_status_alone() -> None:
    then, now = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"
    stored = (Condition(type="A", status="True", reason="Done", message="m", last_transition_time=then),)
    for status, reason, message, expected in (
        ("True", "Done", "m", then),
        ("True", "Better", "m", then),
        ("True", "Done", "another", then),
        ("False", "Done", "m", now),
        ("Unknown", "Done", "m", now),
    ):
        conditions = ConditionSet(stored, generation=4, now=now)
        conditions.set("A", status, reason, message)
        assert [each.last_transition_time for each in conditions.result()] == [expected]


def test_another_order_is_no_change() -> None:
    written = fresh()
    for type in ("B", "A"):
        written.set(type, True, "Done")
    stored = tuple(reversed(written.result()))
    again = ConditionSet(stored, generation=3, now="2031-01-01T00:00:00Z")
    for type in ("A", "B"):
        again.set(type, True, "Done")
    assert not again.changed


def test_generation_is_the_one_that_was_looked_at_though_a_later_one_is_stored() -> None:
    """As after a restore from a backup: what is observed can't be ahead of what there is."""
    stored = (Condition(type="A", status="True", reason="Done", observed_generation=9),)
    conditions = ConditionSet(stored, generation=3, now="2031-01-01T00:00:00Z")
    conditions.set("A", True, "Done")
    conditions.root("Ready", ["A"])
    assert [condition.observed_generation for condition in conditions.result()] == [3, 3]


def test_all_six_fields_go_on_the_wire() -> None:
    conditions = fresh()
    conditions.set("A", True, "Done")
    (written,) = to_wire(conditions.result())
    assert written == {
        "type": "A",
        "status": "True",
        "reason": "Done",
        "message": "",
        "lastTransitionTime": "2030-01-01T00:00:00Z",
        "observedGeneration": 3,
    }
    assert msgspec.convert(written, Condition) == conditions.get("A")
