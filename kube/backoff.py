"""How long to wait before trying again: per key for queues, per connection for watches.

Pure arithmetic over an injected clock; nothing here waits itself.
"""

import random
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

from kube.clock import Clock, SystemClock
from kube.errors import ApiError

K = TypeVar("K", bound=Hashable)
KeyT = TypeVar("KeyT", bound=Hashable, contravariant=True)

# The longest Retry-After that is believed.
LONGEST_RETRY_AFTER = 60.0


def asked_to_wait(error: Exception) -> float:
    """Seconds that the API server asked for by Retry-After, as far as that is believed; 0 where it asked for nothing."""
    seconds = error.retry_after if isinstance(error, ApiError) else None
    return min(seconds or 0.0, LONGEST_RETRY_AFTER)


class Backoff(Protocol[KeyT]):
    """The delay of each key's next attempt."""

    def when(self, key: KeyT) -> float:
        """Count one more failure of `key` and return the seconds to wait after it."""

    def forget(self, key: KeyT) -> None:
        """The key succeeded: its next failure is its first."""

    def failures(self, key: KeyT) -> int:
        """Failures of `key` since it was last forgotten."""


class ItemExponential(Generic[K]):
    """base · 2^failures seconds per key, at most `cap`: client-go's 5 ms … 1000 s by default."""

    def __init__(self, base: float = 0.005, cap: float = 1000.0) -> None:
        self._base = base
        self._cap = cap
        self._failures: dict[K, int] = {}

    def when(self, key: K) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        # 2.0 ** 1024 overflows; long before that any cap is reached.
        return min(self._cap, self._base * 2.0 ** min(failures, 60))

    def forget(self, key: K) -> None:
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)


class Bucket(Generic[K]):
    """`rate` attempts per second over all keys after a burst; reservations are kept, so a storm queues up in order."""

    def __init__(self, rate: float, burst: int, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = self._clock.monotonic()

    def when(self, key: K) -> float:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def forget(self, key: K) -> None:
        """Nothing is kept per key."""

    def failures(self, key: K) -> int:
        return 0


class MaxOf(Generic[K]):
    """The longest of several delays; every one of them counts the attempt."""

    def __init__(self, *limits: Backoff[K]) -> None:
        self._limits = limits

    def when(self, key: K) -> float:
        return max(limit.when(key) for limit in self._limits)

    def forget(self, key: K) -> None:
        for limit in self._limits:
            limit.forget(key)

    def failures(self, key: K) -> int:
        return max(limit.failures(key) for limit in self._limits)


def default_backoff(clock: Clock | None = None) -> Backoff[Any]:
    """client-go's DefaultControllerRateLimiter: per key 5 ms … 1000 s, over all keys 10 per second after 100."""
    return MaxOf(ItemExponential(), Bucket(10, 100, clock))


class ExponentialBackoff:
    """Delays between the attempts of one connection: initial · 2^n up to `cap`, each stretched by up to twice.

    client-go's reflector numbers: about seven attempts in the first minute, then one in 45 s. Two minutes without a
    failure begin anew. (client-go begins anew every two minutes even while everything fails; that only adds load.)
    """

    def __init__(
        self,
        initial: float = 0.8,
        cap: float = 30.0,
        *,
        quiet: float = 120.0,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._initial = initial
        self._cap = cap
        self._quiet = quiet
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self._next = initial
        self._last = 0.0
        self._failed_at = self._clock.monotonic()

    @property
    def exhausted(self) -> bool:
        """Whether the last delay was as long as they get: what fails has been failing for about a minute."""
        return self._last >= self._cap

    def next(self) -> float:
        """Count a failure and return the seconds to wait after it."""
        now = self._clock.monotonic()
        if now - self._failed_at > self._quiet:
            self._next = self._initial
        self._failed_at = now
        self._last = self._next
        self._next = min(self._cap, self._last * 2)
        return self._last * (1 + self._jitter())

    def reset(self) -> None:
        """The connection was good: its next failure is its first."""
        self._next, self._last = self._initial, 0.0

    def longest(self) -> float:
        """Count a failure that no haste will mend, and return the longest delay, stretched as usual."""
        self._next = self._cap
        self._failed_at = self._clock.monotonic()
        return self.next()
