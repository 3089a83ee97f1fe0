"""The *api* size, for real: it comes up without root, several at once, and leaves nothing. *full* is covered by e2e."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import kubernetes
import pytest

from hack.local.controlplane import ControlPlane
from hack.local.process import Daemons
from test.expect import TIMEOUT

HOLD = "import sys, pathlib; from hack.local.controlplane import ControlPlane\n" + (
    "plane = ControlPlane.api(pathlib.Path(sys.argv[1])); plane.start(); print('up', flush=True); sys.stdin.read()"
)


def _namespaces(kubeconfig: Path) -> set[str]:
    with kubernetes.config.new_client_from_config(str(kubeconfig)) as client:
        return {item.metadata.name for item in kubernetes.client.CoreV1Api(client).list_namespace().items}


def test_two_control_planes_run_side_by_side_and_do_not_share_their_objects(tmp_path: Path) -> None:
    with ControlPlane.api(tmp_path / "one") as one, ControlPlane.api(tmp_path / "two") as two:
        with kubernetes.config.new_client_from_config(str(one.kubeconfig)) as client:
            body = {"metadata": {"name": "only-here"}}
            kubernetes.client.CoreV1Api(client).create_namespace(body)
        assert "only-here" in _namespaces(one.kubeconfig)
        assert "only-here" not in _namespaces(two.kubeconfig)
    assert Daemons(tmp_path / "one").marked() == []
    assert Daemons(tmp_path / "two").marked() == []


def test_another_users_kubeconfig_is_that_user(tmp_path: Path) -> None:
    with ControlPlane.api(tmp_path) as plane:
        kubeconfig = plane.kubeconfig_for("nobody", "nobody")
        with pytest.raises(kubernetes.client.ApiException) as refused:
            _namespaces(kubeconfig)
    assert refused.value.status == 403


def test_it_ends_with_the_process_that_started_it_even_when_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        running = Daemons(tmp_path).marked()
        os.kill(holder.pid, signal.SIGKILL)
    assert len(running) == 2
    for left in running:
        assert _has_ended(left.pid)


def _has_ended(pid: int) -> bool:
    """Wait for the kernel to end a process that has lost its parent."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], TIMEOUT)[0])
    finally:
        os.close(handle)
