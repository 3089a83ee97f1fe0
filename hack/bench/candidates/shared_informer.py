"""`kubernetes`' SharedInformer: its thread, its cache, one handler. It has neither indexes nor a queue."""

import asyncio
from typing import Any

from kubernetes import client
from kubernetes.informer import ADDED, MODIFIED, SharedInformer

from hack.bench.candidates import driver
from hack.bench.objects import SENT
from hack.bench.probe import Probe
from hack.bench.task import Task


class Informer:
    async def run(self, task: Task, probe: Probe) -> None:
        def on_event(pod: Any) -> None:
            probe.handled()
            probe.reconciled(pod.metadata.annotations[SENT])

        api = client.CoreV1Api(client.ApiClient(client.Configuration(host=task.url)))
        informer = SharedInformer(api.list_pod_for_all_namespaces)
        informer.add_event_handler(ADDED, on_event)
        informer.add_event_handler(MODIFIED, on_event)
        informer.start()
        await asyncio.Event().wait()  # its thread is a daemon and ends with the process


if __name__ == "__main__":
    driver.run(Informer())
