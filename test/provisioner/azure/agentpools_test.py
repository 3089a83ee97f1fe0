"""What is asked of ARM and what an answer proves: our client and the SDK as they are, against a server that answers as told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from kube.clock import Clock, SystemClock
from provisioner.azure import agentpools
from provisioner.azure.agentpools import CLUSTER_AGE, AgentPools
from provisioner.azure.budget import CLUSTER_BURST, CLUSTER_RATE
from provisioner.cloud import Throttled, UnknownOutcome
from provisioner.settings import Settings
from test.clock import VirtualClock

RUNNING = (200, '{"location": "eastus", "properties": {"powerState": {"code": "Running"}}}')


@dataclass
class Arm:
    """What is answered to each kind of request, as status and body, and what was asked."""

    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        self.asked.append(kind)
        status, body = self.answers[kind]
        return web.Response(status=status, text=body, content_type="application/json", headers=self.headers)


def _kind(request: web.Request) -> str:
    _, _, rest = request.path.partition("/managedClusters/")
    names = rest.split("/")
    if len(names) == 1:
        return "CLUSTER"
    return "LIST" if len(names) == 2 else request.method


@asynccontextmanager
async def served(arm: Arm, clock: Clock) -> AsyncIterator[AgentPools]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", arm.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        settings = Settings(
            subscription_id="s",
            resource_group="g",
            cluster_name="c",
            location="eastus",
            credential="none",
            arm_endpoint=f"http://127.0.0.1:{runner.addresses[0][1]}",
        )
        async with agentpools.connect(settings, clock=clock) as pools:
            yield pools
    finally:
        await runner.cleanup()


async def test_callers_at_the_same_time_share_one_look_at_the_cluster() -> None:
    arm = Arm({"CLUSTER": RUNNING})
    async with served(arm, SystemClock()) as pools:
        found = await asyncio.gather(*(pools.cluster() for _ in range(32)))
    assert {cluster.running for cluster in found} == {True}
    assert arm.asked == ["CLUSTER"]


async def test_a_caller_who_gives_up_takes_the_answer_from_nobody() -> None:
    arm = Arm({"CLUSTER": RUNNING})
    async with served(arm, SystemClock()) as pools:
        first, second = asyncio.create_task(pools.cluster()), asyncio.create_task(pools.cluster())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).running
    assert arm.asked == ["CLUSTER"]


async def test_a_look_that_failed_is_not_remembered() -> None:
    arm = Arm({"CLUSTER": (500, "{}")})
    async with served(arm, SystemClock()) as pools:
        with pytest.raises(UnknownOutcome):
            await pools.cluster()
        arm.answers["CLUSTER"] = RUNNING
        assert (await pools.cluster()).running


async def test_an_answer_that_had_to_wait_for_its_turn_is_new() -> None:
    arm, clock = Arm({"CLUSTER": RUNNING}), VirtualClock()
    async with served(arm, clock) as pools:
        for _ in range(int(CLUSTER_BURST + 30 * CLUSTER_RATE) - 1):
            pools._budget._cluster.reserve()
        waiting = asyncio.create_task(pools.cluster())
        await clock.advance(29)
        assert arm.asked == []
        await clock.advance(1)
        await waiting
        await pools.cluster()
        assert arm.asked == ["CLUSTER"]
        await clock.advance(CLUSTER_AGE)
        await pools.cluster()
        assert arm.asked == ["CLUSTER"] * 2


async def test_a_long_pause_is_told_at_once() -> None:
    arm, clock = Arm({"LIST": (429, "{}"), "CLUSTER": RUNNING}, headers={"Retry-After": "60"}), VirtualClock()
    async with served(arm, clock) as pools:
        with pytest.raises(Throttled):
            await pools.list()
        clock.jump(20)
        with pytest.raises(Throttled) as told:
            await pools.cluster()
        assert told.value.retry_after == pytest.approx(40)
    assert arm.asked == ["LIST"]
