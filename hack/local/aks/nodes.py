"""How a machine of an agent pool appears in Kubernetes: name, provider id, labels, taints, GPUs. Pure.

Starting a machine is `boot`'s business; a client of pure mode turns the same facts into a Node object of its own.
"""

from dataclasses import dataclass
from typing import Any

from hack.local.aks import skus
from hack.local.aks.body import NODE_IMAGE
from hack.local.aks.model import Identity, Pool

_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_SPOT = "kubernetes.azure.com/scalesetpriority"


@dataclass(frozen=True)
class NodeFacts:
    """What the kubelet of one machine registers with. `taints` as `key=value:Effect`; `gpus` of `gpu_resource`, 0 where it has none."""

    name: str
    provider_id: str
    labels: dict[str, str]
    taints: tuple[str, ...]
    gpus: int
    gpu_resource: str


def base36(number: int, width: int = 6) -> str:
    """Return the suffix of a scale set's computer names."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits.rjust(width, "0")


def of(identity: Identity, pool: Pool, instance: int) -> NodeFacts:
    """Return the node that machine `instance` of `pool` becomes."""
    sku = skus.find(pool.properties["vmSize"])
    gpus = sku.gpus if sku else 0
    return NodeFacts(
        name=f"{pool.scale_set}{base36(instance)}",
        provider_id=(
            f"azure:///subscriptions/{identity.subscription}/resourceGroups/{identity.node_resource_group}"
            f"/providers/Microsoft.Compute/virtualMachineScaleSets/{pool.scale_set}/virtualMachines/{instance}"
        ),
        labels=_labels(identity, pool, instance, nvidia=bool(sku and sku.gpus and sku.resource == skus.NVIDIA)),
        taints=_taints(pool),
        gpus=gpus,
        gpu_resource=sku.resource if sku else skus.NVIDIA,
    )


def _labels(identity: Identity, pool: Pool, instance: int, *, nvidia: bool) -> dict[str, str]:
    properties = pool.properties
    zones = properties.get("availabilityZones") or []
    labels = {
        "agentpool": pool.name,
        "kubernetes.azure.com/agentpool": pool.name,
        "kubernetes.azure.com/cluster": identity.node_resource_group,
        "kubernetes.azure.com/mode": str(properties["mode"]).lower(),
        "kubernetes.azure.com/role": "agent",
        "kubernetes.azure.com/node-image-version": NODE_IMAGE,
        "kubernetes.azure.com/os-sku": str(properties["osSKU"]),
        "node.kubernetes.io/instance-type": properties["vmSize"],
        "topology.kubernetes.io/region": identity.location,
        # Machines outside zones carry their fault domain instead.
        "topology.kubernetes.io/zone": f"{identity.location}-{zones[instance % len(zones)]}" if zones else "0",
    }
    if nvidia:
        labels |= {"accelerator": "nvidia", "kubernetes.azure.com/accelerator": "nvidia"}
    if properties.get("scaleSetPriority") == "Spot":
        labels[_SPOT] = "spot"
    return {**labels, **(properties.get("nodeLabels") or {})}


def _taints(pool: Pool) -> tuple[str, ...]:
    taints = tuple(pool.properties.get("nodeTaints") or ())
    spot = f"{_SPOT}=spot:NoSchedule"
    return (*taints, spot) if pool.properties.get("scaleSetPriority") == "Spot" and spot not in taints else taints


def manifest(facts: NodeFacts) -> dict[str, Any]:
    """Return the Node object that the kubelet would register."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": facts.name, "labels": {"kubernetes.io/hostname": facts.name, **facts.labels}},
        "spec": {"providerID": facts.provider_id, "taints": [_taint(text) for text in facts.taints]},
    }


def _taint(text: str) -> dict[str, str]:
    pair, effect = text.rsplit(":", 1)
    key, _, value = pair.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}
