"""Boots and stops nodes: one containerd, one kubelet and, for GPUs, one device plugin each, all real.

A node's programs share one mount namespace of their own; when they end, the kernel takes its mounts and the network
namespaces of its pods with it. State lies in the run folder, so that a node may be started by one process (the AKS
emulator) and stopped by another (`down`). Both functions block. Knows nothing of agent pools.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import kubernetes
import yaml

from hack.local import assets, cgroups
from hack.local.controlplane import ADDRESS, ControlPlane
from hack.local.nodeconfig import (
    BINDS,
    CGROUP,
    CONTAINERD_SOCKET,
    MAX_NODES,
    Node,
    NodeSpec,
    containerd_config,
    kubelet_config,
    kubelet_flags,
    network_config,
)
from hack.local.process import BoxError, Daemons
from hack.local.registry import PAUSE_IMAGE, registries_folder

READY_SECONDS = 60.0


def start(folder: Path, spec: NodeSpec) -> None:
    """Boot a node of the box in `folder`; return when its Node object is Ready. GPUs may appear later.

    Raises BoxError when it does not come up; what was started of it is stopped then. A Node object of that name is
    deleted first: a kubelet that finds one keeps its old labels.
    """
    box = _Box(folder)
    node = box.claim(spec)
    try:
        box.delete_object(spec.name)
        box.boot(node)
        box.wait_ready(spec.name)
    except BaseException:
        stop(folder, spec.name)
        raise


def stop(folder: Path, name: str) -> None:
    """End a node as a deleted machine ends: at once, with all its containers; its Node object goes with it.

    Does nothing for a node that is not there, and finishes what an interrupted start or stop left.
    """
    box = _Box(folder)
    box.halt(name)
    box.delete_object(name)
    box.release(name)


def names(folder: Path) -> list[str]:
    """Nodes that were started and not stopped yet."""
    return sorted(home.name for home in (folder.resolve() / "nodes").glob("*/"))


def stop_all(folder: Path) -> None:
    """Stop every node when the API server may be gone already; their Node objects are of no interest any more."""
    box = _Box(folder)
    for name in names(folder):
        box.halt(name)
        box.release(name)
    cgroups.remove(CGROUP)


class _Box:
    """The node-related part of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._plane = ControlPlane.full(self._folder)
        self._daemons = Daemons(self._folder)

    def claim(self, spec: NodeSpec) -> Node:
        """Write the node down before anything of it exists, with the lowest slot that is free."""
        nodes = self._folder / "nodes"
        nodes.mkdir(parents=True, exist_ok=True)
        with _locked(nodes / "lock"):
            if self._home(spec.name).exists():
                raise BoxError(f"node {spec.name} exists already")
            records = [Node.decode(record.read_text()) for record in nodes.glob("*/node.json")]
            free = sorted(set(range(MAX_NODES)) - {node.slot for node in records})
            if not free:
                raise BoxError(f"{MAX_NODES} nodes are the most that this box can have")
            node = Node(spec, free[0])
            self._home(spec.name).mkdir()
            unfinished = _record(self._home(spec.name)).with_suffix(".unfinished")
            unfinished.write_text(node.encode())
            unfinished.rename(_record(self._home(spec.name)))
        return node

    def boot(self, node: Node) -> None:
        home = self._home(node.spec.name)
        for source in BINDS:
            (home / source).mkdir(exist_ok=True)
        cgroups.create(node.cgroup)
        self._write_config(node, home)
        self._start_containerd(node.spec.name, home)
        hyperkube = assets.hyperkube()
        flags = kubelet_flags(node, home / "kubelet.yaml", home / "kubeconfig")
        self._enter(node.spec.name, "kubelet", [hyperkube, "kubelet", *flags])
        if node.spec.gpus:
            plugin = [hyperkube, "device-plugin", "--resource", node.spec.gpu_resource, "--count", node.spec.gpus]
            # Not before the kubelet listens: when it starts, it removes the sockets of plugins that it does not know.
            wait = f"sleep {node.spec.gpu_delay}; until [ -S /var/lib/kubelet/device-plugins/kubelet.sock ]; do sleep 0.1; done"
            self._enter(node.spec.name, "device-plugin", ["sh", "-c", f'{wait}; exec "$@"', "sh", *map(str, plugin)])

    def halt(self, name: str) -> None:
        """End the programs, then what runs in containers: nobody is left who could start another one meanwhile.

        The mounts end with the last process.
        """
        for program in ("device-plugin", "kubelet", "containerd"):
            self._daemons.stop(_daemon(name, program), 0)
        cgroups.remove(f"{CGROUP}/{name}")

    def release(self, name: str) -> None:
        """Remove the node's files, its record last."""
        home = self._home(name)
        if not home.exists():
            return
        for entry in home.iterdir():
            if entry != _record(home):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.rmtree(home)

    def delete_object(self, name: str) -> None:
        if not self._plane.kubeconfig.exists():  # the whole box has ended, and its objects with it
            return
        with self._core() as core:
            try:
                core.delete_node(name)
            except kubernetes.client.ApiException as error:
                if error.status != 404:
                    raise

    def wait_ready(self, name: str) -> None:
        with self._core() as core:
            self._daemons.wait_until(_daemon(name, "kubelet"), lambda: _is_ready(core, name), READY_SECONDS, 0.1)

    def _start_containerd(self, name: str, home: Path) -> None:
        mounts = " && ".join(
            f"mkdir -p {target} && mount --bind '{home}/{source}' {target}" for source, target in BINDS.items()
        )
        script = f"{mounts} && exec containerd --config '{home}/containerd.toml'"
        daemon = _daemon(name, "containerd")
        self._daemons.start(daemon, ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script])
        socket = home / "run" / Path(CONTAINERD_SOCKET).name
        self._daemons.wait_until(daemon, socket.exists, 20.0)

    def _enter(self, name: str, program: str, argv: list[str | Path]) -> None:
        """Start a program in the node's mount namespace, which its containerd holds open."""
        containerd = self._daemons.find(_daemon(name, "containerd"))
        if containerd is None:
            raise BoxError(f"containerd of {name} ended while the node was starting")
        self._daemons.start(_daemon(name, program), ["nsenter", f"--mount=/proc/{containerd.pid}/ns/mnt", "--", *argv])

    def _write_config(self, node: Node, home: Path) -> None:
        authority = self._plane.authority
        name = node.spec.name
        identity = authority.node(f"node-{name}", name, (name, ADDRESS))
        authority.kubeconfig(home / "kubeconfig", self._plane.url, identity)
        kubelet = kubelet_config(node, authority.pair.certificate, identity.certificate, identity.key)
        (home / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))
        containerd = containerd_config(node, home, registries_folder(self._folder), PAUSE_IMAGE)
        (home / "containerd.toml").write_text(containerd)
        (home / "net.d").mkdir(exist_ok=True)
        (home / "net.d" / "10-box.conflist").write_text(json.dumps(network_config(node, home)))

    @contextlib.contextmanager
    def _core(self) -> Iterator[kubernetes.client.CoreV1Api]:
        with kubernetes.config.new_client_from_config(str(self._plane.kubeconfig)) as client:
            yield kubernetes.client.CoreV1Api(client)

    def _home(self, name: str) -> Path:
        return self._folder / "nodes" / name


def _is_ready(core: kubernetes.client.CoreV1Api, name: str) -> bool:
    try:
        node = core.read_node(name)
    except kubernetes.client.ApiException as error:
        if error.status != 404:
            raise
        return False
    return any(condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions or ())


def _daemon(name: str, program: str) -> str:
    return f"{name}.{program}"


def _record(home: Path) -> Path:
    return home / "node.json"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
