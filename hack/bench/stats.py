"""Summing up repetitions: median, least, most. Pure arithmetic; an infinite value stands for "never"."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """What one figure was over all repetitions."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Sum up. Raises ValueError where there is nothing."""
        if not values:
            raise ValueError("nothing was measured")
        # The lower of two middle values: a mean with infinity says nothing.
        return cls(statistics.median_low(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Quotients within each repetition, so that what disturbed one repetition disturbs both sides of its quotient."""
    return [above / below if below else math.inf for above, below in zip(numerators, denominators, strict=True)]


@dataclass(frozen=True)
class Target:
    """What a figure has to keep: its median, or where it is to hold `always`, each repetition of it."""

    limit: float
    at_least: bool
    always: bool = False

    def met(self, summary: Summary) -> bool:
        worst = summary.least if self.at_least else summary.most
        value = worst if self.always else summary.median
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'always ' if self.always else ''}{'≥' if self.at_least else '≤'} {self.limit:g}"


def at_most(limit: float) -> Target:
    return Target(limit, at_least=False)


def never_above(limit: float) -> Target:
    return Target(limit, at_least=False, always=True)


def at_least(limit: float) -> Target:
    return Target(limit, at_least=True)
