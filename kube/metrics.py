"""What a cluster scrapes, under the names that client-go and controller-runtime gave it.

Counting is adding to plain numbers; text is made only when somebody scrapes (an inline prometheus_client observation
costs four times as much as the queue cycle that it would measure). Objects that count register themselves in `_published`
and are summed by name. Refuses to know what is being counted beyond its labels.
"""

import asyncio
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import CollectorRegistry
from prometheus_client.samples import Sample


class Publisher(Protocol):
    """Something that counts."""

    def collect(self) -> Iterable[Metric]: ...


_published: "weakref.WeakSet[Publisher]" = weakref.WeakSet()


def publish(publisher: Publisher) -> None:
    """Show `publisher` at every scrape for as long as it lives."""
    _published.add(publisher)


class Collector:
    """Everything that was published. Two publishers of one series, say two caches of one kind, are added up."""

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, ...], Sample]] = {}
        for publisher in [REST, *_published]:
            for family in publisher.collect():
                families.setdefault(family.name, family)
                series = sums.setdefault(family.name, {})
                for sample in family.samples:
                    key = (sample.name, *sample.labels.values())
                    known = series.get(key)
                    series[key] = sample._replace(value=sample.value + known.value) if known else sample
        for name, family in families.items():
            family.samples = list(sums[name].values())
            yield family


def register(registry: CollectorRegistry) -> None:
    """Show our series in `registry`; a second call changes nothing."""
    if not any(isinstance(collector, Collector) for collector in registry._collector_to_names):
        registry.register(Collector())


class Histogram:
    """Counts per bucket, without labels."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        total = 0
        buckets = []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets=buckets, sum_value=self._sum)


# controller-runtime: exponential from 10 ns, twelve powers of ten.
QUEUE_BOUNDS = tuple(10.0**power for power in range(-8, 4))
# controller-runtime's reconcile buckets.
RECONCILE_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0),
    *(50.0, 60.0),
)
# client-go's request latency buckets.
REST_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
# client-go's sizes: 64 bytes to 16 MiB.
SIZE_BOUNDS = (64.0, 256.0, 512.0, *(float(4**power) for power in range(5, 13)))


class RestMetrics:
    """Requests to the API server; one instance per process, like client-go's."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str], int] = {}
        self._retries: dict[tuple[str, str, str], int] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}
        self._sent: dict[tuple[str, str], Histogram] = {}
        self._received: dict[tuple[str, str], Histogram] = {}

    def observe(self, method: str, host: str, code: str, seconds: float) -> None:
        """One answer, or `<error>` as its code where none came. Seconds until the headers of the answer."""
        key = (code, method, _address(host))
        self._requests[key] = self._requests.get(key, 0) + 1
        _histogram(self._durations, method, host, REST_BOUNDS).observe(seconds)

    def transferred(self, method: str, host: str, sent: int, received: int) -> None:
        """The bytes of one request's body and of its answer's. Watches are not counted: they have no end."""
        _histogram(self._sent, method, host, SIZE_BOUNDS).observe(sent)
        _histogram(self._received, method, host, SIZE_BOUNDS).observe(received)

    def retried(self, method: str, host: str, code: int) -> None:
        """One request that is sent again because of this answer."""
        key = (str(code), method, _address(host))
        self._retries[key] = self._retries.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        for name, text, labels, counts in (
            ("requests", "Requests to the API server.", ["code", "method", "host"], self._requests),
            ("request_retries", "Requests that were sent again.", ["code", "verb", "host"], self._retries),
        ):
            counter = CounterMetricFamily(f"rest_client_{name}", text, labels=labels)
            for values, count in counts.items():
                counter.add_metric(values, count)
            yield counter
        for name, text, histograms in (
            ("request_duration_seconds", "Time to the answer's headers.", self._durations),
            ("request_size_bytes", "Size of a request's body.", self._sent),
            ("response_size_bytes", "Size of an answer's body.", self._received),
        ):
            family = HistogramMetricFamily(f"rest_client_{name}", text, labels=["verb", "host"])
            for names, histogram in histograms.items():
                histogram.add_to(family, names)
            yield family


def _address(host: str) -> str:
    return host.partition("://")[2]


def _histogram(known: dict[tuple[str, str], Histogram], method: str, host: str, bounds: Sequence[float]) -> Histogram:
    key = (method, _address(host))
    if key not in known:
        known[key] = Histogram(bounds)
    return known[key]


REST = RestMetrics()


class ReconcileMetrics:
    """One controller's reconciles. All series exist from the start.

    Without controller-runtime's timeouts, panics and terminal errors, which we do not have: a reconcile is bounded by its
    requests, each of which has a timeout, every exception is an error, and every error is tried again.
    """

    RESULTS = ("success", "error", "requeue", "requeue_after")

    def __init__(self, controller: str, *, workers: int = 1) -> None:
        self._controller = controller
        self._workers = workers
        self._results = dict.fromkeys(self.RESULTS, 0)
        self._durations = Histogram(RECONCILE_BOUNDS)
        self.active = 0  # workers inside a reconcile right now
        publish(self)

    def observe(self, result: str, seconds: float) -> None:
        """One finished reconcile; `result` is one of RESULTS."""
        self._results[result] += 1
        self._durations.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        name = [self._controller]
        total = CounterMetricFamily(
            "controller_runtime_reconcile", "Reconciles by result.", labels=["controller", "result"]
        )
        for result, count in self._results.items():
            total.add_metric([*name, result], count)
        yield total
        failed = CounterMetricFamily("controller_runtime_reconcile_errors", "Failed reconciles.", labels=["controller"])
        failed.add_metric(name, self._results["error"])
        yield failed
        durations = HistogramMetricFamily(
            "controller_runtime_reconcile_time_seconds", "Duration of a reconcile.", labels=["controller"]
        )
        self._durations.add_to(durations, name)
        yield durations
        yield from gauges(
            ["controller"],
            name,
            {
                "controller_runtime_max_concurrent_reconciles": ("Workers.", self._workers),
                "controller_runtime_active_workers": ("Workers that reconcile right now.", self.active),
            },
        )


class ReflectorMetrics:
    """What the reflectors of one kind count; `reflector_*` are client-go's historic names."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.lists = 0
        self.watches = 0
        self.short_watches = 0
        self.failures = 0
        self.stale = 0
        self.epochs = 0
        publish(self)

    def collect(self) -> Iterator[Metric]:
        yield from counters(
            ["name"],
            [self._name],
            {
                "reflector_lists": ("Pages listed.", self.lists),
                "reflector_watches": ("Watches opened.", self.watches),
                "reflector_short_watches": ("Watches that ended within a second.", self.short_watches),
                "reflector_failures": ("Requests and streams that failed.", self.failures),
                "reflector_stale_events": ("Events older than what the store held.", self.stale),
                "informer_epoch_changes": ("Times that the server's history went back.", self.epochs),
            },
        )


class LoopLag:
    """How late the event loop runs what is due: a blocking call or a long collection delays leases and probes alike."""

    PERIOD = 1.0

    def __init__(self) -> None:
        self._last = self._worst = 0.0
        publish(self)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self.PERIOD
            await asyncio.sleep(self.PERIOD)
            self._last = max(0.0, loop.time() - due)
            self._worst = max(self._worst, self._last)

    def collect(self) -> Iterator[Metric]:
        yield from gauges(
            [],
            [],
            {
                "event_loop_lag_seconds": ("Delay of the last timer.", self._last),
                "event_loop_lag_max_seconds": ("The longest such delay since the start.", self._worst),
            },
        )


def gauges(labels: Sequence[str], values: Sequence[str], series: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    """One gauge family per name, each with one sample."""
    for name, (documentation, value) in series.items():
        family = GaugeMetricFamily(name, documentation, labels=labels)
        family.add_metric(values, value)
        yield family


def counters(labels: Sequence[str], values: Sequence[str], series: Mapping[str, tuple[str, float]]) -> Iterator[Metric]:
    """One counter family per name (without `_total`), each with one sample."""
    for name, (documentation, value) in series.items():
        family = CounterMetricFamily(name, documentation, labels=labels)
        family.add_metric(values, value)
        yield family
