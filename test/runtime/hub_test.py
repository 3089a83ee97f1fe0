"""Fetching from a hub: the real client against a small double of the hub's HTTP interface. Needs the runtime environment."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime import contract
from runtime.contract import ExitCode, Reason, Status

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(300)]

COMMIT = "a" * 40
WEIGHTS = bytes(range(256)) * 2000


@dataclass
class Hub:
    """One repository, `org/tiny`. With `token` it is gated. `sent` replaces what the weights' download carries."""

    files: dict[str, bytes] = field(
        default_factory=lambda: {"config.json": b"{}", "model.safetensors": WEIGHTS, "pytorch_model.bin": b"twice"}
    )
    token: str = ""
    sent: bytes = WEIGHTS
    url: str = ""
    downloads: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo"}, body)
        elif path.startswith("/api/models/org/tiny/tree/"):
            self._send(200, self._tree(), {}, body)
        elif path.startswith("/api/models/org/tiny"):
            wanted = path.rpartition("/revision/")[2]
            known = wanted in ("main", COMMIT, path)
            self._send(200 if known else 404, self._info(), {} if known else {"X-Error-Code": "RevisionNotFound"}, body)
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self._file(path.rpartition("/")[2], body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def _info(self) -> bytes:
        files = [
            {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            | ({"lfs": {"sha256": _sha(data), "size": len(data), "pointerSize": 1}} if name.startswith("model") else {})
            for name, data in self.hub.files.items()
        ]
        return json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": files}).encode()

    def _tree(self) -> bytes:
        files = [
            {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
            | ({"lfs": {"oid": _sha(data), "size": len(data), "pointerSize": 1}} if name.startswith("model") else {})
            for name, data in self.hub.files.items()
        ]
        return json.dumps(files).encode()

    def _file(self, name: str, body: bool) -> None:
        data = self.hub.sent if name == "model.safetensors" else self.hub.files[name]
        if body:
            self.hub.downloads.append(name)
        self._send(200, data, {"ETag": f'"{_sha(self.hub.files[name])}"', "X-Repo-Commit": COMMIT}, body)

    def _send(self, code: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": made}))
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(hub: Hub, folder: Path, *more: str, revision: str = "main") -> tuple[int, Status]:
    report = folder.parent / "termination-log"
    report.touch()
    words = ["model", "--hub", "org/tiny", "--revision", revision, "--to", str(folder), "--deadline", "0", *more]
    command = [sys.executable, "-m", "runtime.fetch", *words, "--port", "0", "--termination-log", str(report)]
    done = subprocess.run(command, env=os.environ | {"HF_ENDPOINT": hub.url}, capture_output=True, check=False)
    return done.returncode, contract.decode(Status, report.read_text())


def test_the_weights_arrive_once_and_without_their_duplicates(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    code, status = fetch(hub, folder)
    assert code == 0, status
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "model.safetensors").stat().st_mode & 0o040
    hub.downloads.clear()
    assert fetch(hub, folder)[0] == 0
    assert hub.downloads == []


def test_weights_with_another_checksum_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.sent = WEIGHTS[::-1]
    code, status = fetch(hub, tmp_path / "weights")
    assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE)
    assert "checksum" in status.message
    assert not (tmp_path / "weights" / "model.safetensors").exists()


def test_a_gated_model_wants_a_token_and_says_which_secret(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_0123456789abcdef"
    secret = tmp_path / "hub-secret"
    token = ("--token-file", str(secret / contract.HUB_TOKEN_KEY))
    code, status = fetch(hub, tmp_path / "weights", *token)
    assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.SECRET_MISSING)
    assert "`hub-secret` has no key HF_TOKEN" in status.message
    secret.mkdir()
    (secret / contract.HUB_TOKEN_KEY).write_text("hf_wrong_wrong_wrong")
    code, status = fetch(hub, tmp_path / "weights", *token)
    assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.PULL_UNAUTHORIZED)
    (secret / contract.HUB_TOKEN_KEY).write_text(hub.token + "\n")
    assert fetch(hub, tmp_path / "weights", *token)[0] == 0


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    code, status = fetch(hub, tmp_path / "weights", revision="v9")
    assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE)
    assert "has no revision v9" in status.message


def test_no_answer_from_the_hub_is_unreachable(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    code, status = fetch(hub, tmp_path / "weights")
    assert (code, status.reason) == (ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE)
