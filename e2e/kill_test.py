"""Both controllers are killed with SIGKILL while a session is under way: at five states of it each (the last of them
is its deletion), and at five random moments.

The session must not notice: same NodeClaims, one PUT per agent pool, one adapter, and training steps that never go back.
"""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from kubernetes import client

from e2e.arm import Arm
from e2e.kill import kill
from hack.local.session import TUNED, Session, condition
from test.expect import wait_until

RANDOM_KILLS = 5
LONGEST_PAUSE = 40.0  # between two random kills
SLOW_CREATE = 20.0  # from the accepted PUT to the machine: long enough to be killed in
GPU_DELAY = 20.0  # from the node to its GPUs, as a driver installation takes on real ones
POLL_SECONDS = 0.2
TIMEOUT = 1200.0  # each kill costs up to one lease (15 s) and a pod's start


@dataclass(frozen=True)
class Moment:
    """What is seen of the session at one look."""

    workspace: dict[str, Any]
    claims: list[dict[str, Any]]
    pools: list[str]

    def is_true(self, kind: str) -> bool:
        return condition(self.workspace, kind) == "True"

    def claim_is(self, kind: str) -> bool:
        return any(condition(claim, kind) == "True" for claim in self.claims)

    @property
    def step(self) -> int:
        return int(self.workspace.get("status", {}).get("tuning", {}).get("step", 0))


@dataclass
class Witness:
    """What was ever seen of the session, looked at five times a second."""

    claims: set[str] = field(default_factory=set)  # UIDs
    digests: set[str] = field(default_factory=set)
    steps: list[int] = field(default_factory=list)
    ready: bool = False  # at the last look

    def look(self, moment: Moment) -> None:
        self.claims |= {claim["metadata"]["uid"] for claim in moment.claims}
        tuning = moment.workspace.get("status", {}).get("tuning", {})
        if digest := tuning.get("artifact", {}).get("digest"):
            self.digests.add(digest)
        self.steps.append(moment.step)
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
    State("training goes on", "controller", lambda seen: seen.step > 0),
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
    before = arm.accepted_puts()
    arm.fault(kind="slow", seconds=SLOW_CREATE)
    arm.fault(kind="gpu-delay", seconds=GPU_DELAY)
    session.write_manifest("adapters/survivor")  # of its own: it must not find another story's checkpoint
    session.shell.run("kubectl apply -f examples/fine-tuning/kaito_workspace_tuning_phi_3.yaml")
    witness = Witness()
    left = list(STATES)

    def survived() -> bool:
        claims = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
        moment = Moment(session.workspace(TUNED), claims, arm.pools())
        witness.look(moment)
        state = next((state for state in left if state.reached(moment)), None)
        if state is not None and kill(core, state.module):
            session.shell.say(f"kill -9 {state.module}: {state.name}")
            left.remove(state)
        assert not left, f"states not reached: {[state.name for state in left]}"
        return witness.ready and not random_kills.is_alive()

    wait_until(survived, TIMEOUT, POLL_SECONDS)
    assert random_kills.kills == RANDOM_KILLS
    assert len(witness.claims) == 1
    assert len(witness.digests) == 1
    assert witness.steps == sorted(witness.steps)
    puts = arm.accepted_puts() - before
    assert list(puts.values()) == [1]
    session.show_service(TUNED)
    assert session.facts[0].key in session.ask_in_pod(session.facts[0].question)


def test_a_deletion_survives_kill_9_of_both_controllers(session: Session, arm: Arm, core: client.CoreV1Api) -> None:
    session.shell.run(f"kubectl delete workspace {TUNED} --wait=false")
    wait_until(lambda: kill(core, "controller"))
    session.shell.run("kubectl delete nodeclaims --all --wait=false")
    wait_until(lambda: kill(core, "provisioner"))
    session.delete_all()
    assert arm.pools() == []
