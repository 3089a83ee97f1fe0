"""How often a controller asks while the API server is away: its watches, its candidacy, what it was about to write."""

from hack.local.controlplane import ControlPlane
from kube.client import Client
from kube.lease import LEASES
from test.clock import VirtualClock
from test.controller.stage import INFERENCE, Stage, changed, running
from test.kube.unplugged import LEASE_OF_ANOTHER, PASS, check, standby, unplugged, until

WATCHED = {
    *("/apis/kaito.sh/v1beta1/workspaces", "/apis/karpenter.sh/v1/nodeclaims", "/api/v1/nodes", "/api/v1/pods"),
    *("/apis/apps/v1/statefulsets", "/apis/batch/v1/jobs", "/api/v1/services"),
}


async def test_a_standby_asks_rarely_and_for_the_lease_once_per_retry_period(
    apiserver: ControlPlane, client: Client, stage: Stage
) -> None:
    await client.apply(LEASES, LEASE_OF_ANOTHER, field_manager="test")
    clock = VirtualClock()
    async with (
        unplugged(str(apiserver.kubeconfig), clock) as line,
        running(line, clock=clock, elector=standby(line, clock)) as controller,
    ):
        await until(clock, controller.synced)
        line.pull()
        await line.ended()
        await clock.advance(PASS)
        check(line, WATCHED, lease=int(PASS / 2) + 1)


async def test_a_leader_with_work_to_do_asks_rarely(apiserver: ControlPlane, stage: Stage) -> None:
    """Alone, without a Lease: one Workspace waits for its node, one has a ConfigMap, one is new when the line breaks."""
    clock = VirtualClock()
    async with unplugged(str(apiserver.kubeconfig), clock) as line, running(line, clock=clock) as controller:
        await until(clock, controller.synced)
        stage.configure("engine", **{"inference_config.yaml": "vllm:\n  max-model-len: 1024\n"})
        stage.create(changed(INFERENCE, inference={"config": "engine"}))
        await until(clock, stage.claims)
        line.armed = True
        stage.create(changed(INFERENCE, metadata={"name": "new"}))
        await until(clock, lambda: line.pulled)
        await line.ended()
        await clock.advance(PASS)
        check(line, WATCHED | {f"/api/v1/namespaces/{stage.namespace}/configmaps"})
        assert line.paths() - WATCHED, "nothing was left to write"
