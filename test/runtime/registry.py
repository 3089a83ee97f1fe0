"""A real registry (Debian's docker-registry) on loopback, plain HTTP, with or without a password, for tests of transfers."""

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "tuner", "right-password"
_HTPASSWD = f"{USER}:$2y$04$abcdefghijklmnopqrstuuS80hwFD6gSIL20SCUGvmL7S939BjOHW\n"  # bcrypt of PASSWORD

# Below those that the kernel gives to whoever asks for any, or any connection of another process may take one between
# our look and its use; and not those from which the other tests take theirs (hack/local/controlplane.py).
_PORTS = range(30_000, 32_768)

_CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: {delete}}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


@dataclass(frozen=True)
class Registry:
    host: str
    process: int

    def manifest(self, repository: str, tag: str) -> tuple[str, dict[str, object]] | None:
        """The digest and body under a tag, or None where there is none."""
        request = urllib.request.Request(f"http://{self.host}/v2/{repository}/manifests/{tag}")
        request.add_header("Accept", "application/vnd.oci.image.manifest.v1+json")
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.headers["Docker-Content-Digest"], json.loads(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
            return None

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Let it take connections and answer none."""
        os.kill(self.process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process, signal.SIGCONT)


def free_port() -> int:
    """A port of loopback for a server that has to be told one."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as look:
            look.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port of loopback is free")


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """An address at which every connection is refused: the port is held, so that no other process listens on it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@contextlib.contextmanager
def running(folder: Path, *, password: bool = False, delete: bool = True, port: int = 0) -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    assert program, "these tests need Debian's docker-registry, skopeo and umoci"
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(_HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}" if password else ""
    (folder / "config.yml").write_text(
        _CONFIG.format(root=folder / "blobs", port=port, auth=auth, delete=str(delete).lower())
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _wait(port, process)
        yield Registry(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=10):
            return
    raise AssertionError("the registry did not start")


def write_secret(folder: Path, registry: str, password: str = PASSWORD) -> Path:
    """Write a dockerconfigjson Secret as the kubelet mounts it, and as `kubectl create secret docker-registry` fills it."""
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"username": USER, "password": password, "auth": base64.b64encode(f"{USER}:{password}".encode()).decode()}
    temporary = folder / "..data_tmp"
    temporary.write_text(json.dumps({"auths": {registry: entry}}))
    temporary.rename(folder / ".dockerconfigjson")
    return folder
