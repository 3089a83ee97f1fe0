"""What Azure refuses and what becomes of the claim then: each class of failure has its own reason and its own cure.

The mapping of single answers to classes is in `azure/errors_test`; here whole claims meet a cloud that says no.
"""

import pytest

from test.expect import eventually
from test.provisioner.conftest import SIZE, Box, a_claim, new_name

ZONE = "topology.kubernetes.io/zone"
CAPACITY = "karpenter.sh/capacity-type"
T4 = "Standard_NC4as_T4_v3"


@pytest.mark.parametrize("kind", ["refuse", "fail"], ids=["at once", "later"])
async def test_a_quota_refusal_shows_its_numbers_and_costs_nothing(box: Box, kind: str) -> None:
    await box.emulator.admin.fault(kind, "quota-family")
    name = box.claim()
    condition = await box.becomes(name, "Launched", "False", "QuotaExceeded")
    assert "required 6" in condition["message"]
    assert "request an increase" in condition["message"]
    assert box.status_of(name, "Ready") == ("False", "QuotaExceeded")
    await eventually(lambda: _no_pool(box, name))
    assert await box.puts(name) == (1 if kind == "fail" else 0)


@pytest.mark.parametrize(("kind", "error"), [("refuse", "sku-not-available"), ("fail", "allocation")])
async def test_a_capacity_refusal_ends_the_claim_and_its_pool(box: Box, kind: str, error: str) -> None:
    await box.emulator.admin.fault(kind, error)
    name = box.claim()
    condition = await box.becomes(name, "Launched", "False", "InsufficientCapacity")
    assert "all requested instance types were unavailable during launch" in condition["message"]
    await eventually(lambda: _no_pool(box, name))
    await eventually(lambda: "InsufficientCapacityError" in {event.reason for event in box.events(name)})


async def test_a_failed_claim_can_be_deleted(box: Box) -> None:
    await box.emulator.admin.fault("fail", "allocation")
    name = box.claim()
    await box.becomes(name, "Launched", "False")
    box.delete(name)
    await box.gone(name)


async def test_a_new_claim_tries_again_what_an_old_one_was_refused(box: Box) -> None:
    await box.emulator.admin.fault("refuse", "quota-family")
    await box.becomes(box.claim(), "Launched", "False", "QuotaExceeded")
    await box.ready()


@pytest.mark.parametrize(("kind", "error"), [("refuse", "zone-not-supported"), ("fail", "zonal-allocation")])
async def test_the_next_zone_is_tried(box: Box, kind: str, error: str) -> None:
    if kind == "refuse":
        await box.emulator.admin.fault(kind, status=409, code="ZonalAllocationFailed", message="no room in zone 1")
    else:
        await box.emulator.admin.fault(kind, error)
    requirements = {"node.kubernetes.io/instance-type": [T4], ZONE: ["eastus-1", "eastus-2"]}
    name = box.claim(requirements=requirements)

    async def second_zone() -> bool:
        pool = await box.pool(name)
        return pool is not None and pool.properties.get("availabilityZones") == ["2"]

    await eventually(second_zone)
    await box.joined(name)
    await box.becomes(name, "Ready", "True")
    claim = box.read(name)
    assert claim is not None
    assert claim["metadata"]["labels"][ZONE] == "eastus-2"


async def test_spot_falls_back_to_on_demand(box: Box) -> None:
    await box.emulator.admin.fault("fail", "quota-spot")
    name = box.claim(requirements={CAPACITY: ["spot", "on-demand"]})
    await eventually(lambda: _committed(box, name, 2))
    await box.joined(name)
    await box.becomes(name, "Ready", "True")
    claim = box.read(name)
    assert claim is not None
    assert claim["metadata"]["labels"][CAPACITY] == "on-demand"
    assert (await box.pool(name)).properties.get("scaleSetPriority") != "Spot"


async def test_the_next_size_is_tried(box: Box) -> None:
    await box.emulator.admin.fault("refuse", "sku-not-available")
    name = box.claim(requirements={"node.kubernetes.io/instance-type": [SIZE, T4]})
    await eventually(lambda: box.pool_state(name))
    assert (await box.pool(name)).properties["vmSize"] == T4


async def test_a_broken_machine_is_replaced_once(box: Box) -> None:
    await box.emulator.admin.fault("fail", "extension-timeout")
    name = box.claim()
    await eventually(lambda: _committed(box, name, 2))
    await box.joined(name)
    await box.becomes(name, "Ready", "True")


@pytest.mark.parametrize("refusal", ["busy", "precondition", "throttled", "internal-error"])
async def test_a_broken_machine_whose_deletion_is_refused_counts_once(box: Box, refusal: str) -> None:
    await box.emulator.admin.fault("fail", "extension-timeout")
    await box.emulator.admin.fault("refuse", refusal, on="DELETE", retryAfter=1)
    name = box.claim()
    await eventually(lambda: _committed(box, name, 2))
    await box.joined(name)
    await box.becomes(name, "Ready", "True")


@pytest.mark.parametrize("kind", ["refuse", "fail"], ids=["at once", "later"])
async def test_a_broken_machine_that_cannot_be_deleted_ends_the_claim_in_time(box: Box, kind: str) -> None:
    await box.emulator.admin.fault("fail", "extension-timeout")
    await box.emulator.admin.fault(
        kind, on="DELETE", times=0, status=409, code="ScopeLocked", message="The scope is locked."
    )
    name = box.claim()
    await eventually(lambda: box.emulator.admin.log(pool=name, kind="DELETE"))
    assert box.status_of(name, "Launched")[0] == "Unknown"
    box.clock.leap(2 * box.settings.launch_timeout)
    box.touch(name)
    condition = await box.becomes(name, "Launched", "False", "LaunchTimeout")
    assert "the last obstacle" in condition["message"]
    assert await box.puts(name) == 1


async def test_a_pool_of_the_same_name_that_never_goes_ends_the_claim_in_time(idle: Box) -> None:
    name = new_name()
    await idle.foreign_pool(name)
    await idle.emulator.admin.configure(deleteSeconds=3600)
    await idle.emulator.admin.delete_pool(name)
    await idle.start(launch_timeout=1)
    idle.claim(name)
    condition = await idle.becomes(name, "Launched", "False", "LaunchTimeout")
    assert "was not made for this claim" in condition["message"]


async def test_two_broken_machines_end_the_claim(box: Box) -> None:
    await box.emulator.admin.fault("fail", "extension-outbound", times=2)
    name = box.claim()
    await box.becomes(name, "Launched", "False", "BootstrapFailed")
    await eventually(lambda: _no_pool(box, name))
    assert await box.puts(name) == 2


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        ("forbidden", "Unknown", "Unauthorized"),
        ("policy", "Unknown", "PolicyDenied"),
        ("token-expired", "Unknown", "Unauthorized"),
        ("subnet-full", "Unknown", "SubnetFull"),
        ("busy", "Unknown", "ClusterBusy"),
        ("conflict", "Unknown", "ClusterBusy"),
        ("throttled", "Unknown", "Throttled"),
        ("disk-does-not-fit", "False", "InvalidSpec"),
    ],
)
async def test_every_refusal_has_its_reason(box: Box, error: str, status: str, reason: str) -> None:
    await box.emulator.admin.fault("refuse", error, retryAfter=60)
    name = box.claim()
    condition = await box.becomes(name, "Launched", status, reason)
    assert condition["message"]
    assert box.status_of(name, "Ready") == (status, reason)


async def test_a_busy_cluster_is_asked_again(box: Box) -> None:
    await box.emulator.admin.fault(
        "refuse", status=409, code="OperationNotAllowed", message="in progress", retryAfter=4
    )
    name = box.claim()
    await box.becomes(name, "Launched", "Unknown", "ClusterBusy")
    await box.joined(name)
    await box.becomes(name, "Ready", "True")


@pytest.mark.parametrize("error", ["internal-error", "internal-error-null-details", "gateway-timeout", "unavailable"])
async def test_an_answer_that_says_nothing_is_looked_into(box: Box, error: str) -> None:
    await box.emulator.admin.fault("refuse", error)
    name = box.claim()
    await box.joined(name)
    await box.becomes(name, "Ready", "True")
    assert await box.puts(name) == 1


@pytest.mark.parametrize("request_kind", ["CLUSTER", "LIST"])
async def test_a_refused_look_says_nothing_about_the_claim(idle: Box, request_kind: str) -> None:
    fault = await idle.emulator.admin.fault(
        "refuse", on=request_kind, times=0, status=400, code="NoRegisteredProviderFound", message="No such version"
    )
    name = idle.claim()
    await idle.start()
    condition = await idle.becomes(name, "Launched", "Unknown", "Creating")
    assert "NoRegisteredProviderFound" in condition["message"]
    await idle.emulator.admin.disarm(fault)
    await idle.joined(name)
    await idle.becomes(name, "Ready", "True")


async def test_a_size_that_nobody_names_is_an_invalid_claim(box: Box) -> None:
    body = a_claim(new_name())
    body["spec"]["requirements"] = [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]
    name = box.create(body)
    condition = await box.becomes(name, "Launched", "False", "InvalidSpec")
    assert "node.kubernetes.io/instance-type" in condition["message"]


async def test_a_name_that_no_pool_can_have_is_an_invalid_claim(box: Box) -> None:
    name = box.create(a_claim("much-too-long-a-name"))
    await box.becomes(name, "Launched", "False", "InvalidSpec")


async def test_a_class_that_does_not_exist_is_waited_for(box: Box) -> None:
    body = a_claim(new_name(), nodeClassRef={"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "zonal"})
    name = box.create(body)
    await box.becomes(name, "Launched", "Unknown", "NodeClassNotReady")
    assert await box.puts(name) == 0


async def test_a_foreign_pool_of_the_same_name_is_never_touched(idle: Box) -> None:
    name = new_name()
    await idle.foreign_pool(name)
    before = await idle.pool(name)
    await idle.start()
    idle.claim(name)
    await idle.becomes(name, "Launched", "False", "NameConflict")
    idle.delete(name)
    await idle.gone(name)
    assert await idle.pool(name) == before
    log = await idle.emulator.admin.log(pool=name)
    assert [entry.method for entry in log if entry.user_agent.startswith("kaito") and entry.method != "GET"] == []


async def test_a_pool_of_gpu_provisioner_is_taken_over(idle: Box) -> None:
    name = idle.claim()
    claim = idle.read(name)
    assert claim is not None
    created = claim["metadata"]["creationTimestamp"].replace(":", "-")
    await idle.foreign_pool(name, {"kaito.sh/creation-timestamp": created, "karpenter.sh/nodepool": "kaito"})
    await idle.joined(name)
    await idle.start()
    await idle.becomes(name, "Ready", "True")
    assert await idle.puts(name) == 1  # gpu-provisioner's own
    idle.delete(name)
    await idle.gone(name)
    assert await idle.pool(name) is None


async def test_a_cluster_that_is_not_found_is_named_and_costs_no_claim_its_time(idle: Box) -> None:
    await idle.start(cluster_name="misspelt")
    name = idle.claim()
    condition = await idle.becomes(name, "Launched", "Unknown", "ClusterNotFound")
    assert "misspelt" in condition["message"]
    await idle.kill()
    await idle.start()
    await idle.joined(name)
    await idle.becomes(name, "Ready", "True")


async def test_a_stopped_cluster_freezes_everything(box: Box) -> None:
    name, _ = await box.ready()
    await box.power("Stopped")
    waiting = box.claim()
    await box.becomes(waiting, "Launched", "Unknown", "ClusterNotRunning")
    assert await box.puts(waiting) == 0
    assert await box.pool_state(name) == "Succeeded"


async def _no_pool(box: Box, name: str) -> bool:
    return await box.pool(name) is None


async def _committed(box: Box, name: str, count: int) -> bool:
    return await box.puts(name) == count
