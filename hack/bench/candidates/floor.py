"""The least that a watch costs here: aiohttp's readline and msgspec's decoding of the same struct, and nothing else.

With objects in the task it also keeps them, in a dict by key: the least that a cache costs.
"""

import gc

import aiohttp
import msgspec

from hack.bench.candidates import driver
from hack.bench.objects import KINDS
from hack.bench.probe import Probe
from hack.bench.task import Task
from kube.api.workload import Pod


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch."""

    type: str
    object: Pod


class Floor:
    async def run(self, task: Task, probe: Probe) -> None:
        gc.disable()  # nothing here has cycles
        query = {"watch": "1", "sendInitialEvents": "true" if task.objects else "false"}
        async with (
            aiohttp.ClientSession(read_bufsize=2**22) as session,
            session.get(task.url + KINDS["Pod"].path, params=query) as response,
        ):
            await (_keep if task.objects else _drop)(response.content, probe)


async def _drop(lines: aiohttp.StreamReader, probe: Probe) -> None:
    decode = msgspec.json.Decoder(Frame).decode
    while line := await lines.readline():
        decode(line)
        probe.handled()


async def _keep(lines: aiohttp.StreamReader, probe: Probe) -> None:
    decode = msgspec.json.Decoder(Frame).decode
    cache: dict[tuple[str, str], Pod] = {}
    while line := await lines.readline():
        frame = decode(line)
        if frame.type != "BOOKMARK":
            metadata = frame.object.metadata
            cache[metadata.namespace, metadata.name] = frame.object
            probe.handled()


if __name__ == "__main__":
    driver.run(Floor())
