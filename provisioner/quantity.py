"""Kubernetes quantities ("1024Gi", "500m") and durations ("1h30m") as numbers. Pure."""

import re
from datetime import timedelta
from decimal import Decimal, InvalidOperation

SUFFIXES = {
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), 1)},
    "": Decimal(1),
}
DURATION = re.compile(r"(\d+)([smh])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


def parse_quantity(text: str) -> Decimal:
    """Raises ValueError on what is not a quantity."""
    suffix = next((each for each in SUFFIXES if each and text.endswith(each)), "")
    try:
        return Decimal(text.removesuffix(suffix)) * SUFFIXES[suffix]
    except InvalidOperation as error:
        raise ValueError(f"not a quantity: {text!r}") from error


def parse_duration(text: str) -> timedelta:
    """A metav1.Duration of whole hours, minutes and seconds, as the NodeClaim schema allows it."""
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration: {text!r}")
    return sum((timedelta(**{UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
