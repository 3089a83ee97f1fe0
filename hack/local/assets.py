"""Programs that the box needs: the Kubernetes binaries, built from Go modules, and packages of Debian.

What is built lies in a cache under the user's home, named by the hash of its source, so that only a new machine pays.
Knows nothing of how the programs are run.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.local.console import run, run_with_progress, say, step
from hack.local.process import BoxError

MODULE = Path(__file__).parent / "hyperkube"
KUBERNETES_VERSION = "v1.36.3"
LDFLAGS = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
OLDEST_KUBECTL = (1, 32)

# Program → Debian package; where a package has no program of its own on PATH, a file of it.
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "socat": "socat",
    "docker-registry": "docker-registry",
    "htpasswd": "apache2-utils",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "debootstrap": "debootstrap",
    "busybox": "busybox-static",
    "prometheus": "prometheus",
}
TEST_PROGRAMS = ("docker-registry", "htpasswd", "skopeo", "umoci")  # no container is started by a test


@dataclass(frozen=True)
class Commands:
    """How the two programs of the smallest control plane are called."""

    etcd: tuple[str, ...]
    apiserver: tuple[str, ...]


def cache() -> Path:
    """Where everything lives that outlasts a checkout; created when missing."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aks-in-a-box"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def control_plane_commands() -> Commands:
    """Etcd and kube-apiserver: those of KUBEBUILDER_ASSETS where that is set, else ours."""
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        folder = Path(assets)
        return Commands((str(folder / "etcd"),), (str(folder / "kube-apiserver"),))
    binary = str(hyperkube())
    return Commands((binary, "etcd"), (binary, "kube-apiserver"))


def hyperkube() -> Path:
    """The Kubernetes binary of hack/local/hyperkube, built when there is none for this very source."""
    return _build("hyperkube", MODULE, ".")


def kubectl() -> Path:
    """A kubectl that fits: the machine's own, or one built from the same Kubernetes. Its folder can go on PATH."""
    found = shutil.which("kubectl")
    if found and _client_version(found) >= OLDEST_KUBECTL:
        return Path(found)
    built = _build("kubectl", MODULE, "k8s.io/kubernetes/cmd/kubectl")
    folder = cache() / "bin"
    folder.mkdir(exist_ok=True)
    link = folder / "kubectl"
    if not link.exists() or link.resolve() != built:
        link.unlink(missing_ok=True)
        link.symlink_to(built)
    return link


def for_tests() -> None:
    """Have what `make test` needs beside Python: the control plane's binaries, kubectl, a registry and its tools."""
    install_packages(TEST_PROGRAMS)
    control_plane_commands()
    kubectl()


def check() -> None:
    """Raise BoxError where this machine lacks what a box needs and no way is seen to get it. Fetches nothing."""
    _check_installable(_missing(PACKAGES))
    if not _target("hyperkube", MODULE, ".").exists():
        _check_go()


def install_packages(programs: Iterable[str] = PACKAGES) -> None:
    """Install what is missing of Debian's packages. Raises BoxError where that is not possible."""
    missing = _missing(programs)
    if not missing:
        return
    _check_installable(missing)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installed {' '.join(missing)}"), _no_service_starts():
        run("apt-get", "update", environment=environment)
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
        run_with_progress("apt-get install", command, environment=environment)


def source_key(folder: Path, *more: str) -> str:
    """Names a build: it changes with every byte of the Go sources, the module's requirements and the way of building."""
    digest = hashlib.sha256()
    files = sorted([*folder.glob("*.go"), folder / "go.mod", folder / "go.sum"])
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    for word in (LDFLAGS, platform.machine(), *more):
        digest.update(f"{word}\n".encode())
    return digest.hexdigest()[:16]


def _target(name: str, folder: Path, package: str) -> Path:
    return cache() / f"{name}-{source_key(folder, package)}"


def _build(name: str, folder: Path, package: str) -> Path:
    target = _target(name, folder, package)
    if target.exists():
        return target
    with _locked(cache() / f"{name}.lock"):  # a second process waits here for the first one's build
        if not target.exists():
            with step(f"built {name}"):
                _compile(name, folder, package, target)
    return target


def _compile(name: str, folder: Path, package: str, target: Path) -> None:
    _check_go()
    environment = {**os.environ, "CGO_ENABLED": "0"}
    say(f"    building {name} {KUBERNETES_VERSION} with {os.cpu_count()} cores, once per machine (5 min on 2 cores)")
    total = _packages_to_compile(folder, package, environment)
    unfinished = target.with_suffix(".unfinished")
    command: Sequence[str | Path] = (
        *("go", "build", "-v", "-buildvcs=false", "-ldflags", LDFLAGS),
        *("-o", unfinished, package),
    )
    run_with_progress(
        f"building {name}",
        command,
        describe=lambda lines, last: f"{min(lines, total)} of {total} packages ({last})",
        environment=environment,
        cwd=folder,
    )
    unfinished.rename(target)


def _packages_to_compile(folder: Path, package: str, environment: dict[str, str]) -> int:
    """All packages below the program. What is in Go's own cache already is not compiled again, so it is a bound."""
    return len(run("go", "list", "-deps", package, cwd=folder, environment=environment).splitlines())


def _missing(programs: Iterable[str]) -> list[str]:
    return [PACKAGES[program] for program in programs if not _present(program)]


def _check_installable(missing: Sequence[str]) -> None:
    if missing and shutil.which("apt-get") is None:
        raise BoxError(f"these packages are missing and this machine has no apt-get: {', '.join(missing)}")
    if missing and os.geteuid() != 0:
        raise BoxError(f"these packages are missing: sudo apt-get install {' '.join(missing)}")


def _check_go() -> None:
    if shutil.which("go") is None:
        raise BoxError("Go is needed to build the Kubernetes binaries, once: install it from https://go.dev/dl")


def _present(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None


def _client_version(program: str) -> tuple[int, int]:
    words = subprocess.run([program, "version", "--client"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Client Version: v(\d+)\.(\d+)", words)
    return (int(match[1]), int(match[2])) if match else (0, 0)


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian starts services of new packages; the box runs its own instances, so policy-rc.d forbids it meanwhile."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # somebody else's decision stands
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
