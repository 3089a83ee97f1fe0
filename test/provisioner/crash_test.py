"""Killed at any moment, the provisioner goes on where the world stands: one pool per claim, none left over.

The crash points C2 to C22 of the design: those between two requests are reached by making the request that follows fail or
hang and killing the loop then, so that the world is exactly what a dead process leaves behind. C0, C1 and C28a belong to the
workspace controller; C23, C27 and C28b to the collector of orphans (`orphans_test`).
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from provisioner import repair
from provisioner.context import SKEW
from test.expect import eventually
from test.provisioner.builders import provider_id
from test.provisioner.conftest import CLAIMS, Box, a_claim

# What a cloud may do to a request without anybody being to blame.
FAULTS: list[dict[str, Any]] = [
    {"kind": "drop", "on": "PUT", "after": True},
    {"kind": "drop", "on": "PUT", "after": False},
    {"kind": "drop", "on": "GET"},
    {"kind": "drop", "on": "LIST"},
    {"kind": "refuse", "on": "PUT", "error": "internal-error"},
    {"kind": "refuse", "on": "PUT", "error": "busy", "retryAfter": 1},
    {"kind": "refuse", "on": "LIST", "error": "throttled", "retryAfter": 1},
    {"kind": "stall", "on": "PUT", "seconds": 0.5},
]


async def test_c2_killed_before_anything_was_written(idle: Box) -> None:
    name = idle.claim()
    await idle.start()
    await idle.joined(name)
    await idle.becomes(name, "Ready", "True")
    assert await idle.puts(name) == 1


async def test_c3_c4_killed_between_the_finalizer_and_the_create(idle: Box) -> None:
    """The request is dropped before it is carried out, so the claim says "asked" and there is no pool."""
    lost = await idle.emulator.admin.fault("drop", on="PUT", after=False, times=0)
    await idle.start()
    name = idle.claim()
    await eventually(lambda: idle.emulator.admin.log(pool=name, kind="PUT"))
    assert _asked(idle, name)
    await idle.kill()
    assert await idle.pool(name) is None
    await idle.emulator.admin.disarm(lost)
    await idle.start()
    await idle.joined(name)
    await idle.becomes(name, "Ready", "True")
    assert await idle.puts(name) == 1


async def test_c5_killed_when_the_create_was_committed_and_its_reply_lost(idle: Box) -> None:
    await idle.emulator.admin.fault("drop", on="PUT", after=True)
    await idle.start()
    name = idle.claim()
    await eventually(lambda: idle.pool_state(name))
    await idle.kill()
    await idle.start()
    await idle.joined(name)
    await idle.becomes(name, "Ready", "True")
    log = await idle.emulator.admin.log(pool=name, kind="PUT")
    assert len(log) == 1


async def test_a_lost_reply_alone_is_found_out_by_looking(box: Box) -> None:
    await box.emulator.admin.fault("drop", on="PUT", after=True)
    name = box.claim()
    await box.joined(name)
    await box.becomes(name, "Ready", "True")
    assert len(await box.emulator.admin.log(pool=name, kind="PUT")) == 1


async def test_c6_killed_while_the_create_hangs(idle: Box) -> None:
    """The pool exists, and not even the status says that anybody asked for it."""
    await idle.emulator.admin.fault("stall", on="PUT", seconds=5)
    await idle.start()
    name = idle.claim()
    await eventually(lambda: _asked(idle, name))
    await idle.kill()
    await idle.start()
    await idle.joined(name)
    await idle.becomes(name, "Ready", "True")
    assert await idle.puts(name) == 1


async def test_c7_killed_while_the_pool_is_created(idle: Box) -> None:
    await idle.emulator.admin.configure(createSeconds=1)
    await idle.start()
    name = idle.claim()
    await idle.becomes(name, "Launched", "Unknown", "Creating")
    await idle.kill()
    await idle.joined(name)
    await idle.start()
    await idle.becomes(name, "Ready", "True")
    assert await idle.puts(name) == 1


async def test_c8_the_create_failed_while_nobody_looked(idle: Box) -> None:
    await idle.emulator.admin.configure(createSeconds=3600)
    await idle.emulator.admin.fault("fail", "quota-family")
    await idle.start()
    name = idle.claim()
    await idle.becomes(name, "Launched", "Unknown", "Creating")
    await idle.kill()
    idle.cloud_clock.leap(3600)
    await eventually(lambda: _in_state(idle, name, "Failed"))
    await idle.start()
    await idle.becomes(name, "Launched", "False", "QuotaExceeded")
    await eventually(lambda: _no_pool(idle, name))


async def test_c9_the_node_joined_while_nobody_looked(idle: Box) -> None:
    await idle.start()
    name = idle.claim()
    await idle.becomes(name, "Launched", "Unknown", "Creating")
    await idle.kill()
    await idle.joined(name)
    await idle.start()
    await idle.becomes(name, "Ready", "True")
    assert await idle.puts(name) == 1


async def test_c11_the_claim_was_deleted_while_its_pool_was_created_and_nobody_looked(idle: Box) -> None:
    await idle.emulator.admin.configure(createSeconds=60)
    await idle.start()
    name = idle.claim()
    await eventually(lambda: idle.pool_state(name))
    await idle.kill()
    idle.delete(name)
    await idle.start()
    await idle.gone(name)
    assert await idle.pool(name) is None


async def test_c12_a_create_that_may_still_be_under_way_keeps_the_claim(idle: Box) -> None:
    """The reply never came, the process died, the claim is deleted: absence proves nothing before the request's time is up."""
    await idle.emulator.admin.fault("drop", on="PUT", after=False, times=0)
    await idle.start()
    name = idle.claim()
    await eventually(lambda: _asked(idle, name))
    await idle.kill()
    idle.delete(name)
    await idle.start()
    condition = await idle.becomes(name, "InstanceTerminating", "Unknown", "Creating")
    assert "still being created" in condition["message"]
    assert idle.read(name) is not None


async def test_c13_killed_when_the_reply_to_the_delete_was_lost(idle: Box) -> None:
    await idle.start()
    name, _ = await idle.ready()
    await idle.emulator.admin.fault("drop", on="DELETE", after=True)
    idle.delete(name)
    await eventually(lambda: _in_state(idle, name, "Deleting", ""))
    await idle.kill()
    await idle.start()
    await idle.gone(name)
    assert await idle.pool(name) is None


async def test_c14_the_pool_went_while_nobody_looked(idle: Box) -> None:
    await idle.start()
    name, node = await idle.ready()
    await idle.kill()
    idle.delete(name)
    await idle.emulator.admin.delete_pool(name)
    await eventually(lambda: _no_pool(idle, name))
    idle.report(node, ready=False)
    await idle.start()
    await idle.gone(name)
    assert idle.node_names(name) == []


async def test_c20_two_provisioners_at_once_make_one_pool_per_claim(idle: Box) -> None:
    await idle.start()
    await idle.start()
    names = [idle.claim() for _ in range(10)]
    for name in names:
        await idle.joined(name)
    for name in names:
        await idle.becomes(name, "Ready", "True")
        assert await idle.puts(name) == 1
    for name in names:
        idle.delete(name)
    for name in names:
        await idle.gone(name)
    assert (await idle.emulator.admin.state()).pools == {}


@pytest.mark.parametrize("lagging", [False, True])
async def test_c22_a_namesake_waits_for_the_old_pool_to_go(idle: Box, lagging: bool) -> None:
    """The node of the old pool is still there, under deletion and with our finalizer, when the new one's joins.

    With `lagging` the LIST shows the old pool for seconds after it has gone; that is looked into, but not again and again.
    """
    await idle.start()
    await idle.emulator.admin.configure(
        **({"deleteSeconds": 3, "listLagSeconds": 2.5} if lagging else {"deleteSeconds": 1})
    )
    name, old = await idle.ready()
    await idle.kill()
    idle.objects.patch_cluster_custom_object(*CLAIMS, name, {"metadata": {"finalizers": None}})
    idle.delete(name)
    await idle.gone(name)
    idle.core.delete_node(old)
    await idle.emulator.admin.delete_pool(name)
    if lagging:
        await eventually(lambda: _no_pool(idle, name))
    idle.create(a_claim(name))
    before = len(await idle.emulator.admin.log(pool=name))
    await idle.start()
    await eventually(lambda: _puts_of_its_own(idle, name))
    asked = [entry.kind for entry in (await idle.emulator.admin.log(pool=name))[before:]]
    assert not lagging or asked[: asked.index("PUT")].count("GET") <= 3
    node = await idle.joined(name)
    await idle.becomes(name, "Ready", "True")
    assert _node_of(idle, name) == node
    await eventually(lambda: idle.node_names(name) == [node])


async def test_the_node_of_a_broken_machine_is_not_taken_for_that_of_the_next(box: Box) -> None:
    await box.emulator.admin.fault("fail", "extension-timeout")
    busy = await box.emulator.admin.fault("refuse", "busy", on="DELETE", times=0, retryAfter=1)
    name = box.claim()
    await box.becomes(name, "Launched", "Unknown", "ClusterBusy")
    labels = dict.fromkeys(("agentpool", "kubernetes.azure.com/agentpool"), name)
    metadata = {"name": f"aks-{name}-12345678-vmss000000", "labels": labels}
    made = box.core.create_node({"metadata": metadata, "spec": {"providerID": provider_id(name)}}).metadata
    await eventually(
        lambda: datetime.now(UTC) >= made.creation_timestamp + timedelta(seconds=1)
    )  # the grain of Kubernetes' timestamps
    box.clock.leap(SKEW.total_seconds())
    await box.emulator.admin.disarm(busy)
    await eventually(lambda: _committed(box, name, 2))
    assert box.node_names(name) == [made.name]
    node = await box.joined(name)
    await box.becomes(name, "Ready", "True")
    assert _node_of(box, name) == node


async def test_a_node_that_is_deleted_before_it_is_registered_does_not_leave_its_claim_waiting(idle: Box) -> None:
    await idle.start()
    name, node = await idle.ready()
    await idle.kill()
    conditions = [each for each in (idle.read(name) or {})["status"]["conditions"] if each["type"] != "Registered"]
    idle.objects.patch_cluster_custom_object_status(*CLAIMS, name, {"status": {"conditions": conditions}})
    idle.core.delete_node(node)
    await idle.start(registration_timeout=1)
    await idle.becomes(name, "Registered", "False", "RegistrationTimeout")


async def test_c24_a_pool_that_somebody_deleted_ends_its_claim(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "LOOK_AGAIN", timedelta(seconds=1))
    name, node = await box.ready()
    await box.emulator.admin.delete_pool(name)
    await eventually(lambda: _no_pool(box, name))
    box.report(node, ready=False)
    await box.gone(name)
    await eventually(lambda: "InstanceNotFound" in {event.reason for event in box.events(name)})
    assert box.node_names(name) == []


async def test_a_pool_missing_from_a_list_ends_nothing_while_the_node_is_ready(box: Box) -> None:
    name, node = await box.ready()
    await box.emulator.admin.configure(listLagSeconds=30)
    box.report(node, ready=False)
    box.report(node, ready=True)
    other, _ = await box.ready()
    assert box.status_of(name, "Ready") == ("True", "Ready")
    assert box.status_of(other, "Ready") == ("True", "Ready")
    assert await box.puts(name) == await box.puts(other) == 1


async def test_c26_a_node_whose_claim_was_removed_by_force_is_let_go_with_its_pool(idle: Box) -> None:
    await idle.start()
    name, node = await idle.ready()
    await idle.kill()
    idle.objects.patch_cluster_custom_object(*CLAIMS, name, {"metadata": {"finalizers": None}})
    idle.delete(name)
    idle.core.delete_node(node)
    await idle.emulator.admin.delete_pool(name)
    await eventually(lambda: _no_pool(idle, name))
    assert idle.node_names(name) == [node]
    await idle.start()
    await eventually(lambda: idle.node_names(name) == [])


async def test_a_node_of_another_provider_keeps_its_finalizer(box: Box) -> None:
    owner = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "default-abcde", "uid": "u-1"}
    metadata = {
        "name": "foreign-node",
        "labels": {"kubernetes.azure.com/agentpool": "foreignpool"},
        "finalizers": ["karpenter.sh/termination"],
        "ownerReferences": [owner],
    }
    box.core.create_node({"metadata": metadata, "spec": {"providerID": "azure:///virtualMachines/foreign"}})
    box.core.delete_node("foreign-node")
    await box.ready()  # events come in order: by now the foreign node has been seen as well
    assert box.node("foreign-node").metadata.finalizers == ["karpenter.sh/termination"]


@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_random_moments_a_session_ends_with_one_pool_per_claim(idle: Box, seed: int) -> None:
    """Three claims, six kills at moments that a seeded generator draws, and a cloud that fails now and then.

    Afterwards each claim has the one pool that was made for it (I1, I2); then one claim ends and takes just its own pool
    (I3, I4).
    """
    chance = random.Random(seed)
    for _ in range(4):
        await idle.emulator.admin.fault(**chance.choice(FAULTS))
    await idle.emulator.admin.configure(createSeconds=0.3, deleteSeconds=0.3)
    names = [idle.claim() for _ in range(3)]
    joining = asyncio.gather(*(idle.joined(name, timeout=120) for name in names))
    for _ in range(6):
        await idle.start()
        await _pass(chance.uniform(0.0, 0.3))
        await idle.kill()
    await idle.start()
    await joining
    for name in names:
        await idle.becomes(name, "Ready", "True")
        assert await idle.puts(name) == 1
    await idle.emulator.admin.fault("drop", on="DELETE", after=chance.random() < 0.5)
    idle.delete(names[0])
    await _pass(chance.uniform(0.0, 0.5))
    await idle.kill()
    await idle.start()
    await idle.gone(names[0], timeout=120)  # what is left of the faults costs ten seconds each
    assert sorted((await idle.emulator.admin.state()).pools) == sorted(names[1:])
    log = await idle.emulator.admin.log()
    assert {entry.status for entry in log if entry.kind == "PUT" and entry.committed} <= {201, 0}
    assert {entry.pool for entry in log if entry.kind == "DELETE"} == {names[0]}


async def _pass(seconds: float) -> None:
    """Let real time pass: the moment of a kill is the very thing that is drawn."""
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=seconds)


async def _committed(box: Box, name: str, count: int) -> bool:
    return await box.puts(name) == count


def _node_of(box: Box, name: str) -> str:
    return str((box.read(name) or {})["status"]["nodeName"])


def _asked(box: Box, name: str) -> bool:
    claim = box.read(name)
    return claim is not None and "kaito.sh/launch-time" in claim["metadata"].get("annotations", {})


async def _in_state(box: Box, name: str, *states: str) -> bool:
    return await box.pool_state(name) in states


async def _no_pool(box: Box, name: str) -> bool:
    return await box.pool(name) is None


async def _puts_of_its_own(box: Box, name: str) -> bool:
    claim = box.read(name)
    pool = await box.pool(name)
    assert claim is not None
    return (
        pool is not None and pool.properties.get("tags", {}).get("kaito.sh_nodeclaim-uid") == claim["metadata"]["uid"]
    )
