"""How the demo ends: whatever fails, it says why and where the logs are, and nothing is left running.

The session's steps are e2e's business; here one of them fails, in a box whose API server nobody has started.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client

from hack.local import cluster, demo
from hack.local.session import Session, StepFailed
from hack.local.shell import CommandFailed, Shell

KUBECONFIG = """
clusters: [{name: box, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: box, context: {cluster: box, user: nobody}}]
current-context: box
"""
FAILURES = (
    StepFailed("no such state"),
    CommandFailed("kubectl apply", "ended with status 1", ""),
    cluster.BoxError("no such image"),
    client.ApiException(status=503, reason="away"),
    KeyError("choices"),
    OSError("address already in use"),
)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[cluster.Box]:
    """A box that is "up" as long as there is a file of that name."""
    box = cluster.Box(tmp_path)
    box.kubeconfig.write_text(KUBECONFIG)

    def up() -> cluster.Box:
        (tmp_path / "up").touch()
        return box

    monkeypatch.setattr(cluster, "up", up)
    monkeypatch.setattr(cluster, "down", lambda: (tmp_path / "up").unlink())
    monkeypatch.setattr(demo, "recording", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(demo, "cached_mib", lambda: 0.0)
    yield box
    assert not (tmp_path / "up").exists()


@pytest.fixture
def session(box: cluster.Box) -> Session:
    (box.folder / "registry-password").write_text("secret")
    return Session(box.site("http://127.0.0.1:1"), Shell(box.folder, {"KUBECONFIG": str(box.kubeconfig)}), ())


def failing(failure: Exception | type[BaseException]) -> Callable[..., None]:
    def step(*_: object) -> None:
        raise failure

    return step


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_step_that_fails_shows_what_a_user_would_look_at_and_leaves_nothing_running(
    session: Session, failure: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "prepared", lambda _: contextlib.nullcontext(session))
    monkeypatch.setattr(demo, "steps", lambda _: [("1. It fails", failing(failure))])
    assert demo.main([]) == 1
    shown = capsys.readouterr()
    assert "=== 1. It fails" in shown.out
    assert "$ kubectl describe workspaces,nodeclaims -A" in shown.out
    assert str(failure) in shown.err
    assert f"Logs: {cluster.logs_folder()}" in shown.err


def test_a_failure_before_the_first_step_leaves_nothing_running(
    box: cluster.Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "prepared", failing(OSError("address already in use")))
    assert demo.main([]) == 1
    assert f"Logs: {cluster.logs_folder()}" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_running(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "prepared", lambda _: contextlib.nullcontext(session))
    monkeypatch.setattr(demo, "steps", lambda _: [("1. It goes on", failing(KeyboardInterrupt))])
    assert demo.main([]) == 130
    assert f"Logs: {cluster.logs_folder()}" in capsys.readouterr().err


def test_a_base_model_that_answers_with_an_error_is_quoted(session: Session) -> None:
    (session.site.work / "curl").write_text('#!/bin/sh\necho \'{"error": "no such model"}\'\n')
    (session.site.work / "curl").chmod(0o755)
    session.shell.environment["PATH"] = f"{session.site.work}:{session.shell.environment['PATH']}"
    with pytest.raises(StepFailed, match="no such model"):
        session.ask_base("Who keeps the lighthouse?")


def test_a_variable_whose_command_fails_is_not_set_and_the_commands_words_are_kept(session: Session) -> None:
    with pytest.raises(CommandFailed, match="ended with status 3: no such service"):
        session.shell.export("CLUSTERIP", "echo no such service >&2; exit 3")
    assert "CLUSTERIP" not in session.shell.environment
