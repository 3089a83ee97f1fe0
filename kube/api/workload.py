"""The built-in kinds, cut down to the fields that the two controllers read."""

from collections.abc import Mapping

import msgspec

from kube.meta import Condition, Object, Resource, Wire


class Taint(Wire, frozen=True, kw_only=True):
    key: str
    effect: str
    value: str = ""


class NodeSpec(Wire, frozen=True, kw_only=True):
    provider_id: str = msgspec.field(name="providerID", default="")
    taints: tuple[Taint, ...] = ()


class NodeStatus(Wire, frozen=True, kw_only=True):
    capacity: Mapping[str, str] = {}
    allocatable: Mapping[str, str] = {}
    conditions: tuple[Condition, ...] = ()


class Node(Object, frozen=True, kw_only=True):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        return any(condition.type == "Ready" and condition.true for condition in self.status.conditions)


class ContainerStateWaiting(Wire, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class ContainerStateTerminated(Wire, frozen=True, kw_only=True):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Wire, frozen=True, kw_only=True):
    """That it is there is all that is asked."""


class ContainerState(Wire, frozen=True, kw_only=True):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Wire, frozen=True, kw_only=True):
    name: str
    ready: bool = False
    started: bool | None = None
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class Toleration(Wire, frozen=True, kw_only=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Whether this toleration covers `taint` (an empty key with Exists covers all, an empty effect every effect)."""
        if self.effect not in ("", taint.effect) or self.key not in ("", taint.key):
            return False
        return self.operator == "Exists" or self.value == taint.value


class PersistentVolumeClaimSource(Wire, frozen=True, kw_only=True):
    claim_name: str = ""


class Volume(Wire, frozen=True, kw_only=True):
    name: str = ""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None


class PodSpec(Wire, frozen=True, kw_only=True):
    node_name: str = ""
    priority_class_name: str = ""
    termination_grace_period_seconds: int | None = None
    tolerations: tuple[Toleration, ...] = ()
    volumes: tuple[Volume, ...] = ()


class PodStatus(Wire, frozen=True, kw_only=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[Condition, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Object, frozen=True, kw_only=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class StatefulSetSpec(Wire, frozen=True, kw_only=True):
    replicas: int = 1


class StatefulSetStatus(Wire, frozen=True, kw_only=True):
    observed_generation: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0


class StatefulSet(Object, frozen=True, kw_only=True):
    spec: StatefulSetSpec = StatefulSetSpec()
    status: StatefulSetStatus = StatefulSetStatus()


class JobStatus(Wire, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class Job(Object, frozen=True, kw_only=True):
    status: JobStatus = JobStatus()


class Service(Object, frozen=True, kw_only=True):
    """Of which we read only that it is there, and whose."""


class DeploymentSpec(Wire, frozen=True, kw_only=True):
    replicas: int = 1


class Deployment(Object, frozen=True, kw_only=True):
    spec: DeploymentSpec = DeploymentSpec()


class PersistentVolumeClaimSpec(Wire, frozen=True, kw_only=True):
    volume_name: str = ""


class PersistentVolumeClaim(Object, frozen=True, kw_only=True):
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()


class VolumeAttachmentSource(Wire, frozen=True, kw_only=True):
    persistent_volume_name: str = ""


class VolumeAttachmentSpec(Wire, frozen=True, kw_only=True):
    node_name: str = ""
    source: VolumeAttachmentSource = VolumeAttachmentSource()


class VolumeAttachment(Object, frozen=True, kw_only=True):
    spec: VolumeAttachmentSpec = VolumeAttachmentSpec()


class Namespace(Object, frozen=True, kw_only=True):
    pass


class ConfigMap(Object, frozen=True, kw_only=True):
    data: Mapping[str, str] = {}


class PodDisruptionBudget(Object, frozen=True, kw_only=True):
    """Of which we only write."""


NODES = Resource(Node, "", "v1", "nodes", "Node", namespaced=False)
PODS = Resource(Pod, "", "v1", "pods", "Pod")
SERVICES = Resource(Service, "", "v1", "services", "Service")
CONFIG_MAPS = Resource(ConfigMap, "", "v1", "configmaps", "ConfigMap")
STATEFUL_SETS = Resource(StatefulSet, "apps", "v1", "statefulsets", "StatefulSet")
JOBS = Resource(Job, "batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource(Deployment, "apps", "v1", "deployments", "Deployment")
NAMESPACES = Resource(Namespace, "", "v1", "namespaces", "Namespace", namespaced=False)
PERSISTENT_VOLUME_CLAIMS = Resource(PersistentVolumeClaim, "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
VOLUME_ATTACHMENTS = Resource(
    VolumeAttachment, "storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", namespaced=False
)
POD_DISRUPTION_BUDGETS = Resource(PodDisruptionBudget, "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
