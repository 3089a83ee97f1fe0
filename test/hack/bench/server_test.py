"""The bench's server: what candidates depend on to be measured with the same objects and events."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from hack.bench.objects import FIRST_VERSION, KINDS, SENT, templates
from hack.bench.server import Scenario
from test.expect import eventually

PODS = KINDS["Pod"].path
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@asynccontextmanager
async def serving(scenario: Scenario) -> AsyncIterator[aiohttp.ClientSession]:
    port = await scenario.listen()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", read_bufsize=2**20) as session:
        yield session
    scenario.fail("dead")


async def get(session: aiohttp.ClientSession, path: str, **query: str) -> dict[str, Any]:
    async with session.get(path, params=query) as response:
        content: dict[str, Any] = await response.json()
        return content


def test_objects_have_the_size_of_real_ones_and_differ() -> None:
    pods = [template.at(FIRST_VERSION) for template in templates("Pod", 200)]
    assert all(4_800 <= len(pod) <= 5_000 for pod in pods)
    assert len({json.loads(pod)["metadata"]["uid"] for pod in pods}) == 200


def test_an_object_carries_its_version_and_the_moment_of_sending() -> None:
    metadata = json.loads(templates("Workspace", 1)[0].at(42, 7))["metadata"]
    assert (metadata["resourceVersion"], metadata["annotations"][SENT]) == ("42", "7")


async def test_pages_together_are_the_whole_list() -> None:
    async with serving(Scenario("Pod", 5)) as session:
        whole = await get(session, PODS)
        first = await get(session, PODS, limit="3")
        second = await get(session, PODS, limit="3", **{"continue": first["metadata"]["continue"]})
    assert first["items"] + second["items"] == whole["items"]
    assert not second["metadata"]["continue"]


async def test_a_watch_list_ends_with_a_bookmark_and_goes_on_with_events_in_order() -> None:
    scenario = Scenario("Pod", 3)
    async with (
        serving(scenario) as session,
        session.get(PODS, params={"watch": "1", "sendInitialEvents": "true"}) as watch,
    ):
        initial = [json.loads(await watch.content.readline()) for _ in range(4)]
        await scenario.push(5, 0)
        events = [json.loads(await watch.content.readline()) for _ in range(5)]
    assert [each["type"] for each in initial] == ["ADDED"] * 3 + ["BOOKMARK"]
    versions = [int(each["object"]["metadata"]["resourceVersion"]) for each in [*initial[:3], *events]]
    assert versions == sorted(set(versions))
    assert [each["object"]["metadata"]["name"][-1] for each in events] == ["0", "1", "2", "0", "1"]


async def test_a_server_from_before_watch_list_refuses_it() -> None:
    query = {"watch": "1", "sendInitialEvents": "true"}
    async with serving(Scenario("Pod", 1, watch_list=False)) as session, session.get(PODS, params=query) as watch:
        assert watch.status == 422


async def test_a_failing_server_refuses_and_counts() -> None:
    scenario = Scenario("Pod", 1)
    async with serving(scenario) as session:
        scenario.fail("forbidden")
        for _ in range(3):
            assert (await get(session, PODS))["code"] == 403
        assert scenario.requests == 3


async def test_a_dead_server_refuses_connections() -> None:
    scenario = Scenario("Pod", 1)
    async with serving(scenario) as session:
        scenario.fail("dead")
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(session, PODS)


async def test_who_gives_a_silent_watch_up_is_noticed() -> None:
    scenario = Scenario("Pod", 1)
    async with serving(scenario) as session:
        async with session.get(PODS, params={"watch": "1"}):
            scenario.fail("silent")
            assert scenario.left_after is None
        assert await eventually(lambda: scenario.left_after is not None)


async def test_two_writers_of_a_lease_meet_a_conflict() -> None:
    async with serving(Scenario("Pod", 0)) as session:
        body = {"metadata": {"name": "one"}, "spec": {"holderIdentity": "a"}}
        async with session.post(LEASES, json=body) as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        patch = {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "b"}}
        codes = []
        for _ in range(2):
            async with session.patch(f"{LEASES}/one", json=patch) as answer:
                codes.append(answer.status)
    assert codes == [200, 409]
