"""The controllers' roles from the tables beside their code, and the roles that people are given."""

from collections.abc import Sequence
from typing import Any

import controller.rbac
import provisioner.rbac
from kube.api.rbac import READ, PolicyRule

NAMESPACE = "kaito-system"
CONTROLLERS = {
    "workspace-controller": ("controller", controller.rbac),
    "node-provisioner": ("provisioner", provisioner.rbac),
}
WRITE = ("create", "update", "patch", "delete", "deletecollection")


def documents(name: str) -> list[dict[str, Any]]:
    """Return one controller's ServiceAccount, roles and bindings."""
    _, tables = CONTROLLERS[name]
    return [
        _object("v1", "ServiceAccount", name, namespaced=True),
        _role("ClusterRole", name, tables.CLUSTER),
        _binding("ClusterRole", name),
        _role("Role", name, tables.NAMESPACED),
        _binding("Role", name),
    ]


def user_roles() -> list[dict[str, Any]]:
    """Return roles for people, aggregated into Kubernetes' own view, edit and admin."""
    objects = PolicyRule("kaito.sh", ("workspaces",), READ)
    status = PolicyRule("kaito.sh", ("workspaces/status",), ("get",))
    editing = PolicyRule("kaito.sh", ("workspaces",), WRITE)
    return [
        _aggregated("workspace-viewer", (objects, status), ("view", "edit", "admin")),
        _aggregated("workspace-editor", (editing,), ("edit", "admin")),
    ]


def _aggregated(name: str, rules: Sequence[PolicyRule], into: Sequence[str]) -> dict[str, Any]:
    role = _role("ClusterRole", name, rules)
    role["metadata"]["labels"] |= {f"rbac.authorization.k8s.io/aggregate-to-{target}": "true" for target in into}
    return role


def _role(kind: str, name: str, rules: Sequence[PolicyRule]) -> dict[str, Any]:
    role = _object("rbac.authorization.k8s.io/v1", kind, name, namespaced=kind == "Role")
    return role | {"rules": [_rule(rule) for rule in rules]}


def _rule(rule: PolicyRule) -> dict[str, Any]:
    document = {"apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.verbs)}
    return document | ({"resourceNames": list(rule.names)} if rule.names else {})


def _binding(kind: str, name: str) -> dict[str, Any]:
    binding = _object("rbac.authorization.k8s.io/v1", f"{kind}Binding", name, namespaced=kind == "Role")
    return binding | {
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": kind,
            "name": name if kind == "Role" else f"kaito-{name}",
        },
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}],
    }


def _object(api_version: str, kind: str, name: str, namespaced: bool) -> dict[str, Any]:
    """Return the head of an object. Cluster-scoped ones are prefixed, since their names are shared with everybody."""
    metadata: dict[str, Any] = {
        "name": name if namespaced else f"kaito-{name}",
        "labels": {"app.kubernetes.io/part-of": "kaito"},
    }
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata | ({"namespace": NAMESPACE} if namespaced else {}),
    }
