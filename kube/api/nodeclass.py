"""KaitoNodeClass, `kaito.sh/v1alpha1`: what all nodes of one class have in common on AKS.

Every field is optional and absent means "as AKS does by default". A NodeClaim refers to a class by name; a class named
`default` need not exist (gpu-provisioner never made one, and KAITO's claims all refer to it). There is no status: nothing is
ever said of a class that is not said of the claims that name it.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kube.api.schema import field
from kube.meta import Object, Resource, Wire

Amount = Annotated[str | None, field("Number or percentage of nodes.", maxLength=8, pattern="^[0-9]+%?$")]
ResourceId = Annotated[str | None, field("", maxLength=1024, pattern="^/subscriptions/")]


class UpgradeSettings(Wire, frozen=True, kw_only=True):
    max_surge: Amount = None
    max_unavailable: Amount = None
    drain_timeout_in_minutes: Annotated[int | None, field("Minutes that a node may take to drain.", minimum=1)] = None
    node_soak_duration_in_minutes: Annotated[int | None, field("Minutes between two nodes.", minimum=0)] = None


class KaitoNodeClassSpec(Wire, frozen=True, kw_only=True):
    """Names and values are those of the agent pool in Azure Resource Manager, so that its documentation applies."""

    os_sku: Annotated[
        str | None, field("Operating system, such as Ubuntu. A claim's image family annotation wins.", maxLength=63)
    ] = msgspec.field(name="osSKU", default=None)
    os_disk_type: Annotated[str | None, field("Where the OS disk is.", enum=["Managed", "Ephemeral"])] = None
    os_disk_size_gb: Annotated[
        int | None, field("Size of the OS disk. A claim's storage request wins.", minimum=30, maximum=2048)
    ] = msgspec.field(name="osDiskSizeGB", default=None)
    kubelet_disk_type: Annotated[str | None, field("Where pods' files are.", enum=["OS", "Temporary"])] = None
    vnet_subnet_id: Annotated[ResourceId, field("Subnet of the nodes.")] = msgspec.field(
        name="vnetSubnetID", default=None
    )
    pod_subnet_id: Annotated[ResourceId, field("Subnet of the pods.")] = msgspec.field(name="podSubnetID", default=None)
    max_pods: Annotated[int | None, field("Pods per node.", minimum=10, maximum=250)] = None
    tags: Annotated[
        Mapping[str, Annotated[str, field("", maxLength=256)]], field("Azure tags of the pool.", maxProperties=45)
    ] = {}
    capacity_reservation_group_id: Annotated[ResourceId, field("Capacity reservation group to take nodes from.")] = (
        msgspec.field(name="capacityReservationGroupID", default=None)
    )
    proximity_placement_group_id: Annotated[ResourceId, field("Proximity placement group of the nodes.")] = (
        msgspec.field(name="proximityPlacementGroupID", default=None)
    )
    spot_max_price: Annotated[
        float | None, field("Highest price per hour of a spot node; absent: up to the on-demand price.")
    ] = None
    gpu_driver: Annotated[
        str | None, field("Who installs the GPU driver: AKS, or somebody else.", enum=["Install", "None"])
    ] = None
    gpu_instance_profile: Annotated[
        str | None, field("MIG profile of the GPUs.", enum=["MIG1g", "MIG2g", "MIG3g", "MIG4g", "MIG7g"])
    ] = None
    enable_encryption_at_host: Annotated[bool | None, field("Encrypt disks at the host.")] = None
    enable_fips: Annotated[bool | None, field("Use an OS image with FIPS modules.")] = msgspec.field(
        name="enableFIPS", default=None
    )
    orchestrator_version: Annotated[
        str | None, field("Kubernetes version of the nodes; absent: the cluster's.", maxLength=32)
    ] = None
    kubelet_config: Annotated[Mapping[str, Any] | None, field("The pool's kubeletConfig.", x_opaque=True)] = None
    linux_os_config: Annotated[Mapping[str, Any] | None, field("The pool's linuxOSConfig.", x_opaque=True)] = (
        msgspec.field(name="linuxOSConfig", default=None)
    )
    upgrade_settings: Annotated[UpgradeSettings | None, field("How AKS upgrades the pool.")] = None


class KaitoNodeClass(Object, frozen=True, kw_only=True):
    """What nodes of one class have in common on AKS. Every field may be left out."""

    spec: KaitoNodeClassSpec = KaitoNodeClassSpec()


NODE_CLASSES = Resource(KaitoNodeClass, "kaito.sh", "v1alpha1", "kaitonodeclasses", "KaitoNodeClass", namespaced=False)
