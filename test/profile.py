"""How hypothesis runs here, for both environments: no verdict about time, which says something of the machine and not of us."""

from hypothesis import HealthCheck, settings


def load() -> None:
    settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared")
