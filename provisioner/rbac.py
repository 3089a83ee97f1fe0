"""What the node provisioner may do. It never creates a NodeClaim, and evicts pods through the eviction API."""

from kube.api.rbac import READ, PolicyRule

CLUSTER = (
    PolicyRule("karpenter.sh", ("nodeclaims",), (*READ, "patch", "delete")),
    PolicyRule("karpenter.sh", ("nodeclaims/status",), ("patch",)),
    PolicyRule("kaito.sh", ("kaitonodeclasses",), ("get",)),
    PolicyRule("", ("nodes",), (*READ, "patch", "delete")),
    PolicyRule("", ("pods",), ("list", "delete")),
    PolicyRule("", ("pods/eviction",), ("create",)),
    PolicyRule("", ("persistentvolumeclaims",), ("get",)),  # which volume attachments a drain has to wait for
    PolicyRule("storage.k8s.io", ("volumeattachments",), ("list",)),
    PolicyRule("", ("namespaces",), ("get",), names=("kube-system",)),  # its UID is the identity of the cluster
    PolicyRule("apps", ("deployments",), ("list",)),  # the start-up check for gpu-provisioner
    PolicyRule("events.k8s.io", ("events",), ("create", "patch")),
)

NAMESPACED = (PolicyRule("coordination.k8s.io", ("leases",), ("get", "create", "patch")),)
