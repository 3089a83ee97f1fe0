"""KaitoNodeClass, `kaito.sh/v1alpha1`: what all nodes of one class have in common on AKS.

Every field is optional and absent means "as AKS does by default". A NodeClaim refers to a class by name; a class named
`default` need not exist (gpu-provisioner never made one, and KAITO's claims all refer to it).
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from kube.meta import Condition, Object, Resource, Wire


class UpgradeSettings(Wire, frozen=True, kw_only=True):
    max_surge: str | None = None
    max_unavailable: str | None = None
    drain_timeout_in_minutes: int | None = None
    node_soak_duration_in_minutes: int | None = None


class KaitoNodeClassSpec(Wire, frozen=True, kw_only=True):
    """Names and values are those of the agent pool in Azure Resource Manager, so that its documentation applies."""

    os_sku: str | None = msgspec.field(name="osSKU", default=None)  # the claim's image family annotation wins
    os_disk_type: str | None = None  # Managed | Ephemeral
    os_disk_size_gb: int | None = msgspec.field(name="osDiskSizeGB", default=None)  # a claim's storage request wins
    kubelet_disk_type: str | None = None  # OS | Temporary
    vnet_subnet_id: str | None = msgspec.field(name="vnetSubnetID", default=None)
    pod_subnet_id: str | None = msgspec.field(name="podSubnetID", default=None)
    max_pods: int | None = None
    tags: Mapping[str, str] = {}
    capacity_reservation_group_id: str | None = msgspec.field(name="capacityReservationGroupID", default=None)
    proximity_placement_group_id: str | None = msgspec.field(name="proximityPlacementGroupID", default=None)
    spot_max_price: float | None = None  # absent: -1, up to the on-demand price
    gpu_driver: str | None = None  # Install | None (bring the GPU operator)
    gpu_instance_profile: str | None = None  # MIG1g … MIG7g
    enable_encryption_at_host: bool | None = None
    enable_fips: bool | None = msgspec.field(name="enableFIPS", default=None)
    orchestrator_version: str | None = None
    kubelet_config: Mapping[str, Any] | None = None
    linux_os_config: Mapping[str, Any] | None = msgspec.field(name="linuxOSConfig", default=None)
    upgrade_settings: UpgradeSettings | None = None


class KaitoNodeClassStatus(Wire, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class KaitoNodeClass(Object, frozen=True, kw_only=True):
    spec: KaitoNodeClassSpec = KaitoNodeClassSpec()
    status: KaitoNodeClassStatus = KaitoNodeClassStatus()


NODE_CLASSES = Resource(KaitoNodeClass, "kaito.sh", "v1alpha1", "kaitonodeclasses", "KaitoNodeClass", namespaced=False)
