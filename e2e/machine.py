"""What a box could leave behind on the machine, as comparable lines: two snapshots that are equal mean that nothing is left."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Programs that only the box runs here; a shim or a pod's process has lost the box's environment mark.
BOX_PROGRAMS = re.compile(r"(hyperkube|containerd|containerd-shim|runc|docker-registry|kube-|etcd|buildah)")
BOX_MARK = b"AKS_IN_A_BOX_FOLDER="
COUNTERS = re.compile(r"\[\d+:\d+\]")


@dataclass(frozen=True)
class Snapshot:
    lines: frozenset[str]

    @classmethod
    def take(cls) -> "Snapshot":
        return cls(frozenset(_processes() | _mounts() | _network() | _rules()))

    def difference(self, after: "Snapshot") -> list[str]:
        """`+` what came, `-` what went; empty when nothing did."""
        came = [f"+ {line}" for line in sorted(after.lines - self.lines)]
        return came + [f"- {line}" for line in sorted(self.lines - after.lines)]


def _processes() -> set[str]:
    """Processes of a box, by the mark in their environment, their program, or a root file system that is not ours."""
    found = set()
    own_root = os.stat("/proc/self/root")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            marked = BOX_MARK in (process / "environ").read_bytes()
            root = os.stat(process / "root")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked
        contained = (root.st_dev, root.st_ino) != (own_root.st_dev, own_root.st_ino)
        program = os.path.basename(words[0].decode(errors="replace"))
        if words[0] and (marked or contained or BOX_PROGRAMS.match(program)):
            found.add(f"process {process.name} {b' '.join(words[:4]).decode(errors='replace')}")
    return found


def _mounts() -> set[str]:
    return {f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _network() -> set[str]:
    links = subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout
    names = {f"link {line.split(':')[1].split('@')[0].strip()}" for line in links.splitlines()}
    spaces = Path("/run/netns")
    return names | {f"netns {entry.name}" for entry in (spaces.iterdir() if spaces.exists() else ())}


def _rules() -> set[str]:
    """Rules and chains without their counters. A table that is empty and one that was never used say the same."""
    found = set()
    for command in ("iptables-save", "ip6tables-save"):
        saved = subprocess.run([command], check=True, capture_output=True, text=True).stdout
        table = ""
        for line in saved.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A") or (line.startswith(":") and line.split()[1] != "ACCEPT"):
                found.add(f"{command} {table} {COUNTERS.sub('', line).strip()}")
    return found
