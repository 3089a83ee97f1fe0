"""Starting the server and the candidates, each on its core, and collecting what they print.

The server keeps one core for the whole run and candidates the other, so that neither is measured with the other's work.
"""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
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
    """Runs candidates on `core`, against the server behind `control`."""

    control: int
    core: int

    async def run(self, run: Run) -> Mapping[str, Any]:
        """Run one candidate against a scenario of its own. Raises BenchError."""
        opening = {"kind": run.kind, "count": run.served, "watch_list": run.watch_list}
        port = (await asyncio.to_thread(ask, self.control, "open", **opening))["port"]
        task = replace(run.task, port=port, control=self.control, core=self.core)
        python = str(PEERS_PYTHON) if run.peer else sys.executable
        try:
            return await _figures(run.name, python, "-m", f"hack.bench.candidates.{run.module}", task.encode())
        finally:
            await asyncio.to_thread(ask, self.control, "close", port=port)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Runner]:
    """Run the server on the first core; candidates get the last."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "hack.bench.server", str(cores[0])]
    server = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT)
    assert server.stdout is not None
    assert server.stdin is not None
    try:
        yield Runner(int(await server.stdout.readline()), cores[-1])
    finally:
        server.stdin.close()
        await server.wait()


async def _figures(name: str, *command: str) -> Mapping[str, Any]:
    # A proxy in the environment is not what shall be measured.
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, cwd=ROOT, env=environment)
    try:
        async with asyncio.timeout(LONGEST):
            output, errors = await process.communicate()
    except TimeoutError:
        raise BenchError(f"{name} took longer than {LONGEST:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise BenchError(f"{name} failed:\n{errors.decode(errors='replace')}")
    figures: Mapping[str, Any] = json.loads(output.splitlines()[-1])
    return figures
