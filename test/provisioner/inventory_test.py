"""The shared LIST: how often it is asked, what it may forget, and what an older answer must not undo."""

import asyncio

from provisioner.cloud import CloudError, Cluster, Instance, Launch, Offering, State, Throttled, Unauthorized
from provisioner.inventory import Inventory
from test.clock import VirtualClock


def a_pool(name: str, state: State = State.SUCCEEDED) -> Instance:
    return Instance(name, state, Offering("S"), owner_uid=f"uid-{name}")


class SlowCloud:
    """A cloud whose LIST takes a second of virtual time and shows the pools that there were when it was asked."""

    def __init__(self, clock: VirtualClock) -> None:
        self.pools: dict[str, Instance] = {}
        self.lists = 0
        self.refusal: CloudError | None = None
        self._clock = clock

    async def list(self) -> tuple[Instance, ...]:
        self.lists += 1
        found = tuple(self.pools.values())
        await self._clock.sleep(1)
        if self.refusal is not None:
            raise self.refusal
        return found

    async def get(self, name: str) -> Instance | None:
        return self.pools.get(name)

    async def create(self, launch: Launch) -> Instance:
        raise NotImplementedError

    async def delete(self, instance: Instance) -> None:
        raise NotImplementedError

    async def cluster(self) -> Cluster:
        raise NotImplementedError


def made() -> tuple[VirtualClock, SlowCloud, Inventory, list[str]]:
    clock = VirtualClock()
    cloud = SlowCloud(clock)
    changed: list[str] = []
    return clock, cloud, Inventory(cloud, clock, busy=5, idle=120, on_change=changed.append), changed


async def test_callers_at_the_same_time_share_one_list() -> None:
    clock, cloud, inventory, _ = made()
    waiting = [asyncio.create_task(inventory.refresh()) for _ in range(50)]
    await clock.advance(1.1)
    assert all(task.done() for task in waiting)
    assert cloud.lists == 1


async def test_who_comes_while_a_list_is_under_way_waits_for_the_next() -> None:
    clock, cloud, inventory, _ = made()
    first = asyncio.create_task(inventory.refresh())
    await clock.advance(0.5)
    cloud.pools["late"] = a_pool("late")
    second = [asyncio.create_task(inventory.refresh()) for _ in range(2)]
    await clock.advance(0.6)
    assert first.done()
    assert not any(task.done() for task in second)
    await clock.advance(1)
    assert all(task.done() for task in second)
    assert inventory.get("late") is not None
    assert cloud.lists == 2


async def test_an_answer_does_not_undo_what_was_learned_after_its_question() -> None:
    clock, _, inventory, _ = made()
    listing = asyncio.create_task(inventory.refresh())
    await clock.advance(0.5)
    inventory.record("new", a_pool("new", State.CREATING))
    await clock.advance(0.6)
    assert listing.done()
    assert inventory.get("new") is not None


async def test_an_answer_does_not_bring_back_what_was_found_gone_after_its_question() -> None:
    clock, cloud, inventory, changed = made()
    cloud.pools = {"a": a_pool("a")}
    listing = asyncio.create_task(inventory.refresh())
    await clock.advance(0.5)
    cloud.pools = {}
    assert await inventory.verify("a") is None
    await clock.advance(0.6)
    assert listing.done()
    assert inventory.get("a") is None
    assert changed == []


async def test_changes_are_told_and_only_changes() -> None:
    clock, cloud, inventory, changed = made()
    cloud.pools = {"a": a_pool("a", State.CREATING), "b": a_pool("b")}
    running = asyncio.create_task(inventory.run())
    await clock.advance(1.1)
    assert sorted(changed) == ["a", "b"]
    changed.clear()
    inventory.wait_for("a")
    await clock.advance(6.1)
    assert changed == []
    cloud.pools = {"a": a_pool("a")}
    await clock.advance(6.1)
    assert sorted(changed) == ["a", "b"]
    assert inventory.get("b") is None
    running.cancel()


async def test_lists_are_frequent_only_while_somebody_waits() -> None:
    clock, cloud, inventory, _ = made()
    running = asyncio.create_task(inventory.run())
    await clock.advance(119)
    assert cloud.lists == 1
    inventory.wait_for("a")
    await clock.advance(60)
    busy = cloud.lists
    assert 9 <= busy <= 12
    inventory.settle("a")
    await clock.advance(120)
    assert cloud.lists <= busy + 2
    running.cancel()


async def test_an_unreachable_cloud_is_asked_again() -> None:
    clock, cloud, inventory, _ = made()
    cloud.refusal = Unauthorized("no")
    inventory.wait_for("a")
    running = asyncio.create_task(inventory.run())
    await clock.advance(10)
    cloud.refusal, cloud.pools = None, {"a": a_pool("a")}
    await clock.advance(10)
    assert inventory.get("a") is not None
    running.cancel()


async def test_a_cloud_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    clock, cloud, inventory, _ = made()
    cloud.refusal = Throttled("too often", retry_after=60)
    inventory.wait_for("a")
    running = asyncio.create_task(inventory.run())
    await clock.advance(60)
    assert cloud.lists == 1
    await clock.advance(10)
    assert cloud.lists == 2
    running.cancel()


async def test_seen_pools_prove_that_their_create_is_over() -> None:
    clock, cloud, inventory, _ = made()
    inventory.asked("uid-a")
    assert not inventory.answered("uid-a")
    cloud.pools = {"a": a_pool("a", State.CREATING)}
    listing = asyncio.create_task(inventory.refresh())
    await clock.advance(1.1)
    assert listing.done()
    assert inventory.answered("uid-a")


async def test_a_state_is_as_old_as_its_first_sight() -> None:
    clock, cloud, inventory, _ = made()
    inventory.record("a", a_pool("a", State.CREATING))
    await clock.advance(100)
    inventory.record("a", a_pool("a"))
    since = clock.now()
    await clock.advance(50)
    inventory.record("a", a_pool("a"))
    assert inventory.in_state_since("a") == since
    del cloud
