"""Which nodes a Workspace means: its label selector applied to nodes, to new nodes' labels, and to pods' affinity. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from controller.world import BODY
from kube.api import labels
from kube.api.workload import Node
from kube.api.workspace import LabelSelector, Workspace


def matching(nodes: Iterable[Node], workspace: Workspace) -> list[Node]:
    """Return the nodes that the Workspace's selector chooses. An empty selector chooses none: never the whole cluster."""
    selector = workspace.resource.label_selector
    if selector is None or not (selector.match_labels or selector.match_expressions):
        return []
    return [node for node in nodes if selects(selector, node.metadata.labels)]


def selects(selector: LabelSelector, marks: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector, as metav1.LabelSelector defines it."""
    if any(marks.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_holds(each.operator, marks.get(each.key), each.values) for each in selector.match_expressions)


def _holds(operator: str, value: str | None, values: Sequence[str]) -> bool:
    match operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
    return value is None


def node_labels(selector: LabelSelector | None) -> dict[str, str]:
    """Return labels that make a new node satisfy the selector."""
    if selector is None:
        return {}
    chosen = {each.key: each.values[0] for each in selector.match_expressions if each.operator == "In" and each.values}
    chosen |= {each.key: "true" for each in selector.match_expressions if each.operator == "Exists"}
    return {key: value for key, value in (chosen | dict(selector.match_labels)).items() if key not in labels.RESERVED}


def node_selection(workspace: Workspace, *, byo: bool) -> list[BODY]:
    """Return match expressions for the Workspace's nodes: what the user selects and, where we made them, whose they are."""
    selector = workspace.resource.label_selector or LabelSelector()
    chosen: list[BODY] = [
        {"key": key, "operator": "In", "values": [value]}
        for key, value in selector.match_labels.items()
        if key not in labels.RESERVED
    ]
    chosen += [
        {"key": each.key, "operator": each.operator} | ({"values": list(each.values)} if each.values else {})
        for each in selector.match_expressions
    ]
    if not byo:
        chosen += [
            {"key": labels.WORKSPACE, "operator": "In", "values": [workspace.metadata.name]},
            {"key": labels.WORKSPACE_NAMESPACE, "operator": "In", "values": [workspace.metadata.namespace]},
        ]
    return chosen
