"""What is said where a box cannot run, and what a snapshot's comparison shows. Bringing a box up is e2e's business."""

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest

from hack.local import __main__ as command
from hack.local import assets, cluster, machine, snapshot
from hack.local.process import BoxError, Daemons

EMPTY = snapshot.Snapshot(*[frozenset[str]()] * 8)


def running_on(monkeypatch: pytest.MonkeyPatch, system: str, user: int = 0) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(os, "geteuid", lambda: user)


def test_another_system_is_told_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    running_on(monkeypatch, "Darwin")
    with pytest.raises(BoxError, match=r"needs Linux .* this is Darwin.*KUBECONFIG.*make deploy OVERLAY=byo"):
        machine.check()


def test_a_user_without_root_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    running_on(monkeypatch, "Linux", user=1000)
    with pytest.raises(BoxError, match=r"needs root .* sudo.*KUBECONFIG.*make deploy OVERLAY=byo"):
        machine.check()


def test_a_machine_on_which_nothing_can_be_installed_is_told_so_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running_on(monkeypatch, "Linux", user=0)
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is there
    with pytest.raises(BoxError, match=r"missing and this machine has no apt-get: containerd"):
        machine.check()


def test_a_machine_without_go_is_told_so_before_anything_is_fetched_unless_kubernetes_was_built_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running_on(monkeypatch, "Linux", user=0)
    monkeypatch.setattr(assets, "PACKAGES", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BoxError, match=r"Go is needed"):
        machine.check()
    (assets.cache() / f"hyperkube-{assets.source_key(assets.MODULE, '.')}").touch()
    machine.check()


def test_a_second_box_is_refused_with_the_folder_of_the_first(tmp_path: Path) -> None:
    other = Daemons(tmp_path / "other")
    other.start("etcd", ["tail", "--follow", "/dev/null"])
    try:
        (other.folder / "network-before.json").write_text("{}")
        with pytest.raises(BoxError, match=str(other.folder)):
            cluster.check_no_other(tmp_path / "ours")
    finally:
        other.stop_all()


def test_a_control_plane_of_a_test_is_no_other_box(tmp_path: Path) -> None:
    other = Daemons(tmp_path / "other")
    other.start("etcd", ["tail", "--follow", "/dev/null"])
    try:
        assert not other.folder.joinpath("network-before.json").exists()
        assert cluster.is_up(cluster.Box(other.folder)) is False
        assert "incomplete" in cluster.status(other.folder)
    finally:
        other.stop_all()


def test_a_box_that_never_was_is_down(tmp_path: Path) -> None:
    assert cluster.status(tmp_path / "nothing") == "The box is down."


def test_a_box_whose_process_died_is_not_up(tmp_path: Path) -> None:
    daemons = Daemons(tmp_path)
    daemons.start("etcd", ["tail", "--follow", "/dev/null"])
    (tmp_path / "up").write_text("etcd\nkube-apiserver")
    try:
        assert cluster.is_up(cluster.Box(tmp_path)) is False
        (tmp_path / "up").write_text("etcd")
        assert cluster.is_up(cluster.Box(tmp_path)) is True
    finally:
        daemons.stop_all()


def test_equal_snapshots_have_no_differences() -> None:
    assert snapshot.differences(EMPTY, EMPTY) == []


def test_what_came_and_what_went_is_named() -> None:
    before = replace(EMPTY, links=frozenset({"eth0"}))
    after = replace(EMPTY, links=frozenset({"kube0"}), mounts=frozenset({"/run/netns (tmpfs)"}))
    assert snapshot.differences(before, after) == ["mounts: + /run/netns (tmpfs)", "links: + kube0", "links: - eth0"]


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["status", "--what"])
    assert ended.value.code == 2
    assert "--what" in capsys.readouterr().err
