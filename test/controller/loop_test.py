"""The loop itself: what must have happened before the first Workspace is looked at. The server is in memory and picks the order."""

from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from controller.loop import Loop
from controller.reconcile import Reconciler
from kube.api.nodeclaim import NODE_CLAIMS
from kube.api.workload import JOBS, NODES, PODS, SERVICES, STATEFUL_SETS
from kube.api.workspace import WORKSPACES
from kube.lease import LeaderElector
from kube.meta import Resource
from test.background import endless
from test.clock import VirtualClock
from test.controller.stage import SETTINGS
from test.kube.source import Source
from test.loops import Standby, check_every_store_comes_first, check_refusal_is_seen, check_successor_reads_anew
from test.reconciles import count_runs

READ: list[Resource[Any]] = [WORKSPACES, NODES, PODS, STATEFUL_SETS, JOBS, SERVICES, NODE_CLAIMS]


def loop_on(source: Source, clock: VirtualClock) -> Loop:
    return Loop(source.client, SETTINGS, clock=clock, registry=CollectorRegistry())


@pytest.mark.parametrize("last", [resource.plural for resource in READ])
async def test_no_workspace_is_looked_at_before_every_store_is_full(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = Source(), VirtualClock()
    source.histories[WORKSPACES.plural].put("demo")
    await check_every_store_comes_first(loop_on(source, clock), source, clock, last, runs)


@pytest.mark.parametrize("behind", [resource.plural for resource in READ])
async def test_a_successor_looks_at_no_workspace_before_it_has_seen_what_its_predecessor_did(
    behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = Source(), VirtualClock()
    source.histories[WORKSPACES.plural].put("demo")
    loop = loop_on(source, clock)
    stores = {resource.plural: store for resource, store in loop.world._stores()}
    await check_successor_reads_anew(loop, source, clock, behind, stores[behind], runs)


async def test_a_successor_works_where_nodeclaims_went_after_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = Source(), VirtualClock()
    source.histories[WORKSPACES.plural].put("demo")
    loop, standby = loop_on(source, clock), Standby()
    async with endless(loop.run(cast(LeaderElector, standby))):
        await clock.settle()
        source.absent.add(NODE_CLAIMS.plural)
        source.end()
        standby.elected.set()
        await clock.advance(120)
        assert runs
        assert loop.synced()


async def test_a_successor_has_read_nodeclaims_that_came_after_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = Source(), VirtualClock()
    source.histories[WORKSPACES.plural].put("demo")
    source.absent.add(NODE_CLAIMS.plural)
    loop, standby = loop_on(source, clock), Standby()
    async with endless(loop.run(cast(LeaderElector, standby))):
        await clock.advance(5)
        source.histories[NODE_CLAIMS.plural].put("written")
        source.absent.clear()
        source.gates[NODE_CLAIMS.plural].clear()
        standby.elected.set()
        await clock.advance(120)
        assert not runs
        source.gates[NODE_CLAIMS.plural].set()
        await clock.settle()
        assert runs
        assert {key.name for key in loop.world.claims.objects()} == {"written"}


async def test_kind_that_may_not_be_read_is_seen_by_whoever_probes() -> None:
    source, clock = Source(), VirtualClock()
    await check_refusal_is_seen(loop_on(source, clock), source, clock, NODES.plural)
