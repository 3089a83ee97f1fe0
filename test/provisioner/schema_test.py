"""The shipped NodeClaim CRD refuses what Karpenter's refuses, on a real API server; KaitoNodeClass takes what AKS knows."""

import json
from typing import Any

import pytest
from kubernetes import client as independent
from kubernetes.client.exceptions import ApiException

from test.provisioner.conftest import CLAIMS, CLASSES, a_claim, new_name


def _requirement(key: str, operator: str = "In", values: list[str] | None = None, **more: Any) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": ["x"] if values is None else values, **more}


@pytest.fixture
def objects(api: independent.ApiClient, crds: None) -> independent.CustomObjectsApi:
    return independent.CustomObjectsApi(api)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"requirements": [_requirement("team", values=[])]}, "must have a value defined"),
        ({"requirements": [_requirement("team", "Gt", ["a", "b"])]}, "single positive integer value"),
        ({"requirements": [_requirement("team", minValues=2)]}, "at least that many values"),
        ({"requirements": [_requirement("kubernetes.io/hostname")]}, "is restricted"),
        ({"requirements": [_requirement("example.kubernetes.io/x")]}, 'label domain "kubernetes.io" is restricted'),
        ({"requirements": [_requirement("karpenter.sh/initialized")]}, 'label domain "karpenter.sh" is restricted'),
        ({"requirements": [_requirement("team", "Is")]}, "Unsupported value"),
        ({"nodeClassRef": {"group": "", "kind": "K", "name": "n"}}, "group may not be empty"),
        ({"nodeClassRef": {"group": "a/b", "kind": "K", "name": "n"}}, "should match"),
        ({"expireAfter": "soon"}, "should match"),
        ({"taints": [{"key": "k", "effect": "Maybe"}]}, "Unsupported value"),
    ],
)
def test_what_karpenter_refuses_is_refused(
    objects: independent.CustomObjectsApi, spec: dict[str, Any], message: str
) -> None:
    body = a_claim(new_name())
    body["spec"] |= spec
    with pytest.raises(ApiException) as refused:
        objects.create_cluster_custom_object(*CLAIMS, body, dry_run="All")
    assert refused.value.status == 422
    assert message in str(json.loads(refused.value.body)["message"])


def test_what_kaito_writes_is_accepted_and_gets_karpenters_default(objects: independent.CustomObjectsApi) -> None:
    body = a_claim(new_name(), requirements={"karpenter.azure.com/sku-name": ["S"], "kubernetes.io/os": ["linux"]})
    made = objects.create_cluster_custom_object(*CLAIMS, body, dry_run="All")
    assert made["spec"]["expireAfter"] == "720h"


def test_a_claim_cannot_be_changed(objects: independent.CustomObjectsApi) -> None:
    name = new_name()
    objects.create_cluster_custom_object(*CLAIMS, a_claim(name))
    try:
        with pytest.raises(ApiException) as refused:
            objects.patch_cluster_custom_object(*CLAIMS, name, {"spec": {"expireAfter": "1h"}})
        assert "spec is immutable" in refused.value.body
    finally:
        objects.delete_cluster_custom_object(*CLAIMS, name)


def test_an_empty_class_is_a_class(objects: independent.CustomObjectsApi) -> None:
    body = {"apiVersion": "kaito.sh/v1alpha1", "kind": "KaitoNodeClass", "metadata": {"name": "empty"}}
    made = objects.create_cluster_custom_object(*CLASSES, body, dry_run="All")
    assert made["metadata"]["name"] == "empty"
