"""What this pod may use: CPUs, memory, GPUs. Reads cgroups and asks the CUDA driver; imports no GPU library.

The limits of the pod count, not the size of the node that it runs on.
"""

import ctypes
import os
from pathlib import Path

from runtime.contract import ExitCode, Reason
from runtime.fault import Fault

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def cpus(cgroup: Path = CGROUP) -> int:
    """Whole CPUs: what the scheduler may run us on, cut by the pod's CPU limit; at least one."""
    allowed = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        allowed = min(allowed, int(quota) // int(period))
    return max(1, allowed)


def memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Bytes: the pod's memory limit, or the node's memory without one."""
    total = next(
        int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if line.startswith("MemTotal")
    )
    limit = _read(cgroup / "memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def out_of_memory_kills(cgroup: Path = CGROUP) -> int:
    """How often the kernel killed a process of this pod for its memory limit."""
    counters = dict(line.split(maxsplit=1) for line in _read(cgroup / "memory.events").splitlines())
    return int(counters.get("oom_kill", 0))


def require_gpus(wanted: int, library: str = "libcuda.so.1") -> None:
    """Raise AcceleratorMissing unless the driver shows at least `wanted` GPUs. Creates no CUDA context."""
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise _missing("the NVIDIA driver's library libcuda.so.1 is not in this container") from error
    if code := driver.cuInit(0):
        raise _missing(f"the NVIDIA driver refused to start (CUDA error {code})")
    count = ctypes.c_int()
    if code := driver.cuDeviceGetCount(ctypes.byref(count)):
        raise _missing(f"the NVIDIA driver could not count its GPUs (CUDA error {code})")
    if count.value < wanted:
        raise _missing(f"{wanted} GPUs are needed and {count.value} are visible in this container")


def _missing(message: str) -> Fault:
    return Fault(ExitCode.ACCELERATOR_MISSING, Reason.ACCELERATOR_MISSING, message)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
