"""Checkpoints: complete or absent, kept where the result goes, resumed by the next pod only if they are its own.

A checkpoint is a folder that the trainer wrote plus `manifest.json`, written last: sizes and digests of its files, the
step, and what run it belongs to. The one of step 0 has no files; pushing it proves the right to push before a GPU is
used. It knows no trainer: what the files are is not its business.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime import contract
from runtime.contract import ExitCode, Phase, Reason, Warning_
from runtime.fault import Fault
from runtime.oci import login, skopeo
from runtime.oci.reference import Reference
from runtime.push import CHECKPOINT_TYPE, push, readable
from runtime.retry import Schedule, until_deadline
from runtime.sources.image import Image
from runtime.status import Reporter

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"  # the trainer's name for them
KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    folder: Path
    step: int
    extra: Mapping[str, Any]  # what the run wants to find again, such as its micro-batch


@dataclasses.dataclass(frozen=True)
class Remote:
    """Where checkpoints go when the result is an image: a tag beside it."""

    reference: Reference
    secrets: tuple[Path, ...]


class Store:
    """The checkpoints of one run. `run` names the run: model, data and settings; another run's are never resumed."""

    def __init__(self, folder: Path, run: str, remote: Remote | None, reporter: Reporter) -> None:
        self.folder = folder
        self.run = run
        self.remote = remote
        self.reporter = reporter
        self._pushing: threading.Thread | None = None
        self._lost: Warning_ | None = None  # says that the last push failed
        self._published: list[tuple[int, str]] = []  # steps and digests; a push leaves the one before without a tag
        folder.mkdir(parents=True, exist_ok=True)

    def record(self, step: int, extra: Mapping[str, Any]) -> Checkpoint:
        """Complete the checkpoint of `step`: from here on it can be resumed."""
        folder = self.folder / f"{PREFIX}{step}"
        folder.mkdir(exist_ok=True)
        files = {
            str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        manifest = {"v": contract.VERSION, "run": self.run, "step": step, "extra": dict(extra), "files": files}
        temporary = folder / f"{MANIFEST}.tmp"
        temporary.write_text(json.dumps(manifest, sort_keys=True))
        temporary.rename(folder / MANIFEST)
        self.reporter.update(checkpoint_step=step)
        self._forget_before(step)
        return Checkpoint(folder, step, extra)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint of this run; damaged and foreign ones are passed over."""
        found = [c for folder in self.folder.glob(f"{PREFIX}*") if (c := self._verified(folder)) is not None]
        return max(found, key=lambda checkpoint: checkpoint.step, default=None)

    def _verified(self, folder: Path) -> Checkpoint | None:
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            if manifest["run"] != self.run:
                logger.info("%s belongs to another run", folder.name)
                return None
            whole = all(
                (folder / name).stat().st_size == file["size"] and _sha256(folder / name) == file["sha256"]
                for name, file in manifest["files"].items()
            )
            if whole:
                return Checkpoint(folder, manifest["step"], manifest["extra"])
            logger.warning("%s is damaged", folder.name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is not complete (%s)", folder.name, type(error).__name__)
        return None

    def _forget_before(self, step: int) -> None:
        """Keep `step` and this run's newest before it. What else a volume has goes only if nobody will resume it.

        That is another run's as soon as this one has trained, and what a killed pod began and did not complete.
        """
        numbers = {
            folder: int(number)
            for folder in self.folder.glob(f"{PREFIX}*")
            if (number := folder.name.removeprefix(PREFIX)).isdecimal()
        }
        runs = {folder: _run_of(folder) for folder in numbers}
        own = sorted((f for f in runs if runs[f] == self.run and numbers[f] <= step), key=numbers.__getitem__)
        foreign = [folder for folder, run in runs.items() if step and run not in (None, self.run)]
        begun = [folder for folder in runs if numbers[folder] < step and not (folder / MANIFEST).exists()]
        for folder in (*own[:-KEPT], *foreign, *begun):
            try:
                shutil.rmtree(folder)
            except OSError as error:  # another user's, perhaps; it costs room and nothing else
                logger.warning("%s stays: %s", folder.name, error)

    def restore(self, schedule: Schedule) -> Checkpoint | None:
        """Bring the remote checkpoint here, if there is one, and return the latest. Raises Fault when nobody can say."""
        if self.remote is not None:
            until_deadline(schedule, self._pull, self.reporter)
        return self.latest()

    def _pull(self) -> None:
        assert self.remote is not None
        logins = login.read(self.remote.secrets)
        if not readable(self.remote.reference, self.remote.secrets, logins):
            return
        work = self.folder / "pulled"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        reasons = (Reason.REGISTRY_UNAVAILABLE, Reason.REGISTRY_UNAVAILABLE)
        source = Image(self.remote.reference, contract.IMAGE_DATA_DIR, self.remote.secrets, *reasons)
        try:
            self._adopt(source.download(work, self.reporter))
        except Fault as fault:
            raise Fault(ExitCode.PUSH_FAILED, fault.reason, str(fault), retry=fault.retry) from fault
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _adopt(self, tree: Path) -> None:
        found = self._verified(tree)
        if found is None:
            return
        target = self.folder / f"{PREFIX}{found.step}"
        shutil.rmtree(target, ignore_errors=True)
        tree.rename(target)

    def publish(self, checkpoint: Checkpoint, schedule: Schedule) -> None:
        """Push a checkpoint, waiting for it. Raises Fault when it cannot be done in time."""
        if self.remote is None:
            return
        self.settle()
        self._push(self.remote, checkpoint, schedule, self.reporter)
        self._outcome(None)

    def publish_meanwhile(self, checkpoint: Checkpoint, schedule: Schedule) -> None:
        """Push in a thread, while training goes on. Left out while the one before is still on its way."""
        if self.remote is None or (self._pushing is not None and self._pushing.is_alive()):
            return
        copy = self.folder / "publishing"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(checkpoint.folder, copy, copy_function=_link)
        self._pushing = threading.Thread(
            target=self._publish_quietly, args=(dataclasses.replace(checkpoint, folder=copy), schedule), daemon=True
        )
        self._pushing.start()

    def _publish_quietly(self, checkpoint: Checkpoint, schedule: Schedule) -> None:
        assert self.remote is not None
        try:
            self._push(self.remote, checkpoint, schedule, Reporter(Phase.TRAINING))
        except Fault as fault:
            text = f"the checkpoint of step {checkpoint.step} was not kept: {fault}"
            self._outcome(self.reporter.warn(fault.reason, text))
        else:
            self._outcome(None)

    def _outcome(self, warning: Warning_ | None) -> None:
        """Let only the last push count: what it says replaces what the one before said."""
        if self._lost is not None and self._lost != warning:
            self.reporter.withdraw(self._lost)
        self._lost = warning

    def settle(self, seconds: float | None = None) -> bool:
        """Wait for a push that is on its way, no longer than that. Says whether it has ended."""
        if self._pushing is None:
            return True
        self._pushing.join(seconds)
        return not self._pushing.is_alive()

    def keep(self, checkpoint: Checkpoint, left: Callable[[], float]) -> bool:
        """Publish the last one while time is left, behind one that is on its way. Says whether the next pod finds it.

        In a thread, since only that can be left to itself: a schedule bounds how often a push is tried, but one attempt
        takes as long as the network wants.
        """
        self.settle(left())
        self.publish_meanwhile(checkpoint, Schedule(left(), first=0.5, longest=2.0))
        settled = self.settle(left())
        return settled and (self.remote is None or checkpoint.step in dict(self._published))

    def discard(self) -> None:
        """Delete the remote checkpoints, since what they were kept for is done. A login that may not delete leaves them."""
        if self.remote is None:
            return
        self.settle()
        logins = login.read(self.remote.secrets)
        digests = [digest for _, digest in self._published[:-1]]
        older = (self.remote.reference.with_digest(digest) for digest in dict.fromkeys(digests))
        for reference in (self.remote.reference, *older):
            try:
                skopeo.delete(reference, logins, self.folder)
            except skopeo.CommandFailed as error:
                logger.info("%s stays in the registry: %s", reference, error)
                return  # nor may the others be deleted, or the registry is away

    def _push(self, remote: Remote, checkpoint: Checkpoint, schedule: Schedule, reporter: Reporter) -> None:
        try:
            artifact = push(
                checkpoint.folder,
                remote.reference,
                secrets=remote.secrets,
                annotations={"sh.kaito.checkpoint.step": str(checkpoint.step)},
                schedule=schedule,
                reporter=reporter,
                artifact_type=CHECKPOINT_TYPE,
            )
        except OSError as error:  # no room to pack it in
            raise Fault(ExitCode.INTERNAL, Reason.TRAINER_FAILED, f"packing failed: {error}") from error
        self._published.append((checkpoint.step, artifact.digest))


def _link(source: str, target: str) -> str:
    Path(target).hardlink_to(source)  # the trainer may rotate the folder away while it is being pushed
    return target


def _run_of(folder: Path) -> str | None:
    """The run that a checkpoint says it belongs to; None where it says none."""
    try:
        run: str | None = json.loads((folder / MANIFEST).read_text())["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_id(parts: Sequence[object]) -> str:
    """Name a run by everything that its result depends on."""
    return hashlib.sha256(json.dumps(list(parts), sort_keys=True, default=str).encode()).hexdigest()
