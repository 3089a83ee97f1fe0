"""The pure parts of registration and initialization; their effects are in `lifecycle_test`."""

from typing import Any

import pytest

from kube.api.nodeclaim import NodeClaim, Requirement
from kube.api.workload import Node, Taint
from provisioner.claims import managed, owns
from provisioner.cloud import Instance, Offering, State
from provisioner.context import of_pool
from provisioner.initialization import obstacle
from provisioner.registration import merged_taints, registration_patch
from test.provisioner.builders import a_node, a_node_claim, provider_id, wants

SKU = Taint(key="sku", value="gpu", effect="NoSchedule")


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (a_node(ready=False), "NodeNotReady"),
        (a_node(taints=[Taint(key="wait", effect="NoSchedule")]), "StartupTaintsExist"),
        (a_node(taints=[Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")]), "KnownEphemeralTaintsExist"),
        (a_node(), "ResourceNotRegistered"),
        (a_node(allocatable={"nvidia.com/gpu": "0"}), "ResourceNotRegistered"),
        (a_node(allocatable={"nvidia.com/gpu": "1"}), None),
    ],
)
def test_a_node_is_usable_when_nothing_stands_in_the_way(node: Node, reason: str | None) -> None:
    claim = a_node_claim(
        requests={"storage": "120Gi", "nvidia.com/gpu": "1"}, startup_taints=(Taint(key="wait", effect="NoSchedule"),)
    )
    assert _why_not(claim, node) == reason


def test_gpus_that_nobody_requested_are_waited_for_only_on_request() -> None:
    assert _why_not(a_node_claim(), a_node()) is None
    assert _why_not(a_node_claim(), a_node(), gpus=True) == "ResourceNotRegistered"
    small = a_node_claim(requirements=[wants("node.kubernetes.io/instance-type", "Standard_D2s_v5")])
    assert _why_not(small, a_node(), gpus=True) is None


def _why_not(claim: NodeClaim, node: Node, *, gpus: bool = False) -> str | None:
    found = obstacle(claim, node, gpus=gpus)
    return found[0] if found else None


def test_the_claims_taints_win_and_the_unregistered_taint_goes() -> None:
    claim = a_node_claim(taints=(SKU,), startup_taints=(Taint(key="wait", effect="NoSchedule"),))
    node = a_node(
        taints=[
            Taint(key="sku", value="old", effect="NoSchedule"),
            Taint(key="karpenter.sh/unregistered", effect="NoExecute"),
            Taint(key="kept", effect="NoExecute"),
        ]
    )
    assert [taint.key for taint in merged_taints(claim, node)] == ["kept", "sku", "wait"]
    assert SKU in merged_taints(claim, node)


def test_taints_are_left_alone_on_request() -> None:
    claim = a_node_claim(labels={"karpenter.sh/do-not-sync-taints": "true"}, taints=(SKU,))
    assert merged_taints(claim, a_node()) == ()


def test_what_is_already_there_is_not_written_twice() -> None:
    claim = a_node_claim(taints=(SKU,))
    assert "spec" not in registration_patch(claim, a_node(taints=[SKU]), {})


def test_owners_of_others_are_kept() -> None:
    patch: dict[str, Any] = registration_patch(a_node_claim(), a_node(), {})
    assert [owner["uid"] for owner in patch["metadata"]["ownerReferences"]] == ["uid-1"]
    assert patch["metadata"]["finalizers"] == ["karpenter.sh/termination"]


@pytest.mark.parametrize(
    ("claim", "answer"),
    [
        (a_node_claim(), True),
        (a_node_claim(labels={"kaito.sh/workspace": "w"}), True),
        (NodeClaim(metadata=a_node_claim(labels={"kaito.sh/ragengine": "r"}).metadata), True),
        (NodeClaim(metadata=a_node_claim().metadata), False),
    ],
)
def test_managed_is_what_gpu_provisioner_calls_so(claim: NodeClaim, answer: bool) -> None:
    assert managed(claim) is answer


@pytest.mark.parametrize(
    ("instance", "answer"),
    [
        (Instance("ws1", State.SUCCEEDED, Offering("S"), owner_uid="uid-1", cluster_id="here"), True),
        (Instance("ws1", State.SUCCEEDED, Offering("S"), owner_uid="uid-2", cluster_id="here"), False),
        (Instance("ws1", State.SUCCEEDED, Offering("S"), owner_uid="uid-1", cluster_id="there"), False),
        (Instance("ws2", State.SUCCEEDED, Offering("S"), owner_uid="uid-1", cluster_id="here"), False),
        (Instance("ws1", State.SUCCEEDED, Offering("S")), False),
        (
            Instance(
                "ws1",
                State.SUCCEEDED,
                Offering("S"),
                labels={"kaito.sh/creation-timestamp": "2030-01-01T00-00-00Z"},
            ),
            True,
        ),
    ],
)
def test_a_pool_is_ours_by_its_tags(instance: Instance, answer: bool) -> None:
    assert owns(a_node_claim(), instance, "here") is answer


def test_a_node_is_of_a_pool_when_aks_says_so_twice() -> None:
    assert of_pool(a_node(), "ws1")
    assert not of_pool(a_node(), "ws")
    assert "/aks-ws1-" in provider_id("ws1")


@pytest.mark.parametrize(
    ("operator", "values", "value", "answer"),
    [
        ("In", ("a", "b"), "b", True),
        ("In", ("a",), "b", False),
        ("NotIn", ("a",), "b", True),
        ("Exists", (), "b", True),
        ("DoesNotExist", (), "b", False),
        ("Gt", ("4",), "8", True),
        ("Gt", ("8",), "8", False),
        ("Lt", ("8",), "4", True),
        ("Lt", ("8",), "four", False),
        ("Gte", ("8",), "8", False),
    ],
)
def test_a_requirement_allows_what_its_operator_says(
    operator: str, values: tuple[str, ...], value: str, answer: bool
) -> None:
    assert Requirement(key="k", operator=operator, values=values).allows(value) is answer
