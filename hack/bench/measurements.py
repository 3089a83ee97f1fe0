"""What is measured and what must hold: the one registry of measurements, targets, and whom each is compared with.

A measurement reads the figures that runs (plan.py) printed; it starts nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hack.bench.objects import FIRST_VERSION, templates
from hack.bench.series import Figures, Series, largest, of, over
from hack.bench.stats import Summary, Target, at_least, at_most, never_above

MIB = 1024 * 1024
PEERS = ("kopf", "SharedInformer", "lightkube")


@dataclass(frozen=True)
class Measurement:
    """One row of the table. `shown` are the peers' figures, in `shown_unit` where that is another one."""

    id: str
    name: str
    unit: str
    value: Series
    target: Target | None
    shown: Mapping[str, Series] = field(default_factory=dict)
    shown_unit: str = ""


@dataclass(frozen=True)
class Result:
    """A measurement with its figures; `value` is None where the run failed."""

    measurement: Measurement
    value: Summary | None
    peers: Mapping[str, Summary]

    @property
    def ok(self) -> bool:
        """Whether the target is met; what has none only needs a value."""
        if self.value is None:
            return False
        return self.measurement.target is None or self.measurement.target.met(self.value)


def results(figures: Figures, wanted: Sequence[str]) -> list[Result]:
    """Every wanted measurement whose runs were asked for, in order."""
    measured = (
        Result(each, _summary(each.value, figures), _peers(each.shown, figures))
        for each in MEASUREMENTS
        if each.id in wanted and _asked_for(each.value, figures)
    )
    return list(measured)


def _asked_for(series: Series, figures: Figures) -> bool:
    with contextlib.suppress(ValueError):
        try:
            series(figures)
        except KeyError:
            return False
    return True


def _summary(series: Series, figures: Figures) -> Summary | None:
    """None where a repetition of the run failed."""
    try:
        return Summary.of(series(figures))
    except ValueError:
        return None


def _peers(shown: Mapping[str, Series], figures: Figures) -> Mapping[str, Summary]:
    asked = {name: series for name, series in shown.items() if _asked_for(series, figures)}
    summed = {name: _summary(series, figures) for name, series in asked.items()}
    return {name: summary for name, summary in summed.items() if summary is not None}


def peers(figure: str, scale: float = 1.0, suffix: str = "") -> Mapping[str, Series]:
    return {name: of(name + suffix, figure, scale) for name in PEERS}


def _over_wire(run: str) -> Series:
    """Memory of a Pod over its bytes on the wire: the second one's, since they differ by a digit or two."""

    def series(figures: Figures) -> list[float]:
        wire = len(templates("Pod", 2)[1].at(FIRST_VERSION))
        return of(run, "bytes_per_object", 1 / wire)(figures)

    return series


def _stall(run: str) -> Series:
    return largest(of(run, "sync_stall_ms"), of(run, "event_stall_ms"))


def _latency(rate: int, point: str, limit: float) -> Measurement:
    figure = f"latency_{rate}_{point}_ms"
    name = f"Event sent → reconcile runs, {rate:,} events/s, {point}"
    return Measurement("T4", name, "ms", of("ours", figure), at_most(limit), peers(figure))


def _outage(mode: str, words: str) -> tuple[Measurement, Measurement]:
    shown = {name: of(f"{name}, {mode}", "attempts_per_s") for name in ("kopf", "SharedInformer")}
    ours = f"ours, {mode}"
    return (
        Measurement("T8", f"Requests to a server that {words}, first minute", "", of(ours, "first_minute"), at_most(8)),
        Measurement(
            "T8",
            f"Requests to a server that {words}, minutes 2 to 10",
            "/s",
            of(ours, "attempts_per_s"),
            at_most(0.06),
            shown,
        ),
    )


def _garbage(run: str, words: str) -> Iterator[Measurement]:
    """Memory, stalls and cost of a sync, beside the same with Python's own collector settings."""
    untouched = f"{run}, collector untouched"

    def row(name: str, unit: str, figure: Callable[[str], Series], target: Target | None = None) -> Measurement:
        return Measurement("GC", name, unit, figure(run), target, {"collector untouched": figure(untouched)})

    yield row(f"RSS per 1,000 of {words}", "MiB", lambda name: of(name, "bytes_per_object", 1000 / MIB))
    yield row(f"Loop stall, sync and churn of {words}", "ms", _stall, never_above(30))
    yield row(f"CPU per object, sync of {words}", "µs", lambda name: of(name, "sync_cpu_us"))


_EVENT = of("ours, to the queue", "event_us")
_WORKED = of("ours, reconciled", "event_us")
_FLOOR = of("floor", "event_us")
_ALL_EVENTS = {
    "ours": _EVENT,
    "with a worker": _WORKED,
    "floor": _FLOOR,
    "floor with a dict": of("floor, kept", "event_us"),
    **peers("event_us"),
}

MEASUREMENTS: Sequence[Measurement] = (
    Measurement("T1", "CPU per watch event ÷ floor", "x", over(_EVENT, _FLOOR), at_most(1.6), _ALL_EVENTS, "µs"),
    Measurement("T1", "CPU per watch event, worker included ÷ floor", "x", over(_WORKED, _FLOOR), None),
    Measurement("T1", "kopf's CPU per event ÷ ours", "x", over(of("kopf", "event_us"), _EVENT), at_least(50)),
    Measurement("T1", "kopf's ÷ ours with a worker", "x", over(of("kopf", "event_us"), _WORKED), None),
    Measurement("T1", "SharedInformer's ÷ ours", "x", over(of("SharedInformer", "event_us"), _EVENT), at_least(20)),
    Measurement("T2", "10,000 Pods synced by WatchList", "s", of("ours", "sync_s"), at_most(0.3), peers("sync_s")),
    Measurement("T2", "10,000 Pods synced in pages", "s", of("ours, paged", "sync_s"), at_most(0.8)),
    Measurement(
        "T2",
        "SharedInformer's time to sync ÷ ours",
        "x",
        over(of("SharedInformer", "sync_s"), of("ours", "sync_s")),
        at_least(30),
    ),
    Measurement(
        "T3",
        "RSS per cached Pod ÷ its bytes on the wire",
        "x",
        _over_wire("ours"),
        at_most(1.5),
        {name: _over_wire(name) for name in PEERS},
    ),
    Measurement(
        "T3",
        "Peak of RSS during sync ÷ RSS afterwards",
        "x",
        over(of("ours", "peak_per_object"), of("ours", "bytes_per_object")),
        at_most(1.2),
    ),
    *(_latency(rate, point, limit) for rate in (300, 3000) for point, limit in (("p50", 0.5), ("p99", 3.0))),
    Measurement(
        "T5",
        "Longest stall of the loop, sync of 10,000 and churn",
        "ms",
        _stall("ours"),
        never_above(30),
        {name: _stall(name) for name in ("kopf", "lightkube")},
    ),
    Measurement(
        "T6",
        "Work queue's add, get, done, metrics included ÷ asyncio.Queue",
        "x",
        over(of("queue ours", "cycle_us"), of("queue floor", "cycle_us")),
        at_most(2.5),
        {"ours": of("queue ours", "cycle_us"), "asyncio.Queue": of("queue floor", "cycle_us")},
        "µs",
    ),
    Measurement("T7", "Idle controller, CPU", "%", of("idle controller", "cpu_percent"), at_most(0.2)),
    Measurement(
        "T7",
        "Idle controller, RSS",
        "MiB",
        of("idle controller", "resident_bytes", 1 / MIB),
        at_most(110),
        {f"{name} before its first request": of(name, "empty_bytes", 1 / MIB) for name in PEERS},
    ),
    *_outage("dead", "refuses connections"),
    *_outage("forbidden", "answers 403"),
    *_outage("broken", "answers 500"),
    Measurement(
        "T9",
        "Silent stream noticed",
        "s",
        of("ours, silence", "noticed_s"),
        at_most(75),
        peers("noticed_s", suffix=", silence"),
    ),
    Measurement(
        "T10",
        "Server hangs → last write allowed (15/10/2)",
        "s",
        of("ours, lease", "writes_s"),
        at_most(10),
        {"kubernetes": of("kubernetes, lease", "writes_s")},
    ),
    *_garbage("ours", "10,000 Pods"),
    *_garbage("Workspaces", "5,000 Workspaces"),
)

IDS = tuple(dict.fromkeys(each.id for each in MEASUREMENTS))
