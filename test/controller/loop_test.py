"""The loop itself: what must have happened before the first Workspace is looked at. The server is in memory and picks the order."""

import asyncio
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from controller.loop import Loop
from controller.reconcile import Reconciler
from kube import health
from kube.api.nodeclaim import NODE_CLAIMS
from kube.api.workload import JOBS, NODES, PODS, SERVICES, STATEFUL_SETS
from kube.api.workspace import WORKSPACES
from kube.meta import Resource
from test.clock import VirtualClock
from test.controller.stage import SETTINGS
from test.kube.source import Source
from test.reconciles import count_runs

READ: list[Resource[Any]] = [WORKSPACES, NODES, PODS, STATEFUL_SETS, JOBS, SERVICES, NODE_CLAIMS]


@pytest.mark.parametrize("last", [resource.plural for resource in READ])
async def test_no_workspace_is_looked_at_before_every_store_is_full(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = Source(), VirtualClock()
    source.histories[WORKSPACES.plural].put("demo")
    source.gates[last].clear()
    loop = Loop(source.client, SETTINGS, clock=clock, registry=CollectorRegistry())
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
    loop = Loop(source.client, SETTINGS, clock=clock, registry=CollectorRegistry())
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
