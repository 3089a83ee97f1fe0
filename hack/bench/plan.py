"""What is run: every candidate with its task, in the order of one repetition, and which measurements need it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from hack.bench.task import Load, Task

PODS = 10_000
WORKSPACES = 5_000
# Slow peers get fewer events; every figure is per event.
EVENTS = {"floor": 50_000, "ours": 50_000, "lightkube": 10_000, "SharedInformer": 5_000, "kopf": 3_000}
# For the latency: three seconds and two.
PACED = (Load(900, 300), Load(6_000, 3_000))
CYCLES = (Load(200_000),)
OUTAGES = ("dead", "forbidden", "broken")
OUTAGE_SECONDS = 10.0
# Longer than ours may take, and than kopf does.
SILENCE_SECONDS = 80.0
HANG_SECONDS = 20.0
IDLE_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    """One candidate process. Its figures are found under `name`."""

    name: str
    module: str
    task: Task
    needed_for: frozenset[str]
    kind: str = "Pod"
    served: int = PODS
    watch_list: bool = True
    peer: bool = False


def repeated(wanted: Collection[str], peers: bool) -> tuple[Run, ...]:
    """The runs of one repetition: those that cost CPU time, one after the other."""
    return tuple(_wanted(_mirrors(), wanted, peers))


def patient(wanted: Collection[str], peers: bool) -> tuple[Run, ...]:
    """What takes minutes and hardly any CPU time: run once, all at the same time."""
    return tuple(_wanted(_waiting(), wanted, peers))


def busy(wanted: Collection[str], peers: bool) -> tuple[Run, ...]:
    """Peers that ask a failing server as fast as they can: one after the other."""
    return tuple(_wanted(_hot(), wanted, peers))


def _wanted(runs: Iterator[Run], wanted: Collection[str], peers: bool) -> Iterator[Run]:
    for run in runs:
        if run.needed_for & set(wanted) and (peers or not run.peer):
            loads = run.task.loads if "T4" in wanted else tuple(load for load in run.task.loads if not load.rate)
            yield replace(run, task=replace(run.task, loads=loads))


def _mirrors() -> Iterator[Run]:
    costs = frozenset(["T2", "T3", "T4", "T5", "GC"])
    for name, objects in (("floor", 0), ("floor, kept", PODS)):
        task = Task("churn", objects=objects, loads=(Load(EVENTS["floor"]),))
        yield Run(name, "floor", task, frozenset(["T1"]))
    each_once = (Load(PODS),)
    yield _mirror("ours, to the queue", "ours", frozenset(["T1"]), loads=each_once, options=("unworked",))
    each_reconciled = (Load(PODS, reconciled=True),)
    yield _mirror("ours, reconciled", "ours", frozenset(["T1"]), loads=each_reconciled)
    yield _mirror("ours", "ours", costs)
    yield replace(_mirror("ours, paged", "ours", frozenset(["T2"]), loads=()), watch_list=False)
    yield _mirror("ours, collector untouched", "ours", frozenset(["GC"]), options=("collected",), paced=())
    for name, options in (("", ()), (", collector untouched", ("collected",))):
        yield replace(
            _mirror(f"Workspaces{name}", "ours", frozenset(["GC"]), options=("Workspace", *options), paced=()),
            kind="Workspace",
            served=WORKSPACES,
        )
    for mode in ("floor", "ours"):
        yield Run(f"queue {mode}", "queue", Task("queue", mode=mode, loads=CYCLES), frozenset(["T6"]))
    for name, module in (("SharedInformer", "shared_informer"), ("kopf", "kopf"), ("lightkube", "lightkube")):
        yield replace(_mirror(name, module, costs - {"GC"} | {"T1"}), peer=True)


def _mirror(
    name: str,
    module: str,
    needed_for: frozenset[str],
    *,
    loads: tuple[Load, ...] | None = None,
    paced: tuple[Load, ...] = PACED,
    options: tuple[str, ...] = (),
) -> Run:
    events = EVENTS.get(name, EVENTS["ours"])
    served = WORKSPACES if "Workspace" in options else PODS
    task = Task("churn", objects=served, loads=(Load(events), *paced) if loads is None else loads, options=options)
    return Run(name, module, task, needed_for)


def _waiting() -> Iterator[Run]:
    yield Run("idle controller", "idle", Task("idle", seconds=IDLE_SECONDS), frozenset(["T7"]), served=0)
    for mode in OUTAGES:
        yield Run(f"ours, {mode}", "outage", Task("outage", mode=mode), frozenset(["T8"]), served=0)
        yield _small("kopf", "kopf", "outage", "T8", OUTAGE_SECONDS * 2, mode)
    yield replace(_small("ours", "ours", "silence", "T9", SILENCE_SECONDS), peer=False)
    for name, module in (("SharedInformer", "shared_informer"), ("kopf", "kopf"), ("lightkube", "lightkube")):
        yield _small(name, module, "silence", "T9", SILENCE_SECONDS)
    hang = Task("hang", seconds=HANG_SECONDS)
    yield Run("ours, lease", "election", hang, frozenset(["T10"]), served=0)
    yield Run("kubernetes, lease", "election_kubernetes", hang, frozenset(["T10"]), served=0, peer=True)


def _hot() -> Iterator[Run]:
    for mode in OUTAGES:
        yield _small("SharedInformer", "shared_informer", "outage", "T8", OUTAGE_SECONDS, mode)


def _small(name: str, module: str, action: str, wanted: str, seconds: float, mode: str = "") -> Run:
    task = Task(action, objects=10, seconds=seconds, mode=mode)
    return Run(f"{name}, {mode or action}", module, task, frozenset([wanted]), served=10, peer=True)
