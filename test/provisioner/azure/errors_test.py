"""What an answer of ARM means, over every shape of body that was met; what the classes lead to is in `refusal_test`."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ServiceRequestError
from azure.identity import CredentialUnavailableError

from provisioner.azure.errors import Answer, classify, parse_body, provisioning_failure, translate
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

FAMILY_QUOTA = (
    "Operation could not be completed as it results in exceeding approved standardNCADSA100v4Family Family Cores quota. "
    "Additional details - Deployment Model: Resource Manager, Location: eastus, Current Limit: 48, Current Usage: 24, "
    "Additional Required: 48, (Minimum) New Limit Required: 72."
)


def refused(status: int, code: str, message: str = "", **more: Any) -> CloudError:
    return classify(Answer(status, code, message, **more), subject="agent pool ws1")


def answered(status: int, body: dict[str, Any]) -> Any:
    return SimpleNamespace(status_code=status, reason="", headers={}, text=lambda: json.dumps(body))


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "InsufficientVCPUQuota", "requested 6, remaining 0 for family X", QuotaExceeded),
        (400, "ErrCode_InsufficientVCPUQuota", "left regional vcpu quota 0, requested quota 6", QuotaExceeded),
        (403, "QuotaExceeded", "quota limits of Core", QuotaExceeded),
        (409, "OperationNotAllowed", "exceeding approved quota", QuotaExceeded),
        (400, "SkuNotAvailable", "", InsufficientCapacity),
        (400, "VMSizeNotSupported", "", InsufficientCapacity),
        (400, "BadRequest", "Virtual Machine size: 'X' is not supported for subscription s", InsufficientCapacity),
        (400, "BadRequest", "anything else", InvalidSpec),
        (400, "AvailabilityZoneNotSupported", "", InvalidSpec),
        (400, "InsufficientSubnetSize", "", SubnetFull),
        (401, "ExpiredAuthenticationToken", "", Unauthorized),
        (403, "AuthorizationFailed", "", Unauthorized),
        (403, "RequestDisallowedByPolicy", "", PolicyDenied),
        (404, "ResourceGroupNotFound", "", ClusterMissing),
        (409, "OperationNotAllowed", "there's an in progress create node pool operation", ClusterBusy),
        (409, "AnotherOperationInProgress", "", ClusterBusy),
        (409, "OperationNotAllowed", "cluster is not in Running power state", ClusterNotRunning),
        (409, "EtagMismatch", "", InstanceExists),
        (412, "PreconditionFailed", "", InstanceExists),
        (429, "Throttled", "", Throttled),
        (408, "", "", UnknownOutcome),
        (500, "InternalServerError", "", UnknownOutcome),
        (504, "", "<html>", UnknownOutcome),
    ],
)
def test_status_and_code_decide_the_class(status: int, code: str, message: str, kind: type[CloudError]) -> None:
    assert type(refused(status, code, message)) is kind


def test_only_a_decided_error_means_that_nothing_was_made() -> None:
    assert refused(409, "Conflict").decided
    assert not refused(500, "").decided
    assert not refused(412, "PreconditionFailed").decided


def test_quota_numbers_come_first_in_the_message() -> None:
    error = provisioning_failure({"code": "OperationNotAllowed", "message": FAMILY_QUOTA}, pool="ws1")
    assert isinstance(error, QuotaExceeded)
    assert str(error).startswith(
        "Quota standardNCADSA100v4Family Family Cores exceeded (limit 48, usage 24, required 48): request an increase"
    )
    assert error.ttl == 600


def test_a_limit_of_zero_is_believed_longer() -> None:
    error = refused(400, "OperationNotAllowed", FAMILY_QUOTA.replace("Current Limit: 48", "Current Limit: 0"))
    assert isinstance(error, QuotaExceeded)
    assert error.ttl == 3600


@pytest.mark.parametrize(
    ("code", "message", "scope"),
    [
        ("OperationNotAllowed", "exceeding approved LowPriorityCores quota", Scope.SPOT),
        ("OperationNotAllowed", "exceeding approved Total Regional Cores quota", Scope.REGION),
        ("OperationNotAllowed", "exceeding approved standardNCSv3Family Family Cores quota", Scope.SIZE),
        ("ZonalAllocationFailed", "", Scope.ZONE),
        ("OverconstrainedZonalAllocationRequest", "", Scope.OFFERING),
        ("AllocationFailed", "", Scope.SIZE),
        ("AKSCapacityHeavyUsage", "", Scope.REGION),
    ],
)
def test_a_shortage_says_how_far_it_reaches(code: str, message: str, scope: Scope) -> None:
    wrapped = {"code": "ReconcileVMSSAgentPoolFailed", "details": [{"code": code, "message": message}]}
    error = provisioning_failure(wrapped, pool="ws1")
    assert isinstance(error, InsufficientCapacity)
    assert error.scope is scope


def test_the_cause_is_looked_for_behind_the_wrapper() -> None:
    inner = {"code": "X", "details": [{"code": "VMExtensionProvisioningTimeout", "message": "timed out"}]}
    error = provisioning_failure({"code": "VMSS", "message": "failed", "details": [inner]}, pool="ws1")
    assert isinstance(error, BootstrapFailed)
    assert "VMExtensionProvisioningTimeout: timed out" in str(error)


def test_a_pool_that_failed_without_a_reason_is_a_broken_machine() -> None:
    assert isinstance(provisioning_failure(None, pool="ws1"), BootstrapFailed)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "X", "message": "why"}},
        {"code": "X", "message": "why", "subcode": ""},
        {"error": {"code": "X", "message": "why", "details": None, "additionalInfo": None}},
        {"error": {"code": "X", "message": "why", "details": ["not an object"]}},
    ],
)
def test_every_shape_of_body_is_read(body: dict[str, Any]) -> None:
    answer = parse_body(400, json.dumps(body))
    assert (answer.code, answer.message) == ("X", "why")


@pytest.mark.parametrize("text", ["", "<html><body>502</body></html>", "[]", '"x"', '{"error": "text"}', "null"])
def test_no_body_breaks_the_parser(text: str) -> None:
    answer = parse_body(502, text)
    assert isinstance(classify(answer, subject="agent pool ws1"), UnknownOutcome)


def test_a_throttled_request_says_when_to_come_back() -> None:
    assert refused(429, "Throttled", retry_after=17.0).retry_after == 17.0
    assert refused(429, "Throttled").retry_after == 30.0


AADSTS = {"error": "invalid_request", "error_description": "AADSTS70021: No matching federated identity record found"}


@pytest.mark.parametrize(
    "error",
    [
        ClientAuthenticationError(message="(invalid_request) AADSTS70021: No", response=answered(400, AADSTS)),
        ClientAuthenticationError(message="(invalid_client) AADSTS70021: No", response=answered(401, AADSTS)),
        CredentialUnavailableError(message="AADSTS70021, so to speak"),
    ],
    ids=["bad request", "unauthorized", "no answer"],
)
@pytest.mark.parametrize("creating", [True, False])
def test_who_gives_no_token_is_no_judge_of_the_claim(error: AzureError, creating: bool) -> None:
    ours = translate(error, subject="agent pool ws1", creating=creating)
    assert type(ours) is Unauthorized
    assert "AADSTS70021" in str(ours)
    assert "agent pools" not in str(ours)  # no role on the cluster helps


@pytest.mark.parametrize(("status", "kind"), [(429, Throttled), (503, UnknownOutcome)])
def test_an_identity_provider_in_trouble_has_not_refused(status: int, kind: type[CloudError]) -> None:
    error = ClientAuthenticationError(message="later", response=answered(status, {"error": "temporarily_unavailable"}))
    assert type(translate(error, subject="agent pool ws1", creating=True)) is kind


def test_arms_own_401_says_which_role_is_missing() -> None:
    body = {"error": {"code": "ExpiredAuthenticationToken", "message": "The access token expiry UTC time is earlier"}}
    error = ClientAuthenticationError(message="", response=answered(401, body))
    assert "agent pools" in str(translate(error, subject="agent pool ws1", creating=True))


def test_only_a_request_to_create_can_end_a_claim() -> None:
    error = HttpResponseError(response=answered(400, {"error": {"code": "NoRegisteredProviderFound", "message": "No"}}))
    assert isinstance(translate(error, subject="agent pool ws1", creating=True), InvalidSpec)
    ours = translate(error, subject="the list of agent pools", creating=False)
    assert type(ours) is UnknownOutcome
    assert str(ours) == "Azure refuses the request for the list of agent pools: NoRegisteredProviderFound: No"


def test_silence_names_what_was_asked_for() -> None:
    ours = translate(ServiceRequestError("no route to host"), subject="the list of agent pools", creating=False)
    assert str(ours) == "Azure did not answer the request for the list of agent pools: no route to host"
