"""What the bench's server says of itself: which kinds it serves, and that there is nothing of all the others."""

from collections.abc import Mapping
from typing import Any

VERBS = ["get", "list", "watch", "create", "update", "patch", "delete"]
# Path of a group's version → plural, kind, namespaced.
SERVED: Mapping[str, tuple[tuple[str, str, bool], ...]] = {
    "/api/v1": (("pods", "Pod", True), ("namespaces", "Namespace", False), ("events", "Event", True)),
    "/apis/apiextensions.k8s.io/v1": (("customresourcedefinitions", "CustomResourceDefinition", False),),
}


def document(path: str) -> Mapping[str, Any]:
    """The answer to a GET of `path`: discovery, or an empty list."""
    if path == "/version":
        return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [each.removeprefix("/apis/").split("/") for each in SERVED if each.startswith("/apis/")]
        return {"kind": "APIGroupList", "groups": [_group(*each) for each in groups]}
    if path in SERVED:
        return {"kind": "APIResourceList", "groupVersion": path.split("/", 2)[2], "resources": _resources(path)}
    return {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}


def _group(name: str, version: str) -> Mapping[str, Any]:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(path: str) -> list[Mapping[str, Any]]:
    return [
        {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": VERBS}
        for plural, kind, namespaced in SERVED[path]
    ]
