"""Every failure that the emulated service can answer with: HTTP status, code, text and shape of the body.

Two tables. REFUSALS are what a request is answered with at once; OUTCOMES are what an accepted operation ends in later, found in the
operation's `error` and in the pool's `status.provisioningError`. Nothing here decides when one of them happens: the state machine and
the injected faults do. Texts are templates over `Facts`; clients that decide by code never notice them, users read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

# The resource provider answers with a flat body, Resource Manager in front of it with one wrapped in `error`; both are met in real life,
# as are wrapped bodies whose `details` is null and, from gateways, HTML.
Shape = Literal["flat", "wrapped", "null-details", "html"]


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """Azure's ErrorDetail: the outer code is often only a wrapper, the true one then stands in `details`."""

    code: str
    message: str
    target: str = ""
    details: tuple["ErrorDetail", ...] = ()


class Refusal(Exception):
    """The request is answered with an error and has changed nothing."""

    def __init__(
        self, status: int, error: ErrorDetail, *, shape: Shape = "flat", retry_after: int | None = None
    ) -> None:
        super().__init__(f"{status} {error.code}: {error.message}")
        self.status = status
        self.error = error
        self.shape = shape
        self.retry_after = retry_after

    def body(self) -> dict[str, Any] | str:
        """Return what goes over the wire: a JSON object, or HTML as text."""
        error = msgspec.to_builtins(self.error)
        match self.shape:
            case "flat":
                return {"details": error.get("details"), "subcode": "", **error}
            case "wrapped":
                return {"error": error}
            case "null-details":
                return {"error": {**error, "details": None, "additionalInfo": None}}
            case "html":
                return f"<html><head><title>{self.status} {error['code']}</title></head><body>{error['message']}</body></html>"


@dataclass(frozen=True)
class Facts:
    """What the texts of errors speak of."""

    pool: str = ""
    vm_size: str = ""
    vcpus: int = 0
    family: str = ""
    zones: str = ""
    count: int = 1
    location: str = ""
    subscription: str = ""
    resource_group: str = ""
    cluster: str = ""

    def fill(self, template: str) -> str:
        """Put the facts into `template`."""
        return template.format(**vars(self), cores=self.vcpus * self.count)


@dataclass(frozen=True)
class _Refused:
    status: int
    code: str
    text: str
    shape: Shape = "flat"
    retry_after: int | None = None


_BUSY_CREATE = "Operation is not allowed because there's an in progress create node pool operation"
_BUSY_OTHER = (
    "Another operation (Updating) is in progress on managed cluster {cluster}, please wait for it to finish before starting a new "
    "operation. See https://aka.ms/aks-pending-operation for more details"
)
_NOT_RUNNING = (
    "Managed Cluster operation is not allowed: managed cluster {cluster} is not in Running power state. Please start it with "
    "'az aks start' before any other operation"
)
_NO_PERMISSION = (
    "The client does not have authorization to perform action 'Microsoft.ContainerService/managedClusters/agentPools/write' over scope "
    "'/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/Microsoft.ContainerService/managedClusters/{cluster}' "
    "or the scope is invalid. If access was recently granted, please refresh your credentials."
)
_REGIONAL_LEFT = (
    "Insufficient regional vcpu quota left for location {location}. left regional vcpu quota 0, requested quota {cores}"
)
_FAMILY_LEFT = "Insufficient vcpu quota requested {cores}, remaining 0 for family {family} for region {location}."
_QUOTA_EXCEEDED = "Operation results in exceeding quota limits of Core. Maximum allowed: 0, Current in use: 0, Additional requested: {cores}."
_SIZE_REFUSED = (
    "Virtual Machine size: '{vm_size}' is not supported for subscription {subscription} in location '{location}'"
)
_SKU_GONE = (
    "The requested VM size for resource 'Following SKUs have failed for Capacity Restrictions: {vm_size}' is currently not available in "
    "location '{location}'. Please try another size or deploy to a different location or different zone."
)
_ZONE_REFUSED = "Availability zone is not supported in region {location} for agent pool {pool} with VM size {vm_size}."
_SUBNET_FULL = "Pre-allocated IPs {count} exceeds IPs available in the subnet of agent pool {pool}."

_REFUSALS: Mapping[str, _Refused] = {
    "quota-regional": _Refused(400, "ErrCode_InsufficientVCPUQuota", _REGIONAL_LEFT),
    "quota-family": _Refused(400, "InsufficientVCPUQuota", _FAMILY_LEFT),
    "quota-exceeded": _Refused(403, "QuotaExceeded", _QUOTA_EXCEEDED, "wrapped"),
    "vm-size-not-supported": _Refused(400, "VMSizeNotSupported", _SIZE_REFUSED),
    "vm-size-bad-request": _Refused(400, "BadRequest", _SIZE_REFUSED),
    "sku-not-available": _Refused(400, "SkuNotAvailable", _SKU_GONE),
    "zone-not-supported": _Refused(400, "AvailabilityZoneNotSupported", _ZONE_REFUSED),
    "disk-does-not-fit": _Refused(
        400,
        "VMCannotFitEphemeralOSDisk",
        "The OS disk of agent pool {pool} does not fit the cache of VM size {vm_size}.",
    ),
    "subnet-full": _Refused(400, "InsufficientSubnetSize", _SUBNET_FULL),
    "forbidden": _Refused(403, "AuthorizationFailed", _NO_PERMISSION, "wrapped"),
    "policy": _Refused(
        403, "RequestDisallowedByPolicy", "Resource '{pool}' was disallowed by policy. Reasons: 'GPU sizes'.", "wrapped"
    ),
    "token-expired": _Refused(
        401,
        "ExpiredAuthenticationToken",
        "The access token expiry UTC time is earlier than current UTC time.",
        "wrapped",
    ),
    "token-missing": _Refused(
        401, "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.", "wrapped"
    ),
    "token-invalid": _Refused(401, "InvalidAuthenticationToken", "The access token is invalid.", "wrapped"),
    "busy": _Refused(409, "OperationNotAllowed", _BUSY_CREATE),
    "busy-other": _Refused(409, "OperationNotAllowed", _BUSY_OTHER),
    "conflict": _Refused(409, "AnotherOperationInProgress", _BUSY_OTHER),
    "etag-mismatch": _Refused(409, "EtagMismatch", "The etag of agent pool {pool} is not the one that was given."),
    "not-running": _Refused(409, "OperationNotAllowed", _NOT_RUNNING),
    "throttled": _Refused(429, "Throttled", "The request is throttled. Please try again later.", "flat", 5),
    "subscription-throttled": _Refused(
        429,
        "SubscriptionRequestsThrottled",
        "Number of requests for subscription '{subscription}' exceeded the limit.",
        "wrapped",
        5,
    ),
    "internal-error": _Refused(500, "InternalServerError", "Encountered internal server error.", "wrapped"),
    "internal-error-null-details": _Refused(500, "InternalOperationError", "Internal server error", "null-details"),
    "unavailable": _Refused(503, "ServiceUnavailable", "The service is temporarily unavailable.", "wrapped", 2),
    "gateway-timeout": _Refused(504, "GatewayTimeout", "The gateway did not receive a response in time.", "html"),
    "cluster-gone": _Refused(
        404,
        "ResourceNotFound",
        "The Resource 'Microsoft.ContainerService/managedClusters/{cluster}' under resource group '{resource_group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
        "wrapped",
    ),
    "group-gone": _Refused(
        404, "ResourceGroupNotFound", "Resource group '{resource_group}' could not be found.", "wrapped"
    ),
    "subscription-gone": _Refused(
        404, "SubscriptionNotFound", "The subscription '{subscription}' could not be found.", "wrapped"
    ),
    "pool-gone": _Refused(
        404, "NotFound", "Agent Pool not found: could not find agent pool {pool} in managed cluster {cluster}."
    ),
    "precondition": _Refused(
        412, "PreconditionFailed", "The condition of agent pool {pool} does not meet the given ETag."
    ),
}


def _core_quota(what: str, numbers: str = "Current Limit: 0, Current Usage: 0", need: str = "{cores}") -> str:
    return (
        f"Operation could not be completed as it results in exceeding approved {what} quota. Additional details - Deployment Model: "
        f"Resource Manager, Location: {{location}}, {numbers}, Additional Required: {{cores}}, (Minimum) New Limit Required: {need}."
    )


_ALLOCATION = (
    "Allocation failed. We do not have sufficient capacity for the requested VM size {vm_size} in this region. Read more about "
    "improving likelihood of allocation success at https://aka.ms/allocation-guidance"
)
_OVERCONSTRAINED = (
    "Allocation failed. VM(s) with the following constraints cannot be allocated, because the condition is too restrictive. Please "
    "remove some constraints and try again. Constraints applied are: Differencing (Ephemeral) Disks, VM Size {vm_size}"
)
_VMSS = "ReconcileVMSSAgentPoolFailed"

# name → (wrapping code or "", code, text)
_OUTCOMES: Mapping[str, tuple[str, str, str]] = {
    "quota-family": (_VMSS, "OperationNotAllowed", _core_quota("{family} Family Cores")),
    "quota-family-partly": (
        _VMSS,
        "OperationNotAllowed",
        _core_quota("{family} Family Cores", "Current Limit: 24, Current Usage: 24", "more than 24"),
    ),
    "quota-regional": ("QuotaExceeded", "OperationNotAllowed", _core_quota("Total Regional Cores")),
    "quota-spot": (_VMSS, "OperationNotAllowed", _core_quota("LowPriorityCores")),
    "quota-subscription": (
        "",
        "OperationNotAllowed",
        "Submit a request for Quota increase at https://aka.ms/ProdportalCRP for location {location}.",
    ),
    "sku-not-available": (_VMSS, "SkuNotAvailable", _SKU_GONE),
    "zonal-allocation": (
        _VMSS,
        "ZonalAllocationFailed",
        "Allocation failed. We do not have sufficient capacity for the requested VM size {vm_size} in zone {zones}.",
    ),
    "allocation": (_VMSS, "AllocationFailed", _ALLOCATION),
    "overconstrained-zonal": (_VMSS, "OverconstrainedZonalAllocationRequest", _OVERCONSTRAINED),
    "overconstrained": (_VMSS, "OverconstrainedAllocationRequest", _OVERCONSTRAINED),
    "region-busy": ("", "AKSCapacityHeavyUsage", "AKS is under heavy usage in region {location}."),
    "subnet-full": ("CreateVMSSAgentPoolFailed", "InsufficientSubnetSize", _SUBNET_FULL),
    "nic-reserved": (_VMSS, "NicReservedForAnotherVm", "Nic is reserved for another virtual machine for 180 seconds."),
    "extension-timeout": (
        _VMSS,
        "VMExtensionProvisioningTimeout",
        "Provisioning of VM extension vmssCSE has timed out. Extension provisioning has taken too long to complete.",
    ),
    "extension-outbound": (
        "",
        "VMExtensionError_OutBoundConnFail",
        "Unable to establish outbound connection from agents, please see https://aka.ms/aks-error-codes",
    ),
    "superseded-by-delete": (
        "",
        "AKSOperationPreemptedByDelete",
        "The operation was preempted by a delete of agent pool {pool}.",
    ),
    "disruption-budget": ("", "UnsatisfiablePDB", "A pod disruption budget forbids the drain of agent pool {pool}."),
    "drain": (
        "",
        "PodDrainFailure",
        "Drain of a node of agent pool {pool} did not complete: pods could not be evicted.",
    ),
}

REFUSAL_NAMES = frozenset(_REFUSALS)
OUTCOME_NAMES = frozenset(_OUTCOMES)


def refusal(name: str, facts: Facts) -> Refusal:
    """Return the catalogued refusal `name`. Raises KeyError where there is none."""
    row = _REFUSALS[name]
    error = ErrorDetail(row.code, facts.fill(row.text), target="")
    return Refusal(row.status, error, shape=row.shape, retry_after=row.retry_after)


def invalid(target: str, why: str, *, code: str = "InvalidParameter") -> Refusal:
    """Return 400 for a body that the service will never accept, whatever the state of the world."""
    return Refusal(400, ErrorDetail(code, f"The value of parameter {target} is invalid. Error details: {why}", target))


def outcome(name: str, facts: Facts) -> ErrorDetail:
    """Return the catalogued end `name` of an operation. Raises KeyError where there is none."""
    wrapper, code, text = _OUTCOMES[name]
    true = ErrorDetail(code, facts.fill(text))
    return ErrorDetail(wrapper, f'Code="{code}" Message="{true.message}"', details=(true,)) if wrapper else true
