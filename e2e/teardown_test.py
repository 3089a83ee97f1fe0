"""The box leaves the machine as it found it: processes, mounts, network namespaces, bridges, iptables rules.

Runs last (see conftest.py) and on its own boxes: first what one `up` and `down` leave, then `up` and the whole demo
interrupted at random moments.
"""

import os
import random
import signal
import subprocess
import uuid

import pytest

from hack.local import cluster, process, snapshot
from test.expect import wait_until

PATIENCE = 120.0  # seconds from Ctrl-C to the end
MARK = "AKS_IN_A_BOX_STORY"  # an environment variable, which all that a command starts inherits


def moments(rounds: int, longest: float) -> list[float]:
    """Seconds after the start, drawn anew for each run."""
    return [random.SystemRandom().uniform(0.5, longest) for _ in range(rounds)]


def interrupted(target: str, moment: float, mark: str) -> tuple[bool, int]:
    """`make <target>`, with Ctrl-C at that moment: as from a terminal, to every process of the group.

    Returns whether it still ran then, and its exit status.
    """
    command = subprocess.Popen(
        ["make", target],
        cwd=cluster.REPOSITORY,
        env={**os.environ, MARK: mark},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    with command:
        try:
            return False, command.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(command.pid, signal.SIGINT)
        return True, command.wait(PATIENCE)


def left_behind(before: snapshot.Snapshot) -> list[str]:
    return snapshot.differences(before, snapshot.take(cluster.run_folder()))


def all_ended(mark: str) -> bool:
    """Nothing runs that a command with this mark started: nothing of the box, no kubectl, no build."""
    assert [snapshot.command_line(found.pid) for found in process.carrying({MARK: mark})] == []
    return True


def test_down_leaves_the_machine_as_it_was(machine_before: snapshot.Snapshot) -> None:
    cluster.down()
    assert left_behind(machine_before) == []


@pytest.mark.parametrize("moment", moments(5, longest=20))  # it takes about that long
def test_an_interrupted_up_leaves_nothing_behind(machine_before: snapshot.Snapshot, moment: float) -> None:
    mark = uuid.uuid4().hex
    sent, status = interrupted("up", moment, mark)
    assert sent or status == 0
    if cluster.is_up(cluster.Box(cluster.run_folder())):
        cluster.down()  # it was up before the signal came, whatever became of `make` itself
    wait_until(lambda: all_ended(mark))
    assert left_behind(machine_before) == []


@pytest.mark.parametrize("moment", moments(2, longest=150))  # from the start of the box to the middle of a training
def test_an_interrupted_demo_leaves_nothing_behind(machine_before: snapshot.Snapshot, moment: float) -> None:
    mark = uuid.uuid4().hex
    sent, status = interrupted("demo", moment, mark)
    assert sent
    assert status != 0
    wait_until(lambda: all_ended(mark))
    assert left_behind(machine_before) == []
