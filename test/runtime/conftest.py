"""Fixtures of the runtime's tests: registries of their own, a model and a tuning Job. Only the model needs torch."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.contract import TunePlan
from test import profile
from test.runtime import tiny
from test.runtime.registry import Registry, nobody, running
from test.runtime.tuning import CONFIG, Job


def pytest_configure() -> None:
    profile.load()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Take back what a program that ran in this process does at SIGTERM, and what it set for its libraries."""
    before, environment = signal.getsignal(signal.SIGTERM), dict(os.environ)
    yield
    signal.signal(signal.SIGTERM, before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path / "private-registry", password=True) as started:
        yield started


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address without a registry."""
    with nobody() as address:
        yield address


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, tiny.conversations(80))))
    plan = TunePlan(model="org/tiny", revision="abc", accelerator="cpu")
    return Job(tmp_path, plan, config=CONFIG.format(more=", learning_rate: 0.01"))
