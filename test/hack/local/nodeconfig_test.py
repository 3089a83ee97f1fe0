"""What a node's programs are told. That they do as told is e2e's business; here the files say what the node is."""

import ipaddress
import tomllib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hack.local.nodeconfig import (
    MAX_NODES,
    POD_GATEWAY,
    POD_NETWORK,
    Node,
    NodeSpec,
    containerd_config,
    kubelet_config,
    kubelet_flags,
    network_config,
    pod_range,
)

SPEC = NodeSpec(
    name="aks-ws1-12345678-vmss000000",
    provider_id="azure:///subscriptions/s/vmss/0",
    labels={"b": "2", "a": "1"},
    taints=("sku=gpu:NoSchedule", "startup:NoExecute"),
    gpus=2,
)
NODE = Node(SPEC, 3)


def test_a_node_survives_being_written_down() -> None:
    assert Node.decode(NODE.encode()) == NODE


def test_the_kubelet_registers_with_the_provider_id_and_taints_of_the_spec() -> None:
    config = kubelet_config(NODE, Path("/ca"), Path("/crt"), Path("/key"))
    assert config["providerID"] == SPEC.provider_id
    assert config["registerWithTaints"] == [
        {"key": "sku", "value": "gpu", "effect": "NoSchedule"},
        {"key": "startup", "value": "", "effect": "NoExecute"},
    ]


def test_the_kubelet_gets_its_name_and_labels_as_flags() -> None:
    flags = kubelet_flags(NODE, Path("/config"), Path("/kubeconfig"))
    assert flags[flags.index("--hostname-override") + 1] == SPEC.name
    assert flags[flags.index("--node-labels") + 1] == "a=1,b=2"


def test_containerds_file_is_toml_and_uses_the_nodes_own_folders() -> None:
    config = tomllib.loads(containerd_config(NODE, Path("/box/n"), Path("/box/registries"), "pause:1"))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert config["root"] == "/box/n/containerd"
    assert cri["sandbox_image"] == "pause:1"
    assert cri["registry"]["config_path"] == "/box/registries"
    assert cri["restrict_oom_score_adj"] is True


def test_pods_of_two_nodes_share_a_subnet_and_no_address() -> None:
    first, second = (
        network_config(Node(SPEC, slot), Path("/n"))["plugins"][0]["ipam"]["ranges"][0][0] for slot in (0, 1)
    )
    assert first["subnet"] == second["subnet"] == POD_NETWORK
    assert ipaddress.IPv4Address(first["rangeEnd"]) < ipaddress.IPv4Address(second["rangeStart"])


@given(st.integers(0, MAX_NODES - 1))
def test_every_slot_has_its_own_addresses_without_the_gateway(slot: int) -> None:
    part = pod_range(slot)
    start, end = ipaddress.ip_address(part["rangeStart"]), ipaddress.ip_address(part["rangeEnd"])
    assert int(end) - int(start) == 253
    assert start in ipaddress.ip_network(POD_NETWORK)
    assert end in ipaddress.ip_network(POD_NETWORK)
    assert not int(start) <= int(ipaddress.ip_address(POD_GATEWAY)) <= int(end)


@given(st.sets(st.integers(0, MAX_NODES - 1), min_size=2, max_size=2))
def test_no_two_slots_share_a_kubelet_port_or_an_address(slots: set[int]) -> None:
    one, two = (Node(SPEC, slot) for slot in slots)
    assert one.port != two.port
    assert pod_range(one.slot)["rangeStart"] != pod_range(two.slot)["rangeStart"]
