"""`python -m provisioner`: the node provisioner. Refuses to run beside another one."""

import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from kube import options, process
from kube.api.workload import DEPLOYMENTS
from kube.client import Client
from kube.clock import SystemClock
from provisioner import metrics
from provisioner.azure import agentpools
from provisioner.loop import Loop
from provisioner.settings import Settings

RIVAL = "gpu-provisioner"  # its Deployment is always called so: the chart has the name hard-coded


def main(arguments: Sequence[str] | None = None) -> int:
    settings = options.load(Settings, arguments)
    logging.getLogger("azure").setLevel(logging.WARNING)  # it logs every request and header at info
    metrics.start()

    @asynccontextmanager
    async def connect(client: Client) -> AsyncIterator[Loop]:
        await refuse_rival(client)
        async with agentpools.connect(settings, clock=SystemClock(), may_write=client.guard) as cloud:
            yield Loop(client, cloud, settings)

    return process.run(settings, connect)


async def refuse_rival(client: Client) -> None:
    """Raise Refused if gpu-provisioner runs on this cluster: two owners would delete each other's machines."""
    found = await client.list(DEPLOYMENTS, field_selector=f"metadata.name={RIVAL}")
    running = [deployment for deployment in found.items if deployment.spec.replicas > 0]
    if running:
        raise process.Refused(
            f"{', '.join(str(each.metadata.key) for each in running)} runs on this cluster, and only one provisioner may. "
            f"Scale it to 0 first: kubectl scale deployment {RIVAL} --replicas=0 -n {running[0].metadata.namespace}"
        )


if __name__ == "__main__":
    sys.exit(main())
