"""The control plane of real Kubernetes in two sizes: *api* for integration tests, *full* for the box.

*api* is etcd and kube-apiserver on loopback with free ports: no root, several at once, in a folder of the caller's, gone
with the caller. *full* adds controller-manager and scheduler and listens on the box's bridge, where pods can reach it.
Knows nothing of nodes, images or Azure.
"""

import contextlib
import random
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hack.local import assets, probe
from hack.local.pki import Authority, Pair, service_account_pair
from hack.local.process import BoxError, Daemons

ADDRESS = "198.18.0.1"  # RFC 2544's range for benchmarks: never routed, so it cannot collide with a real network
API_PORT = 6443
SERVICE_RANGE = "198.18.128.0/17"
SERVICE_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
FIRST_SERVICE = "198.18.128.1"

# An address that the API server accepts as its own where nobody needs it (RFC 5737, for documentation).
UNUSED_ADDRESS = "192.0.2.1"
READY_SECONDS = 60.0
PORTS = range(12_000, 30_000)  # of loopback, for our servers
PORT_TRIES = 3  # another process may take a free port between our look and its use


@dataclass(frozen=True)
class Size:
    """What differs between the two."""

    address: str
    port: int  # 0: any free one
    advertise: tuple[str, ...]
    admission: tuple[str, ...]
    die_with_parent: bool
    daemons: tuple[str, ...]  # beyond etcd and kube-apiserver


API = Size(
    address="127.0.0.1",
    port=0,
    # No endpoints: nobody reaches this server through a Service.
    advertise=("--advertise-address", UNUSED_ADDRESS, "--endpoint-reconciler-type", "none"),
    # No controller makes the default ServiceAccount, without which no Pod would be admitted.
    admission=("--disable-admission-plugins", "ServiceAccount"),
    die_with_parent=True,
    daemons=(),
)
FULL = Size(
    address=ADDRESS,
    port=API_PORT,
    advertise=("--advertise-address", ADDRESS),
    admission=("--enable-admission-plugins", "NodeRestriction"),
    die_with_parent=False,
    daemons=("kube-controller-manager", "kube-scheduler"),
)


class ControlPlane:
    """One control plane in one folder. `kubeconfig` is the administrator's, `url` where the API server listens."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder = folder.resolve()
        self.size = size
        self.daemons = Daemons(self.folder)
        self.kubeconfig = self.folder / "kubeconfig"
        self.url = f"https://{size.address}:{size.port}" if size.port else ""

    @classmethod
    def api(cls, folder: Path) -> "ControlPlane":
        return cls(folder, API)

    @classmethod
    def full(cls, folder: Path) -> "ControlPlane":
        return cls(folder, FULL)

    @property
    def authority(self) -> Authority:
        return Authority(self.folder / "pki")

    def __enter__(self) -> "ControlPlane":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return when the API server is ready. Raises BoxError; nothing is left running then."""
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                self._start_store_and_server()
                break
            except BoxError:
                self.stop()
                if not tries_left or self.size.port:
                    raise
        self.kubeconfig_for("admin", "kubernetes-admin", ["system:masters"], path=self.kubeconfig)
        for name in self.size.daemons:
            self._start_controller(name)

    def stop(self) -> None:
        """End all of it at once, safe at any time: the data is thrown away.

        The API server goes before etcd, without which it would hold its port for minutes.
        """
        for name in (*reversed(self.size.daemons), "kube-apiserver", "etcd"):
            self.daemons.stop(name, 0)

    def kubeconfig_for(self, name: str, user: str, groups: Sequence[str] = (), *, path: Path | None = None) -> Path:
        """A kubeconfig for another user, by default in `pki/<name>.kubeconfig`."""
        identity = self.authority.client(name, user, groups)
        return self.authority.kubeconfig(path or self.folder / "pki" / f"{name}.kubeconfig", self.url, identity)

    def _start_store_and_server(self) -> None:
        commands = assets.control_plane_commands()
        etcd_port, peer_port, free = free_ports(3)
        port = self.size.port or free
        self.url = f"https://{self.size.address}:{port}"
        ready = f"{self.url}/readyz"
        identity = self.authority.client("probe", "kubernetes-admin", ["system:masters"])
        self._spawn("etcd", [*commands.etcd, *etcd_flags(self.folder / "etcd", etcd_port, peer_port)])
        flags = apiserver_flags(self.folder / "pki", self._server_pair(), self._kubelet_client(), self.size)
        self._spawn(
            "kube-apiserver",
            [
                *commands.apiserver,
                *flags,
                *("--secure-port", str(port), "--etcd-servers", f"http://127.0.0.1:{etcd_port}"),
            ],
        )
        context = _tls(self.authority.pair.certificate, identity)
        self.daemons.wait_until("kube-apiserver", lambda: probe.status(ready, context) == 200, READY_SECONDS)

    def _start_controller(self, name: str) -> None:
        kubeconfig = self.kubeconfig_for(name, f"system:{name}")
        binary = str(assets.hyperkube())
        self._spawn(name, [binary, name, *controller_flags(name, self.folder / "pki", kubeconfig)])

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        self.daemons.start(name, argv, die_with_parent=self.size.die_with_parent)

    def _server_pair(self) -> Pair:
        hosts = ("localhost", "127.0.0.1", self.size.address, FIRST_SERVICE, *SERVICE_NAMES)
        return self.authority.server("kube-apiserver", hosts)

    def _kubelet_client(self) -> Pair:
        return self.authority.client("kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"])


def etcd_flags(data: Path, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        *("--data-dir", str(data), "--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        *("--log-level", "warn", "--unsafe-no-fsync"),  # the data need not survive a power cut
    ]


def apiserver_flags(folder: Path, server: Pair, kubelet_client: Pair, size: Size) -> list[str]:
    authority = str(folder / "ca.crt")
    accounts = service_account_pair(folder)
    return [
        *("--bind-address", size.address, *size.advertise, *size.admission),
        *("--tls-cert-file", str(server.certificate), "--tls-private-key-file", str(server.key)),
        *("--client-ca-file", authority, "--authorization-mode", "Node,RBAC", "--allow-privileged=true"),
        *("--service-cluster-ip-range", SERVICE_RANGE, "--service-account-issuer", "https://kubernetes.default.svc"),
        *("--service-account-key-file", str(accounts.certificate)),
        *("--service-account-signing-key-file", str(accounts.key)),
        *("--kubelet-certificate-authority", authority),
        *("--kubelet-client-certificate", str(kubelet_client.certificate)),
        *("--kubelet-client-key", str(kubelet_client.key)),
        # Node names resolve nowhere; `kubectl logs` must go by address.
        *("--kubelet-preferred-address-types", "InternalIP"),
    ]


def controller_flags(name: str, folder: Path, kubeconfig: Path) -> list[str]:
    """Flags of kube-controller-manager or kube-scheduler; neither opens a port, neither has a rival to elect against."""
    common = [
        *("--kubeconfig", str(kubeconfig), "--authentication-kubeconfig", str(kubeconfig)),
        *("--authorization-kubeconfig", str(kubeconfig), "--secure-port", "0", "--leader-elect=false"),
    ]
    if name == "kube-scheduler":
        return common
    return [
        *common,
        *("--root-ca-file", str(folder / "ca.crt"), "--use-service-account-credentials"),
        *("--service-account-private-key-file", str(folder / "service-account.key")),
        # Pod addresses come from one range for all nodes (network.py), so there is none to hand out per node.
        *("--controllers", "*,-node-ipam-controller,-node-route-controller"),
    ]


def free_ports(count: int) -> list[int]:
    """Distinct ports of loopback that nobody listens on, below those that the kernel gives to whoever asks for any."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as holder:
            holder.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise BoxError("no port of loopback is free: see `ss --listening --tcp`")


def _tls(authority: Path, identity: Pair) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(identity.certificate, identity.key)
    return context
