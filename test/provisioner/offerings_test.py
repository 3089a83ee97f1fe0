"""Which machine is asked for: the order of offerings, and what a refusal rules out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.api.nodeclaim import NodeClaimSpec, Requirement
from kube.api.nodeclass import KaitoNodeClassSpec
from provisioner.cloud import InsufficientCapacity, InvalidSpec, Offering, Scope
from provisioner.offerings import Shortages, offerings
from test.clock import VirtualClock
from test.provisioner.builders import wants

SIZE, ZONE, CAPACITY = "node.kubernetes.io/instance-type", "topology.kubernetes.io/zone", "karpenter.sh/capacity-type"


def of(*requirements: Requirement, node_class: KaitoNodeClassSpec | None = None) -> list[Offering]:
    return list(offerings(NodeClaimSpec(requirements=requirements), node_class or KaitoNodeClassSpec()))


def test_a_size_alone_is_regional_and_on_demand() -> None:
    assert of(wants(SIZE, "A")) == [Offering("A", "", "on-demand")]


def test_zones_come_before_capacity_types_and_these_before_sizes() -> None:
    found = of(wants(SIZE, "A", "B"), wants(ZONE, "z-1", "z-2"), wants(CAPACITY, "spot", "on-demand"))
    assert found[:4] == [
        Offering("A", "z-1", "spot"),
        Offering("A", "z-2", "spot"),
        Offering("A", "z-1", "on-demand"),
        Offering("A", "z-2", "on-demand"),
    ]
    assert [offering.instance_type for offering in found[4:]] == ["B"] * 4


def test_requirements_on_one_key_add_up() -> None:
    assert of(wants(SIZE, "A", "B", "C"), wants(SIZE, "B", operator="NotIn")) == [Offering("A"), Offering("C")]


def test_kaitos_second_name_of_the_size_narrows_the_first() -> None:
    assert of(wants(SIZE, "A", "B"), wants("karpenter.azure.com/sku-name", "B")) == [Offering("B")]


def test_reserved_is_offered_where_the_class_has_a_reservation() -> None:
    node_class = KaitoNodeClassSpec(capacity_reservation_group_id="/crg")
    assert of(wants(SIZE, "A"), node_class=node_class) == [Offering("A")]
    assert of(wants(SIZE, "A"), wants(CAPACITY, "reserved"), node_class=node_class) == [Offering("A", "", "reserved")]


@pytest.mark.parametrize(
    "requirement",
    [
        wants("kubernetes.io/os", "windows"),
        wants("kubernetes.io/arch", "arm64"),
        wants(CAPACITY, "reserved"),
        wants(CAPACITY, operator="DoesNotExist"),
        wants(ZONE, "z-1", operator="NotIn"),
        wants(SIZE, "A", operator="NotIn"),
    ],
    ids=lambda requirement: f"{requirement.key} {requirement.operator}",
)
def test_what_cannot_be_satisfied_is_refused_before_anything_is_sent(requirement: Requirement) -> None:
    with pytest.raises(InvalidSpec):
        of(wants(SIZE, "A"), requirement)


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        (
            Scope.OFFERING,
            {("A", "z-2", "spot"), ("A", "z-1", "on-demand"), ("A", "z-2", "on-demand"), ("B", "z-1", "spot")},
        ),
        (Scope.ZONE, {("A", "z-2", "spot"), ("A", "z-2", "on-demand"), ("B", "z-1", "spot")}),
        (Scope.SIZE, {("A", "z-1", "on-demand"), ("A", "z-2", "on-demand"), ("B", "z-1", "spot")}),
        (Scope.SPOT, {("A", "z-1", "on-demand"), ("A", "z-2", "on-demand")}),
        (Scope.REGION, set()),
    ],
)
def test_a_refusal_rules_out_what_it_reaches(scope: Scope, left: set[tuple[str, str, str]]) -> None:
    candidates = [
        Offering(size, zone, capacity)
        for size, zone, capacity in [
            ("A", "z-1", "spot"),
            ("A", "z-2", "spot"),
            ("A", "z-1", "on-demand"),
            ("A", "z-2", "on-demand"),
            ("B", "z-1", "spot"),
        ]
    ]
    shortages = Shortages(VirtualClock())
    shortages.refused("uid", candidates[0], InsufficientCapacity("none", scope=scope))
    assert {tuple(each) for each in candidates if shortages.choose("uid", [each]) is not None} == left


async def test_what_others_were_refused_is_tried_last_and_forgotten_in_time() -> None:
    clock = VirtualClock()
    shortages = Shortages(clock)
    first, second = Offering("A"), Offering("B")
    shortages.refused("uid-1", first, InsufficientCapacity("none", ttl=600))
    assert shortages.choose("uid-2", [first, second]) == second
    assert shortages.choose("uid-2", [first]) == first
    assert shortages.retry_after("uid-1") == 600
    await clock.advance(601)
    assert shortages.choose("uid-2", [first, second]) == first
    assert shortages.choose("uid-1", [first]) is None


def test_the_last_refusal_is_the_reason_of_them_all() -> None:
    shortages = Shortages(VirtualClock())
    for size in ("A", "B"):
        shortages.refused("uid", Offering(size), InsufficientCapacity(f"no {size}"))
    offering, error = shortages.last("uid")
    assert (offering, str(error)) == (Offering("B"), "no B")


@given(st.permutations(["A", "B", "C", "D"]), st.integers(0, 4))
def test_every_candidate_is_tried_exactly_once_in_order(sizes: list[str], known: int) -> None:
    shortages = Shortages(VirtualClock())
    candidates = [Offering(size) for size in sizes]
    for each in candidates[:known]:
        shortages.refused("other", each, InsufficientCapacity("none"))
    tried = []
    while (chosen := shortages.choose("uid", candidates)) is not None:
        tried.append(chosen)
        shortages.refused("uid", chosen, InsufficientCapacity("none"))
    assert tried == candidates[known:] + candidates[:known]
