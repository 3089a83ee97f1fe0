"""What is asked of ARM and what an answer proves: our client and the SDK as they are, against a server that answers as told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from aiohttp import web

from kube.api.nodeclass import KaitoNodeClassSpec
from kube.clock import Clock, SystemClock
from provisioner.azure import agentpools
from provisioner.azure.agentpools import CLUSTER_AGE, AgentPools
from provisioner.azure.budget import CLUSTER_BURST, CLUSTER_RATE
from provisioner.cloud import ClusterMissing, Instance, Launch, Offering, State, Throttled, UnknownOutcome
from provisioner.settings import Settings
from test.clock import VirtualClock
from test.provisioner.builders import a_node_claim

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


def _missing(code: str) -> tuple[int, str]:
    return 404, json.dumps({"error": {"code": code, "message": "not found"}})


async def test_a_pool_that_azure_does_not_find_is_absent() -> None:
    arm = Arm({"GET": _missing("NotFound"), "CLUSTER": RUNNING})
    async with served(arm, SystemClock()) as pools:
        assert await pools.get("ws1") is None


NOTHING_SAID = [(200, body) for body in ("null", "{}", "[]", '""', "", '{"properties": null}', "<html>", "[null]")]


@pytest.mark.parametrize("answer", NOTHING_SAID)
async def test_an_answer_that_says_nothing_proves_nothing(answer: tuple[int, str]) -> None:
    arm = Arm({"GET": answer, "CLUSTER": answer, "PUT": answer})
    launch = Launch(a_node_claim(), Offering("S"), KaitoNodeClassSpec(), "here", datetime(2030, 1, 1, tzinfo=UTC))
    async with served(arm, SystemClock()) as pools:
        for request in (pools.get("ws1"), pools.cluster(), pools.create(launch)):
            with pytest.raises(UnknownOutcome):
                await request


@pytest.mark.parametrize("body", ["null", "[]", '{"value": null}', '{"value": [null]}', '{"value": "x"}', "", "<html>"])
async def test_a_list_that_says_nothing_is_no_list(body: str) -> None:
    async with served(Arm({"LIST": (200, body)}), SystemClock()) as pools:
        with pytest.raises(UnknownOutcome):
            await pools.list()


@pytest.mark.parametrize(
    "answer",
    [
        *(_missing(code) for code in ("ResourceNotFound", "ResourceGroupNotFound", "SubscriptionNotFound")),
        (404, "<html>no such page</html>"),
        (404, ""),
        (404, "null"),
    ],
)
async def test_a_404_about_something_else_proves_no_pool_gone(answer: tuple[int, str]) -> None:
    """The cluster was there a moment ago: what is remembered of it does not make the difference."""
    arm = Arm({"GET": answer, "DELETE": answer, "CLUSTER": RUNNING})
    async with served(arm, SystemClock()) as pools:
        await pools.cluster()
        with pytest.raises(ClusterMissing):
            await pools.get("ws1")
        with pytest.raises(ClusterMissing):
            await pools.delete(Instance("ws1", State.SUCCEEDED, Offering("S")))


async def test_a_cluster_that_azure_does_not_find_is_an_answer() -> None:
    async with served(Arm({"CLUSTER": _missing("ResourceNotFound")}), SystemClock()) as pools:
        found = await pools.cluster()
    assert (found.running, found.exists) == (False, False)
    assert "Check subscription, resource group and cluster name" in found.detail


async def test_a_pool_is_not_absent_when_the_cluster_is() -> None:
    arm = Arm({"GET": _missing("NotFound"), "CLUSTER": _missing("ResourceNotFound")})
    async with served(arm, SystemClock()) as pools:
        with pytest.raises(ClusterMissing):
            await pools.get("ws1")
