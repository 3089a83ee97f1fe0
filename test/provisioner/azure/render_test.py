"""The body of an agent pool, and what is read back from one. That AKS accepts it is shown by every integration test."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.api.nodeclaim import NodeClaim
from kube.api.nodeclass import KaitoNodeClassSpec, UpgradeSettings
from provisioner.azure.render import agent_pool, disk_gib, instance
from provisioner.cloud import InvalidSpec, Launch, Offering, State
from test.provisioner.builders import a_node_claim

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def properties(
    claim: NodeClaim | None = None, offering: Offering | None = None, node_class: KaitoNodeClassSpec | None = None
) -> dict[str, Any]:
    launch = Launch(
        claim or a_node_claim(),
        offering or Offering("Standard_NC6s_v3"),
        node_class or KaitoNodeClassSpec(),
        "cluster-uid",
        AT,
    )
    found: dict[str, Any] = agent_pool(launch)["properties"]
    return found


def test_what_nobody_asked_for_is_left_to_aks() -> None:
    assert {"availabilityZones", "scaleSetPriority", "vnetSubnetID", "gpuProfile", "osDiskType"}.isdisjoint(
        properties()
    )


def test_tags_name_the_owner_and_hold_no_slash() -> None:
    tags = properties()["tags"]
    assert tags["kaito.sh_nodeclaim-uid"] == "uid-1"
    assert tags["kaito.sh_cluster-id"] == "cluster-uid"
    assert tags["kaito.sh_created-at"] == "2030-01-02T03:04:05Z"
    assert not any("/" in key for key in tags)


def test_a_class_cannot_take_over_the_owner_tags() -> None:
    tags = properties(node_class=KaitoNodeClassSpec(tags={"kaito.sh_nodeclaim-uid": "other", "team": "ml"}))["tags"]
    assert (tags["kaito.sh_nodeclaim-uid"], tags["team"]) == ("uid-1", "ml")


def test_a_spot_offering_is_a_spot_pool() -> None:
    spot = properties(offering=Offering("Standard_NC6s_v3", "eastus-2", "spot"))
    assert (spot["scaleSetPriority"], spot["scaleSetEvictionPolicy"], spot["spotMaxPrice"]) == ("Spot", "Delete", -1)
    assert spot["availabilityZones"] == ["2"]


@pytest.mark.parametrize(("capacity_type", "group"), [("on-demand", "/crg"), ("reserved", "/crg"), ("spot", None)])
def test_all_but_spot_machines_use_the_reservation(capacity_type: str, group: str | None) -> None:
    node_class = KaitoNodeClassSpec(capacity_reservation_group_id="/crg")
    made = properties(offering=Offering("S", "", capacity_type), node_class=node_class)
    assert made.get("capacityReservationGroupID") == group
    assert instance({"name": "ws1", "properties": made}, location="").offering.capacity_type == capacity_type


def test_the_class_speaks_in_arms_own_words() -> None:
    node_class = KaitoNodeClassSpec(
        gpu_driver="None",
        gpu_instance_profile="MIG2g",
        enable_fips=True,
        kubelet_config={"podMaxPids": 100},
        upgrade_settings=UpgradeSettings(max_surge="33%"),
    )
    made = properties(node_class=node_class)
    assert made["gpuProfile"] == {"driver": "None"}
    assert (made["gpuInstanceProfile"], made["enableFIPS"]) == ("MIG2g", True)
    assert made["kubeletConfig"] == {"podMaxPids": 100}
    assert made["upgradeSettings"] == {"maxSurge": "33%"}


@pytest.mark.parametrize(
    ("annotation", "sku"),
    [("", "Ubuntu"), ("ubuntu", "Ubuntu"), ("AzureLinux", "AzureLinux"), ("ubuntu2404", "Ubuntu2404")],
)
def test_the_image_family_is_read_without_case(annotation: str, sku: str) -> None:
    annotations = {"kaito.sh/node-image-family": annotation} if annotation else {}
    assert properties(a_node_claim(annotations=annotations))["osSKU"] == sku


def test_an_unknown_image_family_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="known: ubuntu"):
        properties(a_node_claim(annotations={"kaito.sh/node-image-family": "windows"}))


def test_labels_of_akss_own_domain_are_not_sent() -> None:
    claim = a_node_claim(labels={"kubernetes.azure.com/mode": "system", "team": "ml"})
    labels = properties(claim)["nodeLabels"]
    assert "kubernetes.azure.com/mode" not in labels
    assert labels["team"] == "ml"
    assert labels["kaito.sh/machine-type"] == "gpu"
    assert labels["kaito.sh/creation-timestamp"] == "2030-01-01T00-00-00Z"


@pytest.mark.parametrize(
    ("requests", "gib"),
    [({"storage": "120Gi"}, 120), ({"ephemeral-storage": "1G"}, 1), ({"storage": "9Ti"}, 2048), ({}, None)],
)
def test_the_disk_is_rounded_up_and_bounded(requests: dict[str, str], gib: int | None) -> None:
    assert disk_gib(a_node_claim(requests=requests)) == gib


def test_no_disk_at_all_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="more than 0"):
        disk_gib(a_node_claim(requests={"storage": "0"}))


@given(
    st.sampled_from(["on-demand", "spot"]),
    st.sampled_from(["", "eastus-1", "eastus-3"]),
    st.text("AZaz_09", min_size=1),
)
def test_an_offering_is_read_back_as_it_was_written(capacity_type: str, zone: str, size: str) -> None:
    offering = Offering(size, zone, capacity_type)
    body = {"name": "ws1", "properties": {**properties(offering=offering), "provisioningState": "Succeeded"}}
    assert instance(body, location="eastus").offering == offering


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("Succeeded", State.SUCCEEDED),
        ("Failed", State.FAILED),
        ("Canceled", State.FAILED),
        ("Deleting", State.DELETING),
        ("Creating", State.CREATING),
        ("UpgradingNodeImageVersion", State.CREATING),
        ("", State.CREATING),
    ],
)
def test_every_state_of_a_pool_is_understood(text: str, state: State) -> None:
    found = instance({"name": "ws1", "properties": {"provisioningState": text}}, location="eastus")
    assert found.state is state
    assert (found.failure is not None) == (state is State.FAILED)


@pytest.mark.parametrize(("broken", "attempt"), [("", 1), ("1", 2), ("one", 1)])
def test_a_pool_says_which_machine_of_its_claim_it_is(broken: str, attempt: int) -> None:
    made = properties(a_node_claim(annotations={"kaito.sh/launch-attempts": broken} if broken else {}))
    assert instance({"name": "ws1", "properties": made}, location="").attempt == attempt


@pytest.mark.parametrize("tags", [{}, {"kaito.sh_launch-attempt": "edited"}])
def test_a_pool_without_its_number_counts_as_the_first(tags: dict[str, str]) -> None:
    assert instance({"name": "ws1", "properties": {"tags": tags}}, location="").attempt == 1


def test_a_pool_with_nothing_in_it_is_nobodys() -> None:
    found = instance({}, location="")
    assert (found.owner_uid, found.cluster_id, found.created_at) == ("", "", None)
