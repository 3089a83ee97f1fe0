"""What an answer of Azure Resource Manager means, as a class of `provisioner.cloud` and a message with its next step.

The only place that reads ARM's error codes. A code decides wherever a code can; where AKS uses one code for different
things (`OperationNotAllowed` is both "busy" and "quota", `BadRequest` is anything) the documented fragment of the message
does, and the table says so. Codes and texts: reference of azure-sdk-for-go-extensions and the AKS troubleshooting pages.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

from provisioner.cloud import (
    BootstrapFailed,
    CloudError,
    ClusterBusy,
    ClusterMissing,
    ClusterNotRunning,
    InstanceExists,
    InsufficientCapacity,
    InvalidSpec,
    PolicyDenied,
    QuotaExceeded,
    Scope,
    SubnetFull,
    Throttled,
    Unauthorized,
    UnknownOutcome,
)

# How long a shortage is believed, as karpenter-provider-azure does (pkg/cache, offerings/commonerrorhandlers.go).
HOUR = 3600.0
QUOTA_TTL = 600.0
NOT_SOLD_TTL = 23 * HOUR

# What AKS names when it cannot find something above the pool; a missing pool is `NotFound`.
PARENT_CODES = {"ResourceNotFound", "ResourceGroupNotFound", "SubscriptionNotFound", "ParentResourceNotFound"}
THROTTLED_CODES = {"Throttled", "SubscriptionRequestsThrottled", "TooManyRequests", "TooManyRequestsReceived"}
POLICY_CODES = {"RequestDisallowedByPolicy"}
SUBNET_CODES = {"InsufficientSubnetSize", "SubnetIsFull"}
QUOTA_CODES = {"InsufficientVCPUQuota", "ErrCode_InsufficientVCPUQuota", "QuotaExceeded"}
NOT_SOLD_CODES = {"SkuNotAvailable", "VMSizeNotSupported", "VMSizeDoesNotSupport"}
ZONE_CODES = {"ZonalAllocationFailed", "OverconstrainedZonalAllocationRequest"}
SIZE_CODES = {"AllocationFailed", "OverconstrainedAllocationRequest"}
REGION_CODES = {"AKSCapacityHeavyUsage"}

NUMBERS = re.compile(
    r"(?:Current Limit: (?P<limit>\d+), Current Usage: (?P<usage>\d+), Additional Required: (?P<required>\d+))"
    r"|(?:Maximum allowed: (?P<allowed>\d+), Current in use: (?P<used>\d+), Additional requested: (?P<more>\d+))"
    r"|(?:requested(?: quota)? (?P<asked>\d+), (?:remaining|left) (?P<left>\d+))"
    r"|(?:left regional vcpu quota (?P<remaining>\d+), requested quota (?P<wanted>\d+))",
    re.IGNORECASE,
)
# The same three things under the words of three services, in the order in which they are shown.
NUMBER_NAMES = {
    "limit": "limit", "allowed": "limit", "usage": "usage", "used": "usage", "left": "left", "remaining": "left",
    "required": "required", "asked": "required", "wanted": "required", "more": "required",
}  # fmt: skip
ORDER = tuple(NUMBER_NAMES)
FAMILY = re.compile(r"exceeding approved (?P<name>.+?) quota|for family (?P<family>\S+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """An ARM error body, whatever its shape. `details` are (code, message) of every nested error, outermost first."""

    status: int
    code: str
    message: str
    details: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None

    def every(self) -> Iterator[tuple[str, str]]:
        """Nested errors first: AKS wraps the code that says why (from Compute) in one that says where (its own step)."""
        yield from reversed(self.details)
        yield self.code, self.message


def translate(error: AzureError, *, subject: str, creating: bool) -> CloudError:
    """Turn an SDK exception into ours. Anything without an answer may have been carried out (even "not sent" errors).

    Only an answer to `creating` says anything about the claim: whatever else is refused is tried again.
    """
    if isinstance(error, ClientAuthenticationError) and _without_token(error):
        return Unauthorized(_short(error.message))
    if not isinstance(error, HttpResponseError) or error.response is None:
        return UnknownOutcome(f"Azure did not answer the request for {subject}: {_short(str(error))}")
    answer = parse(error)
    ours = classify(answer, subject=subject)
    if ours.terminal and not creating:
        return UnknownOutcome(f"Azure refuses the request for {subject}: {_text(answer)}")
    return ours


def _without_token(error: ClientAuthenticationError) -> bool:
    """Whether it was the identity provider that refused: its answers have no code of ARM's, or there is no answer."""
    if error.response is None:
        return True
    answer = parse(error)
    return answer.status in (400, 401, 403) and not answer.code


def parse(error: HttpResponseError) -> Answer:
    """Read code and message by ourselves: the SDK's own parser loses both on `"details": null` and on HTML bodies."""
    response = error.response
    try:
        text = response.text()
    except (ValueError, AttributeError):  # a body that was never read, or is not text
        text = ""
    return parse_body(error.status_code or 0, text, _seconds(response.headers.get("Retry-After")))


def absent(error: HttpResponseError) -> bool:
    """Whether it is ARM that answers, and it is the pool itself that it cannot find. Other 404s prove nothing."""
    answer = parse(error)
    return answer.status == 404 and bool(answer.code) and answer.code not in PARENT_CODES


def parse_body(status: int, text: str, retry_after: float | None = None) -> Answer:
    try:
        body = json.loads(text)
    except ValueError:
        return Answer(status, "", _short(text), (), retry_after)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    inner = inner if isinstance(inner, dict) else {}
    return Answer(
        status, str(inner.get("code") or ""), str(inner.get("message") or ""), tuple(nested(inner)), retry_after
    )


def nested(error: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for detail in error.get("details") or ():
        if isinstance(detail, Mapping):
            yield str(detail.get("code") or ""), str(detail.get("message") or "")
            yield from nested(detail)


def classify(answer: Answer, *, subject: str) -> CloudError:
    """What a refused request means. The order matters: what the status alone decides comes first."""
    codes = {code for code, _ in answer.every()}
    text = _text(answer)
    if answer.status == 429 or codes & THROTTLED_CODES:
        return Throttled(f"Azure limits our requests: {text}", retry_after=answer.retry_after or 30.0)
    if answer.status == 412:
        return _changed(subject, text)
    if answer.status in (408, 0, 200) or answer.status >= 500:
        return UnknownOutcome(
            f"Azure could not answer the request for {subject}: {text}", retry_after=answer.retry_after
        )
    shortage = shortage_of(answer)
    if shortage is not None:
        return shortage
    if codes & POLICY_CODES:
        return PolicyDenied(f"{text}. Ask the owner of the Azure Policy, or change what the node class asks for")
    if answer.status in (401, 403):
        return Unauthorized(
            f"{text}. Give the provisioner's identity read, write and delete on the cluster's agent pools, and read on the cluster"
        )
    if answer.status == 404:
        return ClusterMissing(
            f"{text}. Check subscription, resource group and cluster name in the provisioner's settings"
        )
    if answer.status == 409:
        return _conflict(answer, subject, text)
    return InvalidSpec(f"Azure refuses {subject}: {text}. Change the claim's requirements or its node class")


def _conflict(answer: Answer, subject: str, text: str) -> CloudError:
    if "power state" in answer.message.lower():  # a stopped cluster has no code of its own
        return ClusterNotRunning(text)
    if answer.code in ("ResourceExists", "EtagMismatch", "OriginalEtagNotExpect"):
        return _changed(subject, text)
    return ClusterBusy(f"Another operation on the cluster is in progress: {text}", retry_after=answer.retry_after)


def _changed(subject: str, text: str) -> InstanceExists:
    return InstanceExists(f"There is {subject}, or it has changed: {text}")


def provisioning_failure(error: Mapping[str, Any] | None, *, pool: str) -> CloudError:
    """What an agent pool in state Failed says about itself (`status.provisioningError`, absent on old API versions)."""
    if not error:
        return BootstrapFailed(f"Agent pool {pool} failed and Azure gives no reason; see the cluster's activity log")
    answer = Answer(200, str(error.get("code") or ""), str(error.get("message") or ""), tuple(nested(error)))
    shortage = shortage_of(answer)
    if shortage is not None:
        return shortage
    code, message = next((each for each in answer.every() if each[0]), ("", answer.message))
    return BootstrapFailed(f"Agent pool {pool} failed: {_short(f'{code}: {message}')}")


def shortage_of(answer: Answer) -> CloudError | None:
    """Quota, capacity or addresses, if any of the nested errors is about one of them."""
    for code, message in answer.every():
        if code in QUOTA_CODES or (code == "OperationNotAllowed" and "quota" in message.lower()):
            if message or not answer.details:
                return _quota(message)
        elif code in ZONE_CODES:
            scope = Scope.ZONE if code == "ZonalAllocationFailed" else Scope.OFFERING
            return InsufficientCapacity(_capacity(code, message), scope=scope, ttl=HOUR)
        elif code in SIZE_CODES:
            return InsufficientCapacity(_capacity(code, message), scope=Scope.SIZE, ttl=HOUR)
        elif code in NOT_SOLD_CODES or (code == "BadRequest" and "is not supported for subscription" in message):
            return InsufficientCapacity(_not_sold(code, message), scope=Scope.SIZE, ttl=NOT_SOLD_TTL)
        elif code in REGION_CODES:
            return InsufficientCapacity(_capacity(code, message), scope=Scope.REGION, ttl=QUOTA_TTL)
        elif code in SUBNET_CODES:
            return SubnetFull(f"{code}: {_short(message)}. Free addresses or give the node class a larger subnet")
    return None


def _quota(message: str) -> QuotaExceeded:
    """Put the numbers first: Azure's sentence hides them, and they are what one asks for in a quota request."""
    found = NUMBERS.search(message)
    values = {key: int(value) for key, value in (found.groupdict() if found else {}).items() if value is not None}
    family = FAMILY.search(message)
    name = (family["name"] or family["family"]) if family else "vCPU"
    limit = values.get("limit", values.get("allowed"))
    parts = [
        f"{NUMBER_NAMES[key]} {value}" for key, value in sorted(values.items(), key=lambda found: ORDER.index(found[0]))
    ]
    numbers = f" ({', '.join(parts)})" if parts else ""
    scope = Scope.SIZE
    if "LowPriorityCores" in message:
        scope = Scope.SPOT
    elif "regional" in message.lower():
        scope = Scope.REGION
    return QuotaExceeded(
        f"Quota {name} exceeded{numbers}: request an increase in the Azure portal (Subscriptions, Usage + quotas), "
        f"or use another instance type. Azure says: {_short(message)}",
        scope=scope,
        ttl=HOUR if limit == 0 else QUOTA_TTL,
    )


def _capacity(code: str, message: str) -> str:
    return f"Azure has no capacity: {code}: {_short(message)}"


def _not_sold(code: str, message: str) -> str:
    return f"This size is not available to the subscription in this region: {code}: {_short(message)}"


def _text(answer: Answer) -> str:
    """What Azure says, for messages."""
    return _short(f"{answer.code}: {answer.message}" if answer.code else answer.message) or f"HTTP {answer.status}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 400 else f"{text[:397]}..."


def _seconds(header: str | None) -> float | None:
    try:
        return float(header) if header else None
    except ValueError:  # an HTTP date: ARM documents seconds only
        return None
