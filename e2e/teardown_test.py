"""The box leaves the machine as it found it: processes, mounts, network namespaces, bridges, iptables rules.

Runs last (see conftest.py) and on its own boxes: first what one `up` and `down` leave, then `up` and the whole demo
interrupted at random moments.
"""

import os
import random
import signal
import subprocess

import pytest

from hack.local import cluster, snapshot

PATIENCE = 120.0  # seconds from Ctrl-C to the end


def moments(rounds: int, longest: float) -> list[float]:
    """Seconds after the start, drawn anew for each run."""
    return [random.SystemRandom().uniform(0.5, longest) for _ in range(rounds)]


def interrupted(target: str, moment: float) -> int:
    """`make <target>`, with Ctrl-C at that moment: as from a terminal, to every process of the group. Its exit status."""
    with subprocess.Popen(
        ["make", target], cwd=cluster.REPOSITORY, stdout=subprocess.DEVNULL, start_new_session=True
    ) as command:
        try:
            return command.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(command.pid, signal.SIGINT)
        return command.wait(PATIENCE)


def left_behind(before: snapshot.Snapshot) -> list[str]:
    return snapshot.differences(before, snapshot.take(cluster.run_folder()))


def test_down_leaves_the_machine_as_it_was(machine_before: snapshot.Snapshot) -> None:
    cluster.down()
    assert left_behind(machine_before) == []


@pytest.mark.parametrize("moment", moments(5, longest=20))  # it takes about that long
def test_an_interrupted_up_leaves_nothing_behind(machine_before: snapshot.Snapshot, moment: float) -> None:
    interrupted("up", moment)
    if cluster.is_up(cluster.Box(cluster.run_folder())):
        cluster.down()  # it was up before the signal came, whatever became of `make` itself
    assert left_behind(machine_before) == []


@pytest.mark.parametrize("moment", moments(2, longest=150))  # from the start of the box to the middle of a training
def test_an_interrupted_demo_leaves_nothing_behind(machine_before: snapshot.Snapshot, moment: float) -> None:
    assert interrupted("demo", moment) != 0
    assert left_behind(machine_before) == []
