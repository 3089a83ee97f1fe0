"""Pools that nobody claims any more, and everything that keeps them from being deleted.

Rounds are made by hand and time is virtual; API server and cloud are real servers.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.client import Client
from provisioner.azure import agentpools
from provisioner.cloud import Instance, Offering, State
from provisioner.loop import Loop
from provisioner.orphans import MAX_DELETES, Orphans, orphans
from test.clock import VirtualClock
from test.expect import eventually
from test.provisioner.builders import a_node_claim
from test.provisioner.conftest import CLAIMS, Box


def a_pool(name: str, uid: str = "gone", *, cluster: str = "here", state: State = State.SUCCEEDED) -> Instance:
    return Instance(name, state, Offering("S"), owner_uid=uid, cluster_id=cluster)


def test_a_pool_is_orphaned_by_uid_and_not_by_name() -> None:
    claims = [a_node_claim("ws1", uid="new")]
    found = orphans([a_pool("ws1", "old"), a_pool("ws2", "new")], claims, "here", legacy=False)
    assert [pool.name for pool in found] == ["ws1"]


def test_pools_of_others_are_nobodys_orphans() -> None:
    pools = [a_pool("a", cluster="there"), a_pool("b", "", cluster=""), a_pool("c", state=State.DELETING)]
    assert orphans(pools, [], "here", legacy=True) == []


@given(st.booleans(), st.booleans(), st.booleans())
def test_pools_of_gpu_provisioner_are_collected_only_on_request(legacy: bool, labelled: bool, claimed: bool) -> None:
    labels = (
        {"kaito.sh/workspace": "w", "karpenter.sh/nodepool": "kaito"} if labelled else {"karpenter.sh/nodepool": "x"}
    )
    pool = Instance("ws1", State.SUCCEEDED, Offering("S"), labels=labels)
    claims = [a_node_claim("ws1")] if claimed else []
    assert bool(orphans([pool], claims, "here", legacy=legacy)) is (legacy and labelled and not claimed)


class Collector:
    """An `Orphans` whose time the test moves."""

    def __init__(self, box: Box, clock: VirtualClock, collector: Orphans) -> None:
        self.box, self.clock, self._collector = box, clock, collector

    async def rounds(self, count: int = 3, apart: float = 200.0) -> None:
        for _ in range(count):
            await self._collector.round()
            self.clock.jump(apart)


@pytest.fixture
async def collector(box: Box) -> AsyncIterator[Collector]:
    clock = VirtualClock(start=datetime.now(UTC) + timedelta(hours=1))
    async with (
        await Client.connect(user_agent="collector", kubeconfig=box.kubeconfig) as client,
        agentpools.connect(box.settings, clock=clock) as cloud,
    ):
        loop = Loop(client, cloud, box.settings, clock=clock)
        yield Collector(box, clock, Orphans(await loop._context()))


async def _orphaned(box: Box) -> str:
    """A pool whose claim was removed by force."""
    name, node = await box.ready()
    box.objects.patch_cluster_custom_object(*CLAIMS, name, {"metadata": {"finalizers": None}})
    box.delete(name)
    await box.gone(name)
    box.core.patch_node(node, {"metadata": {"finalizers": None}})
    return name


async def test_an_orphaned_pool_is_deleted_after_its_grace(collector: Collector) -> None:
    name = await _orphaned(collector.box)
    await collector.rounds(2, apart=100)
    assert await collector.box.pool_state(name) == "Succeeded"
    await collector.rounds(2)
    await eventually(lambda: _no_pool(collector.box, name))


async def test_a_claimed_pool_is_never_deleted(collector: Collector) -> None:
    name, _ = await collector.box.ready()
    await collector.rounds(5)
    assert await collector.box.pool_state(name) == "Succeeded"


async def test_a_stopped_cluster_freezes_the_collection(collector: Collector) -> None:
    name = await _orphaned(collector.box)
    await collector.box.power("Stopped")
    await collector.rounds(5)
    assert await collector.box.pool_state(name) == "Succeeded"


@pytest.mark.parametrize("kind", ["refuse", "fail"], ids=["at once", "later"])
async def test_an_orphan_that_cannot_be_deleted_keeps_no_other_alive(collector: Collector, kind: str) -> None:
    names = {await _orphaned(collector.box) for _ in range(3)}
    locked = next(iter((await collector.box.emulator.admin.state()).pools))
    await collector.box.emulator.admin.fault(
        kind, on="DELETE", pool=locked, times=0, status=409, code="ScopeLocked", message="The scope is locked."
    )
    await collector.rounds(6)
    for name in names - {locked}:
        await eventually(partial(_no_pool, collector.box, name))
    # Rounds take no real time, a deletion that fails later does: until it has, its pool is nobody's orphan.
    await eventually(lambda: _nothing_moves(collector.box))
    assert await collector.box.pool(locked) is not None
    await collector.box.emulator.admin.disarm()
    await collector.rounds(4)
    await eventually(lambda: _no_pool(collector.box, locked))


async def test_orphans_whose_deletion_fails_let_the_others_have_their_turn(collector: Collector) -> None:
    *locked, last = sorted([await _orphaned(collector.box) for _ in range(MAX_DELETES + 1)])  # in the order of a LIST
    for name in locked:
        await collector.box.emulator.admin.fault(
            "fail", on="DELETE", pool=name, times=0, code="ScopeLocked", message="The scope is locked."
        )
    for _ in range(15):
        await collector.rounds(1, apart=100)
        await eventually(lambda: _nothing_moves(collector.box))
    assert await collector.box.pool(last) is None


async def test_many_orphans_at_once_are_deleted_few_at_a_time(collector: Collector) -> None:
    names = [await _orphaned(collector.box) for _ in range(MAX_DELETES + 2)]
    await collector.rounds(3, apart=160)
    for _ in range(MAX_DELETES + 2):
        await collector.rounds(1, apart=1)
    pools = (await collector.box.emulator.admin.state()).pools
    gone = [name for name in names if name not in pools or pools[name].state == "Deleting"]
    assert 1 <= len(gone) <= MAX_DELETES


async def _nothing_moves(box: Box) -> bool:
    return "Deleting" not in {pool.state for pool in (await box.emulator.admin.state()).pools.values()}


async def _no_pool(box: Box, name: str) -> bool:
    return await box.pool(name) is None
