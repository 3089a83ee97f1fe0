"""Both controllers as processes, two replicas of each, through real minutes: ten at rest and ten without an API server.

Seconds here, ten minutes in a nightly run. What each process asks is counted at a gateway of its own; at rest that may be
the Lease and a watch that ended, which is opened again after five to ten minutes with a look at one object before.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from kubernetes import client as independent

from hack.local.controlplane import ControlPlane, free_ports
from test.controller import main_test as controller
from test.controller.stage import INFERENCE, Stage
from test.expect import eventually
from test.kube.fault_rate_test import PER_MINUTE, PER_SECOND
from test.kube.gateway import Gateway, Request, gateway
from test.profile import examples
from test.provisioner import process_test as provisioner
from test.provisioner.conftest import Box, boxed

Replica = tuple[Gateway, asyncio.subprocess.Process]
REPLICAS = ("controller-a", "controller-b", "provisioner-a", "provisioner-b")
SLACK = 1.0


def scale() -> int:
    """How many times shorter the Lease's durations are than in production."""
    return examples(5, 1)


def lease() -> Sequence[str]:
    durations = {"lease-duration": 15, "renew-deadline": 10, "retry-period": 2}
    return [f"--leader-elect-{name}={seconds / scale()}" for name, seconds in durations.items()]


@pytest.fixture
async def box(apiserver: ControlPlane, api: independent.ApiClient, crds: None) -> AsyncIterator[Box]:
    """A cloud whose machines join when the test says so."""
    async with boxed(apiserver, api) as box:
        yield box


@pytest.fixture
async def replicas(box: Box, apiserver: ControlPlane, tmp_path: Path) -> AsyncIterator[dict[str, Replica]]:
    controller.grant(box.api)
    async with AsyncExitStack() as stack:
        started: dict[str, Replica] = {}
        for name, port in zip(REPLICAS, free_ports(len(REPLICAS)), strict=True):
            (tmp_path / name).mkdir()
            between, kubeconfig = await stack.enter_async_context(gateway(apiserver.kubeconfig, tmp_path / name))
            if name.startswith("controller"):
                run = await stack.enter_async_context(controller.process(kubeconfig, port, name, *lease()))
            else:
                run = (await stack.enter_async_context(provisioner.process(box, kubeconfig, name, *lease()))).handle
            started[name] = (between, run)
        yield started


async def test_at_rest_nothing_is_asked_and_a_dead_server_rarely(
    box: Box, replicas: dict[str, Replica], stage: Stage
) -> None:
    await make_ready(box, stage)
    for between, _ in replicas.values():
        await between.quiet()
    begin = time.monotonic()
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=examples(1, 600))
    asked = [each for between, _ in replicas.values() for each in between.since(begin)]
    print("at rest:", Counter(str(each) for each in asked))
    assert [str(each) for each in asked if each.write or not (each.watch or "limit=1&" in f"{each.query}&")] == []

    leaders = [name for name, (between, _) in replicas.items() if between.renewals(begin)]
    assert len(leaders) == 2
    dead = time.monotonic()
    for between, _ in replicas.values():
        between.down = True
        between.cut()
    deadline = 10 / scale() + SLACK
    for name in leaders:
        between, run = replicas[name]
        assert await asyncio.wait_for(run.wait(), deadline + 20) == 1
        print(name, "ended after", round(time.monotonic() - dead, 1))
        assert all(each.moment <= dead + deadline for each in between.requests if each.write)
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=examples(1, 600))
    for name in replicas.keys() - leaders:
        between, run = replicas[name]
        assert run.returncode is None
        check(name, [each for each in between.requests if each.moment > dead], time.monotonic() - dead)


async def make_ready(box: Box, stage: Stage) -> None:
    """A Workspace that serves on a node that the provisioner made for it."""
    await eventually(lambda: box.objects.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims"))
    stage.create(INFERENCE)
    claim = (await eventually(stage.claims, timeout=60))[0]["metadata"]["name"]
    await box.joined(claim)
    await eventually(stage.stateful_set, timeout=60)
    await stage.serving()


def check(name: str, requests: Sequence[Request], seconds: float) -> None:
    """A standby's watches keep to their rate, and its candidacy to the retry period."""
    begin = min(each.moment for each in requests)
    watches = [each for each in requests if not each.about_lease]
    assert not [each for each in requests if each.write]
    for path in {each.path for each in watches}:
        moments = [each.moment - begin for each in watches if each.path == path]
        early = sum(moment < 60 for moment in moments)
        print(name, path, "in the first minute:", early, "after it:", len(moments) - early)
        assert early <= PER_MINUTE
        assert len(moments) - early <= PER_SECOND * max(seconds - 60, 0)
    asked = len(requests) - len(watches)
    print(name, "about the lease:", asked)
    assert asked <= seconds * scale() / 2 + 1
