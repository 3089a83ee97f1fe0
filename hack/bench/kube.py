"""`python -m hack.bench.kube`: everything that design targets name, measured in one run beside what else there is.

Five repetitions, in each of which every candidate runs once (so A/B/A/B), then what takes minutes but no CPU time, all at
once. Prints a table; where everything was measured it writes build/bench/kube.json, and with --write-docs the table in
docs/performance.md.
"""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hack.bench import plan, report
from hack.bench.measurements import IDS, Result, results
from hack.bench.plan import Run
from hack.bench.runner import PEERS_PYTHON, ROOT, BenchError, Runner, serving

REPETITIONS = 5
QUICK_REPETITIONS = 3
OUTPUT = ROOT / "build" / "bench" / "kube.json"
DOCUMENT = ROOT / "docs" / "performance.md"


@dataclass(frozen=True)
class Options:
    only: tuple[str, ...]
    repetitions: int
    peers: bool
    write_docs: bool

    @property
    def whole(self) -> bool:
        """Whether everything is measured: figures of a part would pass for those of all."""
        return self.only == IDS and self.peers


class Log:
    """What the runs printed, by their names, and the runs that failed."""

    def __init__(self) -> None:
        self.figures: dict[str, list[Mapping[str, Any]]] = {}
        self.failures: list[str] = []

    async def take(self, runner: Runner, run: Run, place: str) -> None:
        started = time.monotonic()
        figures = self.figures.setdefault(run.name, [])
        try:
            figures.append(await runner.run(run))
        except BenchError as error:  # the others are still worth having
            self.failures.append(str(error))
            print(error, file=sys.stderr)
        print(f"{place:>6}  {run.name:<28}{time.monotonic() - started:6.1f} s", file=sys.stderr, flush=True)


async def measure(options: Options) -> tuple[list[Result], list[str]]:
    log = Log()
    async with serving() as runner:
        for repetition in range(options.repetitions):
            for run in plan.repeated(options.only, options.peers):
                await log.take(runner, run, f"{repetition + 1}/{options.repetitions}")
        await asyncio.gather(
            _one_by_one(log, runner, plan.busy(options.only, options.peers)),
            *(log.take(runner, run, "beside") for run in plan.patient(options.only, options.peers)),
        )
    return results(log.figures, options.only), log.failures


async def _one_by_one(log: Log, runner: Runner, runs: Sequence[Run]) -> None:
    for run in runs:
        await log.take(runner, run, "beside")


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m hack.bench.kube", description="Measure kube beside its peers.")
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(IDS)}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPETITIONS} repetitions, not {REPETITIONS}")
    parser.add_argument("--no-peers", action="store_true", help="only ours and the floors")
    parser.add_argument("--write-docs", action="store_true", help=f"write the table into {DOCUMENT.relative_to(ROOT)}")
    given = parser.parse_args(arguments)
    only = tuple(given.only.split(",")) if given.only else IDS
    if unknown := set(only) - set(IDS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    repetitions = QUICK_REPETITIONS if given.quick else REPETITIONS
    options = Options(only, repetitions, not given.no_peers, given.write_docs)
    if options.write_docs and not options.whole:
        parser.error("the documentation shows everything: --write-docs goes with neither --only nor --no-peers")
    return options


def machine() -> str:
    """What it ran on, when, and how busy that was: where others compute too, wall times say little."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {model}, {cores} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    )


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.peers and not PEERS_PYTHON.exists():
        print(f"error: the peers' environment {PEERS_PYTHON} is missing: make bench-kube makes it", file=sys.stderr)
        return 2
    started, where = time.monotonic(), machine()
    found, failures = asyncio.run(measure(options))
    print(report.table(found))
    missed = sum(not result.ok for result in found)
    print(f"{where}; {options.repetitions} repetitions, {time.monotonic() - started:.0f} s, {missed} missed")
    if options.whole:
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        OUTPUT.write_text(report.as_json(found), encoding="utf-8")
    if options.write_docs:
        text = f"{where}; median (least…most) of {options.repetitions} repetitions\n\n{report.markdown(found)}"
        DOCUMENT.write_text(report.insert(DOCUMENT.read_text(encoding="utf-8"), text), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
