"""Claims that get stuck, and machines that are not well: deadlines, repair, and the guard against repairing everything."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from kube.api.workload import Node
from kube.meta import Key
from provisioner.reconcile import Reconciler
from test.expect import eventually
from test.provisioner.conftest import Box
from test.reconciles import count_runs, repeat

MINUTE = 60.0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Counter[Key]:
    return count_runs(monkeypatch, Reconciler)


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


async def test_a_night_in_which_the_cluster_stood_still_does_not_count_for_a_machine_that_is_to_join(
    runs: Counter[Key], box: Box
) -> None:
    await box.emulator.admin.fault("no-join", on="PUT")
    name = box.claim()
    await eventually(lambda: "waiting for its node to join" in box.condition(name, "Launched").get("message", ""))
    await box.power("Stopped")
    box.clock.leap(8 * 60 * MINUTE)
    await _look(box, name, runs)
    await box.becomes(name, "Launched", "Unknown", "ClusterNotRunning")
    await box.power("Running")
    box.clock.leap(14 * MINUTE)
    await _look(box, name, runs)
    await box.becomes(name, "Launched", "Unknown", "Creating")
    box.clock.leap(2 * MINUTE)
    await _look(box, name, runs)
    await box.becomes(name, "Registered", "False", "RegistrationTimeout")


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
    box.clock.leap(11 * MINUTE)  # a provisioner that has just started lets every node have its ten minutes
    box.report(node, ready=False, since=_minutes_ago(11))
    await box.gone(name)
    assert await box.pool(name) is None
    await eventually(lambda: "Unhealthy" in {event.reason for event in box.events(name)})


@pytest.mark.parametrize("reason", ["NodeDeleted", "Unhealthy"])
async def test_a_claim_that_is_ended_says_why_for_as_long_as_it_exists(box: Box, reason: str) -> None:
    name, node = await box.ready()
    await box.emulator.admin.configure(deleteSeconds=3600)
    if reason == "NodeDeleted":
        box.core.delete_node(node)
    else:
        box.clock.leap(11 * MINUTE)
        box.report(node, ready=False, since=_minutes_ago(11))
    condition = await box.becomes(name, "DisruptionReason", "True", reason)
    assert node in condition["message"]
    await eventually(lambda: _is_deleting(box, name))
    assert box.status_of(name, "DisruptionReason") == ("True", reason)
    box.cloud_clock.leap(3600)
    await box.gone(name)


async def test_a_node_that_is_not_ready_for_a_while_is_left_alone(box: Box) -> None:
    name, node = await box.ready()
    other, _ = await box.ready()
    box.clock.leap(9 * MINUTE)
    box.report(node, ready=False)
    await eventually(lambda: box.loops[-1].inventory.get(name) is not None)
    box.delete(other)
    await box.gone(other)
    assert box.status_of(name, "Ready") == ("True", "Ready")
    assert await box.pool_state(name) == "Succeeded"


async def test_when_most_nodes_are_not_ready_none_is_replaced(runs: Counter[Key], box: Box) -> None:
    machines = [await box.ready() for _ in range(3)]
    for _, node in machines[:2]:  # before any is due: the first to be seen would be the only one
        await _unwell(box, node, since=_minutes_ago(0))
    box.clock.leap(11 * MINUTE)
    for name, _ in machines[:2]:
        await _look(box, name, runs)
        await eventually(partial(_blocked, box, name))
    assert all(_lives(box, name) for name, _ in machines)
    assert all([await box.pool_state(name) == "Succeeded" for name, _ in machines])


async def test_repair_can_be_turned_off(runs: Counter[Key], idle: Box) -> None:
    await idle.start(node_repair=False)
    name, node = await idle.ready()
    other, _ = await idle.ready()
    idle.clock.leap(60 * MINUTE)
    await _unwell(idle, node, since=_minutes_ago(60))
    await _look(idle, name, runs)
    assert idle.status_of(name, "Ready") == idle.status_of(other, "Ready") == ("True", "Ready")


@pytest.mark.parametrize("deleted", [False, True], ids=["not ready", "deleted"])
async def test_a_stopped_cluster_replaces_nothing(runs: Counter[Key], box: Box, deleted: bool) -> None:
    """What gpu-provisioner gets wrong: after a stop, every node is not ready and every machine seems gone."""
    name, node = await box.ready()
    box.clock.leap(11 * MINUTE)
    await box.power("Stopped")
    if deleted:
        box.core.delete_node(node)
    await _unwell(box, node, since=_minutes_ago(11))
    await _look(box, name, runs)
    assert _lives(box, name)
    assert await box.emulator.admin.log(kind="DELETE") == []


async def test_a_node_has_ten_minutes_to_come_back_after_the_cluster_has_started(runs: Counter[Key], box: Box) -> None:
    name, node = await box.ready()
    box.clock.leap(60 * MINUTE)
    await box.power("Stopped")
    await _unwell(box, node, since=_minutes_ago(24 * 60))
    await _look(box, name, runs)
    await box.power("Running")
    box.clock.leap(9 * MINUTE)
    await _look(box, name, runs)
    assert _lives(box, name)
    box.clock.leap(2 * MINUTE)
    await _look(box, name, runs)
    await box.gone(name)


async def test_no_deadline_runs_while_the_cluster_is_stopped(runs: Counter[Key], box: Box) -> None:
    name = box.claim()
    await box.joined(name, gpus=False)
    await box.becomes(name, "Initialized", "Unknown", "ResourceNotRegistered")
    await box.power("Stopped")
    box.clock.leap(24 * 60 * MINUTE)
    await _look(box, name, runs)
    await box.power("Running")
    box.clock.leap(19 * MINUTE)
    await _look(box, name, runs)
    assert box.status_of(name, "Initialized") == ("Unknown", "ResourceNotRegistered")
    box.clock.leap(2 * MINUTE)
    await _look(box, name, runs)
    await box.becomes(name, "Initialized", "False", "InitializationTimeout")


async def test_a_watch_that_has_fallen_silent_costs_no_machine(runs: Counter[Key], box: Box) -> None:
    name, node = await box.ready()
    await _unwell(box, node, since=_minutes_ago(0))
    seen_last = _known(box, node)
    box.report(node)
    await eventually(lambda: _known(box, node).ready)
    box.clock.leap(11 * MINUTE)
    box.loops[-1].nodes.put(seen_last)
    await _look(box, name, runs)
    assert _lives(box, name)


async def test_a_spot_machine_that_was_evicted_is_replaced(box: Box) -> None:
    """The pool stays, the node goes for good: AKS's cloud-node-manager deletes it."""
    name, node = await box.ready(requirements={"karpenter.sh/capacity-type": ["spot"]})
    await box.emulator.admin.evict(name)
    box.core.delete_node(node)
    await box.gone(name)
    assert await box.pool(name) is None


async def _unwell(box: Box, node: str, *, since: str) -> None:
    """The node is not ready, and the provisioner knows."""
    box.report(node, ready=False, since=since)
    await eventually(lambda: not _known(box, node).ready)


def _known(box: Box, node: str) -> Node:
    found = box.loops[-1].nodes.get(Key("", node))
    assert found is not None
    return found


async def _look(box: Box, name: str, runs: Counter[Key]) -> None:
    """Two reconciles: the first may have begun before. Whoever does not see its own writes yet would look at nothing."""
    key, uid, consistency = Key("", name), (box.read(name) or {})["metadata"]["uid"], box.loops[-1]._consistency
    await eventually(lambda: consistency.caught_up(key, uid))
    await repeat(box.loops[-1].queue, [key], runs, 2)


def _lives(box: Box, name: str) -> bool:
    claim = box.read(name)
    return claim is not None and "deletionTimestamp" not in claim["metadata"]


def _blocked(box: Box, name: str) -> bool:
    return "NodeRepairBlocked" in {event.reason for event in box.events(name)}


async def _is_deleting(box: Box, name: str) -> bool:
    return await box.pool_state(name) == "Deleting"


async def _no_pool(box: Box, name: str) -> bool:
    return await box.pool(name) is None
