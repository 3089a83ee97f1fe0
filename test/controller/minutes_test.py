"""Both controllers as processes, two replicas of each, through real minutes: ten at rest and ten without an API server.

Seconds here, ten minutes in a nightly run. What each process asks is counted at a gateway of its own; at rest that may be
the Lease and a watch that ended, which is opened again after five to ten minutes with a look at one object before.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from kubernetes import client as independent

from hack.local.controlplane import ControlPlane
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
REST = 2.0  # seconds in which nobody asks for anything
DURATION, DEADLINE, PERIOD = 15, 10, 2  # of the Lease, in production


def scale() -> int:
    """How many times shorter the Lease's durations are than in production. A busy machine must have time to renew."""
    return examples(2, 1)


def lease() -> Sequence[str]:
    durations = {"lease-duration": DURATION, "renew-deadline": DEADLINE, "retry-period": PERIOD}
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
        for name in REPLICAS:
            (tmp_path / name).mkdir()
            between, kubeconfig = await stack.enter_async_context(gateway(apiserver.kubeconfig, tmp_path / name))
            if name.startswith("controller"):
                run = await stack.enter_async_context(controller.process(kubeconfig, name, *lease()))
            else:
                run = await stack.enter_async_context(provisioner.process(box, kubeconfig, name, *lease()))
            started[name] = (between, run.handle)
        yield started


async def test_at_rest_nothing_is_asked_and_a_dead_server_rarely(
    box: Box, replicas: dict[str, Replica], stage: Stage
) -> None:
    await make_ready(box, stage)
    gateways = [between for between, _ in replicas.values()]
    await eventually(lambda: at_rest(gateways), timeout=provisioner.START)
    begin = time.monotonic()
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=examples(1, 600))
    asked = [each for between in gateways for each in between.since(begin)]
    print("at rest:", Counter(str(each) for each in asked))
    assert [str(each) for each in asked if each.write or not (each.watch or "limit=1&" in f"{each.query}&")] == []

    leaders = await eventually(lambda: leading(replicas, begin))
    dead = time.monotonic()
    for between in gateways:
        between.down = True
        between.cut()
    for name in leaders:
        between, run = replicas[name]
        assert await asyncio.wait_for(run.wait(), DEADLINE / scale() + provisioner.START) == 1
        print(name, "ended after", round(time.monotonic() - dead, 1))
        # A renewal in each period up to the deadline, however slow the machine is. Nothing else was left to write.
        written = [each for each in between.requests if each.write and each.moment > dead]
        assert [str(each) for each in written if not each.about_lease] == []
        assert len(written) <= DEADLINE / PERIOD + 1
    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=examples(1, 600))
    for name in replicas.keys() - leaders:
        between, run = replicas[name]
        assert run.returncode is None
        check(name, [each for each in between.requests if each.moment > dead], time.monotonic() - dead)


def at_rest(gateways: Collection[Gateway]) -> bool:
    """Whether nobody has asked for anything for a while, nor waits for an answer: none of them gives another one work."""
    begin = time.monotonic() - REST
    return all(between.unanswered == 0 and not between.since(begin) for between in gateways)


def leading(replicas: dict[str, Replica], begin: float) -> list[str]:
    """One leader of each controller, by the renewals after `begin`; nobody, as long as one has not renewed."""
    found = [name for name, (between, _) in replicas.items() if between.renewals(begin)]
    assert len(found) <= 2
    return found if len(found) == 2 else []


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
