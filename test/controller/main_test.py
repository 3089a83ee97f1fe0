"""The process as a Deployment runs it: its own permissions and nothing more, its Lease, its probes and metrics, its end."""

import asyncio
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import yaml
from kubernetes import client as independent
from kubernetes import utils

from hack.local.controlplane import ControlPlane, free_ports
from test.conftest import ROOT
from test.controller.stage import TUNING, Stage
from test.expect import eventually
from test.kube.gateway import gateway

SYSTEM = "kaito-system"
# A successor of a replica that gave nothing back waits for the lease to end: sooner here than in production.
SHORT_LEASE = (
    *("--leader-elect-lease-duration", "6", "--leader-elect-renew-deadline", "4"),
    *("--leader-elect-retry-period", "0.8"),
)
ACCOUNT = f"system:serviceaccount:{SYSTEM}:workspace-controller"


def grant(api: independent.ApiClient) -> None:
    """Apply the very roles that production uses."""
    if SYSTEM not in {each.metadata.name for each in independent.CoreV1Api(api).list_namespace().items}:
        independent.CoreV1Api(api).create_namespace({"metadata": {"name": SYSTEM}})
    for document in yaml.safe_load_all((ROOT / "manifests/controller/rbac.yaml").read_text()):
        with suppress(utils.FailToCreateError):  # a second test of the session finds them there
            utils.create_from_dict(api, document)


@asynccontextmanager
async def process(
    kubeconfig: str | Path, port: int, name: str = "pod-1", *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m controller`; what is still running at the end is killed."""
    environment = {"PATH": os.environ["PATH"], "POD_NAME": name, "POD_NAMESPACE": SYSTEM, "ACCELERATOR": "cpu"}
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "controller", "--runtime-image", "registry.example/runtime:1"),
        *("--kubeconfig", str(kubeconfig), "--port", str(port), "--weights-registry", "registry.example"),
        *arguments,
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


def metrics_count_the_session(port: int) -> bool:
    """Ask this until it holds: the process learns by its watch what the test has already read from the server."""
    metrics = fetch(port, "/metrics")
    assert 'kaito_workspace_count{phase="succeeded"} 1.0' in metrics
    assert "kaito_workspace_time_to_ready_seconds_count 1.0" in metrics
    assert 'kaito_nodeclaims_created_total{replacement="false"} 1.0' in metrics
    assert 'controller_runtime_reconcile_total{controller="workspace",result="error"} 0.0' in metrics
    return True


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
        await eventually(lambda: metrics_count_the_session(port))
        lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
        assert lease.spec.holder_identity.startswith("pod-1_")
        stage.delete()
        await eventually(lambda: not stage.workspace())
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0
    lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
    assert not lease.spec.holder_identity


class Replicas:
    """Two processes and the Lease between them."""

    def __init__(self, api: independent.ApiClient, pods: Mapping[str, asyncio.subprocess.Process]) -> None:
        self._api = api
        self._pods = pods

    def holder(self) -> str:
        """The pod that holds the Lease, or nothing."""
        try:
            lease = independent.CoordinationV1Api(self._api).read_namespaced_lease("workspace-controller", SYSTEM)
        except independent.ApiException:
            return ""
        pod = str(lease.spec.holder_identity or "").partition("_")[0]
        return pod if pod in self._pods else ""  # a test before this one may have left its own

    async def leading(self) -> str:
        return await eventually(self.holder, timeout=30)

    async def succeeded(self, leader: str) -> float:
        """Wait until another one leads. Return that moment."""
        await eventually(lambda: self.holder() not in ("", leader), timeout=30)
        return time.monotonic()


async def test_a_second_replica_takes_over_when_the_first_ends(
    apiserver: ControlPlane, api: independent.ApiClient, stage: Stage
) -> None:
    """R23: where KAITO lets both act. How soon, to the second, is shown by test/kube/lease_test.py in virtual time."""
    grant(api)
    kubeconfig = apiserver.kubeconfig_for("workspace-controller", ACCOUNT)
    first_port, second_port = free_ports(2)
    async with process(kubeconfig, first_port, "pod-a") as first, process(kubeconfig, second_port, "pod-b") as second:
        pods = {"pod-a": first, "pod-b": second}
        await eventually(lambda: fetch(first_port, "/readyz") and fetch(second_port, "/readyz"), timeout=60)
        replicas = Replicas(api, pods)
        leader = await replicas.leading()
        stage.create(TUNING)
        claim = await stage.nodes_ready()
        began = time.monotonic()
        pods[leader].send_signal(signal.SIGTERM)
        assert await replicas.succeeded(leader) - began < 10, "its lease would have run for 15 s"
        assert await pods.pop(leader).wait() == 0
        await eventually(stage.job)
        assert [each["metadata"]["uid"] for each in stage.claims()] == [claim["metadata"]["uid"]]
        (successor,) = pods.values()
        assert successor.returncode is None
        successor.send_signal(signal.SIGTERM)  # and nobody waits for its lease to end
        assert await successor.wait() == 0


async def test_a_leader_that_stood_still_for_longer_than_its_lease_ends_without_another_write(
    apiserver: ControlPlane, api: independent.ApiClient, stage: Stage, tmp_path: Path
) -> None:
    """SIGSTOP, as a machine that swaps or migrates does it; SIGCONT once another one leads and there is work."""
    grant(api)
    user = apiserver.kubeconfig_for("workspace-controller", ACCOUNT)
    ports = free_ports(2)
    async with AsyncExitStack() as stack:
        seen, pods = {}, {}
        for port, name in zip(ports, ("pod-c", "pod-d"), strict=True):
            (tmp_path / name).mkdir()
            seen[name], kubeconfig = await stack.enter_async_context(gateway(user, tmp_path / name))
            pods[name] = await stack.enter_async_context(process(kubeconfig, port, name, *SHORT_LEASE))
        replicas = Replicas(api, pods)
        leader = await replicas.leading()
        await eventually(lambda: all(fetch(port, "/readyz") for port in ports), timeout=60)
        pods[leader].send_signal(signal.SIGSTOP)
        await replicas.succeeded(leader)
        stage.create(TUNING)
        await eventually(stage.claims)
        woken = time.monotonic()
        pods[leader].send_signal(signal.SIGCONT)
        assert await pods[leader].wait() == 1
        assert [str(each) for each in seen[leader].requests if each.write and each.moment > woken] == []
        assert len(stage.claims()) == 1
