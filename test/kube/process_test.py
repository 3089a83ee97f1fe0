"""A controller's process: what it says and returns when it cannot go on, however deep in its tasks that came up."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube import errors, process
from kube.client import Client
from kube.lease import LeaderElector, LeadershipLost
from kube.options import ProcessSettings


@dataclass(frozen=True, kw_only=True)
class Settings(ProcessSettings):
    NAME = "brewer"
    SUMMARY = "Brews."


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A process of its own, without a Lease, before a server that nobody asks."""
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    kubeconfig = {
        "clusters": [cluster],
        "contexts": [context],
        "current-context": "c",
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig | {"apiVersion": "v1", "kind": "Config"}))
    return Settings(kubeconfig=str(tmp_path / "kubeconfig"), leader_elect=False, address="127.0.0.1", port=0)


class Work:
    """A controller's loop that does what the test says."""

    def __init__(self, do: Callable[[], Awaitable[None]]) -> None:
        self._do = do

    async def run(self, elector: LeaderElector | None) -> None:
        await self._do()

    def synced(self) -> bool:
        return True

    def permitted(self) -> bool:
        return True


def doing(do: Callable[[], Awaitable[None]]) -> process.Connect:
    @asynccontextmanager
    async def connect(client: Client) -> AsyncIterator[process.Work]:
        yield Work(do)

    return connect


def failing(error: Exception, depth: int) -> Callable[[], Awaitable[None]]:
    """What fails inside of so many task groups."""

    async def fail(depth: int = depth) -> None:
        if depth == 0:
            raise error
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(depth - 1))

    return fail


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.Forbidden(403, "Forbidden", "no namespaces for you"), "be used: no namespaces for you"),
        (process.Refused("There is no such region"), "Ending: There is no such region"),
        (LeadershipLost("not renewed"), "Leadership was lost"),
    ],
    ids=["server", "refused", "lease"],
)
def test_why_it_cannot_go_on_is_said_in_a_sentence(
    settings: Settings, caplog: pytest.LogCaptureFixture, error: Exception, said: str, depth: int
) -> None:
    assert process.run(settings, doing(failing(error, depth))) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said in line
