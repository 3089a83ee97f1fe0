"""Leadership that passes on, on the real server and in the machine's time: after a clean stop, and while a leader's loop
stands still.

A bound on a time is judged by the time in which neither this process's loop stood still nor the server owed an answer. How
long either may take exactly is shown by `lease_test`, in virtual time.
"""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from hack.local.controlplane import ControlPlane
from kube import lease as lease_module
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.clock import SystemClock
from kube.errors import NotLeading
from kube.lease import LeaderElector, LeadershipLost
from kube.meta import Key
from test.background import endless
from test.expect import eventually
from test.kube.gateway import gateway
from test.kube.lease_test import forever, patient, running, shorter
from test.kube.looptime import OwnTime
from test.kube.unplugged import unplugged
from test.profile import examples

# For a leader's loop to stand still, and for its successor to come, however busy the machine is.
PATIENCE = 60.0


async def test_hand_over_takes_a_retry_period_and_a_second_at_most(
    apiserver: ControlPlane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Production's retry period in a nightly run, a fifth of it otherwise."""
    monkeypatch.setattr(lease_module, "RELEASE_SECONDS", PATIENCE)
    period = shorter(examples(5, 1))["retry_period"]
    led = asyncio.Event()

    async def lead() -> None:
        led.set()
        await forever()

    async with unplugged(str(apiserver.kubeconfig), SystemClock()) as line:
        waited = OwnTime(line.idle)
        first, second = (
            patient(line, Key(namespace, "leader"), name, retry_period=period) for name in ("first", "second")
        )
        async with endless(waited.run()), running(first) as leading:
            await eventually(first.may_write)
            async with running(second, lead):
                await eventually(second.reachable)  # it has seen who leads
                stopped, begin = time.monotonic(), waited.monotonic()
                leading.cancel()
                await asyncio.wait_for(led.wait(), PATIENCE)
                took = waited.monotonic() - begin
                print(f"handed over after {time.monotonic() - stopped:.2f} s, of which {took:.2f} s waiting")
                assert took <= period + 1


async def test_nothing_is_written_by_a_leader_whose_loop_stands_still_until_another_one_leads(
    apiserver: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """Its loop really stands still, for as long as the lease lasts: 3 s, 15 s in a nightly run. The successor has a thread."""
    key, durations = Key(namespace, "leader"), shorter(examples(5, 1))
    taken = threading.Event()
    both: list[bool] = []  # whether the first might write when the second led
    refused: list[bool] = []

    async with (
        gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig),
        await Client.connect(user_agent="first", kubeconfig=kubeconfig) as client,
    ):
        first = LeaderElector(client, key, "first", **durations)
        client.guard = first.may_write

        async def write() -> None:
            try:
                await client.create(CONFIG_MAPS, {"metadata": {"namespace": namespace, "generateName": "late-"}})
            except NotLeading:
                refused.append(True)

        async def take_over() -> None:
            async def look() -> None:
                both.append(first.may_write())

            try:
                async with await Client.connect(user_agent="second", kubeconfig=str(apiserver.kubeconfig)) as own:
                    await LeaderElector(own, key, "second", **durations).run(look)
            finally:
                taken.set()

        async def lead() -> None:
            started.extend(asyncio.ensure_future(write()) for _ in range(3))  # their turns come after the standstill
            started.append(asyncio.get_running_loop().run_in_executor(None, asyncio.run, take_over()))
            taken.wait(PATIENCE)
            started.append(asyncio.ensure_future(write()))
            await forever()

        started: list[asyncio.Future[None]] = []
        with pytest.raises(LeadershipLost):
            await first.run(lead)
        await asyncio.gather(*started)
        assert both == [False]
        assert len(refused) == 4
        assert not [each for each in between.requests if each.write and not each.about_lease]
