"""Medians, ratios and targets of the bench: the arithmetic that decides whether a target is met."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.bench.stats import Summary, at_least, at_most, never_above, ratios

measured = st.lists(st.floats(min_value=0.001, max_value=1e6), min_size=1, max_size=9)


@given(measured)
def test_the_median_is_one_of_the_values_and_lies_between_the_least_and_the_most(values: list[float]) -> None:
    summary = Summary.of(values)
    assert summary.median in values
    assert min(values) == summary.least <= summary.median <= summary.most == max(values)


def test_one_repetition_that_never_ended_does_not_make_the_median_meaningless() -> None:
    assert Summary.of([1.0, math.inf, 2.0]) == Summary(2.0, 1.0, math.inf)
    assert Summary.of([1.0, math.inf]).median == 1.0


def test_nothing_cannot_be_summed_up() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Summary.of([])


@given(measured, st.floats(min_value=0.1, max_value=10))
def test_a_ratio_is_the_same_however_slow_a_repetition_was(values: list[float], slower: float) -> None:
    both = ratios([3 * value * slower for value in values], [value * slower for value in values])
    assert both == pytest.approx([3.0] * len(values))


def test_repetitions_that_do_not_pair_up_give_no_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


def test_a_target_says_from_which_side_the_median_meets_it() -> None:
    assert at_most(1.6).met(Summary(1.6, 1.5, 1.7))
    assert not at_most(1.6).met(Summary(1.61, 1.5, 1.7))
    assert at_least(50).met(Summary(50, 49, 51))
    assert not at_least(50).met(Summary(49.9, 49, 51))
    assert [str(at_most(0.3)), str(at_least(50))] == ["≤ 0.3", "≥ 50"]


def test_what_may_never_be_exceeded_is_judged_by_its_worst_repetition() -> None:
    assert never_above(30).met(Summary(3, 2, 30))
    assert not never_above(30).met(Summary(3, 2, 30.1))
    assert str(never_above(30)) == "always ≤ 30"
