"""The bench's results as people, machines and the documentation see them."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.bench import report
from hack.bench.measurements import Measurement, Result
from hack.bench.stats import Summary, at_most

COST = Measurement("T1", "CPU per event", "x", lambda _: [], at_most(1.6), shown_unit="µs")
PLAIN = Measurement("GC", "RSS per 1,000 Pods", "MiB", lambda _: [], None)
MET = Result(COST, Summary(1.5, 1.4, 1.58), {"floor": Summary(8.9, 8.8, 9.3), "kopf": Summary(836, 820, 1080.4)})
FAILED = Result(COST, None, {})
NEVER = Result(COST, Summary(math.inf, math.inf, math.inf), {})


def test_the_json_is_a_list_of_names_values_units_targets_verdicts_and_peers() -> None:
    [row] = json.loads(report.as_json([MET]))
    assert row == {
        "name": "T1 CPU per event",
        "value": 1.5,
        "unit": "x",
        "target": "≤ 1.6",
        "ok": True,
        "range": [1.4, 1.58],
        "peers": {
            "floor": {"value": 8.9, "min": 8.8, "max": 9.3, "unit": "µs"},
            "kopf": {"value": 836, "min": 820, "max": 1080.4, "unit": "µs"},
        },
    }


def test_what_failed_and_what_never_happened_are_null_and_not_ok() -> None:
    rows = json.loads(report.as_json([FAILED, NEVER]))
    assert [(row["value"], row["ok"]) for row in rows] == [(None, False), (None, False)]


def test_a_line_of_the_table_has_value_spread_target_verdict_and_peers() -> None:
    line = report.table([MET]).splitlines()[1]
    assert line.split("  ") == [
        "T1",
        "CPU per event",
        "1.50 x (1.40…1.58)",
        "≤ 1.6 x",
        "ok",
        "floor 8.90 µs (8.80…9.30) · kopf 836 µs (820…1,080)",
    ]


def test_a_missed_target_and_a_failed_run_cannot_be_overlooked() -> None:
    assert "MISSED" in report.table([Result(COST, Summary(1.61, 1.6, 1.7), {})])
    assert "not measured" in report.table([FAILED])
    assert "MISSED" in report.table([FAILED])


def test_what_has_no_target_gets_no_verdict() -> None:
    assert report.table([Result(PLAIN, Summary(5.4, 5.4, 5.4), {})]).splitlines()[1].split() == (
        ["GC", "RSS", "per", "1,000", "Pods", "5.40", "MiB"]
    )


def test_the_documentation_keeps_everything_around_the_table() -> None:
    document = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    once = report.insert(document, report.markdown([MET]))
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert report.insert(once, report.markdown([MET])) == once


def test_documentation_without_the_marks_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="unpack"):
        report.insert("no marks", "table")


@given(st.floats(min_value=1e-3, max_value=1e9))
def test_a_number_keeps_three_digits_that_count(value: float) -> None:
    assert float(report.number(value).replace(",", "")) == pytest.approx(value, rel=0.051 if value < 0.01 else 0.006)


def test_infinity_is_never_and_zero_is_zero() -> None:
    assert [report.number(value) for value in (math.inf, 0, 0.0217, 1234.5)] == ["never", "0", "0.0217", "1,234"]
