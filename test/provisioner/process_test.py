"""`python -m provisioner` as it runs in its Deployment: with nothing but its own roles, its lease, its probes and signals."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml
from kubernetes import client as independent
from kubernetes import utils
from kubernetes.client.exceptions import ApiException

from hack.local.controlplane import ControlPlane
from provisioner import rbac
from test.conftest import ROOT
from test.expect import eventually
from test.kube.gateway import gateway
from test.provisioner.conftest import Box

NAMESPACE, ACCOUNT = "kaito-system", "node-provisioner"
START = 60.0  # seconds for a process to start on a busy machine, where importing alone may take twenty


def lease(duration: float, renew_deadline: float) -> tuple[str, ...]:
    return (
        *("--leader-elect-lease-duration", str(duration), "--leader-elect-renew-deadline", str(renew_deadline)),
        *("--leader-elect-retry-period", "0.8"),
    )


# A successor of a replica that gave nothing back waits for the lease to end: sooner here than in production, and not so
# soon that a busy machine keeps the leader from renewing it.
SHORT_LEASE = lease(10, 8)
# Whoever leads within a test's patience after another one has not waited for the end of this.
LONG_LEASE = lease(120, 90)


@dataclass
class Process:
    """One running provisioner."""

    handle: asyncio.subprocess.Process
    port: int

    async def get(self, path: str) -> tuple[int, str]:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def ready(self) -> bool:
        return (await self.get("/readyz"))[0] == 200

    async def end(self, number: int = signal.SIGTERM) -> int:
        with suppress(ProcessLookupError):
            self.handle.send_signal(number)
        return await self.handle.wait()


def holder(api: independent.ApiClient) -> str:
    """Who holds the lease, or nothing."""
    try:
        lease = independent.CoordinationV1Api(api).read_namespaced_lease("kaito-node-provisioner", NAMESPACE)
    except ApiException:
        return ""
    return str(lease.spec.holder_identity or "")


@pytest.fixture
def roles(apiserver: ControlPlane, api: independent.ApiClient) -> str:
    """The roles that manifests/ give the Deployment, and a kubeconfig of its service account."""
    with suppress(ApiException):
        independent.CoreV1Api(api).create_namespace({"metadata": {"name": NAMESPACE}})
    for document in yaml.safe_load_all((ROOT / "manifests/provisioner/rbac.yaml").read_text()):
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = NAMESPACE
        with suppress(utils.FailToCreateError):
            utils.create_from_dict(api, document)
    user = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
    return str(apiserver.kubeconfig_for(ACCOUNT, user, ["system:serviceaccounts", "system:authenticated"]))


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody else is given for as long as the block runs, and that a server which reuses addresses can have."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@asynccontextmanager
async def process(box: Box, kubeconfig: str, name: str = "one", *arguments: str) -> AsyncIterator[Process]:
    with reserved_port() as port:
        environment = _environment(box, kubeconfig, name, port)
        handle = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "provisioner", *arguments, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
        )
        running = Process(handle, port)
        try:
            yield running
        finally:
            if handle.returncode is None:
                await running.end(signal.SIGKILL)


def _environment(box: Box, kubeconfig: str, name: str, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": kubeconfig,
        "ARM_SUBSCRIPTION_ID": box.settings.subscription_id,
        "ARM_RESOURCE_GROUP": box.settings.resource_group,
        "AZURE_CLUSTER_NAME": box.settings.cluster_name,
        "ARM_ENDPOINT": box.emulator.endpoint,
        "AZURE_CREDENTIAL": "none",
        "LIST_SECONDS": "0.2",
        "POD_NAME": name,
        "POD_NAMESPACE": NAMESPACE,
        "METRICS_PORT": str(port),
        "ADDRESS": "127.0.0.1",
    }


def test_its_roles_hold_no_verb_that_the_client_does_not_have() -> None:
    for rule in (*rbac.CLUSTER, *rbac.NAMESPACED):
        assert set(rule.verbs) <= {"get", "list", "watch", "create", "patch", "delete"}, rule
    watched = {resource for rule in rbac.CLUSTER if "watch" in rule.verbs for resource in rule.resources}
    assert watched == {"nodeclaims", "nodes"}


async def test_its_own_roles_suffice_for_a_whole_life(idle: Box, roles: str, namespace: str) -> None:
    async with process(idle, roles) as provisioner:
        await eventually(provisioner.ready, timeout=START)
        name, node = await idle.ready(terminationGracePeriod="4s")
        _occupy(idle, namespace, node)
        idle.delete(name)
        await idle.gone(name, timeout=START)
        assert await idle.pool(name) is None
        await eventually(lambda: _shows(provisioner, 'karpenter_nodeclaims_terminated_total{nodepool="kaito"} 1.0'))
        _, metrics = await provisioner.get("/metrics")
        assert await provisioner.end() == 0
        assert provisioner.handle.stderr is not None
        log = (await provisioner.handle.stderr.read()).decode()
    assert "Traceback" not in log
    assert "orbidden" not in log
    assert 'kaito_arm_requests_total{code="200",verb="PUT"} 1.0' in metrics
    assert 'controller_runtime_reconcile_total{controller="nodeclaim.lifecycle",result="success"}' in metrics


def _occupy(box: Box, namespace: str, node: str) -> None:
    """Pods to evict, to delete with the claim's grace period, and to leave there with a volume."""
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": "pv-data",
        },
    }
    box.core.create_namespaced_persistent_volume_claim(namespace, claim)
    data = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}
    for name, annotations, more in (
        ("goes", {}, {}),
        ("trains", {"karpenter.sh/do-not-disrupt": "true"}, {}),
        ("stays", {}, {"tolerations": [{"operator": "Exists"}], **data}),
    ):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "none"}], "terminationGracePeriodSeconds": 1}
        metadata = {"name": name, "annotations": annotations}
        box.core.create_namespaced_pod(namespace, {"metadata": metadata, "spec": spec | more})
    attachment = {
        "metadata": {"name": f"data-{node}"},
        "spec": {"attacher": "disk.csi.azure.com", "nodeName": node, "source": {"persistentVolumeName": "pv-data"}},
    }
    independent.StorageV1Api(box.api).create_volume_attachment(attachment)


async def test_killed_the_hard_way_its_successor_goes_on(idle: Box, roles: str) -> None:
    """kill -9 in the middle of a create; the lease of the dead one expires, and nothing is asked for twice."""
    await idle.emulator.admin.configure(createSeconds=2)
    async with process(idle, roles, "first", *SHORT_LEASE) as first:
        await eventually(first.ready, timeout=START)
        name = idle.claim()
        await eventually(lambda: idle.puts(name), timeout=START)
        await first.end(signal.SIGKILL)
    async with process(idle, roles, "second", *SHORT_LEASE) as second:
        await idle.joined(name)
        await idle.becomes(name, "Ready", "True", timeout=START)
        assert len(await idle.emulator.admin.log(pool=name, kind="PUT")) == 1
        assert await second.end() == 0


async def test_only_the_leader_works_and_hands_over_at_once_when_it_ends(idle: Box, roles: str) -> None:
    async with (
        process(idle, roles, "first", *LONG_LEASE) as first,
        process(idle, roles, "second", *LONG_LEASE) as second,
    ):
        await eventually(first.ready, timeout=START)
        await eventually(second.ready, timeout=START)
        await idle.ready()
        _, one = await first.get("/metrics")
        _, two = await second.get("/metrics")
        worked = [text for text in (one, two) if 'kaito_arm_requests_total{code="200",verb="PUT"} 1.0' in text]
        assert len(worked) == 1
        leader, follower = (first, second) if worked[0] is one else (second, first)
        predecessor = holder(idle.api)
        leader.handle.send_signal(signal.SIGTERM)
        await eventually(lambda: holder(idle.api) not in ("", predecessor))
        assert await leader.end() == 0
        await idle.ready()
        assert (await follower.get("/readyz"))[0] == 200
        assert await follower.end() == 0


async def test_a_leader_that_stood_still_for_longer_than_its_lease_ends_without_another_write(
    idle: Box, roles: str, tmp_path: Path
) -> None:
    """SIGSTOP, as a machine that swaps or migrates does it; SIGCONT once another one leads and there is work."""
    async with AsyncExitStack() as stack:
        seen, replicas = {}, {}
        for name in ("third", "fourth"):
            (tmp_path / name).mkdir()
            seen[name], kubeconfig = await stack.enter_async_context(gateway(Path(roles), tmp_path / name))
            replicas[name] = await stack.enter_async_context(process(idle, kubeconfig, name, *SHORT_LEASE))
        leader = await eventually(
            lambda: next((name for name in replicas if holder(idle.api).startswith(name)), ""), START
        )
        for replica in replicas.values():
            await eventually(replica.ready, timeout=START)
        replicas[leader].handle.send_signal(signal.SIGSTOP)
        await eventually(lambda: holder(idle.api) and not holder(idle.api).startswith(leader), timeout=START)
        name = idle.claim()
        await eventually(lambda: idle.puts(name), timeout=START)
        woken = time.monotonic()
        assert await replicas[leader].end(signal.SIGCONT) == 1
        assert [str(each) for each in seen[leader].requests if each.write and each.moment > woken] == []
        assert await idle.puts(name) == 1


async def test_it_refuses_to_run_beside_gpu_provisioner(idle: Box, roles: str, namespace: str) -> None:
    labels = {"app": "gpu-provisioner"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    apps = independent.AppsV1Api(idle.api)
    apps.create_namespaced_deployment(namespace, {"metadata": {"name": "gpu-provisioner"}, "spec": spec})
    try:
        async with process(idle, roles) as provisioner:
            assert await asyncio.wait_for(provisioner.handle.wait(), START) == 1
            assert provisioner.handle.stderr is not None
            assert (
                "kubectl scale deployment gpu-provisioner --replicas=0"
                in (await provisioner.handle.stderr.read()).decode()
            )
    finally:
        apps.delete_namespaced_deployment("gpu-provisioner", namespace)


async def _shows(provisioner: Process, series: str) -> bool:
    return series in (await provisioner.get("/metrics"))[1]
