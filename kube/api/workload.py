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
    unschedulable: bool = False


class NodeSystemInfo(Wire, frozen=True, kw_only=True):
    kubelet_version: str = ""
    os_image: str = ""


class NodeStatus(Wire, frozen=True, kw_only=True):
    capacity: Mapping[str, str] = {}
    allocatable: Mapping[str, str] = {}
    conditions: tuple[Condition, ...] = ()
    node_info: NodeSystemInfo = NodeSystemInfo()


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


class ContainerState(Wire, frozen=True, kw_only=True):
    waiting: ContainerStateWaiting | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Wire, frozen=True, kw_only=True):
    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodSpec(Wire, frozen=True, kw_only=True):
    node_name: str = ""


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
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""


class StatefulSet(Object, frozen=True, kw_only=True):
    spec: StatefulSetSpec = StatefulSetSpec()
    status: StatefulSetStatus = StatefulSetStatus()


class JobStatus(Wire, frozen=True, kw_only=True):
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    conditions: tuple[Condition, ...] = ()


class Job(Object, frozen=True, kw_only=True):
    status: JobStatus = JobStatus()


class ServiceSpec(Wire, frozen=True, kw_only=True):
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    type: str = ""


class Service(Object, frozen=True, kw_only=True):
    spec: ServiceSpec = ServiceSpec()


class ConfigMap(Object, frozen=True, kw_only=True):
    data: Mapping[str, str] = {}


NODES = Resource(Node, "", "v1", "nodes", "Node", namespaced=False)
PODS = Resource(Pod, "", "v1", "pods", "Pod")
SERVICES = Resource(Service, "", "v1", "services", "Service")
CONFIG_MAPS = Resource(ConfigMap, "", "v1", "configmaps", "ConfigMap")
STATEFUL_SETS = Resource(StatefulSet, "apps", "v1", "statefulsets", "StatefulSet")
JOBS = Resource(Job, "batch", "v1", "jobs", "Job")
