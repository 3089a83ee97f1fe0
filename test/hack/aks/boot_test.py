"""Boot mode's loop, with machines that boot when the test says so. Real machines are booted in e2e."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hack.local.aks.boot import Boot
from hack.local.aks.cloud import Preconditions
from hack.local.aks.model import Fault, Identity, Settings
from hack.local.aks.nodes import NodeFacts
from hack.local.aks.server import Service
from test.hack.aks.conftest import pool_body


class Machines:
    """A data centre: machines boot once `power` is on, and are there until they are stopped."""

    def __init__(self) -> None:
        self.there: dict[str, NodeFacts] = {}
        self.gpu_delays: dict[str, float] = {}
        self.starts: list[str] = []
        self.power = threading.Event()
        self.power.set()
        self.broken = False
        self.moved: Callable[[], object] = lambda: None

    def start(self, facts: NodeFacts, gpu_delay: float) -> None:
        assert facts.name not in self.there, "one machine is started twice"
        self.starts.append(facts.name)
        self.there[facts.name] = facts
        self.gpu_delays[facts.name] = gpu_delay
        self.moved()
        self.power.wait(30)
        if self.broken:
            del self.there[facts.name]
            raise RuntimeError("no disk")

    def stop(self, name: str) -> None:
        self.there.pop(name, None)
        self.moved()

    def names(self) -> set[str]:
        return set(self.there)


@pytest.fixture
def machines() -> Machines:
    return Machines()


class Booting:
    """A service with its loop. `eventually` waits for what threads and the loop bring about."""

    def __init__(self, machines: Machines, folder: Path | None) -> None:
        self._moved = asyncio.Event()
        loop = asyncio.get_running_loop()
        machines.moved = lambda: loop.call_soon_threadsafe(self._moved.set)
        self._boot = Boot(machines)
        settings = Settings(create_seconds=0, delete_seconds=0, boots=True)
        self.service = Service(Identity(), settings, folder=folder, on_change=self._changed)

    def _changed(self) -> None:
        self._boot.nudge()
        self._moved.set()

    async def run(self) -> None:
        await self._boot.run(self.service)

    async def eventually(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self._moved.clear()
                await self._moved.wait()


@asynccontextmanager
async def booting(machines: Machines, folder: Path | None = None) -> AsyncIterator[Booting]:
    world = Booting(machines, folder)
    task = asyncio.create_task(world.run())
    try:
        yield world
    finally:
        task.cancel()


def put(service: Service, name: str, count: int = 1) -> None:
    service.cloud.put(name, pool_body(count=count), Preconditions(), service.time())
    service.changed()


def delete(service: Service, name: str) -> None:
    service.cloud.delete(name, Preconditions(), service.time(), ignore_budgets=True)
    service.changed()


def state(service: Service, name: str) -> str:
    pool = service.cloud.world.pools.get(name)
    return pool.state if pool else "absent"


async def test_the_node_is_there_before_the_pool_has_succeeded(machines: Machines) -> None:
    machines.power.clear()
    async with booting(machines) as world:
        service = world.service
        put(service, "ws1")
        await world.eventually(lambda: bool(machines.there))
        assert state(service, "ws1") == "Creating"
        machines.power.set()
        await world.eventually(lambda: state(service, "ws1") == "Succeeded")
        [facts] = machines.there.values()
        assert (facts.gpus, facts.gpu_resource) == (1, "nvidia.com/gpu")


async def test_a_deleted_pool_is_there_until_its_machines_are_gone(machines: Machines) -> None:
    async with booting(machines) as world:
        service = world.service
        put(service, "ws1", count=2)
        await world.eventually(lambda: state(service, "ws1") == "Succeeded")
        assert len(machines.there) == 2
        delete(service, "ws1")
        assert state(service, "ws1") == "Deleting"
        await world.eventually(lambda: state(service, "ws1") == "absent")
        assert machines.there == {}


async def test_a_pool_deleted_while_it_boots_leaves_nothing(machines: Machines) -> None:
    machines.power.clear()
    async with booting(machines) as world:
        service = world.service
        put(service, "ws1")
        await world.eventually(lambda: bool(machines.there))
        delete(service, "ws1")
        machines.power.set()
        await world.eventually(lambda: state(service, "ws1") == "absent")
        assert machines.there == {}


async def test_a_machine_that_does_not_boot_fails_its_pool_with_the_reason(machines: Machines) -> None:
    machines.broken = True
    async with booting(machines) as world:
        service = world.service
        put(service, "ws1")
        await world.eventually(lambda: state(service, "ws1") == "Failed")
        error = service.cloud.world.pools["ws1"].error
        assert error is not None
        assert (error.code, error.message) == ("VMExtensionProvisioningError", "no disk")


async def test_an_evicted_machine_vanishes_and_another_one_comes_if_asked(machines: Machines) -> None:
    async with booting(machines) as world:
        service = world.service
        put(service, "ws1")
        await world.eventually(lambda: state(service, "ws1") == "Succeeded")
        service.cloud.evict("ws1", service.time(), again=True)
        service.changed()
        await world.eventually(lambda: {name[-6:] for name in machines.names()} == {"000001"})
        service.cloud.evict("ws1", service.time(), again=False)
        service.changed()
        await world.eventually(lambda: not machines.there)
        assert state(service, "ws1") == "Succeeded"


async def test_a_node_that_shall_not_join_is_never_booted(machines: Machines) -> None:
    async with booting(machines) as world:
        service = world.service
        service.cloud.inject(Fault("no-join"))
        service.cloud.inject(Fault("gpu-delay", pool="ws2", seconds=7))
        put(service, "ws1")
        put(service, "ws2")
        await world.eventually(lambda: state(service, "ws1") == state(service, "ws2") == "Succeeded")
        assert [name.split("-")[1] for name in machines.there] == ["ws2"]
        assert list(machines.gpu_delays.values()) == [7]
        delete(service, "ws1")
        await world.eventually(lambda: state(service, "ws1") == "absent")


async def test_a_killed_emulator_carries_on_where_it_was(machines: Machines, tmp_path: Path) -> None:
    async with booting(machines, tmp_path) as world:
        service = world.service
        put(service, "ready")
        await world.eventually(lambda: state(service, "ready") == "Succeeded")
        machines.power.clear()
        put(service, "halfway")
        await world.eventually(lambda: len(machines.there) == 2)
    first = list(machines.starts)
    machines.power.set()
    async with booting(machines, tmp_path) as world:
        service = world.service
        await world.eventually(lambda: state(service, "halfway") == "Succeeded")
        assert set(machines.there) == set(first)
        assert machines.starts.count(first[0]) == 1
        delete(service, "ready")
        delete(service, "halfway")
        await world.eventually(lambda: not service.cloud.world.pools)
        assert machines.there == {}


async def test_machines_that_ended_with_their_computer_boot_again(machines: Machines, tmp_path: Path) -> None:
    async with booting(machines, tmp_path) as world:
        service = world.service
        put(service, "ws1")
        await world.eventually(lambda: state(service, "ws1") == "Succeeded")
    before = set(machines.there)
    machines.there.clear()
    async with booting(machines, tmp_path) as world:
        await world.eventually(lambda: set(machines.there) == before)


async def test_a_reset_deletes_what_runs(machines: Machines) -> None:
    async with booting(machines) as world:
        service = world.service
        put(service, "ws1")
        await world.eventually(lambda: state(service, "ws1") == "Succeeded")
        service.cloud.reset(service.time(), Settings())
        service.changed()
        await world.eventually(lambda: not service.cloud.world.pools)
        assert machines.there == {}
