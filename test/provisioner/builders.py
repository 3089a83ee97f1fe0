"""Values of the kinds that the provisioner reads, for tests that need no API server."""

from collections.abc import Mapping, Sequence
from typing import Any

from kube.api.nodeclaim import NodeClaim, NodeClaimSpec, NodeClassReference, Requirement, ResourceRequests
from kube.api.workload import Node, NodeSpec, NodeStatus, Pod, PodSpec, PodStatus, Taint, Toleration
from kube.meta import Condition, ObjectMeta, OwnerReference


def a_node_claim(
    name: str = "ws1",
    *,
    uid: str = "uid-1",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    requirements: Sequence[Requirement] = (),
    requests: Mapping[str, str | int | float] | None = None,
    **spec: Any,
) -> NodeClaim:
    return NodeClaim(
        metadata=ObjectMeta(
            name=name,
            uid=uid,
            creation_timestamp="2030-01-01T00:00:00Z",
            labels=labels or {},
            annotations=annotations or {},
        ),
        spec=NodeClaimSpec(
            node_class_ref=NodeClassReference(group="kaito.sh", kind="KaitoNodeClass", name="default"),
            requirements=tuple(requirements) or (wants("node.kubernetes.io/instance-type", "Standard_NC6s_v3"),),
            resources=ResourceRequests(requests=requests or {}),
            **spec,
        ),
    )


def wants(key: str, *values: str, operator: str = "In") -> Requirement:
    return Requirement(key=key, operator=operator, values=values)


def a_node(*, ready: bool = True, taints: Sequence[Taint] = (), allocatable: Mapping[str, str] | None = None) -> Node:
    condition = Condition(
        type="Ready", status="True" if ready else "False", last_transition_time="2030-01-01T00:00:00Z"
    )
    return Node(
        metadata=ObjectMeta(name="aks-ws1-12345678-vmss000000", labels={"kubernetes.azure.com/agentpool": "ws1"}),
        spec=NodeSpec(provider_id=provider_id("ws1"), taints=tuple(taints)),
        status=NodeStatus(conditions=(condition,), allocatable=allocatable or {}),
    )


def provider_id(pool: str) -> str:
    group = "azure:///subscriptions/s/resourceGroups/MC_g_c_eastus/providers/Microsoft.Compute"
    return f"{group}/virtualMachineScaleSets/aks-{pool}-12345678-vmss/virtualMachines/0"


def a_pod(
    name: str = "pod",
    *,
    owner: str = "",
    priority: str = "",
    phase: str = "Running",
    tolerations: Sequence[Toleration] = (),
    annotations: Mapping[str, str] | None = None,
    deleted: str | None = None,
) -> Pod:
    owners = (OwnerReference(api_version="apps/v1", kind=owner, name="o", uid="u", controller=True),) if owner else ()
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid=name,
            owner_references=owners,
            annotations=annotations or {},
            deletion_timestamp=deleted,
        ),
        spec=PodSpec(priority_class_name=priority, tolerations=tuple(tolerations)),
        status=PodStatus(phase=phase),
    )
