"""What is done with everything that mirrors Pods: synchronize, take events, be left alone by the server.

A candidate is one `Mirror` and a call of `run`. Standard library only.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from hack.bench.control import ask
from hack.bench.probe import Connections, Probe, Span, cpu_seconds, peak_bytes, resident_bytes
from hack.bench.task import Load, Task, answer

Action = Callable[[Task, Probe], Awaitable[Mapping[str, Any]]]

# Between two phases: what the last one left behind (queues, per-object tasks, garbage) is done by then. How long it held
# the loop up belongs to the phase that left it.
SETTLE = 0.5
# How often the server is asked whether a mirror has noticed that its stream is dead.
LOOK = 0.1


class Mirror(Protocol):
    """Keeps what a server has of one kind, and tells `probe` of each object and event."""

    async def run(self, task: Task, probe: Probe) -> None: ...


def run(mirror: Mirror) -> None:
    """Do what argv asks for."""
    logging.disable(logging.CRITICAL)  # what a candidate prints about failures would be measured with it
    answer(asyncio.run(_run(Task.given(), mirror)))
    os._exit(0)  # a mirror's threads need not end, and must not make the interpreter's end fail


async def _run(task: Task, mirror: Mirror) -> Mapping[str, Any]:
    probe = Probe()
    before = resident_bytes()
    probe.expect(handled=task.objects)
    mirroring = asyncio.create_task(mirror.run(task, probe))
    measuring = asyncio.create_task(_measure(task, probe, before))
    ticking = asyncio.create_task(probe.stall.run())
    done, pending = await asyncio.wait({mirroring, measuring}, return_when=asyncio.FIRST_COMPLETED)
    for each in (*pending, ticking):
        each.cancel()
    await asyncio.wait({*pending, ticking}, timeout=SETTLE)  # one that will not end ends with the process
    if measuring not in done:
        raise RuntimeError("the mirror ended by itself") from mirroring.exception()
    return measuring.result()


async def _measure(task: Task, probe: Probe, before: int) -> Mapping[str, Any]:
    figures: dict[str, Any] = {"empty_bytes": before}
    if task.objects:
        figures |= await _sync(task, probe, before)
    return {**figures, **await ACTIONS[task.action](task, probe)}


async def _sync(task: Task, probe: Probe, before: int) -> Mapping[str, Any]:
    span = await probe.span()
    await asyncio.sleep(SETTLE)
    return {
        "sync_s": span.wall,
        "sync_cpu_us": span.cpu / task.objects * 1e6,
        "sync_stall_ms": probe.stall.longest * 1e3,
        "bytes_per_object": (resident_bytes() - before) / task.objects,
        "peak_per_object": (peak_bytes() - before) / task.objects,
    }


async def churn(task: Task, probe: Probe) -> Mapping[str, Any]:
    """Take events: the first load as fast as possible, for its cost; the others at their rate, for the latency."""
    figures: dict[str, Any] = {}
    for load in task.loads:
        probe.expect(**{"reconciled" if load.rate or load.reconciled else "handled": load.events})
        ask(task.control, "push", port=task.port, events=load.events, rate=load.rate)
        span = await probe.span()
        await asyncio.sleep(SETTLE)
        figures |= _latencies(load, probe, span) if load.rate else _cost(load, probe, span)
    return figures


def _cost(load: Load, probe: Probe, span: Span) -> Mapping[str, Any]:
    stall = probe.stall.longest
    return {"event_us": span.cpu / load.events * 1e6, "event_stall_ms": stall * 1e3, "event_wall_s": span.wall}


def _latencies(load: Load, probe: Probe, span: Span) -> Mapping[str, Any]:
    ordered = sorted(probe.latencies())
    last = len(ordered) - 1
    points = {"p50": last // 2, "p99": round(last * 0.99), "max": last}
    named = {f"latency_{load.rate:g}_{name}_ms": ordered[at] * 1e3 for name, at in points.items()}
    return {**named, f"cpu_{load.rate:g}_percent": span.cpu / span.wall * 100}


async def outage(task: Task, probe: Probe) -> Mapping[str, Any]:
    """Have the server fail, and count what is asked of it for some seconds."""
    connections = Connections(task.port)
    ask(task.control, "fail", port=task.port, mode=task.mode)
    before = cpu_seconds()
    await asyncio.sleep(task.seconds)
    attempts = connections.count
    if task.mode != "dead":
        attempts = ask(task.control, "state", port=task.port)["requests"]
    return {"attempts_per_s": attempts / task.seconds, "cpu_percent": (cpu_seconds() - before) / task.seconds * 100}


async def silence(task: Task, probe: Probe) -> Mapping[str, Any]:
    """Have the server say nothing more, and see after how long the mirror closes its watch; null if not in time."""
    ask(task.control, "fail", port=task.port, mode="silent")
    noticed = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(task.seconds):
            while noticed is None:
                await asyncio.sleep(LOOK)
                noticed = ask(task.control, "state", port=task.port)["left_after"]
    return {"noticed_s": None if noticed is None else round(noticed, 1)}


ACTIONS: Mapping[str, Action] = {"churn": churn, "outage": outage, "silence": silence}
