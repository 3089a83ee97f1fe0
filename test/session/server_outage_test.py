"""The real API server killed, frozen, and its etcd restored from a backup, while both controllers work for Workspaces.

Afterwards the world is as if nothing had happened: the same claims, one create request per agent pool, everything ready.
"""

from dataclasses import dataclass
from typing import Any

from kube.api import labels
from test.controller.stage import Json, Stage
from test.expect import TIMEOUT, eventually
from test.kube.outage import API_SERVER, ETCD
from test.session.conftest import Session

# A pool that takes this long, of the cloud's time, is made when a test says so.
SLOW_SECONDS = 3600.0
# More writes than the API server makes on its own account when it starts: only then is a restored history an older one.
WRITES = 100


@dataclass(frozen=True)
class Moments:
    """Workspaces at the moments at which a server may go, and what must not change of them."""

    ready: Stage
    creating: Stage  # its pool is being made
    claimed: Stage  # its claim is there, and no create request has been sent
    new: list[Stage]  # their finalizers and claims are being written, or no controller has heard of them
    claims: list[Json]  # of the first three
    conditions: list[Json]  # of the ready one

    async def come_true(self, session: Session) -> None:
        """Wait until all Workspaces have their nodes, and check that none has been touched twice."""
        for stage in (self.creating, self.claimed, *self.new):
            await session.nodes_ready(stage)
        for stage, claim in zip((self.ready, self.creating, self.claimed), self.claims, strict=True):
            await session.has_one_machine(stage, claim["metadata"]["uid"])
        for stage in self.new:
            await session.has_one_machine(stage)
        assert self.ready.status()["conditions"] == self.conditions, "the outage was not its business"
        assert session.both_run()


async def at_every_moment(session: Session) -> Moments:
    """Nine Workspaces; none gets any further until the caller waits for something."""
    ready = session.apply("ready")
    claims = [await session.serving(ready)]
    await session.box.emulator.admin.fault("slow", on="PUT", seconds=SLOW_SECONDS)
    creating = session.apply("creating")
    claims.append(await session.claim(creating))
    await eventually(lambda: _is_creating(session, _name(claims[1])))
    claimed = await held(session, "claimed")
    claims.append(await session.claim(claimed))
    new = [session.apply(f"new-{number}") for number in range(4)]
    await eventually(lambda: _finalizers(new[0].workspace()))
    assert not await session.creates(_name(claims[2]))
    new += [session.apply(f"unseen-{number}") for number in range(2)]
    return Moments(ready, creating, claimed, new, claims, ready.status()["conditions"])


async def held(session: Session, name: str) -> Stage:
    """A Workspace whose claim must wait for the cloud's list of pools before a pool is asked for."""
    session.listing.clear()
    stage = session.apply(name)
    await session.claim(stage)
    return stage


def let_go(session: Session) -> None:
    """The cloud goes on: its list comes, now and from now on, and the pool that was being made is there."""
    session.listing.set()
    session.box.cloud_clock.leap(SLOW_SECONDS)


async def test_a_killed_and_restarted_server_costs_no_claim_and_no_pool(session: Session) -> None:
    moments = await at_every_moment(session)
    async with session.killed(API_SERVER):
        let_go(session)
    await moments.come_true(session)


async def test_an_etcd_killed_beyond_all_patience_costs_no_claim_and_no_pool(session: Session) -> None:
    """The API server is there and has its caches; what it is to write fails or hangs, and may have been written."""
    moments = await at_every_moment(session)
    async with session.killed(ETCD):
        let_go(session)
        await session.given_up(times=10)
    await moments.come_true(session)


async def test_a_server_frozen_beyond_all_patience_costs_no_claim_and_no_pool(session: Session) -> None:
    """Writes that were given up are carried out when the server wakes, besides those that took their place."""
    moments = await at_every_moment(session)
    async with session.frozen():
        let_go(session)
        await session.given_up(times=40)
    await moments.come_true(session)


async def test_etcd_restored_from_a_backup_forgets_only_what_is_newer(session: Session) -> None:
    """What has vanished is given back to the cloud and made once more when it is asked for once more; what was there
    stays, and a claim whose pool is newer than the backup gets this very pool."""
    ready = session.apply("ready")
    claims = [await session.serving(ready)]
    claimed = await held(session, "claimed")
    claims.append(await session.claim(claimed))
    assert labels.LAUNCH_TIME not in (await session.claim(claimed))["metadata"]["annotations"]
    backup, servers = session.outage.back_up(), ready.stateful_set()["metadata"]["uid"]
    conditions = ready.status()["conditions"]
    let_go(session)
    await session.nodes_ready(claimed)
    newer = session.apply("newer")
    vanished = _name(await session.serving(newer))
    for number in range(WRITES):
        ready.configure("other", number=str(number))

    await session.outage.restore(backup)
    assert not newer.workspace(), "the backup is older"
    # Both controllers find their servers again and read everything, then the collector looks twice.
    await eventually(lambda: _gone(session, vanished), timeout=3 * TIMEOUT)
    await session.nodes_ready(claimed)
    newer = session.apply("newer")
    again = await session.nodes_ready(newer)
    await eventually(lambda: session.collect_garbage() and newer.stateful_set())
    await newer.serving()

    assert _name(again) != vanished
    assert session.all_claims() == {claim["metadata"]["uid"] for claim in (*claims, again)}
    for stage, claim in zip((ready, claimed, newer), (*claims, again), strict=True):
        await session.has_one_machine(stage, claim["metadata"]["uid"])
    assert ready.status()["conditions"] == conditions
    assert ready.stateful_set()["metadata"]["uid"] == servers
    assert session.both_run()


async def _gone(session: Session, pool: str) -> bool:
    return await session.box.pool(pool) is None


async def _is_creating(session: Session, pool: str) -> bool:
    return await session.box.pool_state(pool) == "Creating"


def _name(claim: Json) -> str:
    return str(claim["metadata"]["name"])


def _finalizers(workspace: Json) -> Any:
    return workspace["metadata"].get("finalizers")
