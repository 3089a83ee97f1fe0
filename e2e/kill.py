"""Kills a controller the hard way: SIGKILL to its process, found from the host by what it runs.

The pod is deleted after the process is dead, so that the Deployment makes a new one at once: the kubelet's back-off for
a container that dies again and again is not what these stories are about.
"""

import contextlib
import os
import signal
import threading
from pathlib import Path

from kubernetes import client

DEPLOYMENTS = {"controller": "workspace-controller", "provisioner": "node-provisioner"}
NAMESPACE = "kaito-system"
_ONE_AT_A_TIME = threading.Lock()  # two killers must not meet in the middle of a replacement


def pids_of(module: str) -> list[int]:
    """Processes in containers that run `python -m <module>`. Ours share the root file system and are left out."""
    found = []
    own_root = os.stat("/proc/self/root")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            root = os.stat(process / "root")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked
        in_container = (root.st_dev, root.st_ino) != (own_root.st_dev, own_root.st_ino)
        if in_container and [b"-m", module.encode()] == words[1:3]:
            found.append(int(process.name))
    return found


def kill(core: client.CoreV1Api, module: str) -> int:
    """Kill one controller and replace its pod. Returns how many processes were killed (0 when it was just starting)."""
    with _ONE_AT_A_TIME:
        victims = pids_of(module)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        pods = core.list_namespaced_pod(NAMESPACE).items if victims else []  # one deleted before it began never begins
        for pod in pods:
            if pod.metadata.name.startswith(DEPLOYMENTS[module]):
                _delete(core, pod.metadata.name)
        return len(victims)


def _delete(core: client.CoreV1Api, pod: str) -> None:
    try:
        core.delete_namespaced_pod(pod, NAMESPACE, grace_period_seconds=0)
    except client.ApiException as error:
        if error.status != 404:  # gone between the list and here
            raise
