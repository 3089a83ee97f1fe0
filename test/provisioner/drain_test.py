"""Emptying a node before its machine goes: who is asked to leave, in which order, and what is waited for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes import client as independent

from kube.api.workload import Pod, Toleration
from provisioner.drain import drainable, look_again, next_group
from test.expect import eventually
from test.provisioner.builders import a_pod
from test.provisioner.conftest import Box

NOW = datetime(2030, 1, 1, 0, 10, tzinfo=UTC)
DISRUPTED = "karpenter.sh/disrupted"
PROTECTED = {"karpenter.sh/do-not-disrupt": "true"}
MINUTE = 60.0
# A claim's grace period; a pod's; when no more than the pod's is left of the claim's, and when nothing is. All of them lie
# minutes apart, since real time passes between them as well.
HOUR = {"terminationGracePeriod": "1h"}
POD_GRACE, POD_IS_DUE, ALL_IS_DUE = int(35 * MINUTE), 28 * MINUTE, 61 * MINUTE
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("pod", "answer"),
    [
        (a_pod(), True),
        (a_pod(phase="Succeeded"), False),
        (a_pod(phase="Failed"), False),
        (a_pod(annotations={"kubernetes.io/config.mirror": "x"}), False),
        (a_pod(tolerations=[Toleration(operator="Exists")]), False),
        (a_pod(tolerations=[Toleration(key=DISRUPTED, operator="Exists", effect="NoSchedule")]), False),
        (a_pod(tolerations=[Toleration(key="sku", operator="Equal", value="gpu", effect="NoSchedule")]), True),
        (a_pod(deleted="2030-01-01T00:09:30Z"), True),
        (a_pod(deleted="2030-01-01T00:08:59Z"), False),
    ],
)
def test_only_pods_that_can_and_have_to_leave_are_waited_for(pod: Pod, answer: bool) -> None:
    assert drainable(pod, NOW) is answer


def test_ordinary_pods_leave_first_and_critical_daemons_last() -> None:
    pods = [
        a_pod("critical-daemon", owner="DaemonSet", priority="system-node-critical"),
        a_pod("critical", priority="system-cluster-critical"),
        a_pod("daemon", owner="DaemonSet"),
        a_pod("ordinary", owner="ReplicaSet"),
    ]
    order = []
    while pods:
        group = next_group(pods)
        order += [pod.metadata.name for pod in group]
        pods = [pod for pod in pods if pod not in group]
    assert order == ["ordinary", "daemon", "critical", "critical-daemon"]


@pytest.mark.parametrize(
    ("pods", "seconds_left", "answer"),
    [
        ([a_pod()], None, 1),
        ([a_pod(annotations=PROTECTED)], None, 10),
        ([a_pod(annotations=PROTECTED), a_pod()], None, 1),
        ([a_pod(annotations=PROTECTED)], 3600, 10),
        ([a_pod(annotations=PROTECTED)], 34, 4),  # that is when its own 30 s have to begin
        ([a_pod(annotations=PROTECTED)], 20, 1),
    ],
)
def test_pods_that_end_by_themselves_are_looked_at_rarely(
    pods: list[Pod], seconds_left: float | None, answer: float
) -> None:
    deadline = None if seconds_left is None else NOW + timedelta(seconds=seconds_left)
    assert look_again(pods, deadline, NOW) == timedelta(seconds=answer)


async def test_pods_leave_before_the_machine_does(box: Box, namespace: str) -> None:
    name, node = await box.ready()
    _pod(box, namespace, node, "work")
    _pod(box, namespace, node, "agent", owner="DaemonSet")
    box.delete(name)

    await eventually(lambda: _leaving(box, namespace, "work"))
    await box.becomes(name, "Drained", "Unknown", "Draining")
    assert DISRUPTED in {taint.key for taint in box.node(node).spec.taints}
    assert "node.kubernetes.io/exclude-from-external-load-balancers" in box.node(node).metadata.labels
    assert not _leaving(box, namespace, "agent")
    assert await box.pool_state(name) == "Succeeded"

    _finish(box, namespace, "work")
    await eventually(lambda: _leaving(box, namespace, "agent"))
    _finish(box, namespace, "agent")
    await box.gone(name)
    assert await box.pool(name) is None


async def test_a_disruption_budget_holds_the_drain_until_the_grace_period_ends(box: Box, namespace: str) -> None:
    name, node = await box.ready(**HOUR)
    _pod(box, namespace, node, "guarded", grace=POD_GRACE)
    _forbid_evictions(box, namespace)
    box.delete(name)
    await eventually(lambda: "FailedDraining" in {event.reason for event in box.events(node)})
    assert not _leaving(box, namespace, "guarded")
    box.clock.leap(POD_IS_DUE)
    await eventually(lambda: _leaving(box, namespace, "guarded"))
    assert await box.pool_state(name) == "Succeeded"
    box.clock.leap(ALL_IS_DUE - POD_IS_DUE)
    await box.gone(name)
    assert await box.pool(name) is None
    await eventually(lambda: "Disrupted" in {event.reason for event in box.events("guarded")})


async def test_without_a_grace_period_a_disruption_budget_is_kept(box: Box, namespace: str) -> None:
    name, node = await box.ready()
    _pod(box, namespace, node, "guarded")
    _forbid_evictions(box, namespace)
    box.delete(name)
    await eventually(lambda: "FailedDraining" in {event.reason for event in box.events(node)})
    assert not _leaving(box, namespace, "guarded")
    assert await box.pool_state(name) == "Succeeded"


async def test_a_pod_that_may_not_be_disrupted_is_waited_for(box: Box, namespace: str) -> None:
    name, node = await box.ready()
    _pod(box, namespace, node, "training", annotations=PROTECTED)
    _pod(box, namespace, node, "work")
    _pod(box, namespace, node, "agent", owner="DaemonSet")
    box.delete(name)
    await eventually(lambda: _leaving(box, namespace, "work"))
    _finish(box, namespace, "work")

    def alone() -> bool:
        message = box.condition(name, "Drained").get("message", "")
        return "training" in message and "do-not-disrupt" in message and "work" not in message

    await eventually(alone)
    assert box.status_of(name, "Drained") == ("Unknown", "Draining")
    assert not _leaving(box, namespace, "training")
    assert not _leaving(box, namespace, "agent")  # what serves the pods goes after them

    box.core.patch_namespaced_pod_status("training", namespace, {"status": {"phase": "Succeeded"}})
    await eventually(lambda: _leaving(box, namespace, "agent"))
    _finish(box, namespace, "agent")
    await box.gone(name)


async def test_the_grace_period_ends_also_for_a_pod_that_may_not_be_disrupted(box: Box, namespace: str) -> None:
    name, node = await box.ready(**HOUR)
    _pod(box, namespace, node, "training", grace=POD_GRACE, annotations=PROTECTED)
    box.delete(name)
    await box.becomes(name, "Drained", "Unknown", "Draining")
    assert not _leaving(box, namespace, "training")
    box.clock.leap(POD_IS_DUE)
    box.touch(name)
    await eventually(lambda: _leaving(box, namespace, "training"))
    assert await box.pool_state(name) == "Succeeded"
    box.clock.leap(ALL_IS_DUE - POD_IS_DUE)
    await box.gone(name)
    assert await box.pool(name) is None


async def test_nobody_waits_for_pods_on_an_unhealthy_node(box: Box, namespace: str) -> None:
    name, node = await box.ready(**HOUR)
    _pod(box, namespace, node, "training", annotations=PROTECTED)
    box.clock.leap(11 * 60)
    box.report(node, ready=False, since=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    await box.gone(name)
    assert _leaving(box, namespace, "training")


async def test_volumes_are_detached_before_the_machine_goes(box: Box) -> None:
    name, node = await box.ready()
    storage = independent.StorageV1Api(box.api)
    attachment = {
        "metadata": {"name": f"attachment-{name}"},
        "spec": {"attacher": "disk.csi.azure.com", "nodeName": node, "source": {"persistentVolumeName": "pv-1"}},
    }
    storage.create_volume_attachment(attachment)
    box.delete(name)
    condition = await box.becomes(name, "VolumesDetached", "Unknown", "AwaitingVolumeDetachment")
    assert "pv-1" in condition["message"]
    assert await box.pool_state(name) == "Succeeded"
    storage.delete_volume_attachment(f"attachment-{name}")
    await box.gone(name)


async def test_nobody_waits_for_pods_on_a_machine_that_is_gone(box: Box, namespace: str) -> None:
    name, node = await box.ready()
    _pod(box, namespace, node, "stranded")
    await box.emulator.admin.delete_pool(name)
    box.report(node, ready=False)
    box.delete(name)
    await box.gone(name)


def _pod(
    box: Box,
    namespace: str,
    node: str,
    name: str,
    *,
    owner: str = "",
    grace: int = 30,
    annotations: dict[str, str] | None = None,
) -> None:
    with_owner: dict[str, Any] = {}
    if owner:
        reference = {"apiVersion": "apps/v1", "kind": owner, "name": "owner", "uid": "u-1", "controller": True}
        with_owner = {"ownerReferences": [reference]}
    core = box.core
    core.create_namespaced_pod(
        namespace,
        {
            "metadata": {"name": name, "labels": {"app": name}, "annotations": annotations or {}, **with_owner},
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": grace,
                "containers": [{"name": "c", "image": "none"}],
            },
        },
    )
    core.patch_namespaced_pod_status(name, namespace, {"status": {"phase": "Running", "conditions": [READY]}})


def _forbid_evictions(box: Box, namespace: str) -> None:
    """What the disruption controller would write about a budget that is used up."""
    policy = independent.PolicyV1Api(box.api)
    budget = {"metadata": {"name": "budget"}, "spec": {"maxUnavailable": 0, "selector": {}}}
    made = policy.create_namespaced_pod_disruption_budget(namespace, budget)
    status = {
        "disruptionsAllowed": 0,
        "currentHealthy": 1,
        "desiredHealthy": 1,
        "expectedPods": 1,
        "observedGeneration": made.metadata.generation,
    }
    policy.patch_namespaced_pod_disruption_budget_status("budget", namespace, {"status": status})


def _leaving(box: Box, namespace: str, name: str) -> bool:
    pods = [pod for pod in box.core.list_namespaced_pod(namespace).items if pod.metadata.name == name]
    return not pods or pods[0].metadata.deletion_timestamp is not None


def _finish(box: Box, namespace: str, name: str) -> None:
    """The kubelet reports that the containers have ended."""
    box.core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
