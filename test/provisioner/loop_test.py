"""The loop itself: what must have happened before the first claim is looked at. The server is in memory and picks the order."""

from typing import Any

import pytest

from kube.api import labels
from kube.api.nodeclaim import NODE_CLAIMS
from kube.api.workload import NODES
from kube.store import Store
from provisioner.loop import Loop
from provisioner.reconcile import Reconciler
from provisioner.settings import Settings
from test.clock import VirtualClock
from test.kube.source import Source
from test.loops import check_every_store_comes_first, check_refusal_is_seen, check_successor_reads_anew
from test.provisioner.inventory_test import SlowCloud
from test.reconciles import count_runs


def loop_on(source: Source, clock: VirtualClock) -> Loop:
    settings = Settings(
        subscription_id="subscription",
        resource_group="group",
        cluster_name="cluster",
        credential="none",
        identity="test",
    )
    return Loop(source.client, SlowCloud(clock), settings, clock=clock)


def with_a_claim() -> Source:
    source = Source()
    claims = source.histories[NODE_CLAIMS.plural]
    claims.put("demo")
    claims.objects["demo"]["metadata"]["labels"] = {labels.WORKSPACE: "demo"}
    return source


@pytest.mark.parametrize("last", [NODE_CLAIMS.plural, NODES.plural])
async def test_no_claim_is_looked_at_before_every_store_is_full(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = with_a_claim(), VirtualClock()
    await check_every_store_comes_first(loop_on(source, clock), source, clock, last, runs)


@pytest.mark.parametrize("behind", [NODE_CLAIMS.plural, NODES.plural])
async def test_a_successor_looks_at_no_claim_before_it_has_seen_what_its_predecessor_did(
    behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    source, clock = with_a_claim(), VirtualClock()
    loop = loop_on(source, clock)
    stores: dict[str, Store[Any]] = {NODE_CLAIMS.plural: loop.claims, NODES.plural: loop.nodes}
    await check_successor_reads_anew(loop, source, clock, behind, stores[behind], runs)


async def test_kind_that_may_not_be_read_is_seen_by_whoever_probes() -> None:
    source, clock = Source(), VirtualClock()
    await check_refusal_is_seen(loop_on(source, clock), source, clock, NODES.plural)
