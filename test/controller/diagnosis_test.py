"""Why a pod does not work, from its status: KAITO's precedence, and the programs' own words before all of it."""

from typing import Any

import msgspec
import pytest

from controller.diagnosis import Problem, diagnose, stage
from kube.api.workload import Node, Pod
from runtime import contract
from test.controller.stage import container_status, ended, report


def pod(**status: Any) -> Pod:
    return msgspec.convert({"metadata": {"name": "p-0"}, "status": status}, Pod)


def waiting(reason: str) -> dict[str, Any]:
    return container_status("main", state={"waiting": {"reason": reason, "message": f"because of {reason}"}})


def crashed(exit_code: int = 1, message: str = "", reason: str = "") -> dict[str, Any]:
    return container_status(
        "main", state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended(exit_code, message, reason)
    )


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available",
    "lastTransitionTime": "2030-01-01T00:00:00Z",
}
FULL = msgspec.convert(
    {
        "metadata": {"name": "n"},
        "status": {"conditions": [{"type": "DiskPressure", "status": "True", "message": "full"}]},
    },
    Node,
)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"containerStatuses": [crashed(137, reason="OOMKilled")]}, "ContainerOOMKilled"),
        ({"containerStatuses": [waiting("ErrImagePull")]}, "ImagePullError"),
        ({"containerStatuses": [waiting("InvalidImageName")]}, "ImagePullError"),
        ({"initContainerStatuses": [waiting("ImagePullBackOff")]}, "ImagePullError"),
        ({"containerStatuses": [waiting("CreateContainerConfigError")]}, "ContainerStartError"),
        ({"containerStatuses": [crashed()]}, "ContainerCrashLoopBackOff"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on disk"}, "PodEvicted"),
        ({"conditions": [UNSCHEDULABLE]}, "Unschedulable"),
        ({"containerStatuses": [crashed(64, report(64, "ConfigInvalid", "no such key"))]}, "ConfigInvalid"),
        ({"initContainerStatuses": [crashed(66, report(66, "SecretMissing", "s"))]}, "SecretMissing"),
    ],
)
def test_each_trouble_has_its_reason(status: dict[str, Any], reason: str) -> None:
    problem = diagnose([pod(**status)], ())
    assert problem is not None
    assert problem.reason == reason


def test_the_more_telling_trouble_comes_first() -> None:
    """KAITO's order: memory, pull, start, crash, eviction, pressure, scheduling."""
    troubles: list[tuple[str, dict[str, Any]]] = [
        ("ContainerOOMKilled", {"containerStatuses": [crashed(137, reason="OOMKilled")]}),
        ("ImagePullError", {"containerStatuses": [waiting("ErrImagePull")]}),
        ("ContainerStartError", {"containerStatuses": [waiting("RunContainerError")]}),
        ("ContainerCrashLoopBackOff", {"containerStatuses": [crashed()]}),
        ("PodEvicted", {"phase": "Failed", "reason": "Evicted"}),
        ("Unschedulable", {"conditions": [UNSCHEDULABLE]}),
    ]
    for position, (reason, _) in enumerate(troubles):
        problem = diagnose([pod(**status) for _, status in reversed(troubles[position:])], ())
        assert problem is not None
        assert problem.reason == reason
    pressed = diagnose([pod(conditions=[UNSCHEDULABLE])], [FULL])
    assert pressed is not None
    assert pressed.reason == "NodeDiskPressure"


def test_what_the_program_says_now_counts_more_than_its_last_ending() -> None:
    live = contract.Status(phase="Loading", reason="AdapterInvalid", message="adapter x is for another model")
    troubled = pod(containerStatuses=[crashed(71, report(71, "GpuOutOfMemory", "no"))])
    assert diagnose([troubled], (), live) == Problem("AdapterInvalid", "adapter x is for another model")


def test_a_warning_of_a_known_code_is_a_reason_too() -> None:
    live = contract.Status(warnings=(contract.Warning_("W_TEMPLATE", "…"), contract.Warning_("AdapterInvalid", "bad")))
    assert diagnose([pod()], (), live) == Problem("AdapterInvalid", "bad")


def test_a_reason_of_a_newer_runtime_is_not_shown_as_ours() -> None:
    assert diagnose([pod()], (), contract.Status(reason="FluxCapacitorEmpty")) is None


def test_a_container_that_works_again_has_no_past() -> None:
    healed = container_status("main", ready=True, lastState=ended(1, report(1, "EngineFailed", "x")))
    assert diagnose([pod(phase="Running", containerStatuses=[healed])], ()) is None


def test_an_init_container_that_succeeded_at_last_has_no_past() -> None:
    fetched = container_status("fetch", state=ended(0), lastState=ended(66, report(66, "DataUnreachable", "x")))
    assert diagnose([pod(phase="Running", initContainerStatuses=[fetched])], ()) is None


def test_a_crash_without_a_report_shows_the_end_of_the_log() -> None:
    problem = diagnose([pod(containerStatuses=[crashed(1, "long\n" * 200 + "ValueError: the cause")])], ())
    assert problem is not None
    assert "exit code 1" in problem.message
    assert problem.message.endswith("the cause")
    assert len(problem.message) < 500


def test_healthy_pods_have_no_problem() -> None:
    assert diagnose([pod(phase="Running", containerStatuses=[container_status("main", ready=True)])], ()) is None
    assert diagnose([], ()) is None


@pytest.mark.parametrize(
    ("node", "status", "words"),
    [
        ("", {"phase": "Pending"}, "waits for a node"),
        (
            "n",
            {"initContainerStatuses": [waiting("PodInitializing")], "containerStatuses": [waiting("PodInitializing")]},
            "image and the volumes",
        ),
        (
            "n",
            {
                "initContainerStatuses": [container_status("fetch", state=ended(0, "", "Completed"))],
                "containerStatuses": [
                    container_status("main", state={"running": {"startedAt": "2030-01-01T00:00:00Z"}})
                ],
            },
            "container main runs",
        ),
        ("n", {"phase": "Succeeded"}, "has ended"),
    ],
)
def test_where_a_pod_is_can_be_told_without_asking_its_program(node: str, status: dict[str, Any], words: str) -> None:
    found = msgspec.convert({"metadata": {"name": "p-0"}, "spec": {"nodeName": node}, "status": status}, Pod)
    assert words in stage(found)
