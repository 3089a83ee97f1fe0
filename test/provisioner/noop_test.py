"""A reconcile of a claim that is as it should be asks the API server for nothing and the cloud for no change."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hack.local.controlplane import ControlPlane
from kube.meta import Key
from provisioner.reconcile import Reconciler
from test.expect import eventually
from test.kube.gateway import Gateway, gateway
from test.provisioner.conftest import Box
from test.reconciles import count_runs, repeat


@pytest.fixture
async def between(idle: Box, apiserver: ControlPlane, tmp_path: Path) -> AsyncIterator[Gateway]:
    """What the provisioners of this test are seen through."""
    async with gateway(apiserver.kubeconfig, tmp_path) as (running, kubeconfig):
        idle.kubeconfig = kubeconfig
        yield running
        await idle.stop()


async def states_that_last(box: Box) -> list[Key]:
    """Claims that are ready, whose node has not joined, and whose pool is still being made, and that all say so."""
    ready, _ = await box.ready()
    without_node = box.claim()
    await eventually(
        lambda: "waiting for its node to join" in box.condition(without_node, "Launched").get("message", "")
    )
    await box.emulator.admin.configure(createSeconds=3600)
    creating = box.claim()
    await box.becomes(creating, "Launched", "Unknown", "Creating")
    return [Key("", name) for name in (ready, without_node, creating)]


async def test_a_thousand_reconciles_of_claims_at_rest_send_no_request(
    idle: Box, between: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch, Reconciler)
    await idle.start()
    keys = await states_that_last(idle)
    begin, ended = await between.quiet(), runs.total()
    changes = [entry for entry in await idle.emulator.admin.log() if entry.method != "GET"]
    await repeat(idle.loops[-1].queue, keys, runs, 340)
    assert runs.total() - ended >= 1000
    assert [str(request) for request in between.since(begin) if not request.watch] == []
    assert [entry for entry in await idle.emulator.admin.log() if entry.method != "GET"] == changes


async def test_a_new_leader_finds_nothing_to_do(idle: Box, between: Gateway) -> None:
    await idle.start()
    await states_that_last(idle)
    await between.quiet()
    await idle.kill()
    begin = time.monotonic()
    await idle.start()
    await between.quiet()
    assert [str(request) for request in between.since(begin) if request.write] == []
