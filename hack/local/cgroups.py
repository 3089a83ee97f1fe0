"""The control groups of the box's nodes: made before a kubelet starts, emptied and removed after it.

A kubelet puts its pods below its `cgroupRoot`, so that whatever runs in containers is found there even when nobody
remembers it. Works with the version 1 hierarchies; with version 2 the kubelet needs no preparation beyond the folder.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from hack.local.process import BoxError, Process, process

GONE_SECONDS = 10.0


def create(group: str) -> None:
    """Make the group in every hierarchy. A new cpuset is empty and admits no process until it has processors."""
    for root in hierarchies():
        folder = root
        for part in Path(group).parts:
            folder = folder / part
            folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (folder / name).exists() and not (folder / name).read_text().strip():
                    (folder / name).write_text((folder.parent / name).read_text())


def processes(group: str) -> list[Process]:
    """Every process in the group or below it."""
    pids = {
        int(pid)
        for root in hierarchies()
        for listing in (root / group).rglob("cgroup.procs")
        for pid in _read(listing).split()
    }
    return [found for pid in pids if (found := process(pid)) is not None]


def remove(group: str) -> None:
    """Kill what is in the group and remove it. Returns when it is gone from every hierarchy."""
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        for left in processes(group):
            left.end(0)
        remaining = [folder for root in hierarchies() for folder in _remove_tree(root / group)]
        if not remaining:
            return
        if time.monotonic() > deadline:
            raise BoxError(f"control group {remaining[0]} cannot be removed")
        time.sleep(0.05)  # the kernel counts a killed process as a member until it is reaped


def exists(group: str) -> bool:
    return any((root / group).exists() for root in hierarchies())


def hierarchies() -> list[Path]:
    """Mount points of control groups on this machine: several for version 1 (and its `unified` one), one for 2."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    kinds = [(Path(target), kind) for _, target, kind, *_ in mounts if kind in ("cgroup", "cgroup2")]
    first_version = [target for target, kind in kinds if kind == "cgroup"]
    return first_version or [target for target, _ in kinds]


def _remove_tree(folder: Path) -> Iterator[Path]:
    """Remove groups, innermost first; yields those that would not go. Their files go with them."""
    if not folder.exists():
        return
    groups = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for group in sorted(groups, key=lambda path: len(path.parts), reverse=True):
        try:
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # EBUSY: a member or a child group is left
            yield group


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the group went meanwhile
        return ""
