"""What the node provisioner may do. It never creates a NodeClaim, and evicts pods through the eviction API."""

from kube.api.rbac import READ, PolicyRule

CLUSTER = (
    PolicyRule("karpenter.sh", ("nodeclaims",), (*READ, "update", "patch", "delete")),
    PolicyRule("karpenter.sh", ("nodeclaims/status",), ("update", "patch")),
    PolicyRule("kaito.sh", ("kaitonodeclasses",), READ),
    PolicyRule("", ("nodes",), (*READ, "update", "patch", "delete")),
    PolicyRule("", ("pods",), (*READ, "delete")),
    PolicyRule("", ("pods/eviction",), ("create",)),
    PolicyRule("", ("persistentvolumeclaims",), ("get",)),  # which volume attachments a drain has to wait for
    PolicyRule("storage.k8s.io", ("volumeattachments",), READ),
    PolicyRule("", ("namespaces",), ("get",), names=("kube-system",)),  # its UID is the identity of the cluster
    PolicyRule("apps", ("deployments",), ("list",)),  # the start-up check for gpu-provisioner
    PolicyRule("events.k8s.io", ("events",), ("create", "patch")),
)

NAMESPACED = (PolicyRule("coordination.k8s.io", ("leases",), ("get", "create", "update", "patch")),)
