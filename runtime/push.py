"""Pushes a folder as an OCI image: an adapter to its repository, a checkpoint beside it.

Parse, pack, push until the deadline. The mounted Secret is read anew on every attempt, so that one that is mended heals
the push while the pod still holds its result. The same folder gives the same digest. Exit 73 after the deadline.
"""

import argparse
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runtime import contract, program
from runtime.contract import Artifact, ExitCode, Phase, Reason
from runtime.fault import Fault, config_invalid
from runtime.oci import layout, login, skopeo
from runtime.oci.login import Login
from runtime.oci.probe import Action, Finding, Verdict, probe
from runtime.oci.reference import Reference
from runtime.retry import Schedule, until_deadline
from runtime.sources.image import refused
from runtime.status import Reporter

logger = logging.getLogger(__name__)

DEADLINE = 900.0
ADAPTER_TYPE = "application/vnd.kaito-py.adapter.v1"
CHECKPOINT_TYPE = "application/vnd.kaito-py.checkpoint.v1"
MODEL_ANNOTATION = "sh.kaito.model.name"  # KAITO's; adapters are matched to their base by it

_REASONS = {
    Verdict.UNAUTHORIZED: Reason.PUSH_UNAUTHORIZED,
    Verdict.DENIED: Reason.PUSH_DENIED,
    Verdict.NOT_FOUND: Reason.PUSH_DENIED,  # a registry without this project, or one that hides it from this login
    Verdict.UNAVAILABLE: Reason.REGISTRY_UNAVAILABLE,
    Verdict.OK: Reason.REGISTRY_UNAVAILABLE,  # it answers, and the copy broke all the same
}


def parse_reference(image: str) -> Reference:
    try:
        reference = Reference.parse(image)
    except ValueError as error:
        raise config_invalid(str(error)) from error
    if reference.digest:
        raise config_invalid(f"`{image}` names a digest; an image is pushed to a tag")
    return reference


def push(
    folder: Path,
    reference: Reference,
    *,
    secrets: Sequence[Path],
    annotations: Mapping[str, str],
    schedule: Schedule,
    reporter: Reporter,
    scratch: Path | None = None,
    artifact_type: str = ADAPTER_TYPE,
) -> Artifact:
    """Push `folder` as the files under /data of an image. Raises Fault with exit 73 when the deadline passes."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="push-") as temporary:
        image = Path(temporary, "layout")
        digest = layout.write(
            folder, image, root=contract.IMAGE_DATA_DIR, annotations=annotations, artifact_type=artifact_type
        )
        until_deadline(schedule, lambda: _attempt(image, reference, secrets, Path(temporary)), reporter)
    logger.info("pushed %s", reference, extra={"digest": digest})
    return Artifact(str(reference), digest)


def _attempt(image: Path, reference: Reference, secrets: Sequence[Path], scratch: Path) -> None:
    logins = login.read(secrets)
    try:
        skopeo.push(image, reference, logins, scratch)
    except skopeo.CommandFailed as error:
        raise _explain(reference, secrets, logins, str(error)) from error


def _explain(reference: Reference, secrets: Sequence[Path], logins: Mapping[str, Login], printed: str) -> Fault:
    finding = probe(reference, login.login_for(reference, logins), Action.PUSH)
    if finding.verdict is Verdict.OK:
        finding = Finding(finding.verdict, printed)
    return refusal(reference, secrets, logins, finding)


def refusal(reference: Reference, secrets: Sequence[Path], logins: Mapping[str, Login], finding: Finding) -> Fault:
    """Turn what a registry answered into the reason that the user can act on."""
    reason, detail = _REASONS[finding.verdict], finding.detail
    if finding.verdict in (Verdict.UNAUTHORIZED, Verdict.DENIED):
        own = login.login_for(reference, logins)
        reason = Reason.SECRET_MISSING if own is None and secrets else reason
        detail += refused(own, tuple(secrets), reference, finding.verdict, "push")
    return Fault(ExitCode.PUSH_FAILED, reason, f"{reference}: {detail}", retry=True)


def readable(reference: Reference, secrets: Sequence[Path], logins: Mapping[str, Login]) -> bool:
    """Whether anything lies under a tag. A login that may only push finds nothing. Raises Fault when nobody can say."""
    finding = probe(reference, login.login_for(reference, logins), Action.PULL)
    if finding.verdict in (Verdict.NOT_FOUND, Verdict.DENIED):
        return False
    if finding.verdict is not Verdict.OK:
        raise refusal(reference, secrets, logins, finding)
    return True


def find(reference: Reference, secrets: Sequence[Path]) -> tuple[Artifact, Mapping[str, str]] | None:
    """Return what lies under a tag, and the annotations that it was pushed with. Raises Fault when nobody can say."""
    logins = login.read(secrets)
    if not readable(reference, secrets, logins):
        return None
    with tempfile.TemporaryDirectory(prefix="find-") as scratch:
        try:
            text = skopeo.raw_manifest(reference, logins, Path(scratch))
        except skopeo.CommandFailed as error:
            raise refusal(reference, secrets, logins, Finding(Verdict.OK, str(error))) from error
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return Artifact(str(reference), digest), json.loads(text).get("annotations") or {}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.Parser(prog="runtime.push", description="Push a folder as an OCI image.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("image", metavar="REF", help="registry/repository:tag")
    parser.add_argument("--auth", type=Path, action="append", default=[], metavar="DIR", help="mounted registry Secret")
    parser.add_argument("--annotation", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--deadline", type=float, default=DEADLINE, metavar="SECONDS")
    program.add_common(parser)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, reporter: Reporter) -> None:
    if not options.folder.is_dir():
        raise config_invalid(f"`{options.folder}` is not a folder")
    annotations = dict(text.partition("=")[::2] for text in options.annotation)
    artifact = push(
        options.folder,
        parse_reference(options.image),
        secrets=options.auth,
        annotations=annotations,
        schedule=Schedule(options.deadline),
        reporter=reporter,
    )
    reporter.update(artifact=artifact)
    print(f"{parse_reference(options.image).name}@{artifact.digest}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    work: Callable[[Reporter], None] = lambda reporter: run(options, reporter)  # noqa: E731
    return program.run(work, phase=Phase.PUSHING, port=options.port, termination_log=options.termination_log)


if __name__ == "__main__":
    sys.exit(main())
