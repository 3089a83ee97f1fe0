"""Fixtures of the runtime's tests: registries of their own. Nothing here needs torch."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from test import profile
from test.runtime.registry import Registry, running


def pytest_configure() -> None:
    profile.load()


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Take back what a program that ran in this process does at SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[Registry]:
    with running(tmp_path / "private-registry", password=True) as started:
        yield started
