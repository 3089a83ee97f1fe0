"""Measuring from inside a candidate: when a phase ends, what a stall is, what counts as a connection."""

import asyncio
import subprocess
import sys
import threading
import time

from hack.bench.probe import NEVER_SENT, Probe, StallMeter
from test.expect import TIMEOUT, eventually

COUNTING = """
import socket
from hack.bench.probe import Connections

with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
    address = server.getsockname()
    connections = Connections(address[1])
    socket.create_connection(address).close()
    socket.create_connection(other.getsockname()).close()
socket.socket().connect_ex(address)  # refused by now
print(connections.count)
"""


async def test_a_phase_ends_with_its_last_event_from_whatever_thread() -> None:
    probe = Probe()
    probe.expect(handled=3)
    threads = [threading.Thread(target=probe.handled) for _ in range(3)]
    for thread in threads:
        thread.start()
    span = await asyncio.wait_for(probe.span(), TIMEOUT)
    assert span.wall > 0
    assert span.cpu >= 0


async def test_a_latency_is_counted_from_the_moment_of_sending() -> None:
    probe = Probe()
    probe.expect(reconciled=2)
    began = time.monotonic_ns()
    for sent in (began - 10**9, began):
        probe.reconciled(str(sent))
    await asyncio.wait_for(probe.span(), TIMEOUT)
    first, second = probe.latencies()
    assert first >= 1
    assert 0 <= second <= (time.monotonic_ns() - began) / 1e9


async def test_events_outside_of_a_phase_have_no_latency() -> None:
    probe = Probe()
    probe.expect(handled=1)
    probe.reconciled("0")
    assert not probe.latencies()


async def test_what_was_there_from_the_beginning_does_not_count_as_an_event() -> None:
    probe = Probe()
    probe.expect(reconciled=1)
    probe.reconciled(NEVER_SENT)
    assert not probe.latencies()
    probe.reconciled(str(time.monotonic_ns()))
    await asyncio.wait_for(probe.span(), 10)
    assert len(probe.latencies()) == 1


async def test_computing_stalls_the_loop() -> None:
    meter = StallMeter()
    ticking = asyncio.create_task(meter.run())
    await asyncio.sleep(0)
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    assert await eventually(lambda: meter.longest >= 0.04)
    ticking.cancel()


def test_every_attempt_to_connect_to_the_port_counts_and_no_other() -> None:
    # In a process of its own: nothing removes an audit hook.
    run = subprocess.run([sys.executable, "-c", COUNTING], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "2"
