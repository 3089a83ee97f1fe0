"""Deletion: workloads, then nodes, then the Workspace; nothing is left over and nothing blocks for ever."""

from dataclasses import replace

import pytest

from kube.api.nodeclaim import NODE_CLAIMS
from kube.client import Client
from kube.meta import Key
from test.controller.stage import INFERENCE, TUNING, Stage, running
from test.expect import eventually


async def test_a_workspace_stays_until_its_nodes_are_gone(client: Client, stage: Stage) -> None:
    """R17: where KAITO lets go at once and may orphan a machine."""
    async with running(client):
        name = await stage.serving_on_a_node_that_takes_its_time()
        stage.delete()
        await eventually(lambda: not stage.stateful_set() and not stage.service() and not stage.service("-headless"))
        await eventually(lambda: "deletionTimestamp" in stage.claims()[0]["metadata"])
        await stage.reads(WorkspaceReady="F Deleting", WorkspaceDeleting="T")
        assert name in stage.condition("WorkspaceDeleting")["message"]
        stage.remove_claim(name)
        await eventually(lambda: not stage.workspace())
        assert not stage.claims()


async def test_a_workspace_deleted_while_its_node_is_launching_orphans_nothing(client: Client, stage: Stage) -> None:
    async with running(client):
        stage.create(INFERENCE)
        await eventually(stage.claims)
        stage.delete()
        await eventually(lambda: not stage.workspace())
        assert not stage.claims()


async def test_a_tuning_that_is_deleted_takes_its_job_along(client: Client, stage: Stage) -> None:
    async with running(client):
        stage.create(TUNING)
        await stage.training()
        stage.delete()
        await eventually(lambda: not stage.workspace())
        assert not stage.claims()
        assert not stage.job() or "deletionTimestamp" in stage.job()["metadata"]


async def test_a_claim_that_the_cache_does_not_show_is_found_before_letting_go(client: Client, stage: Stage) -> None:
    """The last look is past the cache: a claim that was made a moment ago by another hand is still ours."""
    async with running(client) as controller:
        stage.create(INFERENCE)
        claim = (await eventually(stage.claims))[0]
        key = Key("", claim["metadata"]["name"])
        stage.hold_claim(claim["metadata"]["name"])
        await eventually(lambda: (seen := controller.world.claims.get(key)) and seen.metadata.finalizers)
        controller.world.claims.remove(key)  # no event of the claim is under way that would bring it back
        stage.delete()
        await eventually(lambda: "deletionTimestamp" in stage.claims()[0]["metadata"])
        assert stage.workspace()
        stage.remove_claim(claim["metadata"]["name"])
        await eventually(lambda: not stage.workspace())


async def test_a_cluster_without_nodeclaims_is_told_and_blocks_no_deletion(
    client: Client, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R18: where KAITO's Workspaces stay for ever. The API server answers for a kind that it does not have."""
    absent = replace(NODE_CLAIMS, plural="absentclaims")
    monkeypatch.setattr("controller.loop.NODE_CLAIMS", absent)
    monkeypatch.setattr("controller.nodes.NODE_CLAIMS", absent)
    async with running(client):
        stage.create(INFERENCE)
        await stage.reads(ResourceReady="F NodeClaimCrdMissing", WorkspaceReady="F NodeClaimCrdMissing")
        stage.delete()
        await eventually(lambda: not stage.workspace())
