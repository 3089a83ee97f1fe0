"""AKS in a box: all its parts, started in order and ended in the reverse order.

All state lies in one run folder, written before each act, so that `down` works after any crash and from any process.
Of the product it knows only which images a box must hold, and where a `Site` says that things are: it deploys nothing.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hack.local import assets, buildah, images, machine, network, nodes, probe, process, registry
from hack.local.console import say, step
from hack.local.controlplane import ADDRESS, ControlPlane
from hack.local.nodeconfig import NodeSpec
from hack.local.process import BoxError, Daemons
from hack.local.session import Site

REPOSITORY = Path(__file__).parents[2]

# The managed cluster that the emulator pretends to be.
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
RESOURCE_GROUP = "box"
CLUSTER = "aks-in-a-box"
LOCATION = "eastus"
NODE_RESOURCE_GROUP = f"MC_{RESOURCE_GROUP}_{CLUSTER}_{LOCATION}"
EMULATOR_PORT = 9443
EMULATOR = "aks-emulator"
EMULATOR_SECONDS = 30.0

SYSTEM_POOL = "system"
SYSTEM_SCALE_SET = "aks-system-00000001-vmss"


@dataclass(frozen=True)
class Box:
    """A box and where to find what is in it. Two of the same folder are the same box."""

    folder: Path
    repository: Path = REPOSITORY

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def authority(self) -> Path:
        return self.folder / "pki" / "ca.crt"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def emulator_url(self) -> str:
        return f"https://{ADDRESS}:{EMULATOR_PORT}"

    def site(self, data_url: str) -> Site:
        """What a session in this box must know."""
        user, password = registry.credentials(self.folder)
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        return Site(
            repository=self.repository,
            work=work,
            kubeconfig=self.kubeconfig,
            ca=self.authority,
            public_registry=registry.PUBLIC,
            private_registry=registry.PRIVATE,
            registry_user=user,
            registry_password=password,
            data_url=data_url,
            emulator_url=self.emulator_url,
        )


def run_folder() -> Path:
    """The one folder of this checkout's box."""
    return REPOSITORY / "build" / "local"


def logs_folder() -> Path:
    return Box(run_folder()).logs


@contextlib.contextmanager
def running(*, keep: bool = False) -> Iterator[Box]:
    """A box that is up within the block and down after it, whatever happens; kept up only after a good end."""
    finished = False
    try:
        yield up()
        finished = True
    finally:
        if not (keep and finished):
            down()


def up(folder: Path | None = None) -> Box:
    """Bring a box up, or find it up. Raises BoxError; then, and when interrupted, nothing is left running."""
    box = Box((folder or run_folder()).resolve())
    machine.check()
    check_no_other(box.folder)
    _find_kubectl()
    started = time.monotonic()
    with _alone(box.folder):
        if is_up(box):
            say(f"The box is up: export KUBECONFIG={box.kubeconfig}")
            return box
        down(box.folder, quiet=True)  # what a crash may have left
        shutil.rmtree(box.logs, ignore_errors=True)  # of the box before this one
        try:
            _start(box)
        except BaseException:
            down(box.folder, quiet=True)
            raise
    say(f"The box is up after {time.monotonic() - started:.0f} s: export KUBECONFIG={box.kubeconfig}")
    return box


def down(folder: Path | None = None, *, quiet: bool = False) -> None:
    """End everything of the box and put the machine's network back. Safe at any time, in any state; logs stay."""
    box = Box((folder or run_folder()).resolve())
    if not box.folder.exists():
        return
    started = time.monotonic()
    with _uninterrupted():
        _end(box.folder)
    if not quiet:
        say(f"The box is down ({time.monotonic() - started:.1f} s). Logs: {box.logs}")


def build_images(folder: Path | None = None) -> None:
    """Everything that pods of the box run, built where it is missing. Needs root, but no cluster."""
    machine.check()
    assets.install_packages()
    images.ensure(folder or run_folder(), [*images.node_images(), *images.product_images()])


def is_up(box: Box) -> bool:
    """Whether `up` came to its end and everything that it started still runs."""
    marker = box.folder / "up"
    if not marker.exists():
        return False
    return set(marker.read_text().split()) <= set(Daemons(box.folder).names())


def status(folder: Path | None = None) -> str:
    """What runs, for people."""
    box = Box((folder or run_folder()).resolve())
    daemons = Daemons(box.folder).names()
    if not daemons:
        return "The box is down."
    state = "up" if is_up(box) else "incomplete (`down` ends what is left)"
    lines = [f"The box is {state}.", f"  kubeconfig  {box.kubeconfig}", f"  logs        {box.logs}"]
    lines += [f"  nodes       {' '.join(nodes.names(box.folder)) or 'none'}", f"  processes   {' '.join(daemons)}"]
    return "\n".join(lines)


def check_no_other(folder: Path) -> None:
    """Raise BoxError when another checkout's box is up: both would want the same addresses."""
    owners = (owner for owner in process.owners() if owner != folder)
    boxes = sorted(str(owner) for owner in owners if (owner / "network-before.json").exists())
    other = ", ".join(boxes) or network.other_owner(folder)
    if other:
        raise BoxError(f"another box is up, with its state in {other}: take it down first")


def _find_kubectl() -> None:
    """Let this process and what it starts find a kubectl that fits under its name."""
    folder = str(assets.kubectl().parent)
    if folder not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + os.environ["PATH"]


def _start(box: Box) -> None:
    box.folder.mkdir(parents=True, exist_ok=True)
    assets.install_packages()
    assets.hyperkube()
    with step("images"):
        images.ensure(box.folder, [*images.node_images(), *images.product_images()])
    with step("network"):
        network.up(box.folder)
    plane = ControlPlane.full(box.folder)
    with step("control plane"):
        plane.start()
    with step("registries"):
        registry.start_all(box.folder, plane.authority)
    with step("system node"):
        nodes.start(box.folder, system_node())
        network.start_proxy(plane, system_node().name)
    with step("AKS emulator"):
        _start_emulator(box)
    (box.folder / "up").write_text("\n".join(Daemons(box.folder).names()))


def _end(folder: Path) -> None:
    daemons = Daemons(folder)
    daemons.stop(EMULATOR, 2.0)  # first: it could boot a node
    nodes.stop_all(folder)
    daemons.stop("kube-proxy")
    ControlPlane.full(folder).stop()
    registry.stop_all(folder)
    daemons.stop_all()
    buildah.clean()
    network.down(folder)
    _forget(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two that bring the same box up would end each other's work."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BoxError("this box is being brought up by another process") from None
        yield


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C pressed twice must not leave half a box; the commands that are run here inherit that they ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def system_node() -> NodeSpec:
    """The node of AKS's own pool: controllers run here, the provisioner never touches it."""
    return NodeSpec(
        name=f"{SYSTEM_SCALE_SET}000000",
        provider_id=(
            f"azure:///subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_RESOURCE_GROUP}/providers/"
            f"Microsoft.Compute/virtualMachineScaleSets/{SYSTEM_SCALE_SET}/virtualMachines/0"
        ),
        labels={
            "agentpool": SYSTEM_POOL,
            "kubernetes.azure.com/agentpool": SYSTEM_POOL,
            "kubernetes.azure.com/mode": "system",
            "kubernetes.azure.com/cluster": NODE_RESOURCE_GROUP,
            "node.kubernetes.io/instance-type": "Standard_D2s_v3",
            "topology.kubernetes.io/region": LOCATION,
        },
    )


def _start_emulator(box: Box) -> None:
    argv = [
        *(sys.executable, "-m", "hack.local.aks", "--mode", "boot", "--folder", str(box.folder)),
        *("--address", ADDRESS, "--port", str(EMULATOR_PORT)),
        *("--subscription", SUBSCRIPTION, "--resource-group", RESOURCE_GROUP, "--cluster", CLUSTER),
        *("--location", LOCATION, "--node-resource-group", NODE_RESOURCE_GROUP),
    ]
    daemons = Daemons(box.folder)
    daemons.start(EMULATOR, argv, environment={"PYTHONPATH": str(box.repository)})
    # Any answer will do: it is up when it refuses a path that it does not have.
    daemons.wait_until(EMULATOR, lambda: probe.status(box.emulator_url) != 0, EMULATOR_SECONDS)


def _forget(folder: Path) -> None:
    """Remove the state of a cluster that has ended: data, keys, passwords. Logs and built things stay."""
    for name in ("etcd", "pki", "processes", "registries", "registry-private", "work", "nodes", EMULATOR):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in ("*.yml", "*.yaml", "kubeconfig", "registry-htpasswd", "registry-password", "up"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


__all__ = ["Box", "BoxError", "down", "logs_folder", "run_folder", "running", "status", "up"]
