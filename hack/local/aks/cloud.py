"""The agent-pool part of the resource provider: which request is allowed at a moment, and what it is answered with.

Owns the World and the faults that are injected into it; knows neither HTTP nor the clock (every method is told the time, which never goes
back). Real machines report through `machine_is_ready` and `machine_is_gone`; who boots them is not known here.
"""

import collections
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from hack.local.aks import body, errors, lifecycle
from hack.local.aks.errors import ErrorDetail, Refusal
from hack.local.aks.lifecycle import Effects
from hack.local.aks.model import Fault, Identity, Kind, Operation, Pool, Settings, World

POOLS_PER_CLUSTER = 100  # AKS's documented limit


class Preconditions(msgspec.Struct, frozen=True):
    """If-Match and If-None-Match as sent; "" where absent. ETags may come with or without quotes."""

    if_match: str = ""
    if_none_match: str = ""


class Accepted(msgspec.Struct, frozen=True):
    """A mutation that was carried out. `pool` is None where there was nothing to delete."""

    pool: Pool | None
    created: bool = False


class Cloud:
    """One managed cluster.

    Invariants: at most `POOLS_PER_CLUSTER` pools; a pool has an unfinished operation iff its state ends in -ing; an ended operation stays
    as it ended; ETags and operation ids are never used twice.
    """

    def __init__(self, identity: Identity, world: World) -> None:
        self.identity = identity
        self.world = world
        # Newest last; the first one is the newest that is older than the lag, so LIST always finds a moment to show.
        self._past: collections.deque[tuple[float, dict[str, Pool]]] = collections.deque([(float("-inf"), world.pools)])

    # Reads

    def get(self, name: str, now: float) -> Pool:
        """Return the pool as it is. Raises Refusal 404."""
        self.advance(now)
        if name not in self.world.pools:
            raise self.refusal("pool-gone", name)
        return self.world.pools[name]

    def page(self, after: str, now: float) -> tuple[list[Pool], str]:
        """Return one page of pools by name, those behind `after`, and the name that the next page starts behind ("" at the end)."""
        self.advance(now)
        pools = self._visible(now)
        names = sorted(name for name in pools if name > after)
        size = self.world.settings.page_size
        return [pools[name] for name in names[:size]], names[size - 1] if len(names) > size else ""

    def _visible(self, now: float) -> dict[str, Pool]:
        """Return what LIST may show, and forget what it never shows again."""
        moment = now - self.world.settings.list_lag_seconds
        while len(self._past) > 1 and self._past[1][0] <= moment:
            self._past.popleft()
        return self._past[0][1]

    def operation(self, operation_id: str, now: float) -> Operation:
        """Return a long-running operation. Raises Refusal 404."""
        self.advance(now)
        found = self.world.operations.get(operation_id)
        if found is None:
            raise Refusal(404, ErrorDetail("OperationNotFound", f"operation {operation_id} was not found"))
        return found

    # Mutations

    def put(self, name: str, content: Any, conditions: Preconditions, now: float) -> Accepted:
        """Create the pool or change it. Raises Refusal, and then nothing is changed."""
        self.advance(now)
        existing = self.world.pools.get(name)
        self._check_conditions(name, existing, conditions)
        properties = body.validated(self.identity, name, content)
        self._check_running(name)
        if existing is None:
            self._check_idle(name, but="")
            if len(self.world.pools) >= POOLS_PER_CLUSTER:
                raise errors.invalid(
                    "agentPoolProfiles", f"a managed cluster has at most {POOLS_PER_CLUSTER} agent pools"
                )
            effects = self._effects("PUT", name, properties, self.world.settings.create_seconds)
            self._become(now, lifecycle.create(self.world, self.identity, name, properties, effects, now))
            return Accepted(self.world.pools[name], created=True)
        if existing.operation:
            raise self.refusal("busy" if existing.state == "Creating" else "busy-other", name)
        self._check_idle(name, but=name)
        body.forbid_changes(existing.properties, properties)
        effects = self._effects("PUT", name, properties, self.world.settings.update_seconds)
        self._become(now, lifecycle.update(self.world, name, properties, effects, now))
        return Accepted(self.world.pools[name])

    def delete(self, name: str, conditions: Preconditions, now: float, *, ignore_budgets: bool) -> Accepted:
        """Begin to delete the pool; one that is being deleted already, or is absent, is no error. Raises Refusal."""
        self.advance(now)
        existing = self.world.pools.get(name)
        if existing is None:
            return Accepted(None)
        self._check_conditions(name, existing, conditions)
        self._check_running(name)
        if existing.state != "Deleting":
            self._check_idle(name, but=name)
            effects = self._effects("DELETE", name, existing.properties, self.world.settings.delete_seconds)
            if ignore_budgets and effects.ends_in and effects.ends_in.code in ("UnsatisfiablePDB", "PodDrainFailure"):
                effects = replace(effects, ends_in=None)
            self._become(now, lifecycle.delete(self.world, self.identity, name, effects, now))
        return Accepted(self.world.pools[name])

    def _check_conditions(self, name: str, existing: Pool | None, conditions: Preconditions) -> None:
        if not self.world.settings.honour_preconditions:
            return
        wanted, unwanted = conditions.if_match.strip('"'), conditions.if_none_match.strip('"')
        if wanted and (existing is None or wanted not in ("*", existing.etag)):
            raise self.refusal("precondition", name)
        if unwanted and existing is not None and unwanted in ("*", existing.etag):
            raise self.refusal("precondition", name)

    def _check_running(self, name: str) -> None:
        if self.world.cluster.power != "Running" or self.world.cluster.due_at:
            raise self.refusal("not-running", name)

    def _check_idle(self, name: str, *, but: str) -> None:
        others = (pool for pool in self.world.pools.values() if pool.operation and pool.name != but)
        if not self.world.settings.parallel and (other := next(others, None)):
            raise self.refusal("busy" if other.state == "Creating" else "busy-other", name)

    # Faults

    def inject(self, fault: Fault) -> Fault:
        """Arm a fault. Raises ValueError where it names no error of the catalogue."""
        known = {"refuse": errors.REFUSAL_NAMES, "fail": errors.OUTCOME_NAMES}.get(fault.kind)
        if known is not None and not fault.code and fault.error not in known:
            raise ValueError(f"{fault.kind}: no error {fault.error!r}; there are {', '.join(sorted(known))}")
        armed = replace(fault, id=self.world.serial + 1)
        self.world = replace(self.world, serial=armed.id, faults=(*self.world.faults, armed))
        return armed

    def disarm(self, fault_id: int | None) -> None:
        """Take one fault back, or all."""
        left = tuple(fault for fault in self.world.faults if fault_id not in (None, fault.id))
        self.world = replace(self.world, faults=left)

    def take(self, kind: str, on: Kind, name: str) -> Fault | None:
        """Return the oldest armed fault of that kind for this request, used up by one."""
        for fault in self.world.faults:
            if fault.kind == kind and fault.on in ("*", on) and fnmatch.fnmatchcase(name, fault.pool):
                left = () if fault.times == 1 else (replace(fault, times=max(0, fault.times - 1)),)
                faults = [each for other in self.world.faults for each in (left if other is fault else (other,))]
                self.world = replace(self.world, faults=tuple(faults))
                return fault
        return None

    def refusal(self, name: str, pool: str = "", properties: dict[str, Any] | None = None) -> Refusal:
        """Return a catalogued refusal about `pool`."""
        return errors.refusal(name, body.facts(self.identity, pool, properties or {}))

    def _effects(self, on: Kind, name: str, properties: dict[str, Any], seconds: float) -> Effects:
        slow, fail = self.take("slow", on, name), self.take("fail", on, name)
        extra, lost, gpu = (self.take(kind, on, name) for kind in ("extra-node", "no-join", "gpu-delay"))
        return Effects(
            seconds=slow.seconds if slow else seconds,
            ends_in=self._outcome(fail, name, properties) if fail else None,
            surplus=1 if extra else 0,
            joins=lost is None,
            gpu_delay_seconds=gpu.seconds if gpu else self.world.settings.gpu_delay_seconds,
        )

    def _outcome(self, fail: Fault, name: str, properties: dict[str, Any]) -> ErrorDetail:
        if fail.code:
            return ErrorDetail(fail.code, fail.message)
        return errors.outcome(fail.error, body.facts(self.identity, name, properties))

    # What happens without a request

    def advance(self, now: float) -> None:
        """Let time pass."""
        for at, world in lifecycle.advance(self.world, now):
            self._become(at, world)

    def machine_is_ready(self, name: str, instance: int, now: float) -> None:
        """Note that a booted machine's node is Ready."""
        self._become(now, lifecycle.machine_is_ready(self.world, name, instance, now))

    def machine_failed(self, name: str, instance: int, why: str, now: float) -> None:
        """Note that a machine did not boot."""
        self._become(now, lifecycle.machine_failed(self.world, name, instance, why, now))

    def machine_is_gone(self, name: str, instance: int, now: float) -> None:
        """Note that a machine and its node are no more."""
        self._become(now, lifecycle.machine_is_gone(self.world, name, instance, now))

    def evict(self, name: str, now: float, *, again: bool) -> None:
        """Take the machines of a pool away; the pool stays. Raises Refusal 404."""
        self.get(name, now)
        self._become(now, lifecycle.evict(self.world, name, now, again=again))

    def remove(self, name: str, now: float) -> None:
        """Delete a pool as somebody with `az` does: no precondition, no fault."""
        self.get(name, now)
        effects = Effects(seconds=self.world.settings.delete_seconds)
        self._become(now, lifecycle.delete(self.world, self.identity, name, effects, now))

    def power(self, wanted: str, now: float) -> None:
        """Stop or start the cluster."""
        self.advance(now)
        self._become(now, lifecycle.power(self.world, wanted, now))

    def set_cluster_state(self, state: str) -> None:
        """Set the cluster's provisioningState, as an upgrade or an update of the cluster does."""
        self.world = replace(self.world, cluster=replace(self.world.cluster, state=state))

    def configure(self, change: Callable[[Settings], Settings]) -> None:
        """Change the settings; what was begun under the old ones ends as it was to end."""
        self.world = replace(self.world, settings=change(self.world.settings))

    def reset(self, now: float, settings: Settings) -> None:
        """Forget pools, operations and faults. With real machines the pools are deleted instead, so that nothing is left running."""
        self.world = replace(self.world, faults=(), settings=replace(settings, boots=self.world.settings.boots))
        if not self.world.settings.boots:
            self._become(now, World(settings=self.world.settings, serial=self.world.serial))
            return
        for name in self._names(lambda pool: pool.state != "Deleting"):
            self.remove(name, now)

    def _names(self, wanted: Callable[[Pool], bool]) -> Iterable[str]:
        return [name for name, pool in self.world.pools.items() if wanted(pool)]

    def _become(self, at: float, world: World) -> None:
        self.world = world
        self._past.append((at, world.pools))
        self._visible(at)
