"""The body of an agent pool, and what can be read back from one. Pure: equal launches make equal bodies.

Ownership lives in tags (a node label can be edited by anybody who can edit nodes). The labels that gpu-provisioner put on
its pools are kept as well, so that tools which look for them, and a way back, keep working.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from kube.api import labels
from kube.api.nodeclaim import NodeClaim
from kube.clock import parse_timestamp, timestamp
from provisioner.azure.errors import provisioning_failure
from provisioner.claims import has_gpus, launch_attempts, legacy_time
from provisioner.cloud import ON_DEMAND, SPOT, Instance, InvalidSpec, Launch, Offering, State
from provisioner.quantity import parse_quantity

TAG_CLAIM = "karpenter.sh_nodeclaim"  # tag keys may not hold a slash
TAG_UID = "kaito.sh_nodeclaim-uid"
TAG_CLUSTER = "kaito.sh_cluster-id"
TAG_CREATED = "kaito.sh_created-at"
TAG_ATTEMPT = "kaito.sh_launch-attempt"

OS_SKUS = {"ubuntu": "Ubuntu", "ubuntu2204": "Ubuntu2204", "ubuntu2404": "Ubuntu2404", "azurelinux": "AzureLinux"}
MAX_DISK_GIB = 2048  # the largest OS disk that AKS takes
RESERVED_LABELS = "kubernetes.azure.com/"  # AKS refuses pools that set labels of its own domain


def agent_pool(launch: Launch) -> dict[str, Any]:
    """The request body, in ARM's own names; keys without a value are left to AKS."""
    claim, offering, node_class = launch.claim, launch.offering, launch.node_class
    spot = offering.capacity_type == SPOT
    properties: dict[str, Any] = {
        "count": 1,
        "vmSize": offering.instance_type,
        "mode": "User",
        "type": "VirtualMachineScaleSets",
        "osType": "Linux",
        "enableAutoScaling": False,
        "osSKU": _os_sku(launch),
        "osDiskSizeGB": disk_gib(claim) or node_class.os_disk_size_gb,
        "nodeLabels": node_labels(launch),
        "nodeTaints": [f"{taint.key}={taint.value}:{taint.effect}" for taint in claim.spec.taints],
        "tags": {**node_class.tags, **_tags(launch)},
        "availabilityZones": [offering.zone.rsplit("-", 1)[-1]] if offering.zone else None,
        "scaleSetPriority": "Spot" if spot else None,
        "scaleSetEvictionPolicy": "Delete" if spot else None,
        "spotMaxPrice": (-1 if node_class.spot_max_price is None else node_class.spot_max_price) if spot else None,
        "capacityReservationGroupID": None if spot else node_class.capacity_reservation_group_id,
        "gpuProfile": {"driver": node_class.gpu_driver} if node_class.gpu_driver else None,
        **_passed_through(launch),
    }
    return {"properties": {key: value for key, value in properties.items() if value is not None}}


def _passed_through(launch: Launch) -> dict[str, Any]:
    """What the node class says in ARM's own words."""
    spec = launch.node_class
    return {
        "osDiskType": spec.os_disk_type,
        "kubeletDiskType": spec.kubelet_disk_type,
        "vnetSubnetID": spec.vnet_subnet_id,
        "podSubnetID": spec.pod_subnet_id,
        "maxPods": spec.max_pods,
        "proximityPlacementGroupID": spec.proximity_placement_group_id,
        "gpuInstanceProfile": spec.gpu_instance_profile,
        "enableEncryptionAtHost": spec.enable_encryption_at_host,
        "enableFIPS": spec.enable_fips,
        "orchestratorVersion": spec.orchestrator_version,
        "kubeletConfig": dict(spec.kubelet_config) if spec.kubelet_config else None,
        "linuxOSConfig": dict(spec.linux_os_config) if spec.linux_os_config else None,
        "upgradeSettings": msgspec.to_builtins(spec.upgrade_settings) if spec.upgrade_settings else None,
    }


def disk_gib(claim: NodeClaim) -> int | None:
    """The OS disk that the claim asks for: KAITO says `storage`, everybody else `ephemeral-storage`. Rounded up."""
    requests = claim.spec.resources.requests
    asked = requests.get("storage", requests.get("ephemeral-storage"))
    if asked is None:
        return None
    gib = math.ceil(parse_quantity(str(asked)) / 2**30)
    if gib <= 0:
        raise InvalidSpec(f"The storage request {asked!r} must be more than 0")
    return min(gib, MAX_DISK_GIB)


def _os_sku(launch: Launch) -> str:
    family = launch.claim.metadata.annotations.get(labels.NODE_IMAGE_FAMILY, "").lower()
    if not family:
        return launch.node_class.os_sku or "Ubuntu"
    if family not in OS_SKUS:
        known = ", ".join(OS_SKUS)
        raise InvalidSpec(f"Unknown image family {family!r} in annotation {labels.NODE_IMAGE_FAMILY}; known: {known}")
    return OS_SKUS[family]


def node_labels(launch: Launch) -> dict[str, str]:
    claim = launch.claim
    merged = {
        labels.NODEPOOL: "kaito",
        **claim.metadata.labels,
        labels.MACHINE_TYPE: "gpu" if has_gpus(launch.offering.instance_type) else "cpu",
        labels.CREATION_TIMESTAMP: legacy_time(claim),
        labels.CAPACITY_TYPE: launch.offering.capacity_type,
    }
    return {key: value for key, value in merged.items() if not key.startswith(RESERVED_LABELS)}


def _tags(launch: Launch) -> dict[str, str]:
    return {
        TAG_CLAIM: launch.claim.metadata.name,
        TAG_UID: launch.claim.metadata.uid,
        TAG_CLUSTER: launch.cluster_id,
        TAG_CREATED: timestamp(launch.at),
        TAG_ATTEMPT: str(launch_attempts(launch.claim) + 1),
    }


def instance(body: Mapping[str, Any], *, location: str) -> Instance:
    """Read an agent pool as ARM returns it."""
    properties = body.get("properties") or {}
    tags, name = properties.get("tags") or {}, str(body.get("name") or "")
    state = _state(str(properties.get("provisioningState") or ""))
    failure = None
    if state is State.FAILED:
        failure = provisioning_failure((properties.get("status") or {}).get("provisioningError"), pool=name)
    return Instance(
        name=name,
        state=state,
        offering=_offering(properties, location),
        owner_uid=tags.get(TAG_UID, ""),
        cluster_id=tags.get(TAG_CLUSTER, ""),
        attempt=_count(tags.get(TAG_ATTEMPT, "")),
        created_at=_moment(tags.get(TAG_CREATED)),
        image_id=properties.get("nodeImageVersion") or "",
        etag=properties.get("eTag") or "",
        labels=dict(properties.get("nodeLabels") or {}),
        failure=failure,
    )


def _state(text: str) -> State:
    lowered = text.lower()
    if lowered in ("failed", "canceled"):
        return State.FAILED
    return next((state for state in State if state.value.lower() == lowered), State.CREATING)


def _offering(properties: Mapping[str, Any], location: str) -> Offering:
    zones = properties.get("availabilityZones") or []
    zone = f"{location}-{zones[0]}" if len(zones) == 1 else ""
    capacity_type = SPOT if properties.get("scaleSetPriority") == "Spot" else ON_DEMAND
    asked = (properties.get("nodeLabels") or {}).get(labels.CAPACITY_TYPE)  # reserved is on-demand with a reservation
    return Offering(properties.get("vmSize") or "", zone, asked or capacity_type)


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 1


def _moment(text: str | None) -> datetime | None:
    try:
        return parse_timestamp(text) if text else None
    except ValueError:  # somebody edited the tag: as good as none
        return None
