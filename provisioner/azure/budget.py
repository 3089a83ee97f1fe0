"""How often ARM may be asked: token buckets below the documented limits, and one pause for everybody after a 429.

A short wait is slept through; a long pause is told (`Throttled`), so that whoever would wait can do something else meanwhile.
Documented for AKS: 60 requests at once and 1/s after for GET, LIST and DELETE of agent pools; 20 and 1/min for PUT of one
pool; 60 and 1/s for the managed cluster. Other clients (az, Terraform, the portal) share them, so we take less. Knows
nothing of what a request says.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kube.clock import Clock
from provisioner.cloud import Throttled

READ_BURST, READ_RATE = 60.0, 0.8
CLUSTER_BURST, CLUSTER_RATE = 30.0, 0.5
BACKGROUND_RESERVE = 10.0  # what a routine LIST leaves to requests that somebody waits for

PUT_BURST, PUT_RATE = 10.0, 1 / 60  # per pool; half the burst that AKS allows, since a person may want to try as well
CONCURRENT_MUTATIONS = 10
LONGEST_PAUSE = 5.0  # seconds of a pause that are slept through


class Bucket:
    """A token bucket whose tokens may be owed: each caller reserves its turn and waits for it, first come first served."""

    def __init__(self, burst: float, rate: float, clock: Clock) -> None:
        self._burst, self._rate, self._clock = burst, rate, clock
        self._tokens, self._at = burst, clock.monotonic()

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def reserve(self, leave: float = 0.0) -> float:
        """Take one token and return the seconds until it is really there, with `leave` tokens left to others."""
        self._refill()
        self._tokens -= 1
        return max(0.0, (leave - self._tokens) / self._rate)

    def take(self) -> float:
        """Take one token if there is one and return 0, or else the seconds until there will be; takes nothing then."""
        self._refill()
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    @property
    def full(self) -> bool:
        self._refill()
        return self._tokens >= self._burst


class Budget:
    """One per process: every ARM request passes through it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reads = Bucket(READ_BURST, READ_RATE, clock)
        self._cluster = Bucket(CLUSTER_BURST, CLUSTER_RATE, clock)
        self._mutations = asyncio.Semaphore(CONCURRENT_MUTATIONS)
        self._paused_until = 0.0
        self._puts: dict[str, Bucket] = {}

    def pause(self, seconds: float) -> None:
        """Hold back everything: ARM has said 429. A shorter pause never shortens a longer one."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    async def read(self, *, background: bool = False) -> None:
        self._check_pause()
        await self._wait(self._reads.reserve(BACKGROUND_RESERVE if background else 0.0))

    async def read_cluster(self) -> None:
        self._check_pause()
        await self._wait(self._cluster.reserve())

    @asynccontextmanager
    async def delete(self) -> AsyncIterator[None]:
        self._check_pause()
        await self._wait(self._reads.reserve())
        async with self._mutations:
            await self._wait(0.0)
            yield

    @asynccontextmanager
    async def put(self, name: str) -> AsyncIterator[None]:
        """Raises Throttled, with nothing sent, when this pool has had its share."""
        self._check_pause()
        self._puts = {each: bucket for each, bucket in self._puts.items() if not bucket.full}
        wait = self._puts.setdefault(name, Bucket(PUT_BURST, PUT_RATE, self._clock)).take()
        if wait:
            raise Throttled(f"Agent pool {name} has been asked for too often; waiting {wait:.0f} s", retry_after=wait)
        async with self._mutations:
            await self._wait(0.0)
            yield

    def _check_pause(self) -> None:
        left = self._paused_until - self._clock.monotonic()
        if left > LONGEST_PAUSE:
            raise Throttled(f"Azure limits our requests: the next one goes out in {left:.0f} s", retry_after=left)

    async def _wait(self, seconds: float) -> None:
        """Sleep until both the token and the end of a pause have come. Raises Throttled when that has become a long one.

        A pause may begin or grow meanwhile, so whoever has queued for something else comes here again before it sends.
        """
        until = self._clock.monotonic() + seconds
        while (left := max(until, self._paused_until) - self._clock.monotonic()) > 0:
            self._check_pause()
            await self._clock.sleep(left)
