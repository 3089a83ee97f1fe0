"""Probes and metrics as a kubelet and Prometheus see them."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from kube import health, metrics
from kube.api.workload import CONFIG_MAPS
from kube.lease import LeadershipLost
from kube.metrics import ReconcileMetrics, ReflectorMetrics
from kube.queue import WorkQueue
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.lease_test import LeaseServer, Link, elector, running
from test.kube.mirror import connected
from test.kube.server import WatchServer
from test.kube.wire import Answer


class Probe:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(self._url + path) as response:
            return response.status, await response.text()

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        _, text = await self.get("/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def state() -> dict[str, bool]:
    return {"synced": False, "alive": True}


@pytest.fixture
async def probe(state: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Probe]:
    monkeypatch.setattr(metrics, "REST", metrics.RestMetrics())  # a port comes again; other tests counted under it
    gc.unfreeze()  # caches of other tests are gone, so that their series go too
    gc.collect()
    registry = CollectorRegistry()
    Counter("own", "A counter of the controller's own.", registry=registry).inc(3)
    checks = {"synced": lambda: state["synced"]}
    live = {"alive": lambda: state["alive"]}
    async with (
        await health.serve("127.0.0.1", 0, checks=checks, live=live, registry=registry) as server,
        aiohttp.ClientSession() as session,
    ):
        yield Probe(session, server.port)


async def test_ready_once_every_check_passes(probe: Probe, state: dict[str, bool]) -> None:
    status, text = await probe.get("/readyz")
    assert status == 500
    assert "[-]synced failed" in text
    state["synced"] = True
    assert await probe.get("/readyz") == (200, "ok")
    assert "[+]synced ok" in (await probe.get("/readyz?verbose"))[1]
    assert await probe.get("/readyz/synced") == (200, "ok")
    assert (await probe.get("/readyz/nothing"))[0] == 404


async def test_liveness_does_not_depend_on_readiness(probe: Probe, state: dict[str, bool]) -> None:
    assert await probe.get("/healthz") == (200, "ok")
    state["alive"] = False
    assert (await probe.get("/healthz"))[0] == 500


async def test_check_that_fails_to_answer_has_failed(probe: Probe, state: dict[str, bool]) -> None:
    del state["alive"]
    assert (await probe.get("/healthz"))[0] == 500


async def test_queue_is_seen_under_the_usual_names(probe: Probe) -> None:
    clock = VirtualClock()
    queue: WorkQueue[str] = WorkQueue("workspace", clock=clock)
    labels = (("controller", "workspace"), ("name", "workspace"))
    assert (await probe.samples())["workqueue_adds_total", labels] == 0, "series exist from the start"
    for name in "abc":
        queue.add(name)
    clock.jump(2)
    key = await queue.get()
    assert key is not None
    clock.jump(3)
    samples = await probe.samples()
    assert samples["workqueue_depth", labels] == 2
    assert samples["workqueue_adds_total", labels] == 3
    assert samples["workqueue_unfinished_work_seconds", labels] == 3
    assert samples["workqueue_longest_running_processor_seconds", labels] == 3
    assert samples["workqueue_queue_duration_seconds_sum", labels] == 2
    assert samples["workqueue_queue_duration_seconds_bucket", (*labels[:1], ("le", "10.0"), *labels[1:])] == 1
    queue.done(key)
    queue.retry(key)
    samples = await probe.samples()
    assert samples["workqueue_work_duration_seconds_count", labels] == 1
    assert samples["workqueue_retries_total", labels] == 1
    queue.shut_down()


async def test_reconciles_are_counted_by_result(probe: Probe) -> None:
    reconciles = ReconcileMetrics("workspace", workers=5)
    reconciles.observe("error", 0.2)
    samples = await probe.samples()
    name = ("controller", "workspace")
    assert samples["controller_runtime_reconcile_total", (name, ("result", "error"))] == 1
    assert samples["controller_runtime_reconcile_total", (name, ("result", "requeue_after"))] == 0
    assert samples["controller_runtime_reconcile_errors_total", (name,)] == 1
    assert samples["controller_runtime_max_concurrent_reconciles", (name,)] == 5
    assert samples["controller_runtime_reconcile_time_seconds_bucket", (name, ("le", "0.2"))] == 1
    assert samples["controller_runtime_reconcile_time_seconds_bucket", (name, ("le", "0.15"))] == 0


async def test_two_reflectors_of_one_kind_are_one_series(probe: Probe) -> None:
    both = [ReflectorMetrics("configmaps"), ReflectorMetrics("configmaps")]
    for one in both:
        one.watches += 2
    assert (await probe.samples())["reflector_watches_total", (("name", "configmaps"),)] == 4


async def test_requests_are_counted_by_code_and_host(probe: Probe) -> None:
    metrics.REST.observe("GET", "https://server.example:443", "<error>", 0.3)
    samples = await probe.samples()
    labels = (("code", "<error>"), ("host", "server.example:443"), ("method", "GET"))
    assert samples["rest_client_requests_total", labels] == 1


async def test_requests_that_were_sent_again_and_their_sizes_are_counted(probe: Probe) -> None:
    clock = VirtualClock()
    async with WatchServer(clock) as server, connected(server, clock) as client:
        server.faults.extend([Answer(429, headers=("Retry-After: 1",)), Answer(503, headers=("Retry-After: 2",))])
        server.history.put("a", text="x" * 3000)
        listing = asyncio.ensure_future(client.list(CONFIG_MAPS, namespace="x"))
        for seconds in (1, 2):
            await eventually(lambda: clock.sleeping)
            await clock.advance(seconds)
        await listing
        host = ("host", f"127.0.0.1:{server.port}")
    samples = await probe.samples()
    for code, verb in (("429", "GET"), ("503", "GET")):
        assert samples["rest_client_request_retries_total", (("code", code), host, ("verb", verb))] == 1
    labels = (host, ("verb", "GET"))
    assert samples["rest_client_request_size_bytes_sum", labels] == 0
    assert samples["rest_client_response_size_bytes_count", labels] == 3
    assert 3000 < samples["rest_client_response_size_bytes_sum", labels] < 4000
    assert samples["rest_client_response_size_bytes_bucket", (host, ("le", "1024.0"), ("verb", "GET"))] == 2
    assert samples["rest_client_response_size_bytes_bucket", (host, ("le", "4096.0"), ("verb", "GET"))] == 3
    assert samples["rest_client_requests_total", (("code", "200"), host, ("method", "GET"))] == 1


async def test_series_of_a_kind_exist_before_anything_was_counted(probe: Probe) -> None:
    kept = ReflectorMetrics("widgets")
    samples = await probe.samples()
    for name in ("lists", "watches", "short_watches", "failures", "stale_events"):
        assert samples[f"reflector_{name}_total", (("name", "widgets"),)] == 0
    assert samples["informer_epoch_changes_total", (("name", "widgets"),)] == 0
    assert kept.lists == 0


async def test_candidate_that_hears_nothing_of_its_lease_is_not_ready() -> None:
    clock = VirtualClock()
    server = LeaseServer()
    link = Link(server, clock)
    leader, candidate = elector(Link(server, clock), "leader", clock), elector(link, "candidate", clock)
    assert not candidate.reachable(), "has not asked yet"
    async with running(leader), running(candidate):
        await clock.advance(60)
        assert leader.reachable()
        assert candidate.reachable()
        link.fault = "hangs"
        await clock.advance(16 + 5)
        assert leader.reachable()
        assert not candidate.reachable()
        link.fault = ""
        await clock.advance(15)
        assert candidate.reachable()


async def test_work_that_outlives_its_lease_is_not_alive() -> None:
    clock = VirtualClock()
    link = Link(LeaseServer(), clock)
    leader, released = elector(link, "leader", clock), asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    assert leader.ended(), "nothing has begun"
    async with running(leader, stubborn) as leading:
        await clock.advance(60)
        assert leader.ended()
        link.fault = "refused"
        await clock.advance(30)
        assert not leader.may_write()
        assert leader.ended(), "it has its time"
        await clock.advance(6)
        alive = leader.ended()
        released.set()
        await clock.settle()
        assert (alive, leader.ended()) == (False, True)
        assert isinstance(leading.exception(), LeadershipLost)


async def test_controllers_own_series_stand_beside(probe: Probe) -> None:
    assert (await probe.samples())["own_total", ()] == 3
