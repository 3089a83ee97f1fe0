"""Building images with buildah in a store of our own that is removed afterwards; what was built lives in the registry.

An image leaves buildah as a folder of blobs and not as an image of the store, which would hold two more copies of each
layer while it is committed: gigabytes. Knows nothing of which images there are.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.local import assets
from hack.local.console import run, run_with_progress
from hack.local.process import OWNER_MARK, BoxError

# Read by containerd since 1.5; a third of gzip's time at the same size.
COMPRESSION = ("--dest-compress-format", "zstd", "--dest-compress-level", "1")
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Store:
    """buildah's storage for a while. What runs for it carries the mark of `box`, so that `down` can end it."""

    root: Path
    scratch: Path
    box: Path

    @property
    def image(self) -> Path:
        """The image that was built last, until it is pushed."""
        return self.root.parent / "image"

    def build(self, dockerfile: Path, context: Path, target: str, arguments: Mapping[str, str] | None = None) -> None:
        """Build one stage of a Dockerfile. The machine's CA bundle is visible to it as a secret and not kept."""
        options = ["--isolation", "chroot", "--format", "oci", "--layers=false", "--tls-verify=false"]
        if CA_BUNDLE.exists():
            options += ["--secret", f"id=ca-bundle,src={CA_BUNDLE}"]
        for key, value in (arguments or {}).items():
            options += ["--build-arg", f"{key}={value}"]
        if target:
            options += ["--target", target]
        command = [*self._buildah(), "build", *options, "--tag", f"dir:{self.image}", "--file", dockerfile, context]
        run_with_progress(f"building {target or context.name}", command, environment=self.environment())

    def import_tree(self, tree: Path) -> None:
        """Make an image of one layer from a folder that is a root file system."""
        container = self.run("from", "scratch").strip()
        self.run("copy", "--quiet", container, tree, "/")
        self.commit(container)

    def commit(self, container: str) -> None:
        """Make an image of a working container, which ends with it."""
        self.run("commit", "--quiet", "--rm", "--format", "oci", container, f"dir:{self.image}")

    def push(self, destination: str) -> None:
        """Push the image that was built last to a registry on loopback, and drop it here."""
        command = ["skopeo", "copy", "--dest-tls-verify=false", *COMPRESSION]
        command += [f"dir:{self.image}", f"docker://{destination}"]
        run_with_progress(f"pushing {destination}", command, environment=self.environment())
        shutil.rmtree(self.image)

    def run(self, *words: str | Path) -> str:
        return run(*self._buildah(), *words, environment=self.environment())

    def _buildah(self) -> tuple[str | Path, ...]:
        # Never vfs, which copies the whole file system for each layer.
        return ("buildah", "--root", self.root, "--runroot", self.scratch, "--storage-driver", "overlay")

    def environment(self) -> dict[str, str]:
        # Layers of gigabytes do not belong in /tmp.
        return {**os.environ, "TMPDIR": str(self.root.parent), OWNER_MARK: str(self.box.resolve())}


@contextlib.contextmanager
def store(box: Path) -> Iterator[Store]:
    """A fresh store in the cache, removed at the end, also when interrupted. A second one waits for the first."""
    folder = _folder()
    with _lock(wait=True):
        _remove(folder)  # what a killed build left
        folder.mkdir()
        try:
            yield Store(folder / "root", folder / "run", box)
        finally:
            _remove(folder)


def clean() -> None:
    """Remove what a killed build left; nothing while another process builds."""
    if _folder().exists():
        with contextlib.suppress(BlockingIOError), _lock(wait=False):
            _remove(_folder())


def _folder() -> Path:
    return assets.cache() / "buildah"


@contextlib.contextmanager
def _lock(*, wait: bool) -> Iterator[None]:
    """Raises BlockingIOError when another process has it and we do not wait."""
    with (assets.cache() / "buildah.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _remove(folder: Path) -> None:
    """Unmount what was left mounted below the folder, innermost first, and delete it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if Path(mount).is_relative_to(folder)), key=len, reverse=True):
        if subprocess.run(["umount", mount], capture_output=True, check=False).returncode:
            raise BoxError(f"{mount} is busy and cannot be unmounted")
    if folder.exists():
        shutil.rmtree(folder)
