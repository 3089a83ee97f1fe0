"""Checkpoints: complete or absent, this run's or nobody's, kept in a real registry. What is in them: trainer_test."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from runtime.contract import Artifact, ExitCode, Phase, Reason
from runtime.fault import Fault
from runtime.oci.reference import Reference
from runtime.retry import Schedule
from runtime.status import Reporter
from runtime.training import checkpoint
from runtime.training.checkpoint import MANIFEST, Remote, Store, run_id
from test.expect import TIMEOUT
from test.runtime.registry import Registry, running, write_secret

SOON = Schedule(deadline=0.0)
RUN = run_id(["org/tiny", "data"])


def store(folder: Path, remote: Remote | None = None, run: str = RUN) -> Store:
    return Store(folder, run, remote, Reporter(Phase.TRAINING))


def save(kept: Store, step: int, text: str = "weights") -> Path:
    folder = kept.folder / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_text(f"{text} {step}")
    kept.record(step, {"micro": 2})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def published(kept: Store, registry: Registry) -> list[str]:
    """Publish two checkpoints as team/adapter:1-checkpoint; returns their digests."""
    digests = []
    for step in (0, 7):
        kept.publish(kept.record(step, {}), SOON)
        found = registry.manifest("team/adapter", "1-checkpoint")
        assert found is not None
        digests.append(found[0])
    return digests


def test_the_newest_complete_checkpoint_is_found_with_what_was_kept_in_it(tmp_path: Path) -> None:
    kept = store(tmp_path)
    save(kept, 5)
    save(kept, 10)
    found = kept.latest()
    assert found is not None
    assert (found.step, found.extra) == (10, {"micro": 2})


@pytest.mark.parametrize("damage", ["cut", "missing file", "no manifest", "broken manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(damage: str, tmp_path: Path) -> None:
    kept = store(tmp_path)
    save(kept, 5)
    newest = save(kept, 10)
    match damage:
        case "cut":
            (newest / "adapter_model.safetensors").write_text("weight")
        case "missing file":
            (newest / "adapter_model.safetensors").unlink()
        case "no manifest":
            (newest / MANIFEST).unlink()
        case _:
            (newest / MANIFEST).write_text("{")
    found = kept.latest()
    assert found is not None
    assert found.step == 5


def test_another_runs_checkpoint_is_never_resumed(tmp_path: Path) -> None:
    save(store(tmp_path), 5)
    assert store(tmp_path, run=run_id(["org/tiny", "other data"])).latest() is None


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (1, 2, 3):
        save(kept, step)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]


def test_what_an_earlier_training_left_on_the_volume_costs_this_one_nothing(tmp_path: Path) -> None:
    before = store(tmp_path, run=run_id(["org/tiny", "other data"]))
    for step in (200, 400):
        save(before, step)
    kept = store(tmp_path)
    kept.record(0, {})
    assert names(tmp_path) == ["checkpoint-0", "checkpoint-200", "checkpoint-400"]
    for step in (50, 100, 450):
        save(kept, step)
        found = kept.latest()
        assert found is not None
        assert found.step == step
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-450"]


def test_what_a_killed_pod_left_unfinished_goes_and_does_not_count(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (5, 10):
        save(kept, step)
    for step in (12, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    save(kept, 15)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-15", "checkpoint-30"]


@pytest.mark.parametrize("manifest", ["{", "[]", '{"steps": 3}', '{"run": null}'])
def test_what_is_no_training_of_ours_is_neither_resumed_nor_touched(manifest: str, tmp_path: Path) -> None:
    for name in ("checkpoint-3", "checkpoint-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(manifest)
    (tmp_path / "checkpoint-last").mkdir()
    kept = store(tmp_path)
    assert kept.latest() is None
    for step in (5, 10, 15):
        save(kept, step)
    others = ["checkpoint-3", "checkpoint-best", "checkpoint-last"]
    assert names(tmp_path) == sorted(["checkpoint-10", "checkpoint-15", *others])


def test_a_checkpoint_of_another_run_that_may_not_be_deleted_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    save(store(tmp_path, run=run_id(["org/tiny", "other data"])), 400)
    monkeypatch.setattr(shutil, "rmtree", refused)
    save(store(tmp_path), 5)
    assert names(tmp_path) == ["checkpoint-400", "checkpoint-5"]


class TestRemote:
    @pytest.fixture
    def remote(self, registry: Registry) -> Remote:
        return Remote(Reference.parse(f"{registry.host}/team/adapter:1-checkpoint"), ())

    def test_a_new_pod_finds_what_the_last_one_published(self, remote: Remote, tmp_path: Path) -> None:
        first = store(tmp_path / "first", remote)
        assert first.restore(SOON) is None
        first.publish(first.record(0, {}), SOON)
        save(first, 7)
        latest = first.latest()
        assert latest is not None
        first.publish(latest, SOON)
        found = store(tmp_path / "second", remote).restore(SOON)
        assert found is not None
        assert found.step == 7
        assert (found.folder / "adapter_model.safetensors").read_text() == "weights 7"

    def test_a_push_while_training_goes_on_arrives(self, remote: Remote, registry: Registry, tmp_path: Path) -> None:
        kept = store(tmp_path, remote)
        save(kept, 3)
        latest = kept.latest()
        assert latest is not None
        kept.publish_meanwhile(latest, Schedule(10))
        kept.settle()
        found = registry.manifest("team/adapter", "1-checkpoint")
        assert found is not None
        assert json.loads(json.dumps(found[1]))["annotations"]["sh.kaito.checkpoint.step"] == "3"

    def test_discarding_leaves_no_checkpoint_in_the_registry_and_takes_nothing_else_along(
        self, remote: Remote, registry: Registry, tmp_path: Path
    ) -> None:
        beside = Remote(remote.reference.with_tag("2-checkpoint"), ())
        neighbour = store(tmp_path / "neighbour", beside, run=run_id(["other"]))
        neighbour.publish(neighbour.record(0, {}), SOON)
        kept = store(tmp_path / "kept", remote)
        digests = published(kept, registry)
        assert len(set(digests)) == 2
        kept.discard()
        assert [registry.manifest("team/adapter", name) for name in ("1-checkpoint", *digests)] == [None] * 3
        assert registry.manifest("team/adapter", "2-checkpoint") is not None

    def test_where_nothing_may_be_deleted_checkpoints_stay_and_nobody_is_warned(self, tmp_path: Path) -> None:
        with running(tmp_path / "registry", delete=False) as registry:
            kept = store(tmp_path / "kept", Remote(Reference.parse(f"{registry.host}/team/adapter:1-checkpoint"), ()))
            digests = published(kept, registry)
            kept.discard()
            assert all(registry.manifest("team/adapter", name) for name in ("1-checkpoint", *digests))
        assert kept.reporter.status.warnings == ()

    def test_a_failed_push_while_training_goes_on_is_a_warning(self, nowhere: str, tmp_path: Path) -> None:
        kept = store(tmp_path, Remote(Reference.parse(f"{nowhere}/a/b:1"), ()))
        save(kept, 3)
        latest = kept.latest()
        assert latest is not None
        kept.publish_meanwhile(latest, SOON)
        kept.settle()
        assert [warning.code for warning in kept.reporter.status.warnings] == [Reason.REGISTRY_UNAVAILABLE]

    def test_a_push_for_which_there_is_no_room_is_a_warning_too(
        self, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(checkpoint, "push", full)
        kept = store(tmp_path, remote)
        save(kept, 3)
        latest = kept.latest()
        assert latest is not None
        kept.publish_meanwhile(latest, SOON)
        kept.settle()
        (warning,) = kept.reporter.status.warnings
        assert "step 3" in warning.message
        assert "No space left" in warning.message

    def test_a_push_that_hangs_is_waited_for_as_long_as_is_said(
        self, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered, pushing = threading.Event(), threading.Event()

        def hang(*_: object, **__: object) -> Artifact:
            pushing.set()
            answered.wait()
            return Artifact()

        monkeypatch.setattr(checkpoint, "push", hang)
        kept = store(tmp_path, remote)
        save(kept, 3)
        latest = kept.latest()
        assert latest is not None
        kept.publish_meanwhile(latest, SOON)
        assert pushing.wait(TIMEOUT)
        assert not kept.settle(0.01)
        assert not answered.is_set()  # and still settle has returned
        answered.set()

    def test_behind_a_push_that_hangs_the_last_one_is_not_kept_and_not_begun(
        self, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered, pushing, begun = threading.Event(), threading.Event(), []

        def hang(*_: object, annotations: dict[str, str], **__: object) -> Artifact:
            begun.append(annotations["sh.kaito.checkpoint.step"])
            pushing.set()
            answered.wait()
            return Artifact()

        monkeypatch.setattr(checkpoint, "push", hang)
        kept = store(tmp_path, remote)
        kept.publish_meanwhile(kept.record(3, {}), SOON)
        assert pushing.wait(TIMEOUT)
        assert not kept.keep(kept.record(4, {}), lambda: 0.01)
        assert begun == ["3"]
        answered.set()

    def test_the_last_one_is_pushed_behind_the_one_that_is_on_its_way(
        self, remote: Remote, registry: Registry, tmp_path: Path
    ) -> None:
        kept = store(tmp_path, remote)
        kept.publish_meanwhile(kept.record(3, {}), SOON)
        assert kept.keep(kept.record(4, {}), lambda: 60.0)
        found = registry.manifest("team/adapter", "1-checkpoint")
        assert found is not None
        assert json.loads(json.dumps(found[1]))["annotations"]["sh.kaito.checkpoint.step"] == "4"

    def test_a_last_one_that_the_registry_does_not_take_is_not_kept_and_says_why(
        self, nowhere: str, tmp_path: Path
    ) -> None:
        kept = store(tmp_path, Remote(Reference.parse(f"{nowhere}/a/b:1"), ()))
        left = iter([0.0, 0.0, 60.0])  # one attempt, and time to wait for what it says
        assert not kept.keep(kept.record(4, {}), lambda: next(left))
        assert [warning.code for warning in kept.reporter.status.warnings] == [Reason.REGISTRY_UNAVAILABLE]

    def test_a_later_push_that_succeeds_takes_the_warning_back(
        self, registry: Registry, nowhere: str, tmp_path: Path
    ) -> None:
        kept = store(tmp_path, Remote(Reference.parse(f"{nowhere}/a/b:1"), ()))
        kept.reporter.warn("RowsTruncated", "3 rows were cut")
        for step in (3, 4):
            save(kept, step)
            latest = kept.latest()
            assert latest is not None
            kept.publish_meanwhile(latest, SOON)
            kept.settle()
        codes = [warning.code for warning in kept.reporter.status.warnings]
        assert codes == ["RowsTruncated", Reason.REGISTRY_UNAVAILABLE]
        assert "step 4" in kept.reporter.status.warnings[1].message
        kept.remote = Remote(Reference.parse(f"{registry.host}/a/b:1"), ())
        latest = kept.latest()
        assert latest is not None
        kept.publish_meanwhile(latest, Schedule(10))
        kept.settle()
        assert [warning.code for warning in kept.reporter.status.warnings] == ["RowsTruncated"]

    def test_another_runs_remote_checkpoint_is_left_alone(self, remote: Remote, tmp_path: Path) -> None:
        first = store(tmp_path / "first", remote)
        first.publish(first.record(4, {}), SOON)
        other = store(tmp_path / "second", remote, run=run_id(["other"]))
        assert other.restore(SOON) is None

    def test_a_refused_login_is_not_taken_for_no_checkpoint(self, private_registry: Registry, tmp_path: Path) -> None:
        secret = write_secret(tmp_path / "push-secret", private_registry.host, "wrong-password")
        remote = Remote(Reference.parse(f"{private_registry.host}/team/adapter:1-checkpoint"), (secret,))
        with pytest.raises(Fault) as raised:
            store(tmp_path / "kept", remote).restore(SOON)
        assert (raised.value.exit, raised.value.reason) == (ExitCode.PUSH_FAILED, Reason.PUSH_UNAUTHORIZED)
