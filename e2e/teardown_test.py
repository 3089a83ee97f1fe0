"""The box leaves the machine as it found it: processes, mounts, network namespaces, bridges, iptables rules.

Runs last (see conftest.py) and on its own boxes: first what one `up` and `down` leave, then `up` interrupted at random moments.
"""

import random
import signal
import subprocess
import sys

import pytest

from hack.local import cluster, snapshot

ROUNDS = 5
LONGEST = 20.0  # seconds; `up` takes about that long


def left_behind(before: snapshot.Snapshot) -> list[str]:
    return snapshot.differences(before, snapshot.take(cluster.run_folder()))


def test_down_leaves_the_machine_as_it_was(machine_before: snapshot.Snapshot) -> None:
    cluster.down()
    assert left_behind(machine_before) == []


@pytest.mark.parametrize("moment", [random.SystemRandom().uniform(0.5, LONGEST) for _ in range(ROUNDS)])
def test_an_interrupted_up_leaves_nothing_behind(machine_before: snapshot.Snapshot, moment: float) -> None:
    up = subprocess.Popen([sys.executable, "-m", "hack.local", "up"], cwd=cluster.REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        up.wait(moment)
    except subprocess.TimeoutExpired:
        up.send_signal(signal.SIGINT)
    if up.wait(120) == 0:
        cluster.down()  # it was up before the signal came
    assert left_behind(machine_before) == []
