"""Our machinery on the real API server through a line that breaks: it converges, and a leader steps down."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from hack.local.controlplane import ControlPlane
from kube import client as client_module
from kube import errors
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.lease import LeaderElector, LeadershipLost
from kube.meta import Key
from test.clock import SkippingClock
from test.expect import TIMEOUT, eventually
from test.kube.lease_test import forever
from test.kube.mirror import Mirror
from test.kube.proxy import FaultProxy
from test.kube.wire import End


@pytest.fixture
async def proxy(apiserver: ControlPlane) -> AsyncIterator[FaultProxy]:
    port = urlsplit(apiserver.url).port
    assert port is not None
    async with FaultProxy(port) as running:
        yield running


@pytest.fixture
def kubeconfig(proxy: FaultProxy, apiserver: ControlPlane, tmp_path: Path) -> str:
    path = tmp_path / "kubeconfig"
    path.write_text(apiserver.kubeconfig.read_text().replace(apiserver.url, f"https://127.0.0.1:{proxy.port}"))
    return str(path)


async def test_cache_converges_over_a_line_that_keeps_breaking(
    client: Client, kubeconfig: str, proxy: FaultProxy, namespace: str
) -> None:
    clock, chance = SkippingClock(), random.Random(7)
    alive: set[Key] = set()
    async with await Client.connect(user_agent="test", kubeconfig=kubeconfig, clock=clock) as broken:
        mirror = Mirror(broken, clock, namespace)
        running = asyncio.ensure_future(mirror.reflector.run())
        await mirror.reflector.synced.wait()
        for number in range(60):
            name = chance.choice("abcdef")
            key = Key(namespace, name)
            if key not in alive or chance.random() < 0.7:
                body = {"metadata": {"namespace": namespace, "name": name}, "data": {"n": str(number)}}
                await client.apply(CONFIG_MAPS, body, field_manager="test")
                alive.add(key)
            else:
                await client.delete(CONFIG_MAPS, key)
                alive.remove(key)
            proxy.refusing = chance.random() < 0.2
            if chance.random() < 0.4:
                await proxy.cut(chance.choice([End.FIN, End.RST]))
        proxy.refusing = False
        truth = {item.metadata.key: item for item in (await client.list(CONFIG_MAPS, namespace=namespace)).items}
        await eventually(lambda: {item.metadata.key: item for item in mirror.store.all()} == truth)
        mirror.check_history()
        assert mirror.reflector.metrics.watches > 3, "the line never broke"
        running.cancel()
        await asyncio.wait({running})


async def test_half_open_watch_is_replaced(
    client: Client, kubeconfig: str, proxy: FaultProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_TIMEOUT", aiohttp.ClientTimeout(sock_connect=1, sock_read=0.5))
    clock = SkippingClock()
    async with await Client.connect(user_agent="test", kubeconfig=kubeconfig, clock=clock) as broken:
        mirror = Mirror(broken, clock, namespace)
        running = asyncio.ensure_future(mirror.reflector.run())
        await mirror.reflector.synced.wait()
        lists, failures = mirror.reflector.metrics.lists, mirror.reflector.metrics.failures
        proxy.stall()
        await client.create(CONFIG_MAPS, {"metadata": {"namespace": namespace, "name": "unseen"}})
        await eventually(lambda: mirror.reflector.metrics.failures > failures)
        proxy.flow()
        await eventually(lambda: mirror.store.get(Key(namespace, "unseen")))
        assert mirror.reflector.metrics.lists == lists, "no need to read everything again"
        running.cancel()
        await asyncio.wait({running})


async def test_leader_behind_a_silent_line_stops_and_its_writes_with_it(
    client: Client, kubeconfig: str, proxy: FaultProxy, namespace: str
) -> None:
    key, began = Key(namespace, "leader"), []

    async def lead() -> None:
        began.append(time.monotonic())
        await forever()

    async with await Client.connect(user_agent="test", kubeconfig=kubeconfig) as cut_off:
        first = LeaderElector(cut_off, key, "first", lease_duration=4.0, renew_deadline=2.0, retry_period=0.2)
        second = LeaderElector(client, key, "second", lease_duration=4.0, renew_deadline=2.0, retry_period=0.2)
        cut_off.guard = first.may_write
        leading = asyncio.ensure_future(first.run(lead))
        await eventually(lambda: began)
        waiting = asyncio.ensure_future(second.run(lead))
        proxy.stall()
        await asyncio.wait({leading}, timeout=TIMEOUT)
        assert isinstance(leading.exception(), LeadershipLost)
        with pytest.raises(errors.NotLeading):
            await cut_off.create(CONFIG_MAPS, {"metadata": {"namespace": namespace, "name": "late"}})
        await eventually(lambda: len(began) == 2)
        writes_ended = first._renewed_at + 2.0
        assert began[1] - writes_ended >= 2.0, "there is a time in which nobody writes"
        waiting.cancel()
        await asyncio.wait({waiting})
