"""Starting the server and the candidates, each on its core, and collecting what they print.

The server keeps one core for the whole run and candidates the other, so that neither is measured with the other's work.
"""

import asyncio
import contextlib
import functools
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hack.bench.control import ask
from hack.bench.plan import Run

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
# A candidate that takes longer hangs.
LONGEST = 180.0


class BenchError(Exception):
    """A candidate or the server failed; says which and how."""


@dataclass(frozen=True)
class Runner:
    control: int
    core: int

    async def run(self, run: Run) -> Mapping[str, Any]:
        """Run one candidate against a scenario of its own. Raises BenchError."""
        opening = {"kind": run.kind, "count": run.served, "watch_list": run.watch_list}
        port = (await asyncio.to_thread(ask, self.control, "open", **opening))["port"]
        try:
            task = replace(run.task, port=port, control=self.control)
            python = str(PEERS_PYTHON) if run.peer else sys.executable
            return await _figures(
                run.name, [python, "-m", f"hack.bench.candidates.{run.module}", task.encode()], self.core
            )
        finally:
            await asyncio.to_thread(ask, self.control, "close", port=port)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Runner]:
    """Run the server on the first core; candidates get the last."""
    cores = sorted(os.sched_getaffinity(0))
    server = await _start([sys.executable, "-m", "hack.bench.server"], cores[0], stdin=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        yield Runner(int(await server.stdout.readline()), cores[-1])
    finally:
        server.stdin.close()
        await server.wait()


async def _figures(name: str, command: Sequence[str], core: int) -> Mapping[str, Any]:
    process = await _start(command, core)
    try:
        async with asyncio.timeout(LONGEST):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BenchError(f"{name} took longer than {LONGEST:g} s") from None
    if process.returncode:
        raise BenchError(f"{name} failed:\n{errors.decode(errors='replace')}")
    figures: Mapping[str, Any] = json.loads(output.splitlines()[-1])
    return figures


async def _start(
    command: Sequence[str], core: int, stdin: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        preexec_fn=functools.partial(os.sched_setaffinity, 0, {core}),
    )
