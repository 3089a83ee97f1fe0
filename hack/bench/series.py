"""Picking out of what runs printed: one figure, or one made of several, as a value per repetition."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hack.bench.stats import ratios

# What each run printed, by its name: one mapping per repetition.
Figures = Mapping[str, Sequence[Mapping[str, Any]]]
Series = Callable[[Figures], list[float]]
NEVER = float("inf")


def of(run: str, figure: str, scale: float = 1.0) -> Series:
    """One figure of one run; null means never."""

    def series(figures: Figures) -> list[float]:
        values = [each[figure] for each in figures[run]]
        return [NEVER if value is None else value * scale for value in values]

    return series


def over(numerator: Series, denominator: Series) -> Series:
    return lambda figures: ratios(numerator(figures), denominator(figures))


def largest(*choices: Series) -> Series:
    return lambda figures: [max(values) for values in zip(*(series(figures) for series in choices), strict=True)]
