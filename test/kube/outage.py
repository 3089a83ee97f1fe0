"""A real control plane of a test's own, whose etcd and API server can be killed, frozen, restarted and restored.

Knows processes and folders; what runs against it is the test's.
"""

import asyncio
import os
import shutil
import signal
import ssl
from pathlib import Path

from hack.local import probe
from hack.local.controlplane import ControlPlane

API_SERVER, ETCD = "kube-apiserver", "etcd"
READY_SECONDS = 60.0


class Outage:
    """What may happen to `plane`."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self._commands = {name: _command(self._pid(name)) for name in (API_SERVER, ETCD)}
        identity = plane.authority.client("outage", "kubernetes-admin", ["system:masters"])
        self._tls = ssl.create_default_context(cafile=str(plane.authority.pair.certificate))
        self._tls.load_cert_chain(identity.certificate, identity.key)

    def kill(self, name: str) -> None:
        """SIGKILL: no connection is told."""
        self.plane.daemons.stop(name, 0)

    async def restart(self, name: str) -> None:
        """Start what was killed, with the same flags, and wait until the API server is ready again."""
        self.plane.daemons.start(name, self._commands[name], die_with_parent=True)
        if name == API_SERVER:
            await asyncio.to_thread(self.plane.daemons.wait_until, name, self._ready, READY_SECONDS)

    def freeze(self, name: str) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        os.kill(self._pid(name), signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.kill(self._pid(name), signal.SIGCONT)

    def back_up(self) -> Path:
        """A copy of etcd's folder at one moment, as a disk's snapshot takes it: etcd recovers from it as from a crash."""
        target = self.plane.folder / "backup"
        self.freeze(ETCD)
        try:
            shutil.copytree(self._data, target)
        finally:
            self.thaw(ETCD)
        return target

    async def restore(self, backup: Path) -> None:
        """Come back with the content of `backup`; revisions go on from there, as if later ones had never been."""
        self.kill(API_SERVER)
        self.kill(ETCD)
        shutil.rmtree(self._data)
        shutil.copytree(backup, self._data)
        await self.restart(ETCD)
        await self.restart(API_SERVER)

    @property
    def _data(self) -> Path:
        return self.plane.folder / "etcd"

    def _pid(self, name: str) -> int:
        daemon = self.plane.daemons.find(name)
        assert daemon is not None, f"{name} does not run"
        return daemon.pid

    def _ready(self) -> bool:
        return probe.status(f"{self.plane.url}/readyz", self._tls) == 200


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
