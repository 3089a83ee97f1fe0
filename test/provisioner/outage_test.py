"""How often a provisioner asks while the API server is away: its watches, its candidacy, what it was about to write."""

import asyncio

from hack.local.controlplane import ControlPlane
from kube.client import Client
from kube.lease import LEASES
from provisioner.azure import agentpools
from provisioner.loop import Loop
from test.clock import VirtualClock
from test.kube.unplugged import LEASE_OF_ANOTHER, LEASE_PATH, PASS, Unplugged, check, standby, unplugged, until
from test.provisioner.conftest import Box, new_name

WATCHED = {"/apis/karpenter.sh/v1/nodeclaims", "/api/v1/nodes"}


async def outage(box: Box, line: Unplugged, clock: VirtualClock, *, alone: bool) -> str:
    """Pull the line while the provisioner stands by, or alone makes its first write for a claim. Return the claim's name."""
    name = new_name()
    async with agentpools.connect(box.settings, clock=clock) as cloud:
        loop = Loop(line, cloud, box.settings, clock=clock)
        task = asyncio.create_task(loop.run(None if alone else standby(line, clock)))
        try:
            await until(clock, loop.synced)
            line.armed = True
            box.claim(name)
            if not alone:
                line.pull()
            await until(clock, lambda: line.pulled)
            await line.ended()
            await clock.advance(PASS)
        finally:
            task.cancel()
            await asyncio.wait({task})
    return name


async def test_a_standby_asks_rarely_and_for_the_lease_once_per_retry_period(
    apiserver: ControlPlane, client: Client, idle: Box
) -> None:
    await client.apply(LEASES, LEASE_OF_ANOTHER, field_manager="test")
    clock = VirtualClock()
    async with unplugged(str(apiserver.kubeconfig), clock) as line:
        await outage(idle, line, clock, alone=False)
        assert line.paths() == WATCHED | {LEASE_PATH}
        check(line, WATCHED, lease=int(PASS / 2) + 1)


async def test_a_leader_with_work_to_do_asks_rarely(apiserver: ControlPlane, idle: Box) -> None:
    clock = VirtualClock()
    async with unplugged(str(apiserver.kubeconfig), clock) as line:
        name = await outage(idle, line, clock, alone=True)
        check(line, WATCHED)
        assert any(name in path for path in line.paths())
