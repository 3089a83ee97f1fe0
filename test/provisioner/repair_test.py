"""Claims that get stuck, and machines that are not well: deadlines, repair, and the guard against repairing everything."""

from datetime import UTC, datetime, timedelta

import pytest

from test.expect import eventually
from test.provisioner.conftest import Box


def _minutes_ago(minutes: float) -> str:
    return (datetime.now(UTC) - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_a_pool_that_takes_too_long_fails_its_claim(idle: Box) -> None:
    await idle.emulator.admin.configure(createSeconds=300)
    await idle.start(launch_timeout=1)
    name = idle.claim()
    await idle.becomes(name, "Launched", "False", "LaunchTimeout")
    await eventually(lambda: _no_pool(idle, name))


async def test_a_machine_that_never_joins_fails_its_claim(idle: Box) -> None:
    await idle.emulator.admin.fault("no-join", on="PUT")
    await idle.start(registration_timeout=1)
    name = idle.claim()
    condition = await idle.becomes(name, "Registered", "False", "RegistrationTimeout")
    assert name in condition["message"]
    await eventually(lambda: _no_pool(idle, name))


async def test_a_node_that_never_gets_its_gpus_fails_its_claim(idle: Box) -> None:
    await idle.start(initialization_timeout=1)
    name = idle.claim()
    node = await idle.joined(name, gpus=False)
    condition = await idle.becomes(name, "Initialized", "False", "InitializationTimeout")
    assert idle.status_of(name, "Launched") == ("False", "InitializationTimeout")  # the machine is gone again
    assert "nvidia.com/gpu" in condition["message"]
    await eventually(lambda: _no_pool(idle, name))
    await eventually(lambda: node not in idle.node_names(name))
    assert idle.read(name) is not None


async def test_without_a_limit_initialization_may_take_for_ever(idle: Box) -> None:
    await idle.start(initialization_timeout=0)
    name = idle.claim()
    node = await idle.joined(name, gpus=False)
    await idle.becomes(name, "Initialized", "Unknown", "ResourceNotRegistered")
    idle.report(node)
    await idle.becomes(name, "Ready", "True")


async def test_a_node_that_is_not_ready_for_ten_minutes_is_replaced(box: Box) -> None:
    name, node = await box.ready()
    box.report(node, ready=False, since=_minutes_ago(11))
    await box.gone(name)
    assert await box.pool(name) is None
    await eventually(lambda: "Unhealthy" in {event.reason for event in box.events(name)})


@pytest.mark.parametrize("reason", ["NodeDeleted", "Unhealthy"])
async def test_a_claim_that_is_ended_says_why_for_as_long_as_it_exists(box: Box, reason: str) -> None:
    name, node = await box.ready()
    await box.emulator.admin.configure(deleteSeconds=2)
    if reason == "NodeDeleted":
        box.core.delete_node(node)
    else:
        box.report(node, ready=False, since=_minutes_ago(11))
    condition = await box.becomes(name, "DisruptionReason", "True", reason)
    assert node in condition["message"]
    await box.gone(name)


async def test_a_node_that_is_not_ready_for_a_while_is_left_alone(box: Box) -> None:
    name, node = await box.ready()
    other, _ = await box.ready()
    box.report(node, ready=False, since=_minutes_ago(9))
    await eventually(lambda: box.loops[-1].inventory.get(name) is not None)
    box.delete(other)
    await box.gone(other)
    assert box.status_of(name, "Ready") == ("True", "Ready")
    assert await box.pool_state(name) == "Succeeded"


async def test_when_most_nodes_are_not_ready_none_is_replaced(box: Box) -> None:
    machines = [await box.ready() for _ in range(3)]
    for _, node in machines[:2]:
        box.report(node, ready=False)
    for _, node in machines[:2]:
        box.report(node, ready=False, since=_minutes_ago(11))
    blocked = machines[0][0]
    await eventually(lambda: "NodeRepairBlocked" in {event.reason for event in box.events(blocked)})
    assert all(box.read(name) is not None for name, _ in machines)
    assert all([await box.pool_state(name) == "Succeeded" for name, _ in machines])


async def test_repair_can_be_turned_off(idle: Box) -> None:
    await idle.start(node_repair=False)
    name, node = await idle.ready()
    idle.report(node, ready=False, since=_minutes_ago(60))
    other, _ = await idle.ready()
    assert idle.status_of(name, "Ready") == idle.status_of(other, "Ready") == ("True", "Ready")


async def test_a_stopped_cluster_replaces_nothing(box: Box) -> None:
    """What gpu-provisioner gets wrong: after a stop, every node is not ready and every machine seems gone."""
    name, node = await box.ready()
    await box.emulator.admin.configure(powerSeconds=0)
    await box.emulator.admin._call("POST", "/admin/cluster", json={"power": "Stopped"})
    box.loops[-1]._cloud._cluster = None  # type: ignore[attr-defined]  # remembered for ten seconds otherwise
    box.report(node, ready=False, since=_minutes_ago(1))
    waiting = box.claim()
    await box.becomes(waiting, "Launched", "Unknown", "ClusterNotRunning")
    assert box.read(name) is not None
    log = await box.emulator.admin.log(kind="DELETE")
    assert log == []


async def test_a_spot_machine_that_was_evicted_is_replaced(box: Box) -> None:
    """The pool stays, the node goes for good: AKS's cloud-node-manager deletes it."""
    name, node = await box.ready(requirements={"karpenter.sh/capacity-type": ["spot"]})
    await box.emulator.admin.evict(name)
    box.core.delete_node(node)
    await box.gone(name)
    assert await box.pool(name) is None


async def _no_pool(box: Box, name: str) -> bool:
    return await box.pool(name) is None
