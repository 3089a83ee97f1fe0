"""How hypothesis runs here, for both environments: no verdict about time, which says something of the machine and not of us.

`--hypothesis-profile=nightly` makes the long searches long: tests whose number of examples is `examples(few, many)`.
"""

from hypothesis import HealthCheck, Phase, settings

DEFAULT = "shared"
NIGHTLY = "nightly"
MUTANTS = "mutants"


def load() -> None:
    settings.register_profile(DEFAULT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile(NIGHTLY, settings.get_profile(DEFAULT), print_blob=True)
    # One verdict per mutant (hack/mutants.py), the same each time, and soon: no smaller example is looked for.
    phases = [Phase.explicit, Phase.generate]
    settings.register_profile(MUTANTS, settings.get_profile(DEFAULT), phases=phases, derandomize=True, database=None)
    settings.load_profile(DEFAULT)


def examples(few: int, many: int) -> int:
    """How often a test draws: `few` times in `make test`, `many` times in a nightly run."""
    return many if settings.get_current_profile_name() == NIGHTLY else few
