"""The loop itself: what must have happened before the first claim is looked at. The server is in memory and picks the order."""

import asyncio

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from kube import health
from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS
from kube.api.workload import NODES
from provisioner.loop import Loop
from provisioner.reconcile import Reconciler
from provisioner.settings import Settings
from test.clock import VirtualClock
from test.kube.source import Source
from test.provisioner.inventory_test import SlowCloud
from test.reconciles import count_runs


@pytest.mark.parametrize("last", [NODE_CLAIMS.plural, NODES.plural])
async def test_no_claim_is_looked_at_before_every_store_is_full(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = Source(), VirtualClock()
    claims = source.histories[NODE_CLAIMS.plural]
    claims.put("demo")
    claims.objects["demo"]["metadata"]["labels"] = {labels.WORKSPACE: "demo"}
    source.gates[last].clear()
    loop = Loop(
        source.client, SlowCloud(clock), Settings("subscription", "group", "cluster", identity="test"), clock=clock
    )
    running = asyncio.ensure_future(loop.run())
    await clock.advance(60)
    assert not loop.synced()
    assert not runs
    source.gates[last].set()
    await clock.settle()
    assert loop.synced()
    assert len(runs) == 1
    running.cancel()
    await asyncio.wait({running})


async def test_kind_that_may_not_be_read_is_seen_by_whoever_probes() -> None:
    source, clock = Source(), VirtualClock()
    source.forbidden.add(NODES.plural)
    loop = Loop(
        source.client, SlowCloud(clock), Settings("subscription", "group", "cluster", identity="test"), clock=clock
    )
    running = asyncio.ensure_future(loop.run())
    checks = {"stores": loop.synced, "permissions": loop.permitted}
    async with (
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
    running.cancel()
    await asyncio.wait({running})
