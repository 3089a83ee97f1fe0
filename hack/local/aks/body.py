"""What the service makes of an agent pool's body: validation, defaults, what may not change, and how a pool looks on the wire. Pure.

Which requests are allowed at a moment is the state machine's business, not decided here.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from hack.local.aks import errors, skus
from hack.local.aks.errors import ErrorDetail, Facts
from hack.local.aks.model import Identity, Pool

POOL_NAME = re.compile(r"^[a-z][a-z0-9]{0,11}$")
NODE_IMAGE = "AKSUbuntu-2204gen2containerd-202611.10.0"
KUBERNETES = "1.36.3"

_DEFAULTS: Mapping[str, Any] = {
    "count": 1,
    "type": "VirtualMachineScaleSets",
    "mode": "User",
    "osType": "Linux",
    "osSKU": "Ubuntu",
    "osDiskSizeGB": 128,
    "osDiskType": "Managed",
    "kubeletDiskType": "OS",
    "maxPods": 110,
    "enableAutoScaling": False,
    "scaleDownMode": "Delete",
    "orchestratorVersion": KUBERNETES,
    "enableFIPS": False,
    "enableEncryptionAtHost": False,
    "enableNodePublicIP": False,
    "upgradeSettings": {"maxSurge": "10%"},
}
_READ_ONLY = ("eTag", "provisioningState", "currentOrchestratorVersion", "nodeImageVersion", "status", "powerState")
_IMMUTABLE = (
    "vmSize",
    "type",
    "osType",
    "osDiskSizeGB",
    "osDiskType",
    "kubeletDiskType",
    "availabilityZones",
    "scaleSetPriority",
    "scaleSetEvictionPolicy",
    "vnetSubnetID",
    "podSubnetID",
    "maxPods",
    "gpuInstanceProfile",
)
_SHAPES: Mapping[str, type] = {
    "vmSize": str,
    "orchestratorVersion": str,
    "nodeLabels": dict,
    "tags": dict,
    "nodeTaints": list,
    "availabilityZones": list,
}
_JSON: Mapping[type, str] = {str: "string", dict: "object", list: "array"}
_LABEL_VALUE = re.compile(r"^$|^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_LABEL_KEY = re.compile(r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_TAINT = re.compile(r"^(?P<key>[^=:]+)(=(?P<value>[^:]*))?:(NoSchedule|NoExecute|PreferNoSchedule)$")
_RESERVED_LABELS = ("kubernetes.azure.com/",)


def facts(identity: Identity, pool: str, properties: Mapping[str, Any]) -> Facts:
    """Return what the texts of errors say about a request for `pool`."""
    size = str(properties.get("vmSize") or "")
    sku = skus.find(size)
    return Facts(
        pool=pool,
        vm_size=size,
        vcpus=sku.vcpus if sku else 0,
        family=sku.family if sku else "",
        zones=",".join(str(zone) for zone in _of(list, properties.get("availabilityZones"))),
        count=_of(int, properties.get("count")) or 1,
        location=identity.location,
        subscription=identity.subscription,
        resource_group=identity.resource_group,
        cluster=identity.cluster,
    )


def _of(kind: type, value: Any) -> Any:
    """Return the value if it is of that kind, else the kind's empty one: refusals also speak of bodies that are none."""
    return value if isinstance(value, kind) else kind()


def validated(identity: Identity, name: str, body: Any) -> dict[str, Any]:
    """Return the properties that a pool of this body gets. Raises Refusal as the service refuses it."""
    if not POOL_NAME.match(name):
        raise errors.invalid(
            "agentPoolProfile.name",
            f"agent pool name {name!r} must start with a lower-case letter and have 1 to 12 lower-case letters and digits. "
            "Please see https://aka.ms/aks-naming-rules for more details",
        )
    if not isinstance(body, dict) or not isinstance(body.get("properties"), dict):
        raise errors.invalid("properties", "the body must be an object with an object 'properties'", code="BadRequest")
    given = {key: value for key, value in body["properties"].items() if key not in _READ_ONLY and value is not None}
    properties = {**_DEFAULTS, **given}
    for field, kind in _SHAPES.items():
        if not isinstance(properties.get(field, kind()), kind):
            raise errors.invalid(f"properties.{field}", f"it must be a JSON {_JSON[kind]}", code="BadRequest")
    _check_size(identity, name, properties)
    _check_labels(properties.get("nodeLabels") or {})
    _check_taints(properties.get("nodeTaints") or [])
    _check_tags(properties.get("tags") or {})
    return properties


def _check_size(identity: Identity, name: str, properties: Mapping[str, Any]) -> None:
    if not properties.get("vmSize"):
        raise errors.invalid("agentPoolProfile.vmSize", "a VM size is required")
    known = facts(identity, name, {**properties, "count": 1})
    sku = skus.find(known.vm_size)
    if sku is None:
        raise errors.refusal("vm-size-not-supported", known)
    if not {str(zone) for zone in properties.get("availabilityZones") or ()} <= set(sku.zones):
        raise errors.refusal("zone-not-supported", known)
    for field, low, high in (("count", 0, 1000), ("osDiskSizeGB", 0, 2048), ("maxPods", 10, 250)):
        value = properties[field]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise errors.invalid(f"agentPoolProfile.{field}", f"{value!r} is not a whole number from {low} to {high}")
    for field, allowed in (("mode", ("System", "User", "Gateway")), ("osType", ("Linux", "Windows"))):
        if properties[field] not in allowed:
            raise errors.invalid(f"agentPoolProfile.{field}", f"{properties[field]!r} is none of {', '.join(allowed)}")
    if properties.get("scaleSetPriority") == "Spot" and properties["mode"] == "System":
        raise errors.invalid("agentPoolProfile.scaleSetPriority", "a system pool cannot be a spot pool")


def _check_labels(labels: Mapping[str, Any]) -> None:
    for key, value in labels.items():
        if key.startswith(_RESERVED_LABELS):
            raise errors.invalid("agentPoolProfile.nodeLabels", f"{key} has a reserved prefix", code="InvalidLabel")
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(str(value)):
            raise errors.invalid("agentPoolProfile.nodeLabels", f"{key}={value} is no label", code="InvalidLabel")


def _check_taints(taints: list[Any]) -> None:
    for taint in taints:
        match = _TAINT.match(str(taint))
        if not match or not _LABEL_KEY.match(match["key"]) or not _LABEL_VALUE.match(match["value"] or ""):
            raise errors.invalid("agentPoolProfile.nodeTaints", f"{taint!r} is no taint", code="InvalidTaint")


def _check_tags(tags: Mapping[str, Any]) -> None:
    if len(tags) > 50:
        raise errors.invalid("agentPoolProfile.tags", f"{len(tags)} tags exceed the limit of 50", code="TooManyTags")
    for key, value in tags.items():
        if not 1 <= len(key) <= 512 or set(key) & set("<>%&\\?/"):
            raise errors.invalid(
                f"tags.{key}", "a tag's name has 1 to 512 characters, none of <>%&\\?/", code="InvalidTagNameCharacters"
            )
        if len(str(value)) > 256:
            raise errors.invalid(f"tags.{key}", "a tag's value has at most 256 characters", code="InvalidTagValue")


def forbid_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise Refusal where an update changes what can only be chosen at creation."""
    for field in _IMMUTABLE:
        if before.get(field) != after.get(field):
            message = f"Changing property 'properties.{field}' is not allowed."
            raise errors.Refusal(400, ErrorDetail("PropertyChangeNotAllowed", message, f"properties.{field}"))


def iso(seconds: float) -> str:
    """Return a time since the epoch as the service writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def rendered(identity: Identity, pool: Pool) -> dict[str, Any]:
    """Return the pool as GET, LIST and PUT answer with it."""
    properties = {
        **pool.properties,
        "eTag": pool.etag,
        "provisioningState": pool.state,
        "powerState": {"code": "Running"},
        "currentOrchestratorVersion": pool.properties["orchestratorVersion"],
        "nodeImageVersion": NODE_IMAGE,
    }
    if pool.error is not None:
        properties["status"] = {"provisioningError": msgspec.to_builtins(pool.error)}
    return {
        "id": f"{identity.path}/agentPools/{pool.name}",
        "name": pool.name,
        "type": "Microsoft.ContainerService/managedClusters/agentPools",
        "systemData": {"createdAt": iso(pool.created_at), "createdByType": "Application"},
        "properties": properties,
    }
