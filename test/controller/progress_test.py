"""What a pod's status port is asked, and when."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from aiohttp import web

from controller.progress import INTERVAL, Progress
from kube.api.workload import Pod, PodStatus
from kube.meta import ObjectMeta
from runtime import contract
from test.clock import VirtualClock

ADDRESS = "127.0.87.2"
STATUS = contract.Status(phase="Training", step=12, total_steps=40)


class Program:
    """A status port; what it says comes in pieces, as a network delivers it."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.asked = 0
        self.pieces = 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in _split(contract.encode(STATUS).encode(), self.pieces):
            await response.write(piece)
            await self._clock.settle()  # the client reads what has come
        await response.write_eof()
        return response


def _split(body: bytes, pieces: int) -> Iterator[bytes]:
    size = -(-len(body) // pieces)
    return (body[start : start + size] for start in range(0, len(body), size))


@asynccontextmanager
async def asking(clock: VirtualClock) -> AsyncIterator[tuple[Progress, Program]]:
    program, progress = Program(clock), Progress(clock, timeout=30)
    application = web.Application()
    application.router.add_get("/status", program.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, ADDRESS, contract.STATUS_PORT).start()
    try:
        yield progress, program
    finally:
        await progress.close()
        await runner.cleanup()


def a_pod(address: str = ADDRESS) -> Pod:
    return Pod(metadata=ObjectMeta(name="a", uid="1"), status=PodStatus(pod_ip=address))


async def test_a_pod_is_asked_once_in_an_interval() -> None:
    clock = VirtualClock()
    async with asking(clock) as (progress, program):
        for _ in range(3):
            assert await progress.read(a_pod()) == STATUS
        assert program.asked == 1
        assert progress.due(a_pod()) == INTERVAL
        await clock.advance(INTERVAL)
        assert await progress.read(a_pod()) == STATUS
        assert program.asked == 2


async def test_a_pod_is_asked_as_soon_as_it_has_an_address() -> None:
    """Every pod begins without one; that nobody could be asked then is no answer to be kept for an interval."""
    async with asking(VirtualClock()) as (progress, program):
        assert await progress.read(a_pod(address="")) is None
        assert progress.due(a_pod(address="")) > 0, "the address comes with an event"
        assert await progress.read(a_pod()) == STATUS
        assert program.asked == 1


async def test_an_answer_that_comes_in_pieces_is_read_whole() -> None:
    async with asking(VirtualClock()) as (progress, program):
        program.pieces = 5
        assert await progress.read(a_pod()) == STATUS


async def test_a_pod_that_does_not_answer_is_unknown() -> None:
    progress = Progress(VirtualClock(), timeout=30)
    assert await progress.read(a_pod("127.0.87.3")) is None
    await progress.close()
