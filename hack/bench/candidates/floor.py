"""The least that a watch costs here: aiohttp's readline and msgspec's decoding of the same struct, and nothing else."""

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
        decoder = msgspec.json.Decoder(Frame)
        query = {"watch": "1", "resourceVersion": "1"}
        async with (
            aiohttp.ClientSession(read_bufsize=2**22) as session,
            session.get(task.url + KINDS["Pod"].path, params=query) as response,
        ):
            while line := await response.content.readline():
                decoder.decode(line)
                probe.handled()


if __name__ == "__main__":
    driver.run(Floor())
