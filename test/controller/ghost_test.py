"""A Workspace that is not what our cache shows, for as long as the watch of Workspaces has not said so: edited, deleted, or
gone after its finalizer was removed by force or etcd was restored from a backup."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.loop import Loop
from controller.status import Draft, now_of, write
from hack.local.controlplane import ControlPlane
from kube.api.workspace import ConditionType
from kube.client import Client
from kube.errors import Conflict
from kube.meta import Key
from test.controller.stage import INFERENCE, Stage, at_rest, running
from test.expect import eventually
from test.kube.gateway import Gateway, gateway
from test.kube.looptime import FastClock

# Longer than the ten seconds, twenty times as fast, that are between two claims for one node.
LAG = 1.0


@pytest.fixture
async def late(apiserver: ControlPlane, stage: Stage, tmp_path: Path) -> AsyncIterator[tuple[Gateway, Loop]]:
    """A controller that hears late of Workspaces, and the gateway that sees what it asks for."""
    async with gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig):
        between.lag = lambda path: LAG if path.endswith("/workspaces") else 0.0
        async with (
            await Client.connect(user_agent="controller", kubeconfig=kubeconfig) as client,
            running(client, clock=FastClock()) as controller,
        ):
            yield between, controller


async def test_a_workspace_that_only_the_cache_knows_gets_no_claim(stage: Stage, late: tuple[Gateway, Loop]) -> None:
    """Nobody would ever delete the claim, and a machine costs money."""
    _, controller = late
    stage.create(INFERENCE)
    (claim,) = await eventually(stage.claims)
    stage.patch({"metadata": {"finalizers": None}})
    stage.delete()
    stage.delete_claim(claim["metadata"]["name"])
    await eventually(lambda: controller.world.workspaces.get(Key(stage.namespace, stage.name)) is None)
    assert not stage.claims()


async def test_a_workspace_that_is_being_deleted_gets_no_claim(stage: Stage, late: tuple[Gateway, Loop]) -> None:
    """A machine would be started for somebody who has just given up waiting for one."""
    between, controller = late
    stage.create(INFERENCE)
    (claim,) = await eventually(stage.claims)
    await at_rest(controller)
    stage.delete()
    stage.delete_claim(claim["metadata"]["name"])
    await eventually(lambda: not stage.workspace())
    assert not stage.claims()
    created = [each for each in between.requests if each.method == "POST" and each.path.endswith("/nodeclaims")]
    assert len(created) == 1


async def test_an_edit_that_comes_before_the_claim_is_in_it(stage: Stage, late: tuple[Gateway, Loop]) -> None:
    """A claim is never changed: what it asks for is kept for as long as its node lives."""
    stage.create(INFERENCE)
    await eventually(lambda: stage.workspace()["metadata"].get("finalizers"))
    stage.patch({"resource": {"capacityTypes": ["spot"]}})
    (claim,) = await eventually(stage.claims)
    wanted = {each["key"]: each["values"] for each in claim["spec"]["requirements"]}
    assert wanted["karpenter.sh/capacity-type"] == ["spot"]


async def test_a_status_worked_out_from_an_old_workspace_is_not_written(stage: Stage, controller: Loop) -> None:
    """It may lack what is known only there by now, such as the digest of a result whose pod is gone."""
    stage.create(INFERENCE)
    await eventually(stage.claims)
    old = controller.world.workspaces.get(Key(stage.namespace, stage.name))
    assert old is not None
    await stage.nodes_ready()
    await at_rest(controller)
    before = stage.workspace()
    draft = Draft.of(old, now_of(controller.world))
    draft.wait(ConditionType.RESOURCE_READY, "ResourcesNotReady", "as it was seen a while ago")
    with pytest.raises(Conflict):
        await write(controller.world, draft)
    assert stage.workspace() == before
