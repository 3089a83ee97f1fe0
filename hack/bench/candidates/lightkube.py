"""lightkube: its asynchronous list in pages and its watch, with the dict around them that a user would write."""

from lightkube import AsyncClient, KubeConfig
from lightkube.config.models import Cluster, User
from lightkube.resources.core_v1 import Pod

from hack.bench.candidates import driver
from hack.bench.objects import SENT
from hack.bench.probe import Probe
from hack.bench.task import Task

PAGE = 500


class Lightkube:
    async def run(self, task: Task, probe: Probe) -> None:
        config = KubeConfig.from_one(cluster=Cluster(server=task.url), user=User()).get()
        client = AsyncClient(config=config, trust_env=False)
        cache = {}
        listing = client.list(Pod, namespace="*", chunk_size=PAGE)
        async for pod in listing:
            cache[pod.metadata.namespace, pod.metadata.name] = pod
            probe.handled()
        async for _, pod in client.watch(Pod, namespace="*", resource_version=listing.resourceVersion):
            cache[pod.metadata.namespace, pod.metadata.name] = pod
            probe.handled()
            probe.reconciled(pod.metadata.annotations[SENT])


if __name__ == "__main__":
    driver.run(Lightkube())
