"""`runtime.serve` as a process of its own with the fake engine as its child, for tests that send it signals.

Run as a module it is that process: the real program, but for how the engine is started and how long nothing is waited.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runtime import contract, serve
from runtime.contract import ServePlan, Status
from runtime.engine.supervisor import Pace
from test.runtime.registry import free_port

ROOT = Path(__file__).parents[2]
PACE = Pace(poll=0.05, watch=0.1, unready=0.2)
DEADLINE = 60.0  # seconds for anything to happen; the machine may be busy


class Serving:
    """A running program and the folder it lives in: weights/, adapters/, inference_config.yaml."""

    def __init__(self, folder: Path, plan: ServePlan | str, behaviour: dict[str, Any]) -> None:
        self.folder = folder
        self.port, self.api_port = free_port(), free_port()
        self.report_file = folder / "termination-log"
        self.report_file.touch()
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, *self._arguments()],
            cwd=ROOT,
            env={
                **os.environ,
                contract.PLAN_ENV: plan if isinstance(plan, str) else contract.encode(plan),
                "FAKE_ENGINE": json.dumps(behaviour),
                "TMPDIR": str(folder),
            },
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def _arguments(self) -> Sequence[str]:
        places = {"weights": "weights", "adapters": "adapters", "config": "inference_config.yaml"}
        ports = {"port": str(self.port), "api-port": str(self.api_port), "termination-log": str(self.report_file)}
        paths = {name: str(self.folder / place) for name, place in places.items()}
        return [word for name, value in {**paths, **ports}.items() for word in (f"--{name}", value)]

    def get(self, path: str) -> tuple[int, str]:
        return request(f"http://127.0.0.1:{self.port}{path}")

    def status(self) -> Status:
        return contract.decode(Status, self.get("/status")[1])

    def ask(self, path: str, body: Any, **headers: str) -> tuple[int, str]:
        return request(f"http://127.0.0.1:{self.api_port}{path}", json.dumps(body).encode(), headers)

    def wait_for(self, happened: Callable[[Status], bool]) -> Status:
        """Look until the status fits; fails with the program's output when it ends or takes too long."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if happened(status := self.status()):
                    return status
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
                break
        raise AssertionError((self.folder / "log").read_text())

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, Status]:
        """Wait for the end. Returns the exit code and the termination report."""
        code = self.process.wait(DEADLINE)
        return code, contract.decode(Status, self.report_file.read_text())


@contextlib.contextmanager
def serving(folder: Path, plan: ServePlan | str, **behaviour: Any) -> Iterator[Serving]:
    started = Serving(folder, plan, behaviour)
    try:
        yield started
    finally:
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.process.wait(DEADLINE)
        started.process.kill()
        started.process.wait()
        started.log.close()


def request(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    asked = urllib.request.Request(url, body, headers or {})
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _fake(config: str, arguments: Sequence[str]) -> Sequence[str]:
    return [sys.executable, str(ROOT / "test" / "runtime" / "fake_engine.py"), "--config", config, *arguments]


if __name__ == "__main__":
    sys.exit(serve.main(_fake, PACE))
