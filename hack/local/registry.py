"""The box's two registries, as in real life: a public one for platform images and weights, a private one with a password.

Both are docker-registry with TLS from the box's authority. The public one's storage lies in the cache and outlasts the
cluster, so that images are built and pushed once; the private one's belongs to the cluster, and so does its password.
Knows nothing of what the images contain.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from hack.local import assets, probe
from hack.local.console import run
from hack.local.controlplane import ADDRESS, free_ports
from hack.local.pki import Authority, write_private
from hack.local.process import Daemons

PUBLIC = f"{ADDRESS}:5000"
PRIVATE = f"{ADDRESS}:5001"
PAUSE_IMAGE = f"{PUBLIC}/pause:1"
USER = "kaito"
READY_SECONDS = 20.0


@dataclass(frozen=True)
class Registry:
    """One docker-registry process."""

    name: str
    address: str
    storage: Path
    certificate: Path | None = None
    key: Path | None = None
    passwords: Path | None = None  # htpasswd file; None: open to everyone


def start_all(folder: Path, authority: Authority) -> None:
    """Start both and write what nodes need to trust them (`registries_folder`) and the password (`credentials`)."""
    folder = folder.resolve()
    identity = authority.server("registry", (ADDRESS, "127.0.0.1", "localhost"))
    passwords = _write_credentials(folder)
    tls = {"certificate": identity.certificate, "key": identity.key}
    start(Daemons(folder), Registry("registry-public", PUBLIC, public_storage(), **tls))
    private = Registry("registry-private", PRIVATE, folder / "registry-private", **tls, passwords=passwords)
    start(Daemons(folder), private)
    _write_hosts(registries_folder(folder), authority.pair.certificate)


def stop_all(folder: Path) -> None:
    for name in ("registry-private", "registry-public"):
        Daemons(folder).stop(name)


def start(daemons: Daemons, registry: Registry) -> None:
    """Start one registry and return when it answers."""
    registry.storage.mkdir(parents=True, exist_ok=True)
    config = daemons.folder / f"{registry.name}.yml"
    config.write_text(yaml.safe_dump(registry_config(registry)))
    daemons.start(registry.name, ["docker-registry", "serve", config])
    daemons.wait_until(registry.name, lambda: _answers(registry), READY_SECONDS)


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[str]:
    """The public registry's storage, served on loopback for a while; yields host:port.

    On loopback every tool takes plain HTTP, so images can be built and pushed before there is a cluster, or beside one.
    """
    address = f"127.0.0.1:{free_ports(1)[0]}"
    daemons = Daemons(folder)
    daemons.folder.mkdir(parents=True, exist_ok=True)
    name = f"registry-{address.rpartition(':')[2]}"
    start(daemons, Registry(name, address, public_storage()))
    try:
        yield address
    finally:
        daemons.stop(name)
        for path in (daemons.folder / f"{name}.yml", daemons.log(name)):
            path.unlink(missing_ok=True)


def collect_garbage(folder: Path) -> None:
    """Free what no image of the public registry refers to any more. Nobody may be pushing to it."""
    config = folder.resolve() / "registry-garbage.yml"
    config.write_text(yaml.safe_dump(registry_config(Registry("garbage", "127.0.0.1:0", public_storage()))))
    run("docker-registry", "garbage-collect", "--delete-untagged", config)
    config.unlink()


def public_storage() -> Path:
    return assets.cache() / "registry"


def registries_folder(folder: Path) -> Path:
    """Containerd's `config_path`: whom to ask for an image, and whom to trust."""
    return folder.resolve() / "registries"


def credentials(folder: Path) -> tuple[str, str]:
    """User and password of the private registry."""
    user, _, password = (folder.resolve() / "registry-password").read_text().strip().partition(":")
    return user, password


def registry_config(registry: Registry) -> dict[str, object]:
    http: dict[str, object] = {"addr": registry.address}
    if registry.certificate and registry.key:
        http["tls"] = {"certificate": str(registry.certificate), "key": str(registry.key)}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(registry.storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http,
    }
    if registry.passwords:
        config["auth"] = {"htpasswd": {"realm": "aks-in-a-box", "path": str(registry.passwords)}}
    return config


def hosts_toml(server: str, authority: Path) -> str:
    """Containerd's rule for one registry host: ask `server` instead, with its certificate from `authority`.

    `server` is also what it falls back to, so that nothing is ever asked of the internet.
    """
    return f'server = "https://{server}"\n\n[host."https://{server}"]\ncapabilities = ["pull", "resolve"]\nca = "{authority}"\n'


def _write_hosts(folder: Path, authority: Path) -> None:
    """Docker Hub's names are answered by the public registry: `--image=curlimages/curl` works as written."""
    for host, server in ((PUBLIC, PUBLIC), (PRIVATE, PRIVATE), ("docker.io", PUBLIC)):
        (folder / host).mkdir(parents=True, exist_ok=True)
        (folder / host / "hosts.toml").write_text(hosts_toml(server, authority))


def _write_credentials(folder: Path) -> Path:
    """Make the password once per cluster; returns the htpasswd file."""
    passwords = folder / "registry-htpasswd"
    if not passwords.exists():
        password = secrets.token_urlsafe(24)
        write_private(folder / "registry-password", f"{USER}:{password}\n".encode())
        write_private(passwords, run("htpasswd", "-niB", USER, stdin=password).encode())
    return passwords


def _answers(registry: Registry) -> bool:
    """True once the API answers, be it with a demand for a password."""
    scheme = "https" if registry.certificate else "http"
    return probe.status(f"{scheme}://{registry.address}/v2/") in (200, 401)
