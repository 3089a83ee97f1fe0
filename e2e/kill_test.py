"""Both controllers are killed with SIGKILL while a session is under way: at four states of it each, and at random moments.

The session must not notice: same NodeClaims, one PUT per agent pool, one adapter, and training steps that never go back.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from kubernetes import client

from e2e.arm import Arm
from e2e.kill import kill
from hack.local.session import TUNED, Session, StepFailed, condition

RANDOM_KILLS = 5
LONGEST_PAUSE = 60.0  # between two random kills; five of them fall into a session of some minutes
POLL_SECONDS = 0.2
TIMEOUT = 1200.0  # each kill costs up to one lease (15 s) and a pod's start


@dataclass
class Witness:
    """What was ever seen of the session, looked at five times a second."""

    claims: set[str] = field(default_factory=set)  # UIDs
    digests: set[str] = field(default_factory=set)
    steps: list[int] = field(default_factory=list)

    def look(self, workspace: dict[str, Any], claims: list[dict[str, Any]]) -> None:
        self.claims |= {claim["metadata"]["uid"] for claim in claims}
        tuning = workspace.get("status", {}).get("tuning", {})
        if digest := tuning.get("artifact", {}).get("digest"):
            self.digests.add(digest)
        self.steps.append(tuning.get("step", 0))


@dataclass(frozen=True)
class State:
    """A moment of the session at which one controller is killed."""

    name: str
    module: str
    reached: Callable[[dict[str, Any], list[dict[str, Any]]], bool]


def _claim_is(kind: str) -> Callable[[dict[str, Any], list[dict[str, Any]]], bool]:
    return lambda _, claims: any(condition(claim, kind) == "True" for claim in claims)


STATES = (
    State("the NodeClaim was created", "controller", lambda _, claims: bool(claims)),
    State("the agent pool was asked for", "provisioner", lambda _, claims: bool(claims)),
    State("the node was launched", "provisioner", _claim_is("Launched")),
    State("the node was registered", "provisioner", _claim_is("Registered")),
    State("the nodes are ready", "controller", lambda workspace, _: condition(workspace, "ResourceReady") == "True"),
    State("training goes on", "controller", lambda w, _: w.get("status", {}).get("tuning", {}).get("step", 0) > 0),
    State("the adapter is pushed", "controller", lambda workspace, _: condition(workspace, "Tuned") == "True"),
)


@pytest.fixture
def random_kills(core: client.CoreV1Api) -> Iterator[None]:
    """Kills one or the other controller at five random moments, in the background."""
    stopping = threading.Event()
    chance = random.SystemRandom()

    def run() -> None:
        for _ in range(RANDOM_KILLS):
            if stopping.wait(chance.uniform(1, LONGEST_PAUSE)):
                return
            kill(core, chance.choice(("controller", "provisioner")))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    stopping.set()
    thread.join()


def test_a_session_survives_kill_9_of_both_controllers(
    session: Session, arm: Arm, core: client.CoreV1Api, custom: client.CustomObjectsApi, random_kills: None
) -> None:
    before = arm.accepted_puts()
    session.write_manifest()
    session.shell.run("kubectl apply -f examples/fine-tuning/kaito_workspace_tuning_phi_3.yaml")
    witness = Witness()
    left = list(STATES)
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        workspace = session.workspace(TUNED)
        claims = custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"]
        witness.look(workspace, claims)
        for state in [state for state in left if state.reached(workspace, claims)]:
            session.shell.say(f"kill -9 {state.module}: {state.name}")
            kill(core, state.module)
            left.remove(state)
        if not left and condition(workspace, "WorkspaceReady") == "True":
            break
        time.sleep(POLL_SECONDS)  # bounded by the deadline; what is waited for is the cluster's state
    else:
        raise StepFailed(f"not ready after {TIMEOUT:.0f} s; states not reached: {[state.name for state in left]}")

    assert len(witness.claims) == 1
    assert len(witness.digests) == 1
    assert witness.steps == sorted(witness.steps)
    puts = arm.accepted_puts() - before
    assert list(puts.values()) == [1]
    session.show_service(TUNED)
    assert session.facts[0].key in session.ask_in_pod(session.facts[0].question)


def test_a_deletion_survives_kill_9_of_both_controllers(session: Session, arm: Arm, core: client.CoreV1Api) -> None:
    session.shell.run(f"kubectl delete workspace {TUNED} --wait=false")
    kill(core, "controller")
    session.shell.run("kubectl delete nodeclaims --all --wait=false")
    kill(core, "provisioner")
    session.delete_all()
    assert arm.pools() == []
