"""Daemons of a run folder: found, ended, never confused with others. What runs here are ordinary commands of the machine."""

import os
import select
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.local import process
from hack.local.process import BoxError, Daemons, Process
from test.expect import TIMEOUT, wait_until

FOREVER = ["tail", "--follow", "/dev/null"]


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    daemons = Daemons(tmp_path)
    yield daemons
    daemons.stop_all()


def test_a_started_daemon_is_found_by_another_object_of_the_same_folder(daemons: Daemons) -> None:
    started = daemons.start("store", FOREVER)
    assert Daemons(daemons.folder).find("store") == started
    assert Daemons(daemons.folder).names() == ["store"]


def test_stopping_ends_the_daemon_and_its_children(daemons: Daemons) -> None:
    daemons.start("parent", ["sh", "-c", "tail --follow /dev/null & wait"])
    daemons.wait_until("parent", lambda: "tail" in _programs(daemons) and len(daemons.marked()) == 2, TIMEOUT)
    daemons.stop("parent", 0)
    assert daemons.marked() == []
    assert daemons.find("parent") is None


def _programs(daemons: Daemons) -> list[str]:
    """What the daemons run. A child is seen before it has become its program, and not at all while it becomes it."""
    lines = [Path(f"/proc/{each.pid}/cmdline").read_text() for each in daemons.marked()]
    return [line.partition("\0")[0] for line in lines]


def test_stopping_one_daemon_leaves_the_others(daemons: Daemons) -> None:
    daemons.start("first", FOREVER)
    second = daemons.start("second", FOREVER)
    daemons.stop("first")
    assert daemons.names() == ["second"]
    assert second.alive()


def test_a_daemon_that_ignores_sigterm_is_killed_after_the_grace_time(daemons: Daemons) -> None:
    stubborn = daemons.start("stubborn", ["sh", "-c", "trap '' TERM; echo ready; exec tail --follow /dev/null"])
    daemons.wait_until("stubborn", lambda: b"ready" in daemons.log("stubborn").read_bytes(), TIMEOUT)
    daemons.stop("stubborn", 0.1)
    assert not stubborn.alive()


def test_what_lost_its_record_is_ended_by_its_mark(daemons: Daemons) -> None:
    lost = daemons.start("lost", FOREVER)
    (daemons.folder / "processes" / "lost.pid").unlink()
    assert daemons.find("lost") is None
    daemons.stop_all()
    assert not lost.alive()


def test_the_daemons_of_another_folder_are_not_ours(daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Daemons(tmp_path_factory.mktemp("other"))
    theirs = other.start("store", FOREVER)
    try:
        daemons.stop_all()
        assert daemons.find("store") is None
        assert theirs.alive()
        assert other.folder in process.owners()
    finally:
        other.stop_all()


def test_a_reused_pid_is_not_the_process_that_was_recorded() -> None:
    with subprocess.Popen(FOREVER) as child:
        current = process.process(child.pid)
        assert current is not None
        earlier = Process(child.pid, current.started - 1)
        earlier.end(0)
        assert current.alive()
        current.end(0)
        child.returncode = 0  # reaped by `end`


def test_a_process_that_had_ended_before_it_was_looked_at_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as child:
        handle = os.pidfd_open(child.pid)
        assert select.select([handle], [], [], TIMEOUT)[0]  # ended, and not reaped yet
        os.close(handle)
        assert process.process(child.pid) is None
        assert not Process(child.pid, 0).alive()


def test_a_daemon_that_dies_while_starting_is_reported_with_the_end_of_its_log(daemons: Daemons) -> None:
    daemons.start("broken", ["sh", "-c", "echo no such flag >&2; exit 1"])
    with pytest.raises(BoxError, match="no such flag"):
        daemons.wait_until("broken", lambda: False, TIMEOUT)


def test_a_daemon_that_does_not_get_ready_in_time_is_reported(daemons: Daemons) -> None:
    daemons.start("slow", FOREVER)
    with pytest.raises(BoxError, match="not ready after 0 s"):
        daemons.wait_until("slow", lambda: False, 0.1)


def test_what_a_command_started_is_found_by_the_environment_that_it_inherits() -> None:
    mark = {"PROCESS_TEST": uuid.uuid4().hex}
    assert process.carrying(mark) == []
    shell = ["sh", "-c", "tail --follow /dev/null & echo $!; wait"]
    with subprocess.Popen(shell, env={**os.environ, **mark}, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None  # for the type checker: a pipe was asked for
        child = int(parent.stdout.readline())
        wait_until(lambda: {found.pid for found in process.carrying(mark)} == {parent.pid, child})
        for found in process.carrying(mark):
            found.end(0)
    wait_until(lambda: process.carrying(mark) == [])
