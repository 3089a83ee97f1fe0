"""A reconcile that finds everything as it should be asks the API server for nothing, in every state that lasts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.reconcile import Reconciler
from hack.local.controlplane import ControlPlane
from kube.client import Client
from test.controller.stage import INFERENCE, TUNING, Stage, changed, running
from test.expect import eventually
from test.kube.gateway import Gateway, gateway
from test.reconciles import count_runs, repeat


@pytest.fixture
async def watched(apiserver: ControlPlane, tmp_path: Path) -> AsyncIterator[tuple[Gateway, Client]]:
    """A client, and the gateway that sees all it asks for."""
    async with (
        gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig),
        await Client.connect(user_agent="controller", kubeconfig=kubeconfig) as client,
    ):
        yield between, client


async def states_that_last(stage: Stage) -> None:
    """Workspaces that serve, have tuned and serve, are tuning, wait for a node, and cannot be planned."""
    stage.create(changed(INFERENCE, metadata={"name": "serves"}))
    await stage.nodes_ready()
    await stage.serving()
    stage.create(changed(TUNING, metadata={"name": "tuned"}))
    await stage.tuned()
    await stage.serving()
    stage.create(changed(TUNING, metadata={"name": "tuning"}))
    await stage.training()
    stage.create(changed(INFERENCE, metadata={"name": "waits"}))
    await eventually(stage.claims)
    stage.create(changed(INFERENCE, metadata={"name": "refused"}, resource={"instanceType": "Standard_D2s_v3"}))
    await eventually(lambda: stage.condition("ResourceReady").get("status") == "False")


async def test_a_thousand_reconciles_of_workspaces_at_rest_send_no_request(
    watched: tuple[Gateway, Client], stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, client = watched
    runs = count_runs(monkeypatch, Reconciler)
    async with running(client) as controller:
        await eventually(controller.synced)
        await states_that_last(stage)
        keys = [
            each.metadata.key
            for each in controller.world.workspaces.all()
            if each.metadata.namespace == stage.namespace
        ]
        assert len(keys) == 5
        begin, ended = await between.quiet(), runs.total()
        await repeat(controller.queue, keys, runs, 200)
        assert runs.total() - ended >= 1000
    assert [str(request) for request in between.since(begin) if not request.watch] == []


async def test_a_new_leader_finds_nothing_to_do(watched: tuple[Gateway, Client], stage: Stage) -> None:
    """What is remembered by a process alone must not be needed to see that all is well."""
    between, client = watched
    async with running(client):
        await states_that_last(stage)
        begin = await between.quiet()
    async with running(client) as successor:
        await eventually(successor.synced)
        await between.quiet()
    assert [str(request) for request in between.since(begin) if request.write] == []
