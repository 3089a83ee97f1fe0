"""A Workspace that is gone, and that our cache still knows: after its finalizer was removed by force, or after etcd was
restored from a backup, for as long as the watch of Workspaces has not said so."""

from pathlib import Path

from hack.local.controlplane import ControlPlane
from kube.client import Client
from kube.meta import Key
from test.controller.stage import INFERENCE, Stage, running
from test.expect import eventually
from test.kube.gateway import gateway
from test.kube.looptime import FastClock

# Longer than the ten seconds, twenty times as fast, that are between two claims for one node.
LAG = 1.0


async def test_a_workspace_that_only_the_cache_knows_gets_no_claim(
    apiserver: ControlPlane, stage: Stage, tmp_path: Path
) -> None:
    """Nobody would ever delete the claim, and a machine costs money."""
    async with gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig):
        between.lag = lambda path: LAG if path.endswith("/workspaces") else 0.0
        async with (
            await Client.connect(user_agent="controller", kubeconfig=kubeconfig) as client,
            running(client, clock=FastClock()) as controller,
        ):
            stage.create(INFERENCE)
            (claim,) = await eventually(stage.claims)
            stage.patch({"metadata": {"finalizers": None}})
            stage.delete()
            stage.delete_claim(claim["metadata"]["name"])
            await eventually(lambda: controller.world.workspaces.get(Key(stage.namespace, stage.name)) is None)
        assert not stage.claims()
