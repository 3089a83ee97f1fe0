"""The last known agent pools of the cluster: one shared LIST for all claims, refreshed while something moves.

N claims that poll their pools would break the documented rate of 1 request/s at N = 5; one LIST serves them all. What is
read here is good for waiting. A decision that cannot be undone asks `verify`, which asks the cloud about one pool.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from kube.clock import Clock
from provisioner.cloud import CloudError, CloudProvider, Instance, State

log = logging.getLogger(__name__)

# LISTs that claims ask for begin at least this far apart: a burst of claims shares a few, and a single one does not wait.
SPACING_SECONDS = 0.1


class Inventory:
    """Invariant: an entry is never replaced by an answer to a request that was sent before the entry was learned."""

    def __init__(
        self, cloud: CloudProvider, clock: Clock, *, busy: float, idle: float, on_change: Callable[[str], None]
    ) -> None:
        self._cloud, self._clock, self._on_change = cloud, clock, on_change
        self._busy_seconds, self._idle_seconds = busy, idle
        # name → when it was learned, what; None: there is none
        self._known: dict[str, tuple[float, Instance | None]] = {}
        self._since: dict[str, tuple[State, datetime]] = {}  # name → its state, and when we first saw it in that
        self._awaited: set[str] = set()
        self._answered: set[str] = set()  # claim UIDs whose last create request is known to be over
        self._wake = asyncio.Event()
        self._began = float("-inf")  # when the last LIST began
        self._next: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    def get(self, name: str) -> Instance | None:
        known = self._known.get(name)
        return known[1] if known else None

    def in_state_since(self, name: str) -> datetime | None:
        """When this process first saw the pool in its present state."""
        entry = self._since.get(name)
        return entry[1] if entry else None

    def wait_for(self, name: str) -> None:
        """Somebody waits for this pool to change: look often."""
        if name not in self._awaited:
            self._awaited.add(name)
            self._wake.set()

    def settle(self, name: str) -> None:
        self._awaited.discard(name)

    def asked(self, claim_uid: str) -> None:
        """A create request is about to be sent: until it is answered, absence proves nothing."""
        self._answered.discard(claim_uid)

    def note_answer(self, claim_uid: str) -> None:
        self._answered.add(claim_uid)

    def answered(self, claim_uid: str) -> bool:
        return claim_uid in self._answered

    def forget(self, name: str, claim_uid: str) -> None:
        """The claim is gone."""
        self._awaited.discard(name)
        self._answered.discard(claim_uid)

    def record(self, name: str, instance: Instance | None) -> None:
        """Note what a request of our own has just shown about one pool."""
        now = self._clock.monotonic()
        if instance is None:
            self._known[name] = (now, None)
            self._since.pop(name, None)
        else:
            self._learn(instance, now)

    async def verify(self, name: str) -> Instance | None:
        """Ask the cloud about one pool. None is proof that it does not exist."""
        found = await self._cloud.get(name)
        self.record(name, found)
        return found

    async def refresh(self) -> None:
        """Return once a LIST that began after this call has ended. Callers at the same time share it."""
        if self._next is None:
            self._next = asyncio.create_task(self._list_after(self._running))
        task = self._next
        await asyncio.shield(task)

    async def run(self) -> None:
        """Keep the inventory fresh until cancelled; an unreachable cloud is only logged, and tried again."""
        try:
            while True:
                try:
                    await self.refresh()
                except CloudError as error:
                    log.warning("Listing agent pools failed", extra={"reason": error.reason, "error": str(error)})
                    await self._clock.sleep(error.retry_after or 0)
                await self._pause()
        finally:
            for task in (self._running, self._next):
                if task is not None:
                    task.cancel()

    async def _pause(self) -> None:
        """Sleep for the idle period, or for the busy one as soon as somebody waits."""
        self._wake.clear()
        if not self._awaited:
            waking = asyncio.create_task(self._wake.wait())
            sleeping = asyncio.create_task(self._clock.sleep(self._idle_seconds))
            try:
                await asyncio.wait((waking, sleeping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()
                sleeping.cancel()
        if self._awaited:
            await self._clock.sleep(self._busy_seconds)

    async def _list_after(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._clock.sleep(self._began + SPACING_SECONDS - self._clock.monotonic())
        self._running, self._next = self._next, None
        began = self._began = self._clock.monotonic()
        try:
            found = await self._cloud.list()
        finally:
            self._running = None
        self._merge(found, began)

    def _merge(self, found: Sequence[Instance], began: float) -> None:
        names = {instance.name for instance in found}
        for instance in found:
            if self._known.get(instance.name, (0.0,))[0] < began:
                self._learn(instance, began)
        # LIST may lag behind a create: what is missing is only unknown again, and whoever cares asks `verify`.
        for name in [name for name, (at, _) in self._known.items() if name not in names and at < began]:
            _, lost = self._known.pop(name)
            self._since.pop(name, None)
            if lost is not None:
                self._on_change(name)

    def _learn(self, instance: Instance, at: float) -> None:
        before = self.get(instance.name)
        if instance.owner_uid:
            self._answered.add(instance.owner_uid)
        self._known[instance.name] = (at, instance)
        if before is None or before.state is not instance.state:
            self._since[instance.name] = (instance.state, self._clock.now())
        if before != instance:
            self._on_change(instance.name)
