"""The process as a Deployment runs it: its own permissions and nothing more, its Lease, its probes and metrics, its end."""

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import yaml
from kubernetes import client as independent
from kubernetes import utils

from hack.local.controlplane import ControlPlane, free_ports
from test.conftest import ROOT
from test.controller.stage import TUNING, Stage
from test.expect import eventually

SYSTEM = "kaito-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:workspace-controller"


def grant(api: independent.ApiClient) -> None:
    """Apply the very roles that production uses."""
    if SYSTEM not in {each.metadata.name for each in independent.CoreV1Api(api).list_namespace().items}:
        independent.CoreV1Api(api).create_namespace({"metadata": {"name": SYSTEM}})
    for document in yaml.safe_load_all((ROOT / "manifests/controller/rbac.yaml").read_text()):
        with suppress(utils.FailToCreateError):  # a second test of the session finds them there
            utils.create_from_dict(api, document)


@asynccontextmanager
async def process(kubeconfig: Path, port: int, name: str = "pod-1") -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m controller`; what is still running at the end is killed."""
    environment = {"PATH": os.environ["PATH"], "POD_NAME": name, "POD_NAMESPACE": SYSTEM, "ACCELERATOR": "cpu"}
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "--runtime-image", "registry.example/runtime:1"),
        *("--kubeconfig", str(kubeconfig), "--port", str(port), "--weights-registry", "registry.example"),
        cwd=ROOT,
        env=environment,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


def fetch(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


async def test_the_session_runs_with_the_permissions_of_production(
    apiserver: ControlPlane, api: independent.ApiClient, stage: Stage
) -> None:
    grant(api)
    kubeconfig = apiserver.kubeconfig_for("workspace-controller", ACCOUNT)
    (port,) = free_ports(1)
    async with process(kubeconfig, port) as running:
        await eventually(lambda: fetch(port, "/readyz"), timeout=60)
        stage.create(TUNING)
        await stage.tuned()
        await stage.serving()
        await eventually(lambda: ("Normal", "Tuned") in {(type_, reason) for type_, reason, _ in stage.events()})
        metrics = fetch(port, "/metrics")
        assert 'kaito_workspace_count{phase="succeeded"} 1.0' in metrics
        assert "kaito_workspace_time_to_ready_seconds_count 1.0" in metrics
        assert 'kaito_nodeclaims_created_total{replacement="false"} 1.0' in metrics
        assert 'controller_runtime_reconcile_total{controller="workspace",result="error"} 0.0' in metrics
        lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
        assert lease.spec.holder_identity.startswith("pod-1_")
        stage.delete()
        await eventually(lambda: not stage.workspace())
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0
    lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
    assert not lease.spec.holder_identity


async def test_a_second_replica_takes_over_when_the_first_ends(
    apiserver: ControlPlane, api: independent.ApiClient, stage: Stage
) -> None:
    """R23: where KAITO lets both act."""
    grant(api)
    kubeconfig = apiserver.kubeconfig_for("workspace-controller", ACCOUNT)
    first_port, second_port = free_ports(2)

    def holder() -> str:
        lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
        return str(lease.spec.holder_identity or "")

    async with process(kubeconfig, first_port, "pod-a") as first, process(kubeconfig, second_port, "pod-b") as second:
        await eventually(lambda: fetch(first_port, "/readyz") and fetch(second_port, "/readyz"), timeout=60)
        name = await eventually(holder, timeout=30)
        leading, standing = (first, second) if name.startswith("pod-a_") else (second, first)
        stage.create(TUNING)
        claim = await stage.nodes_ready()
        leading.send_signal(signal.SIGTERM)
        assert await leading.wait() == 0
        await eventually(lambda: holder() not in ("", name), timeout=30)
        await eventually(stage.job)
        assert [each["metadata"]["uid"] for each in stage.claims()] == [claim["metadata"]["uid"]]
        assert standing.returncode is None
