"""Why pods do not do their work, in words of the closed list of reasons: from what their programs say, else from what the
kubelet and the scheduler say, in KAITO's order of precedence. Pure; the same for inference and tuning.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kube.api.reasons import Reason
from kube.api.workload import ContainerStateTerminated, ContainerStatus, Node, Pod
from runtime import contract

PULL_ERRORS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ErrPull"})
START_ERRORS = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "PostStartHookError"}
)
KNOWN = frozenset(reason.value for reason in Reason)


class Problem(NamedTuple):
    """What keeps a pod from its work. `reason` is one of the closed list; `exit` is the program's, where it has ended."""

    reason: str
    message: str
    exit: int | None = None


def diagnose(pods: Sequence[Pod], nodes: Iterable[Node], live: contract.Status | None = None) -> Problem | None:
    """Return the first problem that explains why these pods are not ready, None where nothing is known to be wrong.

    `live` is what a program said when it was asked a moment ago, and says the most.
    """
    if live is not None and (said := complaint(live)):
        return said
    for find in (_reported, _oom_killed, _pull_error, _start_error, _crash_loop, _evicted):
        for pod in pods:
            if problem := find(pod):
                return problem
    if pressure := _pressure(nodes):
        return pressure
    return next((problem for pod in pods if (problem := _unschedulable(pod))), None)


def complaint(status: contract.Status) -> Problem | None:
    """Return what a program complains of: its reason, or a warning of a code that is a reason."""
    if status.reason and status.reason in KNOWN:
        return Problem(status.reason, status.message, status.exit)
    warning = next((warning for warning in status.warnings if warning.code in KNOWN), None)
    return Problem(warning.code, warning.message, status.exit) if warning else None


def report_of(terminated: ContainerStateTerminated) -> contract.Status | None:
    """Decode a termination report; None where the container wrote none and the kubelet put its log there."""
    try:
        return contract.decode(contract.Status, terminated.message)
    except ValueError:
        return None


def final_report(pod: Pod, container: str) -> contract.Status | None:
    """Return the report of a container that has ended."""
    for status in pod.status.container_statuses:
        if status.name == container and status.state.terminated is not None:
            return report_of(status.state.terminated)
    return None


def stage(pod: Pod) -> str:
    """Say where a pod is between scheduling and its end, from the kubelet's word alone."""
    name = f"pod {pod.metadata.name}"
    if terminal(pod):
        return f"{name} has ended"
    if not pod.spec.node_name:
        return f"{name} waits for a node"
    for status in _statuses(pod):
        if status.state.terminated is not None:
            continue
        if status.state.running is None:
            return f"{name}: the image and the volumes of container {status.name} are being brought"
        return f"{name}: container {status.name} runs"
    return f"{name} is starting"


def terminal(pod: Pod) -> bool:
    """Whether a pod has ended for good, and with it its hold on the GPU."""
    return pod.status.phase in ("Succeeded", "Failed")


def main_started(pod: Pod, container: str) -> bool:
    """Whether the main container runs or has run: its init containers are through."""
    found = next((status for status in pod.status.container_statuses if status.name == container), None)
    return found is not None and (bool(found.started) or found.state.terminated is not None)


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    yield from pod.status.init_container_statuses
    yield from pod.status.container_statuses


def _endings(pod: Pod) -> Iterator[ContainerStateTerminated]:
    """Yield how containers ended that have not done their work since: the latest ending of each."""
    for status in _statuses(pod):
        ending = status.state.terminated or status.last_state.terminated
        if ending is not None and not status.ready and not _succeeded(status):
            yield ending


def _succeeded(status: ContainerStatus) -> bool:
    return status.state.terminated is not None and status.state.terminated.exit_code == 0


def _reported(pod: Pod) -> Problem | None:
    for ending in _endings(pod):
        report = report_of(ending)
        if report is not None and ending.exit_code != 0 and report.reason in KNOWN:
            return Problem(report.reason, report.message, ending.exit_code)
    return None


def _oom_killed(pod: Pod) -> Problem | None:
    if any(ending.reason == "OOMKilled" for ending in _endings(pod)):
        return Problem(Reason.OOM_KILLED, f"pod {pod.metadata.name}: a container ran out of memory and was killed")
    return None


def _pull_error(pod: Pod) -> Problem | None:
    return _waiting(pod, PULL_ERRORS, Reason.IMAGE_PULL_ERROR)


def _start_error(pod: Pod) -> Problem | None:
    return _waiting(pod, START_ERRORS, Reason.CONTAINER_START_ERROR)


def _crash_loop(pod: Pod) -> Problem | None:
    looping = _waiting(pod, frozenset({"CrashLoopBackOff"}), Reason.CRASH_LOOP)
    ending = next((ending for ending in _endings(pod) if ending.exit_code != 0), None)
    if ending is None or (looping is None and not terminal(pod)) or _is_evicted(pod):
        return looping
    said = ending.message.strip()[-400:] or ending.reason
    return Problem(
        Reason.CRASH_LOOP, f"pod {pod.metadata.name}: exit code {ending.exit_code}: {said}", ending.exit_code
    )


def _is_evicted(pod: Pod) -> bool:
    return pod.status.reason == "Evicted"


def _evicted(pod: Pod) -> Problem | None:
    return Problem(Reason.POD_EVICTED, f"pod {pod.metadata.name}: {pod.status.message}") if _is_evicted(pod) else None


def _pressure(nodes: Iterable[Node]) -> Problem | None:
    kinds = (("DiskPressure", Reason.NODE_DISK_PRESSURE), ("MemoryPressure", Reason.NODE_MEMORY_PRESSURE))
    for node in nodes:
        for type_, reason in kinds:
            pressed = next((c for c in node.status.conditions if c.type == type_ and c.true), None)
            if pressed is not None:
                return Problem(reason, f"node {node.metadata.name}: {pressed.message}")
    return None


def _unschedulable(pod: Pod) -> Problem | None:
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.false and condition.reason == "Unschedulable":
            return Problem(Reason.UNSCHEDULABLE, f"pod {pod.metadata.name}: {condition.message}")
    return None


def _waiting(pod: Pod, reasons: frozenset[str], reason: Reason) -> Problem | None:
    for status in _statuses(pod):
        waiting = status.state.waiting
        if waiting is not None and waiting.reason in reasons:
            said = waiting.message or waiting.reason
            return Problem(reason, f"pod {pod.metadata.name}, container {status.name}: {said}")
    return None
