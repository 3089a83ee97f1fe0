"""The emulator through azure-mgmt-containerservice: what a client sees of creates, deletes, failures, throttling and paging.

The state machine by itself is covered in cloud_test; real machines in boot_test.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)

from hack.local.aks.admin import AdminError
from hack.local.aks.errors import REFUSAL_NAMES
from hack.local.aks.model import Settings
from hack.local.aks.server import running
from test.hack.aks.conftest import Aks, ManualTime, pool_body, sdk


async def test_a_created_pool_is_creating_until_its_time_is_over(aks: Aks, time: ManualTime) -> None:
    created = await aks.put("ws1")
    assert (created.name, created.properties.provisioning_state) == ("ws1", "Creating")
    assert created.id.endswith("/managedClusters/box/agentPools/ws1")
    time.jump(60)
    pool = await aks.get("ws1")
    assert pool.properties.provisioning_state == "Succeeded"
    assert pool.properties.vm_size == "Standard_NC6s_v3"
    assert pool.properties.os_disk_type == "Managed"
    assert pool.properties.node_image_version


async def test_the_sdk_follows_the_operation_to_its_end(aks: Aks, time: ManualTime) -> None:
    poller = await aks.begin_put("ws1")
    assert not poller.done()
    time.jump(60)
    result = await poller.result()
    assert result.properties.provisioning_state == "Succeeded"


async def test_a_create_that_fails_leaves_a_failed_pool_that_says_why(aks: Aks, time: ManualTime) -> None:
    await aks.admin.fault("fail", "quota-family", pool="ws1")
    poller = await aks.begin_put("ws1")
    time.jump(60)
    with pytest.raises(HttpResponseError) as raised:
        await poller.result()
    assert raised.value.status_code == 200
    assert raised.value.error.code == "ReconcileVMSSAgentPoolFailed"
    pool = await aks.get("ws1")
    assert pool.properties.provisioning_state == "Failed"
    detail = pool.properties.status.provisioning_error.details[0]
    assert detail.code == "OperationNotAllowed"
    assert "Current Limit: 0, Current Usage: 0, Additional Required: 6" in detail.message


async def test_a_second_create_only_put_is_refused_and_changes_nothing(aks: Aks) -> None:
    first = await aks.put("ws1", match_condition=MatchConditions.IfMissing)
    with pytest.raises(ResourceExistsError) as raised:
        await aks.put("ws1", match_condition=MatchConditions.IfMissing)
    assert raised.value.status_code == 412
    assert (await aks.get("ws1")).properties.e_tag == first.properties.e_tag


async def test_preconditions_can_be_ignored_as_an_older_service_would(aks: Aks, time: ManualTime) -> None:
    await aks.admin.configure(honourPreconditions=False)
    await aks.put("ws1", match_condition=MatchConditions.IfMissing)
    time.jump(60)
    assert (await aks.put("ws1", match_condition=MatchConditions.IfMissing)).properties.provisioning_state == "Updating"


async def test_a_put_onto_a_pool_that_is_being_created_is_busy(aks: Aks) -> None:
    await aks.put("ws1")
    with pytest.raises(ResourceExistsError, match="in progress create node pool operation"):
        await aks.put("ws1")


async def test_delete_takes_its_time_and_then_the_pool_is_not_found(aks: Aks, time: ManualTime) -> None:
    await aks.put("ws1")
    time.jump(60)
    poller = await aks.begin_delete("ws1", ignore_pod_disruption_budget=True)
    assert (await aks.get("ws1")).properties.provisioning_state == "Deleting"
    time.jump(30)
    await poller.result()
    with pytest.raises(ResourceNotFoundError, match="Agent Pool not found") as raised:
        await aks.get("ws1")
    assert raised.value.error.code == "NotFound"
    assert [entry.ignore_budgets for entry in await aks.admin.log(kind="DELETE")] == [True]


async def test_deleting_what_is_absent_succeeds_at_once(aks: Aks) -> None:
    assert await (await aks.begin_delete("ws1")).result() is None
    assert [entry.status for entry in await aks.admin.log(kind="DELETE")] == [204]


async def test_delete_checks_the_etag(aks: Aks, time: ManualTime) -> None:
    stale = (await aks.put("ws1")).properties.e_tag
    time.jump(60)
    fresh = (await aks.get("ws1")).properties.e_tag
    with pytest.raises(HttpResponseError) as raised:
        await aks.begin_delete("ws1", etag=stale, match_condition=MatchConditions.IfNotModified)
    assert raised.value.status_code == 412
    await aks.begin_delete("ws1", etag=fresh, match_condition=MatchConditions.IfNotModified, polling=False)
    assert (await aks.get("ws1")).properties.provisioning_state == "Deleting"


async def test_a_delete_preempts_the_create(aks: Aks, time: ManualTime) -> None:
    poller = await aks.begin_put("ws1")
    await aks.begin_delete("ws1", polling=False)
    with pytest.raises(HttpResponseError) as raised:
        await poller.result()
    assert raised.value.error.code == "AKSOperationPreemptedByDelete"
    time.jump(30)
    assert await aks.list() == []


async def test_a_drain_that_is_blocked_fails_the_delete_unless_budgets_are_ignored(aks: Aks, time: ManualTime) -> None:
    await aks.put("ws1")
    time.jump(60)
    await aks.admin.fault("fail", "disruption-budget", on="DELETE", times=0)
    await aks.begin_delete("ws1", polling=False)
    time.jump(30)
    assert (await aks.get("ws1")).properties.status.provisioning_error.code == "UnsatisfiablePDB"
    await aks.begin_delete("ws1", polling=False, ignore_pod_disruption_budget=True)
    time.jump(30)
    assert await aks.list() == []


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("Ws1", {}, 400, "InvalidParameter"),
    ("ws-1", {}, 400, "InvalidParameter"),
    ("ws1234567890a", {}, 400, "InvalidParameter"),
    ("ws1", {"vmSize": "Standard_Imaginary"}, 400, "VMSizeNotSupported"),
    ("ws1", {"vmSize": ""}, 400, "InvalidParameter"),
    ("ws1", {"availabilityZones": ["1"]}, 400, "AvailabilityZoneNotSupported"),
    ("ws1", {"count": 1001}, 400, "InvalidParameter"),
    ("ws1", {"osDiskSizeGB": 4096}, 400, "InvalidParameter"),
    ("ws1", {"nodeTaints": ["sku=gpu"]}, 400, "InvalidTaint"),
    ("ws1", {"nodeLabels": {"kubernetes.azure.com/mine": "x"}}, 400, "InvalidLabel"),
    ("ws1", {"nodeLabels": {"a b": "x"}}, 400, "InvalidLabel"),
    ("ws1", {"tags": {"kaito.sh/workspace": "x"}}, 400, "InvalidTagNameCharacters"),
    ("ws1", {"tags": {str(n): "x" for n in range(51)}}, 400, "TooManyTags"),
]


@pytest.mark.parametrize(("name", "properties", "status", "code"), REFUSED)
async def test_a_body_that_azure_would_refuse_is_refused(
    aks: Aks, name: str, properties: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(HttpResponseError) as raised:
        await aks.put(name, properties=properties)
    assert (raised.value.status_code, raised.value.error.code) == (status, code)
    assert await aks.list() == []


async def test_what_is_chosen_at_creation_cannot_be_changed(aks: Aks, time: ManualTime) -> None:
    await aks.put("ws1")
    time.jump(60)
    with pytest.raises(HttpResponseError) as raised:
        await aks.put("ws1", properties={"vmSize": "Standard_NC12s_v3"})
    assert raised.value.error.code == "PropertyChangeNotAllowed"
    await aks.put("ws1", properties={"tags": {"kaito.sh_nodeclaim-uid": "u2"}})
    assert (await aks.get("ws1")).properties.tags == {"kaito.sh_nodeclaim-uid": "u2"}


async def test_the_hundred_and_first_pool_is_refused(aks: Aks) -> None:
    await aks.admin.configure(throttle=False)
    for n in range(100):
        await aks.put(f"ws{n}")
    with pytest.raises(HttpResponseError, match="at most 100 agent pools"):
        await aks.put("ws100")


async def test_the_twenty_first_put_of_one_pool_is_throttled_and_others_are_not(aks: Aks, time: ManualTime) -> None:
    await aks.admin.fault("refuse", "quota-regional", times=20)
    for _ in range(20):
        with pytest.raises(HttpResponseError, match="Insufficient regional vcpu quota left for location eastus"):
            await aks.put("ws1")
    with pytest.raises(HttpResponseError) as raised:
        await aks.put("ws1")
    assert (raised.value.status_code, raised.value.error.code) == (429, "Throttled")
    assert raised.value.response.headers["Retry-After"] == "60"
    await aks.put("ws2")
    time.jump(60)
    await aks.put("ws1")


async def test_lists_share_one_budget(aks: Aks, time: ManualTime) -> None:
    for _ in range(60):
        await aks.list()
    with pytest.raises(HttpResponseError) as raised:
        await aks.list()
    assert raised.value.status_code == 429
    time.jump(1)
    await aks.list()


async def test_pages_join_to_the_whole_list(aks: Aks) -> None:
    await aks.admin.configure(pageSize=2)
    for n in range(5):
        await aks.put(f"ws{n}")
    assert [pool.name for pool in await aks.list()] == [f"ws{n}" for n in range(5)]
    assert len(await aks.admin.log(kind="LIST")) == 3


async def test_list_can_lag_behind_get(aks: Aks, time: ManualTime) -> None:
    await aks.admin.configure(listLagSeconds=10)
    await aks.put("ws1")
    assert (await aks.get("ws1")).name == "ws1"
    assert await aks.list() == []
    time.jump(10)
    assert [pool.properties.provisioning_state for pool in await aks.list()] == ["Creating"]
    time.jump(55)
    assert (await aks.get("ws1")).properties.provisioning_state == "Succeeded"
    assert [pool.properties.provisioning_state for pool in await aks.list()] == ["Creating"]


async def test_nothing_is_changed_while_the_cluster_is_stopped(aks: Aks, time: ManualTime) -> None:
    await aks.put("ws1")
    time.jump(60)
    await aks.admin.stop_cluster()
    stopping = await aks.client.managed_clusters.get(*aks.cluster)
    assert (stopping.properties.power_state.code, stopping.properties.provisioning_state) == ("Stopped", "Stopping")
    for attempt in (aks.put("ws2"), aks.begin_delete("ws1")):
        with pytest.raises(ResourceExistsError, match="not in Running power state"):
            await attempt
    await aks.admin.start_cluster()
    time.jump(1)
    running_again = await aks.client.managed_clusters.get(*aks.cluster)
    assert (running_again.properties.power_state.code, running_again.properties.provisioning_state) == (
        "Running",
        "Succeeded",
    )
    await aks.put("ws2")


async def test_operations_can_be_serialised_over_the_cluster(aks: Aks, time: ManualTime) -> None:
    await aks.admin.configure(parallel=False)
    await aks.put("ws1")
    with pytest.raises(ResourceExistsError, match="in progress create node pool operation"):
        await aks.put("ws2")
    time.jump(60)
    await aks.put("ws2")


async def test_a_reply_lost_after_the_commit_leaves_the_pool_and_is_in_the_log(aks: Aks) -> None:
    await aks.admin.fault("drop", after=True)
    await aks.admin.fault("drop", after=True)  # for aiohttp, which sends idempotent requests once more by itself
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        await aks.put("ws1", match_condition=MatchConditions.IfMissing)
    assert (await aks.get("ws1")).properties.tags == {"kaito.sh_nodeclaim-uid": "u1"}
    entries = await aks.admin.log(kind="PUT")
    assert [(entry.reply, entry.committed) for entry in entries] == [("dropped", True), ("dropped", False)]


async def test_a_reply_lost_before_the_commit_leaves_nothing(aks: Aks) -> None:
    await aks.admin.fault("drop", times=2)
    with pytest.raises((ServiceRequestError, ServiceResponseError)):
        await aks.put("ws1")
    assert await aks.list() == []
    assert {(entry.reply, entry.committed, entry.status) for entry in await aks.admin.log(kind="PUT")} == {
        ("dropped", False, 0)
    }


async def test_the_log_tells_one_pools_puts_with_their_tags(aks: Aks) -> None:
    await aks.put("ws1", match_condition=MatchConditions.IfMissing, headers={"x-ms-correlation-request-id": "c1"})
    await aks.put("ws2")
    [entry] = await aks.admin.log(pool="ws1", kind="PUT")
    assert (entry.status, entry.committed, entry.tags) == (201, True, {"kaito.sh_nodeclaim-uid": "u1"})
    assert (entry.if_none_match, entry.correlation) == ("*", "c1")


async def test_a_parent_that_is_not_ours_is_told_from_a_missing_pool(aks: Aks) -> None:
    with pytest.raises(ResourceNotFoundError) as raised:
        await aks.client.agent_pools.get("box", "other", "ws1")
    assert raised.value.error.code == "ResourceNotFound"
    with pytest.raises(ResourceNotFoundError) as raised:
        await aks.client.agent_pools.get("other", "box", "ws1")
    assert raised.value.error.code == "ResourceGroupNotFound"


async def test_names_of_parents_are_compared_without_case(aks: Aks) -> None:
    await aks.put("ws1")
    assert (await aks.client.agent_pools.get("BOX", "Box", "ws1")).name == "ws1"


@pytest.mark.parametrize(
    ("version", "code"), [("2099-01-01", "NoRegisteredProviderFound"), ("latest", "InvalidApiVersionParameter")]
)
async def test_an_unknown_api_version_is_refused(aks: Aks, version: str, code: str) -> None:
    async with sdk(aks.emulator, api_version=version) as client:
        with pytest.raises(HttpResponseError) as raised:
            await client.agent_pools.get(*aks.cluster, "ws1")
    assert (raised.value.status_code, raised.value.error.code) == (400, code)


async def test_an_older_api_version_works(aks: Aks) -> None:
    async with sdk(aks.emulator, api_version="2024-01-01") as client:
        assert [pool async for pool in client.agent_pools.list(*aks.cluster)] == []


async def test_a_token_can_be_insisted_on(aks: Aks) -> None:
    await aks.admin.configure(token="right")
    with pytest.raises(HttpResponseError) as raised:
        await aks.list()
    assert (raised.value.status_code, raised.value.error.code) == (401, "AuthenticationFailed")
    with pytest.raises(HttpResponseError) as raised:
        await aks.client.agent_pools.get(*aks.cluster, "ws1", headers={"Authorization": "Bearer wrong"})
    assert raised.value.error.code == "InvalidAuthenticationToken"
    with pytest.raises(ResourceNotFoundError):
        await aks.client.agent_pools.get(*aks.cluster, "ws1", headers={"Authorization": "Bearer right"})


@pytest.mark.parametrize("name", sorted(REFUSAL_NAMES))
async def test_every_refusal_of_the_catalogue_arrives(aks: Aks, name: str) -> None:
    expected = aks.emulator.service.cloud.refusal(name)
    await aks.admin.fault("refuse", name)
    with pytest.raises(HttpResponseError) as raised:
        await aks.put("ws1")
    assert raised.value.status_code == expected.status
    assert raised.value.response.headers["x-ms-error-code"] == expected.error.code
    assert await aks.list() == []


async def test_a_refusal_can_be_written_out(aks: Aks) -> None:
    await aks.admin.fault("refuse", status=418, code="Teapot", message="short and stout", shape="wrapped", retryAfter=7)
    with pytest.raises(HttpResponseError, match="short and stout") as raised:
        await aks.put("ws1")
    assert (raised.value.status_code, raised.value.response.headers["Retry-After"]) == (418, "7")


async def test_an_outcome_can_be_written_out(aks: Aks, time: ManualTime) -> None:
    await aks.admin.fault("fail", code="Unheard", message="never seen before")
    await aks.put("ws1")
    time.jump(60)
    error = (await aks.get("ws1")).properties.status.provisioning_error
    assert (error.code, error.message) == ("Unheard", "never seen before")


async def test_an_unknown_fault_is_refused_with_the_names_that_there_are(aks: Aks) -> None:
    with pytest.raises(AdminError, match="quota-family"):
        await aks.admin.fault("fail", "no-such-thing")
    with pytest.raises(AdminError, match="listLagSeconds"):
        await aks.admin.configure(lag=3)


async def test_a_slow_create_takes_as_long_as_asked(aks: Aks, time: ManualTime) -> None:
    await aks.admin.fault("slow", pool="ws*", seconds=600)
    await aks.put("ws1")
    time.jump(599)
    assert (await aks.get("ws1")).properties.provisioning_state == "Creating"
    time.jump(1)
    assert (await aks.get("ws1")).properties.provisioning_state == "Succeeded"


async def test_the_nodes_of_a_pool_look_as_on_aks(aks: Aks, time: ManualTime) -> None:
    labels = {"kaito.sh/workspace": "w", "karpenter.sh/nodepool": "kaito"}
    await aks.put("ws1", properties={"nodeLabels": labels, "nodeTaints": ["sku=gpu:NoSchedule"]})
    assert await aks.admin.nodes() == []
    time.jump(60)
    [node] = await aks.admin.nodes("ws1")
    scale_set = node["metadata"]["name"].removesuffix("000000")
    assert scale_set.startswith("aks-ws1-")
    assert scale_set.endswith("-vmss")
    assert node["spec"]["providerID"] == (
        f"azure:///subscriptions/{aks.emulator.identity.subscription}/resourceGroups/MC_box_box_eastus"
        f"/providers/Microsoft.Compute/virtualMachineScaleSets/{scale_set}/virtualMachines/0"
    )
    assert node["spec"]["taints"] == [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    assert labels.items() <= node["metadata"]["labels"].items()
    assert (
        node["metadata"]["labels"]["agentpool"] == node["metadata"]["labels"]["kubernetes.azure.com/agentpool"] == "ws1"
    )
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "Standard_NC6s_v3"


async def test_zones_and_spot_show_on_the_node(aks: Aks, time: ManualTime) -> None:
    spot = {"vmSize": "Standard_NC24ads_A100_v4", "availabilityZones": ["2"], "scaleSetPriority": "Spot"}
    await aks.put("ws1", properties=spot)
    time.jump(60)
    [node] = await aks.admin.nodes("ws1")
    assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "eastus-2"
    assert node["spec"]["taints"][0]["key"] == "kubernetes.azure.com/scalesetpriority"


async def test_an_eviction_takes_the_machine_and_leaves_the_pool(aks: Aks, time: ManualTime) -> None:
    await aks.put("ws1")
    time.jump(60)
    [before] = await aks.admin.nodes()
    await aks.admin.evict("ws1")
    assert await aks.admin.nodes() == []
    assert (await aks.get("ws1")).properties.provisioning_state == "Succeeded"
    await aks.admin.reset()
    await aks.put("ws1")
    time.jump(60)
    await aks.admin.evict("ws1", again=True)
    [after] = await aks.admin.nodes()
    assert after["metadata"]["name"].endswith("000001")
    assert after["metadata"]["name"] != before["metadata"]["name"]


async def test_an_extra_node_and_a_node_that_never_joins(aks: Aks, time: ManualTime) -> None:
    await aks.admin.fault("extra-node", pool="two")
    await aks.admin.fault("no-join", pool="none")
    await aks.put("two")
    await aks.put("none")
    time.jump(60)
    assert (await aks.get("none")).properties.provisioning_state == "Succeeded"
    assert len(await aks.admin.nodes("two")) == 2
    assert await aks.admin.nodes("none") == []


async def test_a_pool_deleted_behind_our_back_goes_without_a_request(aks: Aks, time: ManualTime) -> None:
    await aks.put("ws1")
    await aks.admin.delete_pool("ws1")
    time.jump(30)
    with pytest.raises(ResourceNotFoundError):
        await aks.get("ws1")
    assert await aks.admin.log(kind="DELETE") == []


async def test_a_stalled_answer_still_carries_the_change_out(aks: Aks) -> None:
    await aks.admin.fault("stall", seconds=0.05)
    assert (await aks.put("ws1")).properties.provisioning_state == "Creating"


async def test_a_hundred_puts_at_once_make_a_hundred_pools(aks: Aks) -> None:
    await asyncio.gather(*(aks.put(f"ws{n}") for n in range(100)))
    await aks.admin.configure(throttle=False)
    assert len(await aks.list()) == 100
    assert len({pool.properties.e_tag for pool in await aks.list()}) == 100


async def test_a_restarted_emulator_remembers_everything(tmp_path: Path, time: ManualTime) -> None:
    settings = Settings(create_seconds=60, retry_after=0)
    async with running(settings, folder=tmp_path, time=time) as emulator, sdk(emulator) as client:
        await emulator.admin.fault("refuse", "policy", pool="next")
        poller = await Aks(emulator, client).begin_put("ws1", polling=False)
        created = await poller.result()
    time.jump(60)
    async with running(Settings(), folder=tmp_path, time=time) as emulator, sdk(emulator) as client:
        again = Aks(emulator, client)
        assert [entry.pool for entry in await emulator.admin.log(kind="PUT")] == ["ws1"]
        pool = await again.get("ws1")
        assert pool.properties.provisioning_state == "Succeeded"
        assert pool.properties.e_tag != created.properties.e_tag
        with pytest.raises(HttpResponseError, match="disallowed by policy"):
            await again.put("next", body=pool_body())
