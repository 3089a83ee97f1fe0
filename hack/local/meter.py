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
    """The most that was in use beyond what was in use at `start`, and in which step of the run that was."""

    mib: float = 0.0
    step: str = ""

    def or_now(self, mib: float, step: str) -> "Peak":
        return Peak(mib, step) if mib > self.mib else self


class Meter:
    """Samples from `start` to `stop`. Whoever runs the steps says which one it is."""

    def __init__(self, folder: Path, step: str) -> None:
        self.step = step
        self.memory = self.disk = Peak()
        self._folder = folder  # its file system is the one that is measured
        self._stopping = threading.Event()
        self._memory_start, self._disk_start = _used_memory_mib(), _used_disk_mib(folder)

    def start(self) -> "Meter":
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopping.set()

    def _sample(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self.memory = self.memory.or_now(_used_memory_mib() - self._memory_start, self.step)
            self.disk = self.disk.or_now(_used_disk_mib(self._folder) - self._disk_start, self.step)


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
