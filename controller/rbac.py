"""What the workspace controller may do. No Secret is ever read: pods mount them by name."""

from kube.api.rbac import CACHED, READ, PolicyRule

CLUSTER = (
    PolicyRule("kaito.sh", ("workspaces",), (*READ, "patch")),
    PolicyRule("kaito.sh", ("workspaces/status",), ("patch",)),
    PolicyRule("kaito.sh", ("workspaces/finalizers",), ("update",)),  # blockOwnerDeletion on what it owns
    PolicyRule("karpenter.sh", ("nodeclaims",), (*READ, "create", "delete")),
    PolicyRule("", ("nodes", "pods"), CACHED),
    PolicyRule("", ("services",), (*READ, "create", "patch", "delete")),
    PolicyRule("", ("configmaps",), (*CACHED, "create", "patch")),
    PolicyRule("apps", ("statefulsets",), (*READ, "create", "patch", "delete")),
    PolicyRule("batch", ("jobs",), (*READ, "create", "delete")),
    PolicyRule("policy", ("poddisruptionbudgets",), ("create", "patch")),
    PolicyRule("events.k8s.io", ("events",), ("create", "patch")),
)

NAMESPACED = (PolicyRule("coordination.k8s.io", ("leases",), ("get", "create", "patch")),)
