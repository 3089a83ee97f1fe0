"""A scripted server and the time that it shares with the reflector beside it."""

from collections.abc import AsyncIterator

import pytest

from test.kube.looptime import LoopClock
from test.kube.server import WatchServer


@pytest.fixture
async def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
async def server(clock: LoopClock) -> AsyncIterator[WatchServer]:
    async with WatchServer(clock) as running:
        yield running
