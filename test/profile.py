"""How hypothesis runs here, for both environments: no verdict about time, which says something of the machine and not of us.

`--hypothesis-profile=nightly` makes the long searches long: tests whose number of examples is `examples(few, many)`.
"""

from hypothesis import HealthCheck, settings

DEFAULT = "shared"
NIGHTLY = "nightly"


def load() -> None:
    settings.register_profile(DEFAULT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(NIGHTLY, settings.get_profile(DEFAULT), print_blob=True)
    settings.load_profile(DEFAULT)


def examples(few: int, many: int) -> int:
    """How often a test draws: `few` times in `make test`, `many` times in a nightly run."""
    return many if settings.get_current_profile_name() == NIGHTLY else few
