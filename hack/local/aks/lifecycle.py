"""How agent pools, their machines and the cluster move from state to state. Pure: World and time in, World out.

    (absent) ─create─► Creating ─► Succeeded ─update─► Updating ─► Succeeded | Failed
                          └──────► Failed        any of them ─delete─► Deleting ─► (absent) | Failed

An operation has two parts: the clock's, over at `due_at` (which then becomes None), and the machines': a create is done when every machine
is Ready, a delete when none is left. Where no machines are booted (`settings.boots` is False) the second part takes no time.
Which requests are allowed at a moment is decided in `cloud`, not here.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from hack.local.aks import errors
from hack.local.aks.errors import ErrorDetail
from hack.local.aks.model import Cluster, Identity, Kind, Machine, Operation, Pool, World


class Effects(msgspec.Struct, frozen=True):
    """What the injected faults make of one accepted operation."""

    seconds: float
    ends_in: ErrorDetail | None = None
    surplus: int = 0
    joins: bool = True
    gpu_delay_seconds: float = 0.0


def etag(serial: int) -> str:
    """Return the opaque version of a pool; differs after every change."""
    digest = hashlib.sha256(f"etag {serial}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _start(world: World, name: str, kind: Kind, now: float) -> tuple[World, str]:
    serial = world.serial + 1
    operation = Operation(id=etag(-serial), pool=name, kind=kind, started_at=now)
    return replace(world, serial=serial, operations={**world.operations, operation.id: operation}), operation.id


def _end(world: World, operation_id: str, now: float, error: ErrorDetail | None) -> World:
    if not operation_id:
        return world
    status = "Failed" if error else "Succeeded"
    ended = replace(world.operations[operation_id], status=status, ended_at=now, error=error)
    return replace(world, operations={**world.operations, operation_id: ended})


def _put(world: World, pool: Pool) -> World:
    serial = world.serial + 1
    return replace(world, serial=serial, pools={**world.pools, pool.name: replace(pool, etag=etag(serial))})


def create(
    world: World, identity: Identity, name: str, properties: dict[str, Any], effects: Effects, now: float
) -> World:
    """Begin to create a pool that does not exist."""
    world, operation = _start(world, name, "PUT", now)
    # Azure's eight digits differ between pools and between a pool and its later namesake.
    digits = int(hashlib.sha256(f"{identity.path} {name} {world.serial}".encode()).hexdigest(), 16) % 10**8
    pool = Pool(
        name=name,
        properties=properties,
        state="Creating",
        etag="",
        scale_set=f"aks-{name}-{digits:08}-vmss",
        created_at=now,
        operation=operation,
        due_at=now + effects.seconds,
        ends_in=effects.ends_in,
        surplus=effects.surplus,
        joins=effects.joins,
        gpu_delay_seconds=effects.gpu_delay_seconds,
    )
    return _put(world, pool)


def update(world: World, name: str, properties: dict[str, Any], effects: Effects, now: float) -> World:
    """Begin to change a pool that is Succeeded or Failed."""
    world, operation = _start(world, name, "PUT", now)
    pool = replace(
        world.pools[name],
        properties=properties,
        state="Updating",
        operation=operation,
        due_at=now + effects.seconds,
        ends_in=effects.ends_in,
        error=None,
        surplus=0,
    )
    return _put(world, pool)


def delete(world: World, identity: Identity, name: str, effects: Effects, now: float) -> World:
    """Begin to delete a pool; an operation that still runs on it fails."""
    pool = world.pools[name]
    superseded = errors.outcome("superseded-by-delete", errors.Facts(pool=name))
    world, operation = _start(_end(world, pool.operation, now, superseded), name, "DELETE", now)
    return _put(
        world,
        replace(
            pool,
            state="Deleting",
            operation=operation,
            due_at=now + effects.seconds,
            ends_in=effects.ends_in,
        ),
    )


def advance(world: World, now: float) -> Iterator[tuple[float, World]]:
    """Let time pass until `now`: yields each change with the moment at which it happened, in order."""
    while True:
        due = [(pool.due_at, name) for name, pool in world.pools.items() if pool.operation and pool.due_at is not None]
        power = world.cluster.due_at
        at, name = min([*due, *([(power, "")] if power else [])], default=(now + 1, ""))
        if at > now:
            return
        world = _clock_is_done(world, name, at) if name else _power_is_done(world)
        yield at, world


def _power_is_done(world: World) -> World:
    return replace(world, cluster=replace(world.cluster, state="Succeeded", due_at=0.0))


def _clock_is_done(world: World, name: str, now: float) -> World:
    pool = replace(world.pools[name], due_at=None)
    if pool.ends_in is not None:
        return _failed(world, pool, now)
    if pool.state == "Deleting":
        pool = replace(pool, machines=tuple(replace(m, phase="Leaving") for m in pool.machines))
    else:
        pool = _scaled(pool, int(pool.properties["count"]) + pool.surplus)
    return _settled(world, pool, now)


def _failed(world: World, pool: Pool, now: float) -> World:
    world = _end(world, pool.operation, now, pool.ends_in)
    return _put(world, replace(pool, state="Failed", operation="", error=pool.ends_in, ends_in=None))


def _scaled(pool: Pool, count: int) -> Pool:
    """Add machines with new indices, or let the ones with the highest go."""
    staying = [machine for machine in pool.machines if machine.phase != "Leaving"]
    surplus = {machine.instance for machine in staying[count:]}
    machines = [replace(m, phase="Leaving") if m.instance in surplus else m for m in pool.machines]
    missing = max(0, count - len(staying))
    machines += [Machine(pool.next_instance + n) for n in range(missing)]
    return replace(pool, machines=tuple(machines), next_instance=pool.next_instance + missing)


def _settled(world: World, pool: Pool, now: float) -> World:
    """Store the pool; end its operation if the machines' part of it is over too."""
    if not world.settings.boots:
        pool = _without_real_machines(pool)
    if not pool.operation or pool.due_at is not None:
        return _put(world, pool)
    if pool.state == "Deleting":
        return _put(world, pool) if pool.machines else _removed(world, pool, now)
    if pool.joins and any(machine.phase == "Booting" for machine in pool.machines):
        return _put(world, pool)
    return _put(_end(world, pool.operation, now, None), replace(pool, state="Succeeded", operation="", error=None))


def _without_real_machines(pool: Pool) -> Pool:
    staying = (machine for machine in pool.machines if machine.phase != "Leaving")
    return replace(pool, machines=tuple(replace(m, phase="Ready") if pool.joins else m for m in staying))


def _removed(world: World, pool: Pool, now: float) -> World:
    world = _end(world, pool.operation, now, None)
    return replace(world, pools={name: other for name, other in world.pools.items() if name != pool.name})


def machine_is_ready(world: World, name: str, instance: int, now: float) -> World:
    """Note that a booted machine's node is Ready."""
    return _machine(world, name, instance, now, phase="Ready")


def machine_failed(world: World, name: str, instance: int, why: str, now: float) -> World:
    """Note that a machine did not boot: a create or an update that waits for it fails."""
    pool = world.pools.get(name)
    if pool is None or pool.due_at is not None or pool.state not in ("Creating", "Updating"):
        return machine_is_gone(world, name, instance, now)
    machines = tuple(machine for machine in pool.machines if machine.instance != instance)
    failure = ErrorDetail("VMExtensionProvisioningError", why)
    return _failed(world, replace(pool, machines=machines, ends_in=failure), now)


def machine_is_gone(world: World, name: str, instance: int, now: float) -> World:
    """Note that a machine and its node are no more."""
    return _machine(world, name, instance, now, phase=None)


def _machine(world: World, name: str, instance: int, now: float, *, phase: str | None) -> World:
    pool = world.pools.get(name)
    if pool is None:
        return world
    machines = []
    for machine in pool.machines:
        if machine.instance != instance:
            machines.append(machine)
        elif phase == "Ready":
            machines.append(replace(machine, phase="Ready") if machine.phase == "Booting" else machine)
    return _settled(world, replace(pool, machines=tuple(machines)), now)


def evict(world: World, name: str, now: float, *, again: bool) -> World:
    """Take every machine of a pool away, as a spot eviction does; `again`: new ones with new indices come after them."""
    pool = world.pools[name]
    count = sum(machine.phase != "Leaving" for machine in pool.machines)
    pool = replace(pool, machines=tuple(replace(machine, phase="Leaving") for machine in pool.machines))
    return _settled(world, _scaled(pool, count) if again else pool, now)


def power(world: World, wanted: str, now: float) -> World:
    """Begin to stop or to start the cluster."""
    running = wanted == "Running"
    state = "Starting" if running else "Stopping"
    due = now + world.settings.power_seconds
    return replace(world, cluster=Cluster("Running" if running else "Stopped", state, due))
