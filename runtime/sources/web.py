"""Files by http(s) URL: resumed by Range after a break, bounded in size, never from an address that is not permitted."""

import dataclasses
import hashlib
import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime import address
from runtime.contract import ExitCode, Reason
from runtime.fault import Fault
from runtime.log import redact
from runtime.status import Reporter

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Web:
    """Several URLs into one folder. A fragment `#sha256=…` is a checksum, as pip has it."""

    urls: tuple[str, ...]
    size_limit: int
    ranges: Sequence[address.Network]

    @property
    def key(self) -> str:
        return "url " + " ".join(self.urls)

    def download(self, work: Path, reporter: Reporter) -> Path:
        for number, url in enumerate(self.urls):
            _File(url, number, self, work).download(reporter)
        return work / "done"


class _File:
    """One URL: `<number>.part` while it grows, with what must be known to go on in `<number>.json`."""

    def __init__(self, url: str, number: int, source: Web, work: Path) -> None:
        self.url, _, fragment = url.partition("#")
        self.checksum = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        self.number = number
        self.source = source
        self.part = work / f"{number}.part"
        self.state = work / f"{number}.json"
        self.done = work / "done"

    def download(self, reporter: Reporter) -> None:
        known = self._known()
        if known.get("complete"):
            return
        try:
            with self._open(known) as answer:
                name, total = self._receive(answer, known, reporter)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self.part.unlink(missing_ok=True)
            raise self._unreachable(f"answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise self._unreachable(f"{type(reason).__name__}: {reason}") from error
        self._complete(name, total)

    def _known(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self.state.read_text())
        except (OSError, ValueError):
            return {}
        return known

    def _open(self, known: dict[str, Any]) -> http.client.HTTPResponse:
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity", "User-Agent": "kaito-py"})
        if known.get("validator") and self.part.exists():
            request.add_header("Range", f"bytes={self.part.stat().st_size}-")
            request.add_header("If-Range", known["validator"])
        answer: http.client.HTTPResponse = address.opener(self.source.ranges).open(request, timeout=TIMEOUT)
        return answer

    def _receive(
        self, answer: http.client.HTTPResponse, known: dict[str, Any], reporter: Reporter
    ) -> tuple[str, int | None]:
        start = self._start(answer, known)
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        self._check_room(total, start)
        name = known.get("name") or self._name(answer)
        validator = known.get("validator", "") if start else _validator(answer)
        self.state.write_text(json.dumps({"validator": validator, "name": name}))
        with self.part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            done = start
            while chunk := answer.read(CHUNK):
                done += len(chunk)
                self._check_limit(done)
                file.write(chunk)
                reporter.downloaded(done, total or 0)
        return name, total

    def _start(self, answer: http.client.HTTPResponse, known: dict[str, Any]) -> int:
        """Where the answer's first byte belongs: at our end for the 206 that we asked for, else at the beginning.

        A 206 that names no version is of the one that was asked for; servers that ignore If-Range name another one.
        """
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            return 0
        if _validator(answer) not in ("", known.get("validator")):
            self.part.unlink(missing_ok=True)
            raise self._unreachable("changed while it was fetched")
        offered = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if offered is None or int(offered[1]) != self.part.stat().st_size:
            self.part.unlink(missing_ok=True)
            raise self._unreachable("answered another range than was asked for")
        return int(offered[1])

    def _check_room(self, total: int | None, start: int) -> None:
        if total is None:
            return
        self._check_limit(total)
        free = shutil.disk_usage(self.part.parent).free
        if total - start > free:
            raise Fault(
                ExitCode.INPUT_MISSING,
                Reason.DATA_UNREACHABLE,
                f"{redact(self.url)} has {total} bytes, the volume has room for {free}",
            )

    def _check_limit(self, size: int) -> None:
        if size > self.source.size_limit:
            raise Fault(
                ExitCode.INPUT_MISSING,
                Reason.DATA_UNREACHABLE,
                f"{redact(self.url)} is larger than the limit of {self.source.size_limit} bytes",
            )

    def _name(self, answer: http.client.HTTPResponse) -> str:
        from_path = urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rpartition("/")[2])
        name = from_path if Path(from_path).suffix else (answer.headers.get_filename() or from_path)
        name = re.sub(r"[^\w.+-]", "_", os.path.basename(name)).lstrip(".") or "data"
        same = {json.loads(state.read_text()).get("name") for state in self.state.parent.glob("*.json")}
        return f"{self.number}-{name}" if name in same else name

    def _complete(self, name: str, total: int | None) -> None:
        size = self.part.stat().st_size
        if total is not None and size != total:
            raise self._unreachable(f"ended after {size} of {total} bytes")
        if size == 0:
            raise self._unreachable("answered with an empty file")
        if self.checksum and self._sha256() != self.checksum:
            self.part.unlink()
            raise self._unreachable(f"does not have the sha256 {self.checksum}")
        self.done.mkdir(exist_ok=True)
        self.part.rename(self.done / name)
        self.state.write_text(json.dumps({"complete": True, "name": name}))

    def _sha256(self) -> str:
        with self.part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _unreachable(self, what: str) -> Fault:
        return Fault(ExitCode.INPUT_MISSING, Reason.DATA_UNREACHABLE, f"{redact(self.url)} {what}", retry=True)


def _validator(answer: http.client.HTTPResponse) -> str:
    """What names this version of the file byte for byte; empty where nothing does."""
    etag = answer.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified", "")
