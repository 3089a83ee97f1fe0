"""Alive, hung or merely busy, as seen over time."""

from runtime.engine.health import QUIET, SILENT, Vitals


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_busy_engine_that_moves_tokens_is_never_questioned() -> None:
    time = Time()
    vitals = Vitals(time)
    for tokens in range(20):
        time.now += QUIET / 2
        assert not vitals.progress(pending=100, tokens=float(tokens))


def test_an_engine_that_owes_answers_and_moves_nothing_is_questioned_after_a_while() -> None:
    time = Time()
    vitals = Vitals(time)
    assert not vitals.progress(3, 10.0)
    time.now += QUIET - 1
    assert not vitals.progress(3, 10.0)
    time.now += 1
    assert vitals.progress(3, 10.0)
    assert vitals.alive


def test_an_idle_engine_owes_nothing() -> None:
    time = Time()
    vitals = Vitals(time)
    time.now += 10 * QUIET
    assert not vitals.progress(0, 0.0)


def test_a_server_that_is_silent_for_long_is_hung_and_a_short_pause_is_not() -> None:
    time = Time()
    vitals = Vitals(time)
    time.now += SILENT - 1
    vitals.unanswered()
    assert vitals.alive
    vitals.answered()
    time.now += SILENT
    vitals.unanswered()
    assert not vitals.alive
    assert vitals.why == "the engine's server has not answered for 60 s"


def test_the_first_reason_stays() -> None:
    vitals = Vitals(Time())
    vitals.condemn("first")
    vitals.condemn("second")
    assert vitals.why == "first"
