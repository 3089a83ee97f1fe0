"""kopf: one asynchronous `on.event` handler, in the settings that cost it least (no scanning, no events of its own)."""

from typing import Any

import kopf

from hack.bench.candidates import driver
from hack.bench.objects import SENT
from hack.bench.probe import Probe
from hack.bench.task import Task


class Kopf:
    async def run(self, task: Task, probe: Probe) -> None:
        registry = kopf.OperatorRegistry()
        settings = kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True

        def login(**_: Any) -> kopf.ConnectionInfo:
            return kopf.ConnectionInfo(server=task.url)

        async def on_event(event: Any, **_: Any) -> None:
            probe.handled()
            probe.reconciled(event["object"]["metadata"]["annotations"][SENT])

        kopf.on.login(registry=registry)(login)
        kopf.on.event("v1", "pods", registry=registry)(on_event)
        await kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True)


if __name__ == "__main__":
    driver.run(Kopf())
