"""Properties of the state machine: whatever is asked of it, in whatever order and with whatever faults, it stays a possible Azure.

Also the budgets and the persistence, each against its invariant. What single requests are answered with is covered in server_test.
"""

import math
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hack.local.aks import lifecycle
from hack.local.aks.budget import LIMITS, Budgets
from hack.local.aks.cloud import Cloud, Preconditions
from hack.local.aks.errors import OUTCOME_NAMES, REFUSAL_NAMES, Facts, Refusal, outcome, refusal
from hack.local.aks.journal import Entry, Journal
from hack.local.aks.model import Fault, Identity, Operation, Pool, Settings, World
from hack.local.aks.nodes import base36
from test.hack.aks.conftest import pool_body

NAMES = st.sampled_from(["a", "b", "ws1"])


class AnyOrder(RuleBasedStateMachine):
    """Clients, machines, time and faults, interleaved at random. `boots` is drawn: with and without real machines."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.cloud = Cloud(Identity(), World(settings=Settings(create_seconds=5, delete_seconds=3, list_lag_seconds=4)))
        self.ended: dict[str, Operation] = {}
        self.etags: dict[str, Pool] = {}
        self.last_list: list[str] = []

    @rule()
    @precondition(lambda self: not self.cloud.world.pools)
    def boot_real_machines(self) -> None:
        self.cloud.configure(lambda old: msgspec.structs.replace(old, boots=not old.boots))

    @rule(seconds=st.sampled_from([0.1, 1, 3, 5, 60]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.cloud.advance(self.now)

    @rule(name=NAMES, count=st.integers(0, 3), only_new=st.booleans())
    def put(self, name: str, count: int, only_new: bool) -> None:
        before = self.cloud.world.pools.get(name)
        try:
            self.cloud.put(name, pool_body(count=count), Preconditions(if_none_match="*" if only_new else ""), self.now)
        except Refusal as refused:
            self.check_refused(name, before, refused)
        else:
            assert not (before and only_new), "a create-only PUT went onto an existing pool"
            assert self.cloud.world.pools[name].operation

    def check_refused(self, name: str, before: Pool | None, refused: Refusal) -> None:
        assert refused.status in (409, 412)
        assert self.cloud.world.pools.get(name) == before

    @rule(name=NAMES, etag=st.sampled_from(["", "*", "stale"]))
    def delete(self, name: str, etag: str) -> None:
        before = self.cloud.world.pools.get(name)
        try:
            accepted = self.cloud.delete(name, Preconditions(if_match=etag), self.now, ignore_budgets=False)
        except Refusal as refused:
            self.check_refused(name, before, refused)
        else:
            assert etag != "stale" or before is None
            assert (accepted.pool is None) == (before is None)

    @rule(name=NAMES, kind=st.sampled_from(["extra-node", "no-join"]))
    def arm(self, name: str, kind: str) -> None:
        self.cloud.inject(msgspec.convert({"kind": kind, "pool": name}, Fault))

    @rule(name=NAMES, error=st.sampled_from(["allocation", "quota-family"]), on=st.sampled_from(["PUT", "DELETE"]))
    def arm_failure(self, name: str, error: str, on: str) -> None:
        self.cloud.inject(msgspec.convert({"kind": "fail", "pool": name, "error": error, "on": on}, Fault))

    @rule(name=NAMES, instance=st.integers(0, 4), ready=st.booleans())
    def a_machine_reports(self, name: str, instance: int, ready: bool) -> None:
        pool = self.cloud.world.pools.get(name)
        machine = next((m for m in pool.machines if m.instance == instance), None) if pool else None
        if machine is None:
            return
        if ready and machine.phase == "Booting":
            self.cloud.machine_is_ready(name, instance, self.now)
        elif machine.phase == "Leaving":
            self.cloud.machine_is_gone(name, instance, self.now)

    @rule(name=NAMES)
    def a_machine_fails(self, name: str) -> None:
        pool = self.cloud.world.pools.get(name)
        booting = [m for m in pool.machines if m.phase == "Booting"] if pool else []
        if booting and self.cloud.world.settings.boots:
            self.cloud.machine_failed(name, booting[0].instance, "no disk", self.now)

    @rule(name=NAMES, again=st.booleans())
    def evict(self, name: str, again: bool) -> None:
        if name in self.cloud.world.pools:
            self.cloud.evict(name, self.now, again=again)

    @rule(wanted=st.sampled_from(["Stopped", "Running"]))
    def power(self, wanted: str) -> None:
        self.cloud.power(wanted, self.now)

    @rule()
    def restart(self) -> None:
        """What is persisted is the whole world."""
        self.cloud.world = msgspec.json.decode(msgspec.json.encode(self.cloud.world), type=World)

    @rule()
    def list_pages(self) -> None:
        """Pages join to a moment that really was, sorted and without gaps."""
        self.cloud.configure(lambda old: msgspec.structs.replace(old, page_size=1))
        names: list[str] = []
        last = ""
        while True:
            page, last = self.cloud.page(last, self.now)
            names += [pool.name for pool in page]
            if not last:
                break
        assert names == sorted(set(names))

    @invariant()
    def an_operation_runs_iff_the_state_says_so(self) -> None:
        for pool in self.cloud.world.pools.values():
            assert bool(pool.operation) == pool.state.endswith("ing")
            if pool.operation:
                assert self.cloud.world.operations[pool.operation].status == "InProgress"
        running = {pool.operation for pool in self.cloud.world.pools.values() if pool.operation}
        for operation in self.cloud.world.operations.values():
            assert (operation.status == "InProgress") == (operation.id in running)

    @invariant()
    def an_ended_operation_stays_as_it_ended(self) -> None:
        for operation in self.cloud.world.operations.values():
            if operation.status != "InProgress":
                assert self.ended.setdefault(operation.id, operation) == operation
                assert (operation.status == "Failed") == (operation.error is not None)

    @invariant()
    def an_etag_names_one_version_of_one_pool(self) -> None:
        for pool in self.cloud.world.pools.values():
            assert self.etags.setdefault(pool.etag, pool) == pool

    @invariant()
    def a_pool_says_why_it_failed(self) -> None:
        for pool in self.cloud.world.pools.values():
            assert pool.state != "Failed" or pool.error is not None

    @invariant()
    def machines_have_their_own_instances(self) -> None:
        for pool in self.cloud.world.pools.values():
            instances = [machine.instance for machine in pool.machines]
            assert len(set(instances)) == len(instances)
            assert all(instance < pool.next_instance for instance in instances)

    @invariant()
    def the_clock_leaves_nothing_undone(self) -> None:
        assert list(lifecycle.advance(self.cloud.world, self.now)) == []

    def teardown(self) -> None:
        """From any state, deleting everything ends with nothing."""
        self.cloud.disarm(None)
        self.cloud.power("Running", self.now)
        self.now += 1000
        self.cloud.advance(self.now)
        for name in list(self.cloud.world.pools):
            self.cloud.delete(name, Preconditions(), self.now, ignore_budgets=True)
        self.now += 1000
        self.cloud.advance(self.now)
        for pool in list(self.cloud.world.pools.values()):
            for machine in pool.machines:
                self.cloud.machine_is_gone(pool.name, machine.instance, self.now)
        # A delete that was armed to fail before may have failed; a second one does not.
        for name in list(self.cloud.world.pools):
            self.cloud.delete(name, Preconditions(), self.now, ignore_budgets=True)
        self.now += 1000
        self.cloud.advance(self.now)
        for pool in list(self.cloud.world.pools.values()):
            for machine in pool.machines:
                self.cloud.machine_is_gone(pool.name, machine.instance, self.now)
        assert self.cloud.world.pools == {}


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["count", "vmSize", "nodeLabels", "nodeTaints", "tags", "availabilityZones", "osDiskSizeGB", "mode"]
)


@given(st.dictionaries(FIELDS, ANYTHING, max_size=4))
def test_whatever_a_body_holds_it_is_taken_or_refused(properties: dict[str, object]) -> None:
    cloud = Cloud(Identity(), World())
    content = {"properties": {"vmSize": "Standard_NC6s_v3", **properties}}
    cloud.refusal("quota-family", "ws1", content["properties"])
    try:
        cloud.put("ws1", content, Preconditions(), 0.0)
    except Refusal as refused:
        answered = refused.status
    else:
        answered = 201
    assert answered in (201, 400)
    assert (answered == 201) == bool(cloud.world.pools)


@given(st.lists(st.floats(0, 100), max_size=300), st.sampled_from(sorted(LIMITS)))
def test_a_budget_never_lets_more_through_than_burst_and_refill(gaps: list[float], bucket: str) -> None:
    budgets, now, passed = Budgets(), 0.0, 0
    burst, rate = LIMITS[bucket]  # type: ignore[index]  # drawn from its keys
    for gap in gaps:
        now += gap
        wait = budgets.spend(bucket, "key", now)  # type: ignore[arg-type]  # drawn from its keys
        passed += wait is None
        assert wait is None or 0 < wait <= 1 / rate + 1e-6
        assert passed <= burst + now * rate + 1e-6


@given(st.floats(0, 1000))
def test_whoever_waits_as_long_as_told_gets_through(start: float) -> None:
    budgets = Budgets()
    while (wait := budgets.spend("pool-put", "key", start)) is None:
        pass
    assert budgets.spend("pool-put", "key", start + math.ceil(wait)) is None


def test_every_error_of_the_catalogue_has_its_facts_filled_in() -> None:
    facts = Facts("ws1", "Standard_NC6s_v3", 6, "standardNCSv3Family", "1", 2, "eastus", "sub", "group", "cluster")
    texts = [str(refusal(name, facts)) for name in REFUSAL_NAMES]
    texts += [outcome(name, facts).message for name in OUTCOME_NAMES]
    assert not [text for text in texts if "{" in text or "}" in text]
    assert "Additional Required: 12" in outcome("quota-family", facts).details[0].message


@given(st.integers(0, 36**6 - 1))
def test_computer_names_count_in_base_36(number: int) -> None:
    assert len(base36(number)) == 6
    assert int(base36(number), 36) == number


def _entry(n: int) -> Entry:
    return Entry(n=n, time=0, seconds=0, method="PUT", path="/p", kind="PUT", pool="ws1", status=201)


def test_a_log_that_a_kill_cut_short_is_read_up_to_the_last_whole_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(_entry(1))
    with (tmp_path / "requests.jsonl").open("ab") as file:
        file.write(b'{"n": 2, "ti')
    again = Journal(tmp_path)
    assert [entry.n for entry in again.entries] == [1]
    again.append(_entry(2))
    assert [entry.n for entry in Journal(tmp_path).entries] == [1, 2]
