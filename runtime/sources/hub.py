"""Files from a model hub (or a mirror of it, HF_ENDPOINT) at a pinned revision, checked against the hub's checksums."""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from runtime import log
from runtime.contract import HUB_TOKEN_KEY, ExitCode, Reason
from runtime.fault import Fault
from runtime.sources.progress import watched
from runtime.status import Reporter

# What a repository has beside the weights that the engine loads.
DUPLICATES = ("*.bin", "*.pth", "*.pt", "*.msgpack", "*.h5", "*.ot", "*.gguf", "*.onnx", "original/*", "onnx/*")


@dataclasses.dataclass(frozen=True)
class Hub:
    repository: str
    revision: str
    kind: str  # model | dataset
    token_file: Path | None
    unreachable: Reason

    @property
    def key(self) -> str:
        return f"hub {self.kind} {self.repository}@{self.revision}"

    def download(self, work: Path, reporter: Reporter) -> Path:
        os.environ.setdefault("HF_HOME", str(work / "home"))  # read at import; the default lies in a read-only home
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        import httpx2  # type: ignore[import-not-found]  # in the runtime environment alone
        import huggingface_hub
        from huggingface_hub import errors

        token = self._token()
        try:
            return self._snapshot(huggingface_hub, token, work / "snapshot", reporter)
        except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
            raise self._refused(token) from error
        except errors.RevisionNotFoundError as error:
            raise self._fault(self.unreachable, f"has no revision {self.revision}") from error
        except errors.HfHubHTTPError as error:
            code = error.response.status_code
            raise (
                self._refused(token) if code in (401, 403) else self._fault(self.unreachable, f"hub answered {code}")
            ) from error
        except (httpx2.HTTPError, OSError, errors.LocalEntryNotFoundError) as error:
            raise self._fault(self.unreachable, f"no answer from the hub: {type(error).__name__}: {error}") from error

    def _snapshot(self, hub: Any, token: str | None, tree: Path, reporter: Reporter) -> Path:
        info = hub.HfApi(token=token or False).repo_info(
            self.repository, revision=self.revision or None, repo_type=self.kind, files_metadata=True
        )
        names = {file.rfilename for file in info.siblings}
        ignore = DUPLICATES if any(name.endswith(".safetensors") for name in names) else ()
        wanted = set(hub.utils.filter_repo_objects(names, ignore_patterns=list(ignore) or None))
        total = sum(file.size or 0 for file in info.siblings if file.rfilename in wanted)
        with watched(tree, total, reporter):
            hub.snapshot_download(
                self.repository,
                revision=info.sha,
                repo_type=self.kind,
                local_dir=tree,
                token=token or False,
                ignore_patterns=list(ignore) or None,
                max_workers=4,
            )
        for file in info.siblings:
            if file.lfs is not None and file.rfilename in wanted:
                self._check(tree / file.rfilename, file.lfs.sha256)
        shutil.rmtree(tree / ".cache", ignore_errors=True)  # the client's notes for going on after a break
        return tree

    def _check(self, path: Path, sha256: str) -> None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return
        path.unlink()
        raise self._fault(self.unreachable, f"sent {path.name} with another checksum than it lists")

    def _token(self) -> str | None:
        """Read the token anew: the Secret may have been mended since the last attempt."""
        if self.token_file is None or not self.token_file.is_file():
            return None
        token = self.token_file.read_text().strip()
        log.conceal(token)
        return token or None

    def _refused(self, token: str | None) -> Fault:
        if token is None and self.token_file is not None:
            secret = self.token_file.parent.name
            return self._fault(Reason.SECRET_MISSING, f"wants a token; Secret `{secret}` has no key {HUB_TOKEN_KEY}")
        what = "does not exist, or this token may not read it" if token else "does not exist, or wants a token"
        return self._fault(Reason.PULL_UNAUTHORIZED, what)

    def _fault(self, reason: Reason, what: str) -> Fault:
        return Fault(ExitCode.INPUT_MISSING, reason, f"{self.kind} {self.repository} {what}", retry=True)
