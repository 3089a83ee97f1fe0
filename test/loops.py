"""What holds for the loop of either controller, on a server in memory that picks the order of things."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import aiohttp
from prometheus_client import CollectorRegistry

from kube import health
from kube.lease import LeaderElector
from kube.meta import Key
from kube.store import Store
from test.background import endless
from test.clock import VirtualClock
from test.kube.source import Source


class Loop(Protocol):
    async def run(self, elector: LeaderElector | None = None) -> None: ...
    def synced(self) -> bool: ...
    def permitted(self) -> bool: ...


async def check_every_store_comes_first(
    loop: Loop, source: Source, clock: VirtualClock, last: str, runs: Counter[Key]
) -> None:
    """The one object of the server is reconciled once the `last` kind has been read, and not before."""
    source.gates[last].clear()
    async with endless(loop.run()):
        await clock.advance(60)
        assert not loop.synced()
        assert not runs
        source.gates[last].set()
        await clock.settle()
        assert loop.synced()
        assert len(runs) == 1


class Standby:
    """Stands for a `LeaderElector`: it leads when the test says so."""

    def __init__(self) -> None:
        self.elected = asyncio.Event()

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        await self.elected.wait()
        await work()


async def check_successor_reads_anew(
    loop: Loop, source: Source, clock: VirtualClock, behind: str, store: Store[Any], runs: Counter[Key]
) -> None:
    """Its stores are full, and its watches do not know that they are behind: with these a second machine was bought."""
    standby = Standby()
    async with endless(loop.run(cast(LeaderElector, standby))):
        await clock.settle()
        assert loop.synced()
        source.stall()
        source.histories[behind].put("written")
        source.gates[behind].clear()
        standby.elected.set()
        await clock.advance(60)
        assert not runs
        source.gates[behind].set()
        await clock.settle()
        assert len(runs) >= 1
        assert "written" in {key.name for key in store.objects()}


async def check_refusal_is_seen(loop: Loop, source: Source, clock: VirtualClock, kind: str) -> None:
    """A kind that may not be read shows in /readyz, until it may."""
    source.forbidden.add(kind)
    checks = {"stores": loop.synced, "permissions": loop.permitted}
    async with (
        endless(loop.run()),
        await health.serve("127.0.0.1", 0, checks=checks, registry=CollectorRegistry()) as served,
        aiohttp.ClientSession(f"http://127.0.0.1:{served.port}") as session,
    ):

        async def probe(name: str) -> int:
            async with session.get(f"/readyz/{name}") as answer:
                return int(answer.status)

        await clock.advance(120)
        assert (await probe("permissions"), await probe("stores")) == (500, 500)
        source.forbidden.clear()
        await clock.advance(61)
        assert (await probe("permissions"), await probe("stores")) == (200, 200)
