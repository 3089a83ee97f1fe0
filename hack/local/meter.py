"""How much of this machine a run needs: the peak of memory and disk while it went on.

Both are read for the whole machine (MemAvailable, free blocks) and compared with the moment of `start`, so that what
containers use is counted wherever it is charged.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 2.0
MIB = 1024 * 1024


@dataclass(frozen=True)
class Peak:
    memory_mib: float
    disk_mib: float


class Meter:
    """Samples from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # its file system is the one that is measured
        self._stopping = threading.Event()
        self._memory = self._memory_start = _used_memory_mib()
        self._disk = self._disk_start = _used_disk_mib(folder)

    def start(self) -> "Meter":
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def stop(self) -> Peak:
        self._stopping.set()
        return Peak(self._memory - self._memory_start, self._disk - self._disk_start)

    def _sample(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self._memory = max(self._memory, _used_memory_mib())
            self._disk = max(self._disk, _used_disk_mib(self._folder))


def folder_mib(folder: Path) -> float:
    """Size of all regular files below a folder; 0 where there is none. Files that vanish meanwhile are not counted."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total / MIB


def _used_memory_mib() -> float:
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return (int(rows["MemTotal"].split()[0]) - int(rows["MemAvailable"].split()[0])) / 1024


def _used_disk_mib(folder: Path) -> float:
    blocks = os.statvfs(folder)
    return (blocks.f_blocks - blocks.f_bfree) * blocks.f_frsize / MIB
