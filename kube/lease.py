"""Leader election on a coordination.k8s.io Lease: of several replicas one works, the others wait.

Trusts no clock but the local monotonic one: a foreign lease has expired when it has not changed for as long as its holder
promised, measured since we first saw it in that state. Our own counts from the moment before the renewing request was
sent. `may_write` turns False by itself at the renew deadline, whatever the network, the event loop or a hanging request
do; the five seconds between that deadline and the lease's end are the margin in which nobody writes.
Refuses to know what is being led.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from prometheus_client.core import Metric

from kube import errors, metrics
from kube.client import Client
from kube.clock import Clock, SystemClock, micro_timestamp
from kube.codec import codec
from kube.meta import Key, Object, Resource, Wire

log = logging.getLogger(__name__)

R = TypeVar("R")

# client-go demands that many retry periods before the deadline.
JITTER = 1.2
# Waiting candidates stretch their period by up to so much, so that they do not all ask at once. client-go's 1.2 would let a
# hand-over take more than twice the retry period.
STAGGER = 0.25
RELEASE_SECONDS = 5.0
# client-go's health check: how long after its lease has run out a leader may take to stop.
STUCK_SECONDS = 20.0


class LeadershipLost(errors.KubeError):
    """Somebody else holds the lease, or it could not be renewed in time. The process should end."""


class LeaseSpec(Wire, frozen=True, kw_only=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Object, frozen=True, kw_only=True):
    spec: LeaseSpec = LeaseSpec()


LEASES = Resource(Lease, "coordination.k8s.io", "v1", "leases", "Lease")


def check_durations(lease_duration: float, renew_deadline: float, retry_period: float) -> None:
    """Raise ValueError where no time would be left to retry a renewal, or in which nobody writes."""
    if not math.inf > lease_duration > renew_deadline > JITTER * retry_period > 0:
        raise ValueError(
            f"a lease of {lease_duration:g} s must outlast its renew deadline of {renew_deadline:g} s, "
            f"and that must outlast {JITTER:g} retry periods of {retry_period:g} s"
        )


class LeaderElector:
    """One candidate. `identity` must be unique among the candidates, also across restarts of a pod.

    Invariant: `may_write` is True only between the start of a successful renewal and `renew_deadline` after it.
    """

    def __init__(
        self,
        client: Client,
        lease: Key,
        identity: str,
        *,
        lease_duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry_period: float = 2.0,
        clock: Clock | None = None,
    ) -> None:
        check_durations(lease_duration, renew_deadline, retry_period)
        self._client = client
        self._key = lease
        self._identity = identity
        self._lease_duration = lease_duration
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._clock = clock or SystemClock()
        # The lease as we last saw it, whether it has been deleted since, and since when things have been so, on our clock.
        self._seen: Lease | None = None
        self._missing = False
        self._seen_at = 0.0
        self._renewed_at = float("-inf")
        self._answered_at = float("-inf")
        self._working = False
        self._slow_paths = 0
        self.leading = False
        metrics.publish(self)

    def may_write(self) -> bool:
        """Whether nobody else can be leading right now. Ask before every write; `Client.guard` does."""
        return self.leading and self._remaining() > 0

    def reachable(self) -> bool:
        """For readiness: whether the lease was read or written lately, by a leader or by a candidate."""
        return self._clock.monotonic() <= self._answered_at + self._lease_duration

    def ended(self) -> bool:
        """Whether work that had lost its lease really ended; for liveness, which then ends the process for us."""
        overdue = self._clock.monotonic() > self._renewed_at + self._lease_duration + STUCK_SECONDS
        return not (self._working and overdue)

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, run `lead` while it is renewed, and release it when `lead` returns or we are cancelled.

        Raises LeadershipLost after `lead` was cancelled and has ended, and whatever `lead` raises.
        """
        try:
            await self._acquire()
            log.info("Leading as %s", self._identity, extra={"lease": str(self._key)})
            await self._lead(lead)
        finally:
            ours, self.leading = self.may_write(), False
            if ours:
                await self._release()

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` beside the renewal; the first to end ends the other."""
        self._working = True
        working = asyncio.ensure_future(lead())
        renewing = asyncio.ensure_future(self._renew())
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The lease is given up only after the work has really ended.
            await _cancel(working)
            await _cancel(renewing)
            self._working = False
        failures = [task.exception() for task in (renewing, working) if not task.cancelled()]
        for failure in failures:
            if failure is not None:
                raise failure

    async def _acquire(self) -> None:
        while not await self._attempt(self._renew_deadline):
            await self._clock.sleep(self._retry_period * (1 + random.random() * STAGGER))

    async def _renew(self) -> None:
        """Renew every retry period. Raises LeadershipLost at the deadline even while requests hang."""
        while self.leading and self._remaining() > 0:
            # Half the deadline per attempt: one lost packet must leave time for a second one.
            await self._clock.sleep(min(self._retry_period, self._remaining()))
            await self._attempt(min(self._remaining(), self._renew_deadline / 2))
        self.leading = False
        raise LeadershipLost(f"the lease {self._key} was lost or not renewed within {self._renew_deadline:g} s")

    def _remaining(self) -> float:
        return self._renewed_at + self._renew_deadline - self._clock.monotonic()

    async def _attempt(self, seconds: float) -> bool:
        """Try once to acquire or renew, for at most `seconds`. Every failure is just a failed attempt."""
        if seconds <= 0:
            return False
        try:
            ours = await _within(self._clock, seconds, self._acquire_or_renew())
        except errors.KubeError as error:
            log.info("Acquiring or renewing the lease failed: %s", error, extra={"lease": str(self._key)})
        except Exception:  # what we did not think of is a failed attempt too, never a leader that does not know
            log.exception("Acquiring or renewing the lease failed", extra={"lease": str(self._key)})
        else:
            self._answered_at = self._clock.monotonic()
            return ours
        return False

    async def _acquire_or_renew(self) -> bool:
        started = self._clock.monotonic()
        if self.leading and self._seen is not None:
            with contextlib.suppress(errors.Conflict, errors.NotFound):
                # Fast path: nobody but us should have touched it, and the precondition tells if somebody did.
                self._hold(await self._write(self._seen), started)
                return True
        self._slow_paths += 1
        try:
            self._observe(await self._client.get(LEASES, self._key))
        except errors.NotFound:
            return await self._recreate(started)
        assert self._seen is not None
        if not self._free(self._seen.spec):
            if self.leading:
                log.warning("Another replica holds the lease", extra={"holder": self._seen.spec.holder_identity})
                self.leading = False
            return False
        self._hold(await self._write(self._seen), started)
        return True

    async def _recreate(self, started: float) -> bool:
        """Make the lease that is not there. If there was one, somebody may lead by it who does not know yet."""
        if not self._missing:
            self._missing, self._seen_at = True, self._clock.monotonic()
        if self._seen is not None and not self.leading and not self._lapsed(self._seen.spec):
            return False
        self._hold(await self._create(), started)
        return True

    def _free(self, spec: LeaseSpec) -> bool:
        """Whether the lease is ours, nobody's, or unchanged for as long as its holder promised to renew it."""
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return True
        return self._lapsed(spec)

    def _lapsed(self, spec: LeaseSpec) -> bool:
        promised = spec.lease_duration_seconds or self._lease_duration
        # A lease that has vanished may have been taken since we saw it: its last holder is unknown.
        return self._clock.monotonic() >= self._seen_at + max(promised, self._lease_duration if self._missing else 0)

    def _observe(self, lease: Lease) -> None:
        if self._seen is None or self._missing or self._seen.spec != lease.spec:
            self._seen_at = self._clock.monotonic()
        holder = lease.spec.holder_identity
        if holder and holder != self._identity and (self._seen is None or self._seen.spec.holder_identity != holder):
            log.info("Waiting: %s leads", holder, extra={"lease": str(self._key)})
        self._seen, self._missing = lease, False

    def _hold(self, lease: Lease, started: float) -> None:
        self._observe(lease)
        self._renewed_at = started
        self.leading = True

    async def _write(self, seen: Lease) -> Lease:
        """Take or renew the lease, provided that it still is as we saw it."""
        spec = seen.spec
        now = micro_timestamp(self._clock.now())
        ours = spec.holder_identity == self._identity
        transitions = spec.lease_transitions or 0
        patch = self._spec(now, spec.acquire_time or now if ours else now, transitions if ours else transitions + 1)
        return await self._patch(seen.metadata.resource_version, patch)

    async def _create(self) -> Lease:
        now = micro_timestamp(self._clock.now())
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"namespace": self._key.namespace, "name": self._key.name},
            "spec": self._spec(now, now, 0),
        }
        answer = await self._client.request("POST", LEASES.path(self._key.namespace), body=body, guarded=False)
        return codec(LEASES).object(answer)

    async def _release(self) -> None:
        """Let the next one in at once instead of after the lease has expired."""
        with contextlib.suppress(TimeoutError, errors.KubeError, ValueError):  # ValueError: an answer that is no lease
            await _within(self._clock, RELEASE_SECONDS, self._give_up())

    async def _give_up(self) -> None:
        while self._seen is not None and self._seen.spec.holder_identity == self._identity:
            now = micro_timestamp(self._clock.now())
            spec = {**self._spec(now, now, self._seen.spec.lease_transitions or 0), "holderIdentity": ""}
            try:
                await self._patch(self._seen.metadata.resource_version, {**spec, "leaseDurationSeconds": 1})
            except errors.Conflict:
                self._seen = await self._client.get(LEASES, self._key)
            else:
                return

    async def _patch(self, resource_version: str, spec: dict[str, Any]) -> Lease:
        answer = await self._client.request(
            "PATCH",
            LEASES.path(*self._key),
            body={"metadata": {"resourceVersion": resource_version}, "spec": spec},
            content_type="application/merge-patch+json",
            guarded=False,  # this is the write that the guard waits for
        )
        return codec(LEASES).object(answer)

    def _spec(self, renewed: str, acquired: str, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._lease_duration),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        }

    def collect(self) -> Iterator[Metric]:
        name = [self._key.name]
        status = {"leader_election_master_status": ("1 while this process leads.", float(self.may_write()))}
        yield from metrics.gauges(["name"], name, status)
        slow = {"leader_election_slowpath": ("Renewals that had to read the lease first.", float(self._slow_paths))}
        yield from metrics.counters(["name"], name, slow)


async def _within(clock: Clock, seconds: float, work: Coroutine[Any, Any, R]) -> R:
    """Await `work` for at most `seconds` of `clock`. Raises ConnectionFailed when that was not enough."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({task, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise errors.ConnectionFailed(f"no answer within {seconds:.1f} s")
        return task.result()
    finally:
        await _cancel(task)
        await _cancel(timer)


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel `task` and wait for its end, without taking its result or our own cancellation for anything else."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
