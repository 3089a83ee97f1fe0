"""What a pod may use, read from cgroup files as a kubelet writes them, and from a driver library that is not there."""

import os
from pathlib import Path

import pytest

from runtime import machine
from runtime.contract import ExitCode, Reason
from runtime.fault import Fault

GIB = 1024**3


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text(f"MemTotal:       {16 * 1024 * 1024} kB\nMemFree: 1 kB\n")
    return file


@pytest.mark.parametrize(
    ("quota", "cpus"), [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("", None)]
)
def test_cpus_are_those_of_the_limit_and_never_less_than_one(tmp_path: Path, quota: str, cpus: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert machine.cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("limit", "expected"), [(str(2 * GIB), 2 * GIB), ("max", 16 * GIB), (str(99 * GIB), 16 * GIB)])
def test_memory_is_the_limit_or_the_nodes(tmp_path: Path, meminfo: Path, limit: str, expected: int) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    assert machine.memory(tmp_path, meminfo) == expected


def test_without_cgroups_the_node_is_the_limit(tmp_path: Path, meminfo: Path) -> None:
    assert machine.memory(tmp_path / "absent", meminfo) == 16 * GIB
    assert machine.out_of_memory_kills(tmp_path / "absent") == 0


def test_kills_for_memory_are_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n")
    assert machine.out_of_memory_kills(tmp_path) == 2


def test_a_container_without_the_driver_has_no_gpu() -> None:
    with pytest.raises(Fault) as caught:
        machine.require_gpus(1, library="libcuda-of-no-machine.so.1")
    assert (caught.value.exit, caught.value.reason) == (ExitCode.ACCELERATOR_MISSING, Reason.ACCELERATOR_MISSING)
    assert "is not in this container" in str(caught.value)
