"""The CustomResourceDefinitions that are ours: Workspace in two versions, and KaitoNodeClass."""

import copy
from collections.abc import Sequence
from typing import Any

from controller import catalogue
from hack.generate.openapi import Generator, Schema
from kube.api import workspace_rules
from kube.api.nodeclass import NODE_CLASSES
from kube.api.schema import Rule
from kube.api.workspace import WORKSPACES
from kube.meta import Object, Resource

# KAITO's v1alpha1 gives an instance type to Workspaces that name none.
V1ALPHA1_INSTANCE_TYPE = "Standard_NC24ads_A100_v4"
V1ALPHA1_DESCRIPTION = "Without one, this version means Standard_NC24ads_A100_v4; in v1beta1 the planner chooses."

DESCRIBED = {
    "apiVersion": {"type": "string", "description": "Version of this representation."},
    "kind": {"type": "string", "description": "Kind of this object."},
    "metadata": {"type": "object"},
}


def condition_column(name: str, type_: str, field: str = "status", priority: int = 0) -> dict[str, Any]:
    """Return a printed column that shows a field of one condition."""
    return column(name, f'.status.conditions[?(@.type=="{type_}")].{field}', priority=priority)


def column(name: str, path: str, type_: str = "string", priority: int = 0) -> dict[str, Any]:
    """Return a printed column; priority 1 is shown by `-o wide` alone."""
    return {"name": name, "type": type_, "jsonPath": path} | ({"priority": priority} if priority else {})


AGE = column("Age", ".metadata.creationTimestamp", "date")

WORKSPACE_COLUMNS = (
    column("Instance", ".resource.instanceType"),
    condition_column("ResourceReady", "ResourceReady"),
    condition_column("InferenceReady", "InferenceReady"),
    condition_column("WorkspaceReady", "WorkspaceReady"),
    condition_column("Reason", "WorkspaceReady", "reason"),
    AGE,
    condition_column("JobStarted", "JobStarted", priority=1),
    column("State", ".status.state", priority=1),
    column("Nodes", ".status.targetNodeCount", "integer", priority=1),
    column("Model", ".status.model.id", priority=1),
    column("URL", ".status.endpoint", priority=1),
)


def preset_name_rules() -> tuple[Rule, ...]:
    """Return the rules of `preset.name`: a hub id, or a name of the catalogue that is not retired."""
    known = ", ".join(f"'{name}'" for name in sorted(catalogue.aliases()))
    retired = ", ".join(f"'{name}'" for name in sorted(catalogue.retired()))
    return (
        Rule(
            f"self.contains('/') || self.lowerAscii() in [{known}, {retired}]",
            "unknown preset: use one of "
            + ", ".join(sorted(catalogue.aliases()))
            + ", or the hub id of one (org/model)",
        ),
        Rule(
            f"!(self.lowerAscii() in [{retired}])",
            "this preset is retired: use a current one",
        ),
        Rule(
            "!self.contains('/') || self.matches('^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$')",
            "a hub id has the form org/model",
        ),
    )


def workspaces() -> dict[str, Any]:
    """Return the CRD of Workspaces: v1beta1 is stored, v1alpha1 served with its one default."""
    stored = _object(WORKSPACES, workspace_rules.WORKSPACE)
    old = copy.deepcopy(stored)
    old["properties"]["resource"]["properties"]["instanceType"] |= {
        "default": V1ALPHA1_INSTANCE_TYPE,
        "description": V1ALPHA1_DESCRIPTION,
    }
    versions = (
        _version("v1beta1", stored, WORKSPACE_COLUMNS),
        _version("v1alpha1", old, WORKSPACE_COLUMNS, storage=False),
    )
    return _crd(WORKSPACES, versions, short_names=("wk", "wks"), categories=("workspace",))


def node_classes() -> dict[str, Any]:
    """Return the CRD of KaitoNodeClasses."""
    versions = (_version("v1alpha1", _object(NODE_CLASSES), (AGE,)),)
    return _crd(NODE_CLASSES, versions, short_names=("knc",), categories=("karpenter",))


def _object(resource: Resource[Any], rules: Sequence[Rule] = ()) -> Schema:
    kind: type[Object] = resource.type
    schema = Generator({"preset-name": preset_name_rules()}).struct_of(kind)
    properties = DESCRIBED | {name: value for name, value in schema["properties"].items() if name != "metadata"}
    schema = schema | {"properties": properties}
    return schema | {"x-kubernetes-validations": [rule.document() for rule in rules]} if rules else schema


def _version(name: str, schema: Schema, columns: Sequence[dict[str, Any]], storage: bool = True) -> dict[str, Any]:
    return {
        "name": name,
        "served": True,
        "storage": storage,
        **({"subresources": {"status": {}}} if "status" in schema["properties"] else {}),
        "additionalPrinterColumns": list(columns),
        "schema": {"openAPIV3Schema": schema},
    }


def _crd(
    resource: Resource[Any],
    versions: Sequence[dict[str, Any]],
    short_names: Sequence[str],
    categories: Sequence[str],
) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                **({"shortNames": list(short_names)} if short_names else {}),
                "categories": list(categories),
            },
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "conversion": {"strategy": "None"},
            "versions": list(versions),
        },
    }
