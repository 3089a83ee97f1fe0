"""Files out of an OCI image: skopeo copies, umoci unpacks, the wanted folder is published."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from runtime.contract import ExitCode, Reason
from runtime.fault import Fault
from runtime.oci import login, skopeo
from runtime.oci.login import Login
from runtime.oci.probe import Action, Verdict, probe
from runtime.oci.reference import Reference
from runtime.sources.progress import watched
from runtime.status import Reporter


@dataclasses.dataclass(frozen=True)
class Image:
    """One folder of one image. `unreachable` is the reason where neither login nor name is the cause."""

    reference: Reference
    folder: str
    secrets: tuple[Path, ...]
    unreachable: Reason
    invalid: Reason
    empty: ExitCode = ExitCode.INPUT_MISSING  # of an image without files in `folder`

    @property
    def key(self) -> str:
        return f"image {self.reference} {self.folder}"

    def download(self, work: Path, reporter: Reporter) -> Path:
        logins = login.read(self.secrets)
        layout = work / "layout"
        try:
            total = _size(skopeo.raw_manifest(self.reference, logins, work))
            with watched(layout, total, reporter):
                skopeo.pull(self.reference, layout, logins, work)
        except skopeo.CommandFailed as error:
            raise self._explain(logins, str(error)) from error
        return self._unpack(layout, work)

    def _unpack(self, layout: Path, work: Path) -> Path:
        try:
            root = skopeo.unpack(layout, work / "bundle", work)
        except skopeo.CommandFailed as error:
            raise self._invalid(f"cannot be unpacked: {error}") from error
        shutil.rmtree(layout)
        tree = root / self.folder
        if not tree.is_dir() or not any(tree.iterdir()):
            raise self._invalid(f"has no files in /{self.folder}, where they are expected; copy them there", self.empty)
        return tree

    def _invalid(self, what: str, code: ExitCode = ExitCode.INPUT_MISSING) -> Fault:
        return Fault(code, self.invalid, f"image {self.reference} {what}")

    def _explain(self, logins: Mapping[str, Login], printed: str) -> Fault:
        """Turn "it failed" into the reason that the user can act on."""
        own = login.login_for(self.reference, logins)
        finding = probe(self.reference, own, Action.PULL)
        reason, detail = self.unreachable, finding.detail
        if finding.verdict in (Verdict.UNAUTHORIZED, Verdict.DENIED):
            reason = Reason.SECRET_MISSING if own is None and self.secrets else Reason.PULL_UNAUTHORIZED
            detail += refused(own, self.secrets, self.reference, finding.verdict, "pull")
        elif finding.verdict is Verdict.OK:
            detail = printed
        return Fault(ExitCode.INPUT_MISSING, reason, f"image {self.reference}: {detail}", retry=True)


def refused(own: Login | None, secrets: tuple[Path, ...], reference: Reference, verdict: Verdict, action: str) -> str:
    """Say whose credentials a registry refused, and what to do: the end of a message."""
    if own is None:
        return f"; {missing(secrets, reference)}" if secrets else "; no Secret with a login was given"
    remedy = f"let them {action}, or correct them" if verdict is Verdict.DENIED else "correct them"
    return f" with the credentials from Secret `{own.secret}`: {remedy}, the Secret is read again at each try"


def missing(secrets: tuple[Path, ...], reference: Reference) -> str:
    """Say what is wrong with Secrets that hold no login for this registry."""
    names = ", ".join(f"`{folder.name}`" for folder in secrets)
    if any(any(folder.glob("*")) or any(folder.glob(".dockerconfigjson")) for folder in secrets):
        return f"Secret {names} has no login for {reference.registry}"
    return f"Secret {names} does not exist in this namespace or is empty"


def _size(manifest: str) -> int:
    """Bytes of all layers; 0 for an index, whose sizes are those of manifests."""
    return sum(int(layer.get("size", 0)) for layer in json.loads(manifest).get("layers", ()))
