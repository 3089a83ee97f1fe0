"""What a box could leave behind on this machine, as something to compare: before `up` and after `down` it is the same.

Only looks. Processes are counted by what marks them as a box's (their environment, their control group, a namespace
that is not the machine's), so that other work on the machine does not disturb the comparison.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from hack.local import cgroups, network, process
from hack.local.nodeconfig import CGROUP


@dataclass(frozen=True)
class Snapshot:
    """Each field is a set of lines that name one thing each."""

    processes: frozenset[str]
    mounts: frozenset[str]
    namespaces: frozenset[str]
    links: frozenset[str]
    rules: frozenset[str]
    settings: frozenset[str]
    groups: frozenset[str]
    folders: frozenset[str]


def take(folder: Path) -> Snapshot:
    """Look at the machine, and at what belongs to the box of this run folder in particular."""
    return Snapshot(
        processes=frozenset(_processes(folder)),
        mounts=frozenset(_mounts()),
        namespaces=frozenset(_network_namespaces()),
        links=frozenset(path.name for path in Path("/sys/class/net").iterdir()),
        rules=frozenset(network.rules_in_force()),
        settings=frozenset(f"{key}={value}" for key, value in network.settings_in_force().items()),
        groups=frozenset(str(root) for root in cgroups.hierarchies() if (root / CGROUP).exists()),
        folders=frozenset(str(path) for path in network.node_folders() if path.exists()),
    )


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What came (`+`) and what went (`-`), for people; empty when nothing did."""
    lines = []
    for name in (field.name for field in fields(Snapshot)):
        old, new = getattr(before, name), getattr(after, name)
        lines += [f"{name}: + {entry}" for entry in sorted(new - old)]
        lines += [f"{name}: - {entry}" for entry in sorted(old - new)]
    return lines


def _processes(folder: Path) -> set[str]:
    ours = {found.pid for found in process.Daemons(folder).marked()}
    in_groups = {found.pid for found in cgroups.processes(CGROUP)}
    here = {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net")}
    elsewhere = {pid for pid in _pids() if any(_namespace(pid, kind) not in ("", here[kind]) for kind in here)}
    return {f"{pid} {command_line(pid)}" for pid in ours | in_groups | elsewhere if command_line(pid)}


def _mounts() -> set[str]:
    """Mount points with their kind; ids and options say nothing about whether something was left."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {f"{target} ({kind})" for _, target, kind, *_ in (line.split() for line in lines)}


def _network_namespaces() -> set[str]:
    named = {f"name {path.name}" for path in Path("/run/netns").glob("*")}
    return named | {namespace for pid in _pids() if (namespace := _namespace(pid, "net"))}


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _namespace(pid: int, kind: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{kind}").readlink())
    except OSError:  # it ended meanwhile
        return ""


def command_line(pid: int) -> str:
    """The command line; empty for a process that is gone or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
