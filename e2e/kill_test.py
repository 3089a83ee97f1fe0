"""Both controllers are killed with SIGKILL while a session is under way: at four observed states of it each, once more in
its deletion, and at five random moments.

The session must not notice: the same NodeClaims and the same Job, one PUT per agent pool, one adapter, and training
steps that never go back. What a state stands for has become true then; it may no longer be the latest.
"""

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from kubernetes import client

from e2e.arm import Arm
from e2e.kill import kill
from hack.local.session import TUNED, Session, condition
from runtime import contract
from test.expect import wait_until

ADAPTER = "adapters/survivor"  # of its own: the session must not find another story's checkpoint
RANDOM_KILLS = 5
LONGEST_PAUSE = 40.0  # between two random kills
SLOW_CREATE = 20.0  # from the accepted PUT to the machine: long enough to be killed in
GPU_DELAY = 20.0  # from the node to its GPUs, as a driver installation takes on real ones
SLOW_DELETE = 20.0
POLL_SECONDS = 0.2
TIMEOUT = 1200.0  # each kill costs up to one lease (15 s) and a pod's start
DELETION_TIMEOUT = 120.0


@dataclass(frozen=True)
class Moment:
    """What is seen of the session at one look."""

    workspace: dict[str, Any]
    claims: list[dict[str, Any]]
    pools: list[str]
    jobs: list[client.V1Job]
    trainers: list[client.V1Pod]
    said: contract.Status | None  # by the trainer itself, while it trains

    def is_true(self, kind: str) -> bool:
        return condition(self.workspace, kind) == "True"

    def claim_is(self, kind: str) -> bool:
        return any(condition(claim, kind) == "True" for claim in self.claims)

    @property
    def training(self) -> bool:
        return self.said is not None and 0 < self.said.step < self.said.total_steps


def look(session: Session, arm: Arm, core: client.CoreV1Api, custom: client.CustomObjectsApi) -> Moment:
    workspace = session.workspace(TUNED)
    jobs = owned(client.BatchV1Api(core.api_client).list_namespaced_job("default").items, workspace["metadata"]["uid"])
    trainers = owned(core.list_namespaced_pod("default").items, *(job.metadata.uid for job in jobs))
    claims = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
    said = next((said for trainer in trainers if (said := ask(trainer))), None)
    return Moment(workspace, claims, arm.pools(), jobs, trainers, said)


def owned(items: list[Any], *owners: str) -> list[Any]:
    return [item for item in items if {owner.uid for owner in item.metadata.owner_references or ()} & set(owners)]


def ask(trainer: client.V1Pod) -> contract.Status | None:
    """What a trainer says while it trains. The Workspace's status is no witness of that: the controller that is killed
    writes it, and lets steps go up only.
    """
    if trainer.status.phase == "Running":
        with contextlib.suppress(requests.RequestException):  # it is just coming or going
            answer = requests.get(f"http://{trainer.status.pod_ip}:{contract.STATUS_PORT}/status", timeout=2)
            said = contract.decode(contract.Status, answer.text)
            return said if said.phase == contract.Phase.TRAINING else None
    return None


@dataclass
class Witness:
    """What was ever seen of the session, looked at five times a second."""

    claims: set[str] = field(default_factory=set)  # UIDs, as of jobs and trainers
    jobs: set[str] = field(default_factory=set)
    trainers: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    steps: list[int] = field(default_factory=list)  # as the trainer told them
    shown: list[int] = field(default_factory=list)  # as the Workspace's status did
    ready: bool = False  # at the last look

    def look(self, moment: Moment) -> None:
        self.claims |= {claim["metadata"]["uid"] for claim in moment.claims}
        self.jobs |= {job.metadata.uid for job in moment.jobs}
        self.trainers |= {trainer.metadata.uid for trainer in moment.trainers}
        tuning = moment.workspace.get("status", {}).get("tuning", {})
        if digest := tuning.get("artifact", {}).get("digest"):
            self.digests.add(digest)
        self.shown.append(tuning.get("step", 0))
        self.steps += [moment.said.step] if moment.said else []
        self.ready = moment.is_true("WorkspaceReady")


@dataclass(frozen=True)
class State:
    """A state of the session in which one controller is killed."""

    name: str
    module: str
    reached: Callable[[Moment], bool]


STATES = (
    State("the NodeClaim was created", "controller", lambda seen: bool(seen.claims)),
    State("the agent pool was asked for", "provisioner", lambda seen: bool(seen.pools)),
    State("the machine was launched", "provisioner", lambda seen: seen.claim_is("Launched")),
    State("the node was registered", "provisioner", lambda seen: seen.claim_is("Registered")),
    State("the node was initialized", "provisioner", lambda seen: seen.claim_is("Initialized")),
    State("the nodes are ready", "controller", lambda seen: seen.is_true("ResourceReady")),
    State("training goes on", "controller", lambda seen: seen.training),
    State("the adapter is pushed", "controller", lambda seen: seen.is_true("Tuned")),
)


class RandomKills(threading.Thread):
    """Kills one or the other controller at random moments, in the background."""

    def __init__(self, core: client.CoreV1Api) -> None:
        super().__init__(daemon=True)
        self._core = core
        self._stopping = threading.Event()
        self.kills = 0

    def run(self) -> None:
        chance = random.SystemRandom()
        while self.kills < RANDOM_KILLS and not self._stopping.wait(chance.uniform(1, LONGEST_PAUSE)):
            # One that is just being replaced cannot be killed; then the next moment counts.
            self.kills += min(1, kill(self._core, chance.choice(("controller", "provisioner"))))

    def stop(self) -> None:
        self._stopping.set()
        self.join()


@pytest.fixture
def random_kills(core: client.CoreV1Api) -> Iterator[RandomKills]:
    kills = RandomKills(core)
    kills.start()
    yield kills
    kills.stop()


def test_a_session_survives_kill_9_of_both_controllers(
    session: Session, arm: Arm, core: client.CoreV1Api, custom: client.CustomObjectsApi, random_kills: RandomKills
) -> None:
    before = arm.puts()
    arm.fault(kind="slow", seconds=SLOW_CREATE)
    arm.fault(kind="gpu-delay", seconds=GPU_DELAY)
    session.write_manifest(ADAPTER)
    session.shell.run("kubectl apply -f examples/fine-tuning/kaito_workspace_tuning_phi_3.yaml")
    witness = Witness()
    left = list(STATES)

    def survived() -> bool:
        moment = look(session, arm, core, custom)
        witness.look(moment)
        state = next((state for state in left if state.reached(moment)), None)
        if state is not None and kill(core, state.module):
            session.shell.say(f"kill -9 {state.module}: {state.name}")
            left.remove(state)
        assert not left, f"states not reached: {[state.name for state in left]}"
        return witness.ready and not random_kills.is_alive()

    wait_until(survived, TIMEOUT, POLL_SECONDS)
    assert random_kills.kills == RANDOM_KILLS
    assert [len(seen) for seen in (witness.claims, witness.jobs, witness.trainers, witness.digests)] == [1] * 4
    assert witness.steps == sorted(witness.steps)
    assert witness.shown == sorted(witness.shown)
    assert list((arm.puts() - before).values()) == [1]
    session.show_tuning(ADAPTER)  # the registry has what the status names
    session.show_service(TUNED)
    assert session.facts[0].key in session.ask_in_pod(session.facts[0].question)


def test_a_deletion_survives_kill_9_of_both_controllers(
    session: Session, arm: Arm, core: client.CoreV1Api, custom: client.CustomObjectsApi
) -> None:
    arm.fault(kind="slow", on="DELETE", seconds=SLOW_DELETE)
    session.shell.run(f"kubectl delete workspace {TUNED} --wait=false")
    wait_until(lambda: kill(core, "controller"))

    def going() -> bool:  # by the controller's own hand
        claims = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
        return all("deletionTimestamp" in claim["metadata"] for claim in claims)

    wait_until(going, DELETION_TIMEOUT)
    wait_until(lambda: kill(core, "provisioner"))
    session.delete_all()
    assert arm.pools() == []
