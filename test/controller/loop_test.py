"""The loop itself: what must have happened before the first Workspace is looked at. The server is in memory and picks the order."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controller.loop import Loop
from controller.reconcile import Reconciler
from kube.api.nodeclaim import NODE_CLAIMS
from kube.api.workload import JOBS, NODES, PODS, SERVICES, STATEFUL_SETS
from kube.api.workspace import WORKSPACES
from kube.meta import Resource
from test.clock import VirtualClock
from test.controller.stage import SETTINGS
from test.kube.source import Source
from test.loops import check_every_store_comes_first, check_refusal_is_seen, check_successor_reads_anew
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


async def test_kind_that_may_not_be_read_is_seen_by_whoever_probes() -> None:
    source, clock = Source(), VirtualClock()
    await check_refusal_is_seen(loop_on(source, clock), source, clock, NODES.plural)
