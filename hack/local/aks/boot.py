"""Boot mode: real machines follow the agent pools.

One loop looks at what the cloud says should run and starts or stops machines until both agree; it keeps no state of its own but which
machines are being worked on, so an emulator that was killed carries on where it was. What a machine is made of is the driver's business.
As on AKS, a node appears while its pool is still Creating, and the pool is Succeeded once every node is Ready.

A stopped cluster does not stop its machines here: on AKS the API server would be off too, and nobody could see it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from hack.local import nodes as box
from hack.local.aks import nodes
from hack.local.aks.model import Machine, Pool
from hack.local.aks.nodes import NodeFacts
from hack.local.aks.server import Service
from hack.local.nodeconfig import NodeSpec

AT_ONCE = 4  # machines that are started or stopped at the same time; more of them only wait for the CPUs

_log = logging.getLogger(__name__)


class Driver(Protocol):
    """Starts and stops machines. The methods block and are called from threads, for one name by one thread at a time."""

    def start(self, facts: NodeFacts, gpu_delay: float) -> None:
        """Boot the machine; return when its Node is Ready. Raises any exception when it does not get there, and leaves nothing then."""

    def stop(self, name: str) -> None:
        """End the machine, its containers and its Node object. Does nothing where there is none."""

    def names(self) -> set[str]:
        """Machines that were started, even if only in part, and not stopped."""


class BoxDriver:
    """Nodes of AKS in a box."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, facts: NodeFacts, gpu_delay: float) -> None:
        spec = NodeSpec(
            name=facts.name,
            provider_id=facts.provider_id,
            labels=facts.labels,
            taints=facts.taints,
            gpus=facts.gpus,
            gpu_resource=facts.gpu_resource,
            gpu_delay=gpu_delay,
        )
        box.start(self._folder, spec)

    def stop(self, name: str) -> None:
        box.stop(self._folder, name)

    def names(self) -> set[str]:
        return set(box.names(self._folder))


class Boot:
    """The loop. `nudge` makes it look again at once; the service calls it after every change."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._nudged = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="machine")

    def nudge(self) -> None:
        """Look again now."""
        self._nudged.set()

    async def run(self, service: Service) -> None:
        """Follow the service until cancelled. What is being started or stopped then is taken up by the next run."""
        there = self._driver.names()
        for pool, machine, facts in _machines(service):
            if machine.phase == "Ready" and facts.name not in there:
                # Its processes ended with the computer that they ran on, as a machine's do when it is deallocated.
                self._work(facts.name, self._start(service, pool, machine, facts))
        while True:
            self._nudged.clear()
            self._look(service)
            await self._nudge_or(self._next(service))

    def _look(self, service: Service) -> None:
        service.cloud.advance(service.time())
        service.journal.save(service.cloud.world)
        for pool, machine, facts in _machines(service):
            if facts.name in self._busy:
                continue
            if machine.phase == "Leaving":
                self._work(facts.name, self._stop(service, pool, machine, facts.name))
            elif machine.phase == "Booting" and pool.joins:
                self._work(facts.name, self._start(service, pool, machine, facts))

    def _next(self, service: Service) -> float | None:
        """Return the seconds until the clock alone changes something; None where it never does."""
        world = service.cloud.world
        due = [pool.due_at for pool in world.pools.values() if pool.operation and pool.due_at is not None]
        due += [world.cluster.due_at] if world.cluster.due_at else []
        return max(0.0, min(due) - service.time()) if due else None

    async def _nudge_or(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        except TimeoutError:
            return

    def _work(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._busy[name] = asyncio.create_task(self._worked(name, work), name=name)

    async def _worked(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            del self._busy[name]
            self.nudge()

    async def _start(self, service: Service, pool: Pool, machine: Machine, facts: NodeFacts) -> None:
        try:
            if facts.name in self._driver.names():  # the emulator was killed while it started this one
                await self._in_thread(self._driver.stop, facts.name)
            await self._in_thread(self._driver.start, facts, pool.gpu_delay_seconds)
        except Exception as error:  # noqa: BLE001 (whatever kept it from booting is what the pool fails with)
            _log.warning("machine %s did not boot: %s", facts.name, error)
            service.cloud.machine_failed(pool.name, machine.instance, str(error), service.time())
        else:
            _log.info("machine %s is Ready", facts.name)
            service.cloud.machine_is_ready(pool.name, machine.instance, service.time())
        service.changed()

    async def _stop(self, service: Service, pool: Pool, machine: Machine, name: str) -> None:
        await self._in_thread(self._driver.stop, name)
        _log.info("machine %s is gone", name)
        service.cloud.machine_is_gone(pool.name, machine.instance, service.time())
        service.changed()

    async def _in_thread(self, work: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _machines(service: Service) -> list[tuple[Pool, Machine, NodeFacts]]:
    cloud = service.cloud
    return [
        (pool, machine, nodes.of(cloud.identity, pool, machine.instance))
        for pool in cloud.world.pools.values()
        for machine in pool.machines
    ]
