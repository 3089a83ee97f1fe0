"""Delays: monotone, bounded, forgotten, and within the envelope that protects the API server."""

from hypothesis import given
from hypothesis import strategies as st

from kube.backoff import Bucket, ExponentialBackoff, ItemExponential, MaxOf, default_backoff
from test.clock import VirtualClock


@given(base=st.floats(0.001, 10), cap=st.floats(10, 1e6), failures=st.integers(0, 200))
def test_each_failure_doubles_the_delay_up_to_the_cap(base: float, cap: float, failures: int) -> None:
    limit: ItemExponential[str] = ItemExponential(base, cap)
    for count in range(failures):
        assert limit.failures("a") == count
        assert limit.when("a") == min(cap, base * 2**count)
    assert limit.when("b") == base
    limit.forget("a")
    assert limit.when("a") == base


def test_a_million_failures_overflow_nothing() -> None:
    limit: ItemExponential[str] = ItemExponential()
    limit._failures["a"] = 10**6
    assert limit.when("a") == 1000


def test_nothing_is_kept_of_forgotten_keys() -> None:
    limit: ItemExponential[int] = ItemExponential()
    for key in range(1000):
        limit.when(key)
        limit.forget(key)
    assert not limit._failures


@given(
    rate=st.floats(0.1, 100),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 10), min_size=1, max_size=100),
)
def test_a_bucket_grants_no_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    clock = VirtualClock()
    bucket: Bucket[str] = Bucket(rate, burst, clock)
    granted = []
    for gap in gaps:
        clock.jump(gap)
        granted.append(clock.monotonic() + bucket.when("a"))
    assert granted == sorted(granted)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + rate * (granted[last] - granted[first]) + 1e-6


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_the_longest_of_several_delays_counts(keys: list[str]) -> None:
    clock = VirtualClock()
    parts = ItemExponential[str](1, 60), Bucket[str](0.5, 2, clock)
    alone = ItemExponential[str](1, 60), Bucket[str](0.5, 2, clock)
    both = MaxOf[str](*parts)
    for key in keys:
        assert both.when(key) == max(limit.when(key) for limit in alone)
    assert both.failures("a") == keys.count("a")
    both.forget("a")
    assert both.failures("a") == 0


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=100, max_size=100))
def test_a_dead_server_is_asked_at_most_eight_times_in_a_minute_and_then_rarely(chances: list[float]) -> None:
    clock = VirtualClock()
    backoff = ExponentialBackoff(clock=clock, jitter=iter(chances).__next__)
    begin, attempts = clock.monotonic(), [0.0]
    while attempts[-1] < 660:
        delay = backoff.next()
        assert 0.8 <= delay <= 60
        clock.jump(delay)
        attempts.append(clock.monotonic() - begin)
    assert sum(moment < 60 for moment in attempts) <= 8
    assert sum(60 <= moment < 660 for moment in attempts) / 600 <= 0.06


def test_good_connection_begins_anew() -> None:
    backoff = ExponentialBackoff(clock=VirtualClock(), jitter=lambda: 0)
    assert [backoff.next() for _ in range(3)] == [0.8, 1.6, 3.2]
    backoff.reset()
    assert backoff.next() == 0.8


def test_no_haste_waits_longest_and_stays_there() -> None:
    backoff = ExponentialBackoff(clock=VirtualClock(), jitter=lambda: 0)
    assert [backoff.longest(), backoff.next(), backoff.longest()] == [30, 30, 30]


def test_default_is_client_gos() -> None:
    clock = VirtualClock()
    limit = default_backoff(clock)
    assert [limit.when("a") for _ in range(4)] == [0.005, 0.01, 0.02, 0.04]
    for _ in range(16):
        limit.when("a")
    assert limit.when("a") == 1000
    for key in range(100 - 21):
        assert limit.when(key) == 0.005
    assert [round(limit.when(key), 6) for key in range(100, 103)] == [0.1, 0.2, 0.3]


def test_two_quiet_minutes_begin_anew() -> None:
    clock = VirtualClock()
    backoff = ExponentialBackoff(clock=clock, jitter=lambda: 0)
    assert [backoff.next() for _ in range(7)] == [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30]
    clock.jump(121)
    assert backoff.next() == 0.8


def test_backoff_is_exhausted_from_its_longest_delay_until_it_begins_anew() -> None:
    clock = VirtualClock()
    backoff = ExponentialBackoff(clock=clock, jitter=lambda: 0)
    for begin_anew in (backoff.reset, lambda: clock.jump(121)):
        seen = [(backoff.next(), backoff.exhausted) for _ in range(8)]
        assert [delay for delay, exhausted in seen if exhausted] == [30, 30]
        begin_anew()
        assert (backoff.next(), backoff.exhausted) == (0.8, False)
        backoff.reset()
    assert (backoff.longest(), backoff.exhausted) == (30, True)
