"""What a node of the box is, and the configuration files of its containerd and kubelet. Pure: starts nothing.

A node is imitated exactly by what its kubelet is told: name, provider id, labels, taints. Several share one machine, so
each has its own folders, which its mount namespace puts where the programs expect them (`BINDS`).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.local.controlplane import ADDRESS

FIRST_KUBELET_PORT = 10250
MAX_NODES = 250  # one /24 of pod addresses each, out of POD_NETWORK
POD_NETWORK = "198.19.0.0/16"
POD_GATEWAY = "198.19.0.1"
POD_BRIDGE = "kubepods0"
CNI_PROGRAMS = "/usr/lib/cni"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CGROUP = "aks-in-a-box"

# Folder inside the node's own → where the node's programs see it. The device-plugin folder and the shims' sockets have
# fixed places that no option moves; network namespaces and logs would otherwise stay behind on the machine.
BINDS = {
    "kubelet": "/var/lib/kubelet",
    "cni": "/var/lib/cni",
    "netns": "/run/netns",
    "run": "/run/containerd",
    "pod-logs": "/var/log/pods",
    "container-logs": "/var/log/containers",
}


@dataclass(frozen=True)
class NodeSpec:
    """One node to boot."""

    name: str
    provider_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()  # as kubectl writes them: key=value:Effect
    gpus: int = 0  # advertised by a device plugin, without any GPU being there
    gpu_resource: str = "nvidia.com/gpu"
    gpu_delay: float = 0.0  # seconds until the device plugin starts, as drivers take their time on real nodes


@dataclass(frozen=True)
class Node:
    """A node with its place on this machine. `slot` is unique among the nodes of a box."""

    spec: NodeSpec
    slot: int

    @property
    def port(self) -> int:
        return FIRST_KUBELET_PORT + self.slot

    @property
    def cgroup(self) -> str:
        return f"{CGROUP}/{self.spec.name}"

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def decode(cls, text: str) -> "Node":
        data = json.loads(text)
        spec = {**data["spec"], "taints": tuple(data["spec"]["taints"])}
        return cls(spec=NodeSpec(**spec), slot=data["slot"])


def kubelet_config(node: Node, authority: Path, certificate: Path, key: Path) -> dict[str, Any]:
    """A KubeletConfiguration; what it lacks are flags (`kubelet_flags`)."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,  # the kubelet refuses loopback
        "port": node.port,
        "healthzPort": 0,
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "providerID": node.spec.provider_id,
        "registerWithTaints": [_taint(taint) for taint in node.spec.taints],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        # Nobody serves DNS in the box, where everything is reached by address. At this address, which is the machine's,
        # a lookup is refused at once; the machine's own resolvers would let pods wait for answers that cannot reach them.
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "serializeImagePulls": False,
        # All nodes share one disk that is also the developer's: percentages of it say nothing about the node.
        "evictionHard": {"nodefs.available": "1Gi", "imagefs.available": "1Gi", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    }


def kubelet_flags(node: Node, config: Path, kubeconfig: Path) -> list[str]:
    labels = ",".join(f"{key}={value}" for key, value in sorted(node.spec.labels.items()))
    return [
        *("--config", str(config), "--kubeconfig", str(kubeconfig)),
        *("--hostname-override", node.spec.name, "--node-ip", ADDRESS, "--node-labels", labels),
    ]


def containerd_config(node: Node, folder: Path, registries: Path, pause_image: str) -> str:
    """Containerd's TOML (version 2, which 1.6 and later read)."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{folder}/containerd"
state = "/run/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

[debug]
level = "warn"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[{cri}]
sandbox_image = "{pause_image}"
# Without CAP_SYS_RESOURCE runc may not lower a score, and says "can't get final child's PID from pipe: EOF".
restrict_oom_score_adj = true
stream_server_port = "0"

[{cri}.cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{folder}/net.d"

[{cri}.containerd]
snapshotter = "overlayfs"
# Images lie in the box's registry already; a node keeps only what it unpacked.
discard_unpacked_layers = true

[{cri}.registry]
config_path = "{registries}"
"""


def network_config(node: Node, folder: Path) -> dict[str, Any]:
    """A CNI network: one bridge for the pods of all nodes, an address range for each node."""
    return {
        "cniVersion": "0.4.0",
        "name": "aks-in-a-box",
        "plugins": [
            {
                "type": "bridge",
                "bridge": POD_BRIDGE,
                "isGateway": True,
                "hairpinMode": True,  # a pod may reach itself through its Service
                "ipMasq": False,  # pods reach the box and nothing beyond it
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{folder}/addresses",
                    "ranges": [[pod_range(node.slot)]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def pod_range(slot: int) -> dict[str, str]:
    """A node's part of the one pod subnet. The third octet is 1 + slot, so that the gateway is in nobody's range."""
    prefix = POD_NETWORK.split(".0.0", 1)[0]
    return {
        "subnet": POD_NETWORK,
        "gateway": POD_GATEWAY,
        "rangeStart": f"{prefix}.{slot + 1}.1",
        "rangeEnd": f"{prefix}.{slot + 1}.254",
    }


def _taint(text: str) -> dict[str, str]:
    """`key=value:Effect` or `key:Effect` as the API has it."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}
