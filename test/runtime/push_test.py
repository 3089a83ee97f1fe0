"""Pushing a folder to a real registry. What the image must look like to a kubelet is covered by pulling it with umoci."""

import contextlib
import itertools
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import contract, push
from runtime.contract import ExitCode, Phase, Reason, Status
from runtime.fault import Fault
from runtime.oci import login, probe, skopeo
from runtime.oci.probe import Finding, Verdict
from runtime.oci.reference import Reference
from runtime.retry import Schedule
from runtime.status import Reporter
from test.runtime.registry import Registry, write_secret

ONCE = Schedule(deadline=0.0)
PATIENT = Schedule(deadline=30.0, first=0.05, longest=0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "adapter"
    (made / "nested").mkdir(parents=True)
    (made / "adapter_config.json").write_text('{"r": 16}')
    (made / "nested" / "note.txt").write_text("hello")
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 4096)
    return made


def send(folder: Path, image: str, secrets: tuple[Path, ...] = (), schedule: Schedule = ONCE, **more: Reporter) -> str:
    artifact = push.push(
        folder,
        Reference.parse(image),
        secrets=secrets,
        annotations={push.MODEL_ANNOTATION: "tiny"},
        schedule=schedule,
        reporter=more.get("reporter", Reporter(Phase.PUSHING)),
    )
    return artifact.digest


def failure(folder: Path, image: str, *secrets: Path) -> Fault:
    with pytest.raises(Fault) as raised:
        send(folder, image, secrets)
    assert raised.value.exit == ExitCode.PUSH_FAILED
    return raised.value


def test_a_second_push_gives_the_same_digest_and_the_registry_holds_it(registry: Registry, folder: Path) -> None:
    first = send(folder, f"{registry.host}/team/adapter:1")
    for path in folder.rglob("*"):
        path.touch()
    assert send(folder, f"{registry.host}/team/adapter:1") == first
    found = registry.manifest("team/adapter", "1")
    assert found is not None
    assert found[0] == first
    assert found[1]["annotations"] == {
        "org.opencontainers.image.created": "1970-01-01T00:00:00Z",
        "sh.kaito.model.name": "tiny",
    }
    assert len(found[1]["layers"]) == 2  # type: ignore[arg-type]  # a list in every image manifest


def test_a_changed_config_leaves_the_layer_of_the_weights_alone(registry: Registry, folder: Path) -> None:
    send(folder, f"{registry.host}/team/adapter:1")
    (folder / "adapter_config.json").write_text('{"r": 8}')
    send(folder, f"{registry.host}/team/adapter:2")
    layers = [registry.manifest("team/adapter", tag)[1]["layers"] for tag in ("1", "2")]  # type: ignore[index]  # both exist
    assert layers[0][1] == layers[1][1]  # type: ignore[index]
    assert layers[0][0] != layers[1][0]  # type: ignore[index]


def test_a_wrong_password_is_named_as_such(private_registry: Registry, folder: Path, tmp_path: Path) -> None:
    secret = write_secret(tmp_path / "push-secret", private_registry.host, "wrong-password")
    fault = failure(folder, f"{private_registry.host}/team/adapter:1", secret)
    assert fault.reason == Reason.PUSH_UNAUTHORIZED
    assert "401" in str(fault)
    assert "with the credentials from Secret `push-secret`: correct them, the Secret is read again" in str(fault)
    assert "wrong-password" not in str(fault)


def test_a_login_without_the_right_to_push_names_its_secret_among_several(tmp_path: Path) -> None:
    reference = Reference.parse("registry.example/team/adapter:1")
    secrets = [
        write_secret(tmp_path / "elsewhere", "other.example"),
        write_secret(tmp_path / "mine", "registry.example"),
    ]
    fault = push.refusal(reference, secrets, login.read(secrets), Finding(Verdict.DENIED, "answered 403"))
    assert fault.reason == Reason.PUSH_DENIED
    assert "Secret `mine`: let them push" in str(fault)
    assert "elsewhere" not in str(fault)


def test_a_push_without_any_secret_says_that_one_is_needed(private_registry: Registry, folder: Path) -> None:
    fault = failure(folder, f"{private_registry.host}/team/adapter:1")
    assert fault.reason == Reason.PUSH_UNAUTHORIZED
    assert "no Secret with a login was given" in str(fault)


def test_a_missing_secret_is_told_from_one_for_another_registry(
    private_registry: Registry, folder: Path, tmp_path: Path
) -> None:
    image = f"{private_registry.host}/team/adapter:1"
    absent = failure(folder, image, tmp_path / "push-secret")
    other = failure(folder, image, write_secret(tmp_path / "other-secret", "registry.example"))
    assert absent.reason == other.reason == Reason.SECRET_MISSING
    assert "`push-secret` does not exist" in str(absent)
    assert "`other-secret` has no login for" in str(other)


def test_no_answer_is_the_registrys_fault(folder: Path, nowhere: str) -> None:
    assert failure(folder, f"{nowhere}/team/adapter:1").reason == Reason.REGISTRY_UNAVAILABLE


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A registry that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second's silence is too long, and is ten looks: one look counts for no more where the machine stood still."""
    seconds = itertools.count(0.0, 0.1)
    monkeypatch.setattr(skopeo, "SILENT", 1.0)
    monkeypatch.setattr(skopeo, "LOOK", 0.1)
    monkeypatch.setattr(skopeo, "time", SimpleNamespace(monotonic=lambda: next(seconds)))


@pytest.mark.usefixtures("hasty")
def test_a_registry_that_falls_silent_does_not_hold_a_push_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 1.0)
    with silent() as host, pytest.raises(Fault) as raised:
        send(folder, f"{host}/team/adapter:1", schedule=Schedule(2))
    assert (raised.value.exit, raised.value.reason) == (ExitCode.PUSH_FAILED, Reason.REGISTRY_UNAVAILABLE)


@pytest.mark.usefixtures("hasty")
def test_a_command_that_works_longer_than_a_silence_is_left_alone(tmp_path: Path) -> None:
    working = "while ((SECONDS < 3)); do printf %01000d 0 >/dev/null; done; echo done"
    assert skopeo.run(["bash", "-c", working], tmp_path) == "done\n"
    with pytest.raises(skopeo.CommandFailed, match="sleep has read and written next to nothing for 1 s"):
        skopeo.run(["sleep", "infinity"], tmp_path)


def test_a_command_whose_bytes_cannot_be_counted_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends shows them to root alone while its pipes are still open; one that is gone, to nobody."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert skopeo._moved(gone.pid) is None
    monkeypatch.setattr(skopeo, "SILENT", 0.2)
    monkeypatch.setattr(skopeo, "LOOK", 0.1)
    monkeypatch.setattr(skopeo, "_moved", lambda _process: None)
    assert skopeo.run(["bash", "-c", "sleep 1; echo done"], tmp_path) == "done\n"


def test_a_mended_secret_heals_a_push_that_is_under_way(
    private_registry: Registry, folder: Path, tmp_path: Path
) -> None:
    secret = write_secret(tmp_path / "push-secret", private_registry.host, "wrong-password")
    reporter = Reporter(Phase.PUSHING)
    seen: list[str] = []

    def trouble(fault: Fault) -> None:
        Reporter.trouble(reporter, fault)
        seen.append(reporter.status.reason)
        write_secret(secret, private_registry.host)

    reporter.trouble = trouble  # type: ignore[method-assign]  # the moment at which the user mends the Secret
    digest = send(folder, f"{private_registry.host}/team/adapter:1", (secret,), PATIENT, reporter=reporter)
    assert seen == ["PushUnauthorized"]
    assert reporter.status.reason == ""
    found = private_registry.manifest("team/adapter", "1")
    assert found is not None
    assert found[0] == digest


def test_the_program_prints_the_digest_and_reports_the_artifact(
    registry: Registry, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "termination-log"
    report.touch()
    image = f"{registry.host}/team/adapter:1"
    assert push.main([str(folder), image, "--port", "0", "--termination-log", str(report)]) == 0
    status = contract.decode(Status, report.read_text())
    assert status.artifact is not None
    assert status.artifact.ref == image
    assert capsys.readouterr().out.strip() == f"{registry.host}/team/adapter@{status.artifact.digest}"


def test_the_program_ends_with_73_after_its_deadline(folder: Path, nowhere: str, tmp_path: Path) -> None:
    report = tmp_path / "termination-log"
    report.touch()
    arguments = [str(folder), f"{nowhere}/a/b:1", "--deadline", "0", "--port", "0"]
    assert push.main([*arguments, "--termination-log", str(report)]) == ExitCode.PUSH_FAILED
    assert json.loads(report.read_text())["reason"] == "RegistryUnavailable"


def test_a_digest_cannot_be_pushed_to(folder: Path) -> None:
    with pytest.raises(Fault, match="names a digest"):
        push.parse_reference("registry.example/a@sha256:" + "0" * 64)
