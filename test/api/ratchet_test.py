"""Objects that were stored before a rule existed: they can still be updated where they are not at fault, and be released.

A finalizer is removed by an update, so a rule that refused every update of an old object would make it undeletable.
"""

import copy
from typing import Any

import pytest
import yaml
from kubernetes import client as independent
from kubernetes.client.exceptions import ApiException, NotFoundException

from hack.generate import crds as generated
from test.expect import eventually

GROUP = "before.kaito.sh"  # the same schema in a group of its own: other tests need theirs with all its rules

TUNING, INFERENCE = yaml.safe_load_all(f"""
apiVersion: {GROUP}/v1beta1
kind: Workspace
metadata:
  name: 4-workspaces-with-a-name-that-is-longer-than-we-allow-today
  finalizers: [workspace.finalizer.kaito.sh]
resource:
  labelSelector:
    matchLabels:
      kaito.sh/workspace: reserved
tuning:
  preset:
    name: falcon-7b
  method: dora
  input:
    urls: [ftp://host/file]
  output:
    image: https://registry/result:1
    volumeSource:
      hostPath:
        path: /results
---
apiVersion: {GROUP}/v1beta1
kind: Workspace
metadata:
  name: adapters
  finalizers: [workspace.finalizer.kaito.sh]
resource:
  labelSelector: {{}}
inference:
  preset:
    name: phi-2
  adapters:
    - strength: "2"
      source:
        urls: [nowhere]
        volumeSource:
          persistentVolumeClaim:
            claimName: adapters
""")


def with_rules(rules: bool) -> dict[str, Any]:
    """The Workspace CRD under another group, with everything that it refuses or nothing of it."""
    document = copy.deepcopy(generated.workspaces())
    document["metadata"]["name"] = f"workspaces.{GROUP}"
    document["spec"]["group"] = GROUP
    return document if rules else without_limits(document)


def without_limits(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: without_limits(value)
            for key, value in node.items()
            if key not in ("x-kubernetes-validations", "pattern")
        }
    return [without_limits(item) for item in node] if isinstance(node, list) else node


async def test_old_objects_with_faults_can_be_changed_elsewhere_and_released(
    api: independent.ApiClient, namespace: str
) -> None:
    objects, definitions = independent.CustomObjectsApi(api), independent.ApiextensionsV1Api(api)
    place = (GROUP, "v1beta1", namespace, "workspaces")
    definitions.create_custom_resource_definition(with_rules(False))

    def stored() -> Any:
        try:
            return objects.create_namespaced_custom_object(*place, TUNING)
        except NotFoundException:  # not served yet
            return None

    def refused() -> str:
        try:
            objects.create_namespaced_custom_object(*place, {**INFERENCE, "metadata": {"name": "new"}}, dry_run="All")
        except ApiException as error:
            return str(error.body)
        return ""

    await eventually(stored)
    objects.create_namespaced_custom_object(*place, INFERENCE)
    current = definitions.read_custom_resource_definition(f"workspaces.{GROUP}")
    strict = with_rules(True)
    strict["metadata"]["resourceVersion"] = current.metadata.resource_version
    definitions.replace_custom_resource_definition(f"workspaces.{GROUP}", strict)
    assert "this preset is retired" in await eventually(refused)

    with pytest.raises(ApiException, match="422"):
        objects.patch_namespaced_custom_object(*place, "adapters", {"inference": {"preset": {"name": "phi-5"}}})
    objects.patch_namespaced_custom_object(*place, "adapters", {"inference": {"config": "options"}})
    for name in (TUNING["metadata"]["name"], "adapters"):
        objects.patch_namespaced_custom_object_status(*place, name, {"status": {"state": "Failed"}})
        objects.delete_namespaced_custom_object(*place, name)
        objects.patch_namespaced_custom_object(*place, name, {"metadata": {"finalizers": None}})

    assert objects.list_namespaced_custom_object(*place)["items"] == []
