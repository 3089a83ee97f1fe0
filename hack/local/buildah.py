"""Building images with buildah in a store of our own that is removed afterwards; what was built lives in the registry.

Knows nothing of which images there are.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.local import assets
from hack.local.console import run, run_with_progress
from hack.local.process import BoxError

# Read by containerd since 1.5; a third of gzip's time at the same size.
COMPRESSION = ("--compression-format", "zstd", "--compression-level", "1")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Store:
    """buildah's storage for a while."""

    root: Path
    scratch: Path

    def build(
        self, dockerfile: Path, context: Path, target: str, tag: str, arguments: Mapping[str, str] | None = None
    ) -> None:
        """Build one stage of a Dockerfile. The machine's CA bundle is visible to it as a secret and not kept."""
        options = ["--isolation", "chroot", "--format", "oci", "--layers=false", "--tls-verify=false"]
        if CA_BUNDLE.exists():
            options += ["--secret", f"id=ca-bundle,src={CA_BUNDLE}"]
        for key, value in (arguments or {}).items():
            options += ["--build-arg", f"{key}={value}"]
        if target:
            options += ["--target", target]
        command = [*self._buildah(), "build", *options, "--tag", tag, "--file", dockerfile, context]
        run_with_progress(
            f"building {tag}", command, describe=lambda _, line: line[:90], environment=self._environment()
        )

    def import_tree(self, tree: Path, tag: str) -> None:
        """Make an image of one layer from a folder that is a root file system."""
        container = self.run("from", "scratch").strip()
        self.run("copy", "--quiet", container, tree, "/")
        self.run("commit", "--quiet", "--rm", "--format", "oci", container, tag)

    def push(self, tag: str, destination: str, *, compress: bool = True) -> None:
        """Push to a registry on loopback. Uncompressed layers keep the digest of what they contain."""
        compression = COMPRESSION if compress else ("--disable-compression",)
        options = ("--format", "oci", "--tls-verify=false", *compression)
        command = [*self._buildah(), "push", *options, tag, f"docker://{destination}"]
        run_with_progress(f"pushing {destination}", command, describe=lambda _, line: line[:90])

    def run(self, *words: str | Path) -> str:
        return run(*self._buildah(), *words, environment=self._environment())

    def _buildah(self) -> tuple[str | Path, ...]:
        # Never vfs, which copies the whole file system for each layer.
        return ("buildah", "--root", self.root, "--runroot", self.scratch, "--storage-driver", "overlay")

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.root.parent)}  # layers of gigabytes do not belong in /tmp


@contextlib.contextmanager
def store() -> Iterator[Store]:
    """A fresh store in the cache, removed at the end, also when interrupted; leftovers of a killed one go first."""
    folder = assets.cache() / "buildah"
    _remove(folder)
    folder.mkdir()
    try:
        yield Store(folder / "root", folder / "run")
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Unmount what buildah left mounted below the folder, innermost first, and delete it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if Path(mount).is_relative_to(folder)), key=len, reverse=True):
        if subprocess.run(["umount", mount], capture_output=True, check=False).returncode:
            raise BoxError(f"{mount} is busy and cannot be unmounted")
    if folder.exists():
        shutil.rmtree(folder)
