"""Never two writers: three electors through a long seeded history of everything that can go wrong around a Lease.

A writer is a process whose guard says yes at the moment it sends a write. Clocks differ in value by days and in rate by
DRIFT; processes are paused, killed and restarted, with and without time to give the lease back; requests are refused, hang,
are carried out late or without an answer; the Lease is edited, taken by a stranger, and deleted.

What the margin between renew deadline and lease covers (5 of 15 s) is the difference in rate, and the flight of the last
writes: here they may be under way for FLIGHT seconds, and none arrives after one of a successor. What nothing can cover is
a process that is paused for longer than the margin between asking the guard and sending: there, deterministic names and
preconditions are what keeps a late write harmless. A process that gives its lease back has hung up before, so that the
server carries out no write of its any more: with a server that does not notice, a write may be late likewise. And who first looks when the Lease has been deleted cannot know of a
leader: no process starts while there is none.
"""

import asyncio
import random
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from kube import errors
from kube.client import Client
from kube.lease import LEASES, LeaderElector, LeadershipLost
from test.clock import VirtualClock
from test.kube.lease_test import KEY, LeaseServer
from test.profile import examples

# Candidates look more often than in production, so that they come at the earliest moment that is allowed to them.
LEASE, DEADLINE, PERIOD = 15.0, 10.0, 0.5
DRIFT = 0.01
FLIGHT = LEASE / (1 + DRIFT) - DEADLINE / (1 - DRIFT)
# What a request meets, and how often, on a line in one of these moods.
MOODS = {
    "good": {"answered": 1},
    "poor": {"answered": 6, "refused": 1, "failed": 1, "late": 2, "slow": 2, "unanswered": 1, "hangs": 1},
    "slow": {"answered": 1, "slow": 3},
    "cut": {"refused": 2, "hangs": 3, "unanswered": 1},
}


Answer = tuple[bytes, int]  # the Lease, and which one it is


class Machine:
    """A process's clock, and whether it runs at all: everything in a paused process goes on only after the pause."""

    def __init__(self, truth: VirtualClock, chance: random.Random) -> None:
        self._truth = truth
        self._rate = chance.uniform(1 - DRIFT, 1 + DRIFT)
        self._offset = chance.uniform(-1e6, 1e6)
        self.paused_until = 0.0

    def monotonic(self) -> float:
        return self._truth.monotonic() * self._rate + self._offset

    def now(self) -> datetime:
        return self._truth.now() + timedelta(seconds=self._offset)

    async def sleep(self, seconds: float) -> None:
        await self._truth.sleep(seconds / self._rate)
        await self.awake()

    async def awake(self) -> None:
        while (left := self.paused_until - self._truth.monotonic()) > 0:
            await self._truth.sleep(left)


class Process:
    """One replica: an elector, its line to the server, and work that writes as often as the guard allows."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self.mood = "good"
        self.has_seen = 0  # which Lease, of those that were deleted one after the other
        self.machine = Machine(world.truth, world.chance)
        self._world = world
        self._flying: set[asyncio.Task[None]] = set()
        self.elector = LeaderElector(
            *(cast(Client, self), KEY, name),
            lease_duration=LEASE,
            renew_deadline=DEADLINE,
            retry_period=PERIOD,
            clock=self.machine,
        )
        self.task = asyncio.ensure_future(self.elector.run(self._work))

    async def get(self, resource: object, key: object) -> Any:
        answer = await self.request("GET", "")
        return msgspec.json.decode(answer, type=LEASES.type)

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        """What `Client` offers to the elector."""
        world, moods = self._world, MOODS[self.mood]
        fate = world.chance.choices([*moods], [*moods.values()])[0]
        if fate == "refused":
            raise errors.ConnectionFailed("refused")
        if fate == "failed":
            raise errors.ServerError(500, "", "trouble")
        if fate == "hangs":
            await asyncio.Event().wait()
        late = world.chance.uniform(0, 30) if fate == "late" else world.chance.uniform(0, 0.02)
        # The server carries a request out also when its client has given up waiting.
        answer, seen = await asyncio.shield(world.serve(self, late, method, options.get("body", {})))
        if fate == "slow":
            await world.truth.sleep(world.chance.uniform(0, DEADLINE))
        if fate == "unanswered":
            await asyncio.Event().wait()
        await self.machine.awake()
        self.has_seen = max(self.has_seen, seen)
        return answer

    def hang_up(self) -> None:
        """Its connections end, and with them the requests that have not been carried out."""
        for write in self._flying:
            write.cancel()

    async def _work(self) -> None:
        while True:
            if self.elector.may_write():
                self._world.sends(self)
                self._flying.add(asyncio.ensure_future(self._write()))
            await self.machine.sleep(self._world.chance.uniform(0.05, 1))

    async def _write(self) -> None:
        """Arrive at the server some time after the guard was asked."""
        await self._world.truth.sleep(self._world.chance.uniform(0, FLIGHT))
        self._world.arrives(self)


class World:
    """True time, the server, three processes, and what must never happen among them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.truth = VirtualClock()
        self.server = LeaseServer()
        self.started = 0
        self.leases = 1
        self.vacant_at = 0.0  # when nobody can be leading any more without a Lease
        self.processes = [self._start() for _ in range(3)]
        self.writers: list[str] = []  # in the order in which their first writes arrived
        self.writes = 0
        self.violations: list[str] = []
        self._serving: set[asyncio.Future[Answer]] = set()

    def serve(self, process: Process, late: float, method: str, body: dict[str, Any]) -> "asyncio.Future[Answer]":
        task = asyncio.ensure_future(self._carry_out(process, late, method, body))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # Nobody asks for the failure of a request whose client has left.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _carry_out(self, process: Process, late: float, method: str, body: dict[str, Any]) -> Answer:
        await self.truth.sleep(late)
        match method:
            case "GET":
                return self.server.read(), self.leases
            case "POST":
                return self.server.create(body), self.leases
        answer = self.server.write(body)
        if not body["spec"]["holderIdentity"]:
            process.hang_up()
        return answer, self.leases

    def sends(self, process: Process) -> None:
        self.writes += 1
        others = [each.name for each in self.processes if each is not process and each.elector.may_write()]
        if others:
            self.violations.append(f"{process.name} writes beside {others}")

    def arrives(self, process: Process) -> None:
        if process.name not in self.writers:
            self.writers.append(process.name)
        if self.writers[-1] != process.name:
            self.violations.append(f"a write of {process.name} arrived after one of {self.writers[-1]}")

    def _start(self) -> Process:
        self.started += 1
        return Process(self, f"process-{self.started}")

    async def step(self) -> None:
        """One thing happens, and a little time passes."""
        actions = {
            "pass": 60,
            "mood": 4,
            "isolate": 3,
            "pause": 3,
            "stop": 1,
            "kill": 1,
            "touch": 3,
            "delete": 2,
            "usurp": 1,
        }
        action = self.chance.choices([*actions], [*actions.values()])[0]
        which = self.chance.randrange(3)
        getattr(self, f"_{action}")(self.processes[which])
        await self.truth.advance(self.chance.choice([0.01, 0.1, 0.3, 1.0, 5.0]) * self.chance.random())
        for place, process in enumerate(self.processes):
            if process.task.done() and (self.server.spec is not None or self.truth.monotonic() > self.vacant_at):
                self._ended(process)
                self.processes[place] = self._start()
        assert not self.violations, self.violations
        assert sum(process.elector.may_write() for process in self.processes) <= 1

    def _ended(self, process: Process) -> None:
        if not process.task.cancelled():
            assert isinstance(process.task.exception(), LeadershipLost), repr(process.task.exception())

    def _pass(self, process: Process) -> None:
        pass

    def _mood(self, process: Process) -> None:
        process.mood = self.chance.choices([*MOODS], [3, 1, 2, 1])[0]

    def _isolate(self, process: Process) -> None:
        """The leader, if there is one, is cut off, and nobody else is."""
        for each in self.processes:
            each.mood = "cut" if each.elector.may_write() else "good"

    def _pause(self, process: Process) -> None:
        process.machine.paused_until = self.truth.monotonic() + self.chance.uniform(0, 40)

    def _stop(self, process: Process) -> None:
        """SIGTERM: time to give the lease back, if the line allows."""
        process.task.cancel()

    def _kill(self, process: Process) -> None:
        """SIGKILL: its requests stay where they are, nothing else is left of it."""
        process.mood = "cut"
        process.task.cancel()

    def _touch(self, process: Process) -> None:
        """Somebody edits the Lease's metadata."""
        self.server.version += 1

    def _delete(self, process: Process) -> None:
        """Somebody deletes a Lease that everybody has seen."""
        if self.server.spec is not None and all(each.has_seen == self.leases for each in self.processes):
            self.server.spec = None
            self.leases += 1
            self.vacant_at = self.truth.monotonic() + LEASE

    def _usurp(self, process: Process) -> None:
        """A stranger takes the Lease by force and keeps to its duration."""
        if self.server.spec is not None:
            taken = {"holderIdentity": "stranger", "leaseDurationSeconds": 15, "renewTime": str(self.truth.monotonic())}
            self.server.write({"metadata": {}, "spec": taken})

    async def end(self) -> None:
        running: list[asyncio.Future[Any]] = [process.task for process in self.processes]
        while running:
            for task in running:
                task.cancel()
            await self.truth.advance(50)
            running = [task for task in [*running, *self._serving] if not task.done()]


async def live(seed: int, steps: int) -> World:
    world = World(seed)
    try:
        for _ in range(steps):
            await world.step()
    finally:
        await world.end()
    return world


STEPS, RUNS = 2500, 4
FIRST = 1  # of the seeds; its history meets all that test/mutants/ breaks here


@pytest.mark.parametrize("seed", range(RUNS))
def test_through_ten_thousand_steps_two_electors_never_both_write(seed: int) -> None:
    """Ten thousand steps in four histories; a hundred thousand in a nightly run."""
    steps = STEPS * examples(1, 10)
    random.seed(FIRST + seed)  # the elector's own jitter
    world = asyncio.run(live(FIRST + seed, steps))
    assert world.writes > steps / 4, "hardly anybody ever led"
    assert len(world.writers) > steps / 100, "hardly anybody ever took over"
