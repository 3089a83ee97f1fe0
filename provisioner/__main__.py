"""`python -m provisioner`: settings, connections, probes, the lease, the loop. Decides nothing else."""

import asyncio
import logging
import signal
import sys
import uuid
from contextlib import suppress

from kube import health
from kube.api.workload import DEPLOYMENTS
from kube.client import Client
from kube.clock import SystemClock
from kube.errors import KubeError
from kube.lease import LeaderElector
from kube.log import configure
from kube.meta import Key
from provisioner import metrics
from provisioner.azure import agentpools
from provisioner.loop import Loop
from provisioner.settings import Settings, load

log = logging.getLogger("provisioner")

RIVAL = "gpu-provisioner"  # its Deployment is always called so: the chart has the name hard-coded


class RivalFound(Exception):  # not an error in the program
    """Somebody else makes and deletes agent pools for the same claims."""


def main() -> None:
    settings = load()
    configure(settings.log_level)
    logging.getLogger("azure").setLevel(logging.WARNING)  # it logs every request and header at info
    log.info("Starting with %s", settings.public())
    failure = ""
    try:
        asyncio.run(_until_signalled(settings))
    except* (RivalFound, KubeError) as group:
        failure = str(group.exceptions[0])
    if failure:
        log.error("Ending: %s", failure)
        sys.exit(1)


async def _until_signalled(settings: Settings) -> None:
    """SIGTERM ends the work in order: workers first, the lease last."""
    task = asyncio.ensure_future(run(settings))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


async def run(settings: Settings) -> None:
    metrics.start()
    async with await Client.connect(user_agent=settings.user_agent, kubeconfig=settings.kubeconfig) as client:
        await refuse_rival(client)
        # Not the pod's name alone: a container that is restarted in its pod must not pass for its predecessor.
        identity = f"{settings.identity}_{uuid.uuid4()}"
        elector = LeaderElector(
            client,
            Key(settings.lease_namespace, settings.lease_name),
            identity,
            lease_duration=settings.leader_elect_lease_duration,
            renew_deadline=settings.leader_elect_renew_deadline,
            retry_period=settings.leader_elect_retry_period,
        )
        may_write = elector.may_write if settings.leader_elect else lambda: True
        client.guard = may_write
        async with agentpools.connect(settings, clock=SystemClock(), may_write=may_write) as cloud:
            loop = Loop(client, cloud, settings)
            checks = {"stores": loop.synced, "permissions": loop.permitted}
            live = {}
            if settings.leader_elect:
                checks["lease"], live["leader-election"] = elector.reachable, elector.ended
            async with await health.serve(settings.address, settings.port, checks=checks, live=live):
                await loop.run(elector if settings.leader_elect else None)


async def refuse_rival(client: Client) -> None:
    """Raise RivalFound if gpu-provisioner runs on this cluster: two owners would delete each other's machines."""
    found = await client.list(DEPLOYMENTS, field_selector=f"metadata.name={RIVAL}")
    running = [str(deployment.metadata.key) for deployment in found.items if deployment.spec.replicas > 0]
    if running:
        raise RivalFound(
            f"{', '.join(running)} runs on this cluster, and only one provisioner may. "
            f"Scale it to 0 first: kubectl scale deployment {RIVAL} --replicas=0 -n {found.items[0].metadata.namespace}"
        )


if __name__ == "__main__":
    main()
