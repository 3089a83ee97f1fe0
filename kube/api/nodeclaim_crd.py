"""The CustomResourceDefinition of NodeClaims, `karpenter.sh/v1`, as Karpenter v1.7 publishes it, CEL rules included.

Written out instead of generated from the types: it is somebody else's contract, the one that both Karpenter's providers and
KAITO install, and ours must accept and refuse exactly what theirs does. Installed only where the kind is absent.
"""

from collections.abc import Sequence
from typing import Any

from kube.api.nodeclaim import NODE_CLAIMS

Schema = dict[str, Any]

KEY_PATTERN = r"^([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?\/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"
VALUE_PATTERN = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
REASON_PATTERN = r"^([A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?|)$"
EFFECTS = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
OPERATORS = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]

# Labels of reserved domains that a requirement may name all the same.
KUBERNETES_KEYS = (
    "beta.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/windows-build",
)
DOMAIN = 'self.find("^([^/]+)")'


def document() -> dict[str, Any]:
    """Return the CRD."""
    names = {
        "categories": ["karpenter"],
        "kind": NODE_CLAIMS.kind,
        "listKind": f"{NODE_CLAIMS.kind}List",
        "plural": NODE_CLAIMS.plural,
        "singular": NODE_CLAIMS.kind.lower(),
    }
    version = {
        "name": NODE_CLAIMS.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns(),
        "schema": {"openAPIV3Schema": schema()},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{NODE_CLAIMS.plural}.{NODE_CLAIMS.group}"},
        "spec": {"group": NODE_CLAIMS.group, "names": names, "scope": "Cluster", "versions": [version]},
    }


def columns() -> list[dict[str, Any]]:
    def column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> dict[str, Any]:
        return {"name": name, "type": kind, "jsonPath": path} | ({"priority": 1} if wide else {})

    return [
        column("Type", r".metadata.labels.node\.kubernetes\.io/instance-type"),
        column("Capacity", r".metadata.labels.karpenter\.sh/capacity-type"),
        column("Zone", r".metadata.labels.topology\.kubernetes\.io/zone"),
        column("Node", ".status.nodeName"),
        column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("ImageID", ".status.imageID", wide=True),
        column("ID", ".status.providerID", wide=True),
        column("NodePool", r".metadata.labels.karpenter\.sh/nodepool", wide=True),
        column("NodeClass", ".spec.nodeClassRef.name", wide=True),
        column("Drifted", '.status.conditions[?(@.type=="Drifted")].status', wide=True),
    ]


def schema() -> Schema:
    return {
        "type": "object",
        "description": "One node that is wanted, and what has become of it.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _spec(),
            "status": _status(),
        },
    }


def _spec() -> Schema:
    return {
        "type": "object",
        "description": "The desired node. Cannot be changed: make another claim.",
        "required": ["nodeClassRef", "requirements"],
        "properties": {
            "expireAfter": {
                "type": "string",
                "description": "How long the node may live.",
                "default": "720h",
                "pattern": r"^(([0-9]+(s|m|h))+|Never)$",
            },
            "nodeClassRef": _node_class_ref(),
            "requirements": _requirements(),
            "resources": {
                "type": "object",
                "description": "What the node must offer at least.",
                "properties": {"requests": _quantities()},
            },
            "startupTaints": _taints("Taints until somebody removes them; the node is not initialized before."),
            "taints": _taints("Taints of the node."),
            "terminationGracePeriod": {
                "type": "string",
                "description": "How long the node may take to drain.",
                "pattern": r"^([0-9]+(s|m|h))+$",
            },
        },
        "x-kubernetes-validations": [_rule("self == oldSelf", "spec is immutable")],
    }


def _node_class_ref() -> Schema:
    def part(name: str, **more: Any) -> Schema:
        return {"type": "string", **more, "x-kubernetes-validations": [_rule("self != ''", f"{name} may not be empty")]}

    return {
        "type": "object",
        "description": "The provider's class that the node is made from.",
        "required": ["group", "kind", "name"],
        "properties": {"group": part("group", pattern="^[^/]*$"), "kind": part("kind"), "name": part("name")},
    }


def _requirements() -> Schema:
    return {
        "type": "array",
        "description": "Constraints on the node's labels.",
        "maxItems": 100,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "required": ["key", "operator"],
            "properties": {
                "key": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": KEY_PATTERN,
                    "x-kubernetes-validations": list(_key_rules()),
                },
                "minValues": {"type": "integer", "minimum": 1, "maximum": 50},
                "operator": {"type": "string", "enum": OPERATORS},
                "values": {
                    "type": "array",
                    "x-kubernetes-list-type": "atomic",
                    "items": {"type": "string", "maxLength": 63, "pattern": VALUE_PATTERN},
                },
            },
        },
        "x-kubernetes-validations": [
            _rule(
                "self.all(x, x.operator == 'In' ? x.values.size() != 0 : true)",
                "requirements with operator 'In' must have a value defined",
            ),
            _rule(
                "self.all(x, (x.operator == 'Gt' || x.operator == 'Lt') ? "
                "(x.values.size() == 1 && int(x.values[0]) >= 0) : true)",
                "requirements operator 'Gt' or 'Lt' must have a single positive integer value",
            ),
            _rule(
                "self.all(x, (x.operator == 'In' && has(x.minValues)) ? x.values.size() >= x.minValues : true)",
                "requirements with 'minValues' must have at least that many values specified in the 'values' field",
            ),
        ],
    }


def _key_rules() -> Sequence[dict[str, str]]:
    known = ", ".join(f'"{key}"' for key in KUBERNETES_KEYS)
    return (
        _rule(
            f'self in [{known}] || {DOMAIN}.endsWith("node.kubernetes.io") || '
            f'{DOMAIN}.endsWith("node-restriction.kubernetes.io") || !{DOMAIN}.endsWith("kubernetes.io")',
            'label domain "kubernetes.io" is restricted',
        ),
        _rule(
            f'{DOMAIN}.endsWith("kops.k8s.io") || !{DOMAIN}.endsWith("k8s.io")', 'label domain "k8s.io" is restricted'
        ),
        _rule(
            f'self in ["karpenter.sh/capacity-type", "karpenter.sh/nodepool"] || !{DOMAIN}.endsWith("karpenter.sh")',
            'label domain "karpenter.sh" is restricted',
        ),
        _rule('self != "kubernetes.io/hostname"', 'label "kubernetes.io/hostname" is restricted'),
    )


def _taints(description: str) -> Schema:
    return {
        "type": "array",
        "description": description,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "required": ["effect", "key"],
            "properties": {
                "effect": {"type": "string", "enum": EFFECTS},
                "key": {"type": "string", "minLength": 1, "pattern": KEY_PATTERN},
                "timeAdded": {"type": "string", "format": "date-time"},
                "value": {"type": "string", "pattern": VALUE_PATTERN},
            },
        },
    }


def _status() -> Schema:
    return {
        "type": "object",
        "description": "What has become of the claim.",
        "properties": {
            "allocatable": _quantities(),
            "capacity": _quantities(),
            "conditions": {"type": "array", "items": _condition()},
            "imageID": {"type": "string", "description": "Image that the node runs."},
            "lastPodEventTime": {"type": "string", "format": "date-time"},
            "nodeName": {"type": "string", "description": "The node of the claim."},
            "providerID": {"type": "string", "description": "The cloud's name of the machine."},
        },
    }


def _condition() -> Schema:
    return {
        "type": "object",
        "required": ["lastTransitionTime", "message", "reason", "status", "type"],
        "properties": {
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "message": {"type": "string", "maxLength": 32768},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "reason": {"type": "string", "maxLength": 1024, "minLength": 1, "pattern": REASON_PATTERN},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "type": {"type": "string", "maxLength": 316, "pattern": KEY_PATTERN},
        },
    }


def _quantities() -> Schema:
    quantity = {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": QUANTITY_PATTERN,
        "x-kubernetes-int-or-string": True,
    }
    return {"type": "object", "additionalProperties": quantity}


def _rule(rule: str, message: str) -> dict[str, str]:
    return {"rule": rule, "message": message}
