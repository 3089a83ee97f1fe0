"""A client whose line can be pulled: from then on each request is written down and fails at once, without a socket.

So a controller can be watched in virtual time, exactly: nothing is under way while a clock moves. That the same holds for
processes and real minutes is for a nightly run.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from kube import errors
from kube.client import Client
from kube.clock import Clock
from kube.events import TRY_SECONDS
from kube.lease import LeaderElector
from kube.meta import Key
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.fault_rate_test import MINUTES, check_rate


class Unplugged(Client):
    """`attempts` is who asked for what while the line was pulled: moment, method, path."""

    pulled = False
    armed = False  # the next write pulls the line before it is sent

    def __init__(self, *arguments: Any, clock: Clock, **options: Any) -> None:
        super().__init__(*arguments, clock=clock, **options)
        self._time = clock
        self._open: set[aiohttp.ClientResponse] = set()
        self._under_way = 0  # requests from before they are sent until their connection is closed or given back
        self.attempts: list[tuple[float, str, str]] = []

    @asynccontextmanager
    async def _send(self, method: str, path: str, *rest: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        if self.armed and method != "GET":
            self.pull()
        if self.pulled:
            self.attempts.append((self._time.monotonic(), method, path))
            raise errors.ConnectionFailed("the line is pulled")
        self._under_way += 1
        try:
            async with super()._send(method, path, *rest) as response:
                if self.pulled:  # meanwhile
                    response.close()
                    raise errors.ConnectionFailed("the line was pulled")
                self._open.add(response)
                try:
                    yield response
                finally:
                    self._open.discard(response)
        finally:
            self._under_way -= 1

    def pull(self) -> None:
        """No request goes through any more, and what is open ends."""
        self.pulled = True
        for response in self._open:
            response.close()

    async def ended(self) -> None:
        """Wait until all that was under way when the line was pulled has ended: a handshake and its end take real time."""
        assert self.pulled
        await self.answered()

    async def answered(self) -> None:
        """Wait until nothing is under way; an open watch is."""
        await eventually(self.idle)

    def idle(self) -> bool:
        return not self._under_way

    def paths(self) -> set[str]:
        return {path for _, _, path in self.attempts}

    def of(self, path: str) -> list[float]:
        """When `path` was asked for."""
        return [moment for moment, _, asked in self.attempts if asked == path]


@asynccontextmanager
async def unplugged(kubeconfig: str, clock: Clock) -> AsyncIterator[Unplugged]:
    async with await Unplugged.connect(user_agent="test", kubeconfig=kubeconfig, clock=clock) as client:
        assert isinstance(client, Unplugged)
        yield client


async def until(clock: VirtualClock, holds: Any) -> None:
    """Let real sockets and virtual time go on together, as slowly as the sockets, until something holds."""

    async def moved() -> bool:
        await clock.advance(0.05)
        return bool(holds())

    await eventually(moved, timeout=30)


def standby(client: Client, clock: Clock) -> LeaderElector:
    """A candidate for a lease that somebody else holds."""
    return LeaderElector(client, Key("default", "held"), "standby", clock=clock)


LEASE_PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases/held"
LEASE_OF_ANOTHER = {
    "metadata": {"namespace": "default", "name": "held"},
    "spec": {"holderIdentity": "another", "leaseDurationSeconds": 10**6},
}


# client-go's delays after failures: 5 ms, and twice as long each time. 17 fit into ten minutes.
RETRIES = 18


def _tries(path: str) -> float:
    """How often something that was to be written may be tried in ten minutes. Events go out one after the other."""
    return RETRIES + MINUTES * 60 / TRY_SECONDS if path.endswith("/events") else RETRIES


def check(client: Unplugged, watched: Collection[str], *, lease: int = 0) -> None:
    """For ten minutes each watch kept to its rate, the candidate to its period, and what failed was tried ever more rarely."""
    assert set(watched) <= client.paths()
    for path in client.paths():
        if path in watched:
            check_rate(client.of(path))
        else:
            assert len(client.of(path)) <= (lease if path == LEASE_PATH else _tries(path)), path


PASS = MINUTES * 60.0
