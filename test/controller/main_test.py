"""The process as a Deployment runs it: its own permissions and nothing more, its Lease, its probes and metrics, its end."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import yaml
from kubernetes import client as independent
from kubernetes import utils

from hack.local.controlplane import ControlPlane
from test.conftest import ROOT
from test.controller.stage import TUNING, Stage
from test.expect import eventually
from test.kube.gateway import gateway
from test.provisioner.process_test import LONG_LEASE, SHORT_LEASE, START, Process, reserved_port

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
async def process(kubeconfig: str | Path, name: str = "pod-1", *arguments: str) -> AsyncIterator[Process]:
    """Run `python -m controller`; what is still running at the end is killed."""
    environment = {"PATH": os.environ["PATH"], "POD_NAME": name, "POD_NAMESPACE": SYSTEM, "ACCELERATOR": "cpu"}
    with reserved_port() as port:
        handle = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "controller", "--runtime-image", "registry.example/runtime:1"),
            *("--kubeconfig", str(kubeconfig), "--port", str(port), "--weights-registry", "registry.example"),
            *arguments,
            cwd=ROOT,
            env=environment,
        )
        try:
            yield Process(handle, port)
        finally:
            if handle.returncode is None:
                handle.kill()
                await handle.wait()


async def metrics_count_the_session(running: Process) -> bool:
    """Ask this until it holds: the process learns by its watch what the test has already read from the server."""
    _, metrics = await running.get("/metrics")
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
    async with process(kubeconfig) as running:
        await eventually(running.ready, timeout=START)
        stage.create(TUNING)
        await stage.tuned()
        await stage.serving()
        await eventually(lambda: ("Normal", "Tuned") in {(type_, reason) for type_, reason, _ in stage.events()})
        await eventually(lambda: metrics_count_the_session(running))
        lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
        assert lease.spec.holder_identity.startswith("pod-1_")
        stage.delete()
        await eventually(lambda: not stage.workspace())
        assert await running.end() == 0
    lease = independent.CoordinationV1Api(api).read_namespaced_lease("workspace-controller", SYSTEM)
    assert not lease.spec.holder_identity


class Replicas:
    """Two processes and the Lease between them."""

    def __init__(self, api: independent.ApiClient, pods: Mapping[str, Process]) -> None:
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
        """Wait until both are ready and one leads."""
        for pod in self._pods.values():
            await eventually(pod.ready, timeout=START)
        return await eventually(self.holder, timeout=START)

    async def succeeded(self, leader: str) -> None:
        """Wait until another one leads."""
        await eventually(lambda: self.holder() not in ("", leader), timeout=START)


async def test_a_second_replica_takes_over_when_the_first_ends(
    apiserver: ControlPlane, api: independent.ApiClient, stage: Stage
) -> None:
    """R23: where KAITO lets both act. How soon, to the second, is shown by test/kube/lease_test.py in virtual time."""
    grant(api)
    kubeconfig = apiserver.kubeconfig_for("workspace-controller", ACCOUNT)
    async with (
        process(kubeconfig, "pod-a", *LONG_LEASE) as first,
        process(kubeconfig, "pod-b", *LONG_LEASE) as second,
    ):
        pods = {"pod-a": first, "pod-b": second}
        replicas = Replicas(api, pods)
        leader = await replicas.leading()
        stage.create(TUNING)
        claim = await stage.nodes_ready()
        pods[leader].handle.send_signal(signal.SIGTERM)
        await replicas.succeeded(leader)
        assert await pods.pop(leader).handle.wait() == 0
        await eventually(stage.job)
        assert [each["metadata"]["uid"] for each in stage.claims()] == [claim["metadata"]["uid"]]
        (successor,) = pods.values()
        assert successor.handle.returncode is None
        assert await successor.end() == 0  # and nobody waits for its lease to end


async def test_a_leader_that_stood_still_for_longer_than_its_lease_ends_without_another_write(
    apiserver: ControlPlane, api: independent.ApiClient, stage: Stage, tmp_path: Path
) -> None:
    """SIGSTOP, as a machine that swaps or migrates does it; SIGCONT once another one leads and there is work."""
    grant(api)
    user = apiserver.kubeconfig_for("workspace-controller", ACCOUNT)
    async with AsyncExitStack() as stack:
        seen, pods = {}, {}
        for name in ("pod-c", "pod-d"):
            (tmp_path / name).mkdir()
            seen[name], kubeconfig = await stack.enter_async_context(gateway(user, tmp_path / name))
            pods[name] = await stack.enter_async_context(process(kubeconfig, name, *SHORT_LEASE))
        replicas = Replicas(api, pods)
        leader = await replicas.leading()
        pods[leader].handle.send_signal(signal.SIGSTOP)
        await replicas.succeeded(leader)
        stage.create(TUNING)
        await eventually(stage.claims)
        woken = time.monotonic()
        assert await pods[leader].end(signal.SIGCONT) == 1
        assert [str(each) for each in seen[leader].requests if each.write and each.moment > woken] == []
        assert len(stage.claims()) == 1
