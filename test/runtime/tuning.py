"""One tuning Job and its pods, in this process or in one of their own, as the tests of tuning run them."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime import contract, tune
from runtime.contract import Status, TunePlan
from test.runtime.registry import Registry, free_port

CONFIG = "training_config: {{TrainingArguments: {{num_train_epochs: 1, per_device_train_batch_size: 4{more}}}}}"


@dataclass
class Job:
    """One tuning Job: what its pods share (weights, data, Secrets), and where the current pod leaves its results."""

    folder: Path
    plan: TunePlan
    pod: int = 0
    config: str = ""

    @property
    def results(self) -> Path:
        return self.folder / f"results-{self.pod}"

    def arguments(self, port: int = 0) -> list[str]:
        (self.folder / "training_config.yaml").write_text(self.config)
        self.results.mkdir(exist_ok=True)
        self.report.write_text("")
        named = {"weights": "model", "data": "data", "secrets": "secrets", "config": "training_config.yaml"}
        words = [word for option, name in named.items() for word in (f"--{option}", str(self.folder / name))]
        common = ["--results", str(self.results), "--push-deadline", "0", "--port", str(port)]
        return [*words, *common, "--termination-log", str(self.report)]

    @property
    def report(self) -> Path:
        return self.folder / "termination-log"

    def status(self) -> Status:
        return contract.decode(Status, self.report.read_text())

    def run(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """Run a pod in this process."""
        monkeypatch.setenv(contract.PLAN_ENV, contract.encode(self.plan))
        return tune.main(self.arguments())

    @contextlib.contextmanager
    def running(self, patches: str = "") -> Iterator["Pod"]:
        """Run a pod in a process of its own. `patches` is code that runs before it."""
        port = free_port()
        code = (
            f"import sys, runtime.tune as t, runtime.training.watch as watch\n{patches}\nsys.exit(t.main(sys.argv[1:]))"
        )
        environment = os.environ | {
            contract.PLAN_ENV: contract.encode(self.plan),
            "PYTHONPATH": ".",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code, *self.arguments(port)], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            yield Pod(process, port)
        finally:
            process.kill()
            process.communicate()


@dataclass
class Pod:
    """A running pod, followed by its log lines, which say each step and each push."""

    process: "subprocess.Popen[str]"
    port: int

    def status(self) -> Status:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=60) as answer:
            return contract.decode(Status, answer.read())

    def follow(self, pattern: str) -> "re.Match[str]":
        """Read on to the first line whose message matches."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if line.startswith("{") and (found := re.match(pattern, json.loads(line)["message"])):
                return found
        raise AssertionError(f"ended before `{pattern}`:\n{''.join(seen)}")

    def wait(self, timeout: float = 300) -> int:
        self.process.communicate(timeout=timeout)
        return self.process.returncode


def image_plan(registry: Registry, secret: str = "") -> TunePlan:
    image = f"{registry.host}/team/adapter:1"
    return TunePlan(model="org/tiny", accelerator="cpu", output_image=image, push_secret=secret)
