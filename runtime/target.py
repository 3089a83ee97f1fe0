"""The folder that a fetch fills: nothing half-done is ever visible under its final name, and twice is once.

Downloads collect in `.partial` inside the folder, since the folder itself is often a mount point and only names below it
can be renamed. `finish` moves them up and writes `.fetched.json` last: that file is what "complete" means.
It knows nothing of where the files come from; `source` is a string that it only compares.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

MARKER = ".fetched.json"
PARTIAL = ".partial"
LOCK = ".lock"


class Target:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial = folder / PARTIAL

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two pods of one node may share it through a hostPath."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def holds(self, source: str) -> bool:
        """Say whether the folder is complete from this very source, every file at its recorded size."""
        files = self._marker(self.folder / MARKER, source)
        return files is not None and all(_size(self.folder / name) == size for name, size in files.items())

    def start(self, source: str) -> Path:
        """Return the folder to download into: what an earlier attempt at the same source left, or an empty one."""
        if self._marker(self.partial / MARKER, source) is None:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            _write(self.partial / MARKER, source, {})
        work = self.partial / "files"
        work.mkdir(exist_ok=True)
        return work

    def finish(self, source: str, tree: Path) -> dict[str, int]:
        """Publish `tree`, readable for the group, and mark it complete. Returns file sizes by relative name."""
        self._clear()
        (self.partial / MARKER).unlink(missing_ok=True)  # from here on `tree` loses files: none may go on with the rest
        _open_to_group(tree)
        sizes = {str(path.relative_to(tree)): path.stat().st_size for path in sorted(tree.rglob("*")) if path.is_file()}
        for entry in sorted(tree.iterdir()):
            entry.rename(self.folder / entry.name)
        _write(self.folder / MARKER, source, sizes)
        shutil.rmtree(self.partial, ignore_errors=True)
        return sizes

    def _clear(self) -> None:
        """Take away what an earlier source left, or a `finish` that was interrupted."""
        (self.folder / MARKER).unlink(missing_ok=True)
        for entry in self.folder.iterdir():
            if entry.name in (PARTIAL, LOCK, "lost+found"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    @staticmethod
    def _marker(path: Path, source: str) -> dict[str, int] | None:
        try:
            loaded = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        return loaded["files"] if loaded.get("source") == _digest(source) else None


def _write(path: Path, source: str, files: dict[str, int]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps({"source": _digest(source), "files": files}))
    temporary.chmod(0o644)
    temporary.rename(path)


def _digest(source: str) -> str:
    """A signed URL is a credential; its digest compares as well."""
    return hashlib.sha256(source.encode()).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _open_to_group(tree: Path) -> None:
    """Main containers may run as another user of the pod's fsGroup."""
    for folder, _, files in os.walk(tree):
        os.chmod(folder, (os.stat(folder).st_mode & 0o7777) | 0o750)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod((path.stat().st_mode & 0o7777) | 0o440)
