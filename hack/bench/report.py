"""Results as a table for people, as JSON for machines, and as a part of docs/performance.md. Formats and nothing else."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hack.bench.measurements import Measurement, Result
from hack.bench.stats import Summary

BEGIN = "<!-- begin: written by python -m hack.bench.kube --write-docs -->"
END = "<!-- end -->"
COLUMNS = ("", "measurement", "ours", "target", "", "beside it")


def as_json(results: Iterable[Result]) -> str:
    return json.dumps([_plain(result) for result in results], ensure_ascii=False, indent=1) + "\n"


def _plain(result: Result) -> Mapping[str, Any]:
    measurement = result.measurement
    unit = measurement.shown_unit or measurement.unit
    return {
        "name": f"{measurement.id} {measurement.name}",
        "value": None if result.value is None else _finite(result.value.median),
        "unit": measurement.unit,
        "target": None if measurement.target is None else str(measurement.target),
        "ok": result.ok,
        "range": None if result.value is None else [_finite(result.value.least), _finite(result.value.most)],
        "peers": {name: {**_numbers(summary), "unit": unit} for name, summary in result.peers.items()},
    }


def _numbers(summary: Summary) -> Mapping[str, float | None]:
    return {"value": _finite(summary.median), "min": _finite(summary.least), "max": _finite(summary.most)}


def _finite(value: float) -> float | None:
    """JSON knows no infinity; null says that it never happened."""
    return None if math.isinf(value) else round(value, 6)


def table(results: Sequence[Result]) -> str:
    """Columns of equal width, for a terminal."""
    rows = [COLUMNS, *(_cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    return "\n".join(_line(row, widths) for row in rows) + "\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()


def markdown(results: Sequence[Result]) -> str:
    lines = [_pipes(COLUMNS), _pipes(["---"] * len(COLUMNS)), *(_pipes(_cells(result)) for result in results)]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def insert(document: str, generated: str) -> str:
    """Put `generated` between the two marks. Raises ValueError where the document lacks them."""
    head, rest = document.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{generated}\n{END}{tail}"


def _cells(result: Result) -> tuple[str, ...]:
    measurement = result.measurement
    verdict = "" if measurement.target is None and result.ok else "ok" if result.ok else "MISSED"
    target = "" if measurement.target is None else f"{measurement.target} {measurement.unit}".rstrip()
    return (
        measurement.id,
        measurement.name,
        _shown(result.value, measurement.unit),
        target,
        verdict,
        _beside(measurement, result.peers),
    )


def _beside(measurement: Measurement, peers: Mapping[str, Summary]) -> str:
    unit = measurement.shown_unit or measurement.unit
    return " · ".join(f"{name} {_shown(summary, unit)}" for name, summary in peers.items())


def _shown(summary: Summary | None, unit: str) -> str:
    if summary is None:
        return "not measured"
    middle = number(summary.median) if math.isinf(summary.median) else f"{number(summary.median)} {unit}".rstrip()
    least, most = number(summary.least), number(summary.most)
    return middle if least == most else f"{middle} ({least}…{most})"


def number(value: float) -> str:
    """Three digits that count; never for infinity."""
    if math.isinf(value):
        return "never"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"
