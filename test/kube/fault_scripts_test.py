"""Whatever happens between a reflector and its server, in whatever order: afterwards the oracle finds F1 to F10 to hold.

Three hundred scripts in `make test`, ten thousand in a nightly run. Sockets are real, time is virtual.
"""

import asyncio

from hypothesis import given, settings

from test import profile
from test.kube import faults, oracle, scripts
from test.kube.looptime import LoopClock, turns
from test.kube.mirror import Credential, mirrored
from test.kube.server import WatchServer


@settings(max_examples=profile.examples(300, 10_000))
@given(scripts.scripts)
def test_reflector_survives_every_script(script: scripts.Script) -> None:
    asyncio.run(_survive(script))


async def _survive(script: scripts.Script) -> None:
    clock, credential = LoopClock(), Credential()
    async with WatchServer(clock) as server, mirrored(server, clock, credential) as mirror:
        server.watch_list, server.page_size = script.watch_list, 2
        server.faults.extend(script.first)
        world = faults.World(server, clock, credential, mirror)
        for action in script.actions:
            await action.act(world)
            await turns(script.pace)
        server.history.put("last")
        await world.converge()
        oracle.check(mirror, server, clock.jumps)
