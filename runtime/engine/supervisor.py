"""One run of the engine, from its first answer to its last: brought up, watched, drained.

Owns the order of these steps. What an answer means is client.py's, whether silence is illness health.py's, why the
engine ended failure.py's.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime import machine
from runtime.contract import Adapter, Phase, Reason
from runtime.engine import client as engine_client
from runtime.engine import failure
from runtime.engine.client import Answer, EngineClient, Unanswered
from runtime.engine.health import Vitals
from runtime.engine.process import EngineProcess
from runtime.engine.render import STOP_MARGIN
from runtime.status import Reporter

logger = logging.getLogger(__name__)

# A warning's code, no reason of a condition: an adapter is served, but may not do what its author meant, unlike
# AdapterInvalid, which keeps the server from being ready.
ADAPTER_DOUBTFUL = "AdapterDoubtful"
BLIND = "it changes no answer to text, and nothing here asks it about images"
USELESS = (
    "it changes no answer: the engine knows none of its modules, or it was trained so little that nothing of it is left "
    "in the engine's precision. Train it on the served model, for longer, or remove it"
)
COMPILING = ("torch.compile", "Capturing CUDA graph", "Warming up model for the compilation")


class Stopped(BaseException):
    """SIGTERM. Not an Exception, so that no library takes it for a failure of its own."""


class _Ended(Exception):
    """The engine's process ended by itself."""

    def __init__(self, status: int) -> None:
        super().__init__(f"engine ended with status {status}")
        self.status = status


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds. Tests shorten what waits for nothing but time."""

    poll: float = 0.25  # between two looks at an engine that starts
    watch: float = 5.0  # between two looks at one that runs
    answer: float = 10.0  # for an HTTP answer that needs no model
    load: float = 300.0  # for an adapter to be loaded, or a first answer
    question: float = 240.0  # for one token from an engine that may hang
    unready: float = 2.0  # from readiness False to the last new request: what the Service's proxies need to hear of it


NORMAL = Pace()


@dataclasses.dataclass(frozen=True)
class Loadable:
    """An adapter that passed the pre-flight, as the engine is to load it."""

    adapter: Adapter
    path: Path
    rank: int


@dataclasses.dataclass(frozen=True)
class Duty:
    """What the engine must answer for, and how long it has to stop."""

    model: str
    declared: Sequence[str] = ()  # names of all adapters of the plan
    loadable: Sequence[Loadable] = ()  # those of them that passed the pre-flight
    headless: bool = False  # a further node of one engine: its leader answers
    beyond_text: bool = False  # adapters may change a vision tower, which no question of ours looks through
    grace_seconds: int = 30


class Supervisor:
    """Runs in the main thread; `vitals` and the reporter may be read from any other at any time."""

    def __init__(
        self,
        duty: Duty,
        client: EngineClient,
        reporter: Reporter,
        vitals: Vitals,
        *,
        pace: Pace = NORMAL,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.duty = duty
        self.client = client
        self.reporter = reporter
        self.vitals = vitals
        self.pace = pace
        self.monotonic = monotonic
        self.up = False  # the engine has answered over HTTP

    def run(self, start: Callable[[Callable[[str], None]], EngineProcess]) -> None:
        """Start the engine and stay until SIGTERM (`Stopped`). Raises Fault when the engine ends by itself."""
        kills = machine.out_of_memory_kills()
        self.reporter.update(phase=Phase.LOADING)
        process = start(self._heard)
        try:
            self._bring_up(process)
            self._watch(process)
        except Stopped:
            self._drain(process)
        except _Ended as ended:
            process.close()
            killed = machine.out_of_memory_kills() > kills
            raise failure.classify(ended.status, process.lines, killed_for_memory=killed) from None
        finally:
            process.close()

    def _heard(self, line: str) -> None:
        """For display only: nothing is decided by what the engine prints."""
        if self.reporter.status.phase == Phase.LOADING and any(phrase in line for phrase in COMPILING):
            self.reporter.update(phase=Phase.COMPILING)

    def _bring_up(self, process: EngineProcess) -> None:
        if not self.duty.headless:
            while not self._answers():
                _pause(process, self.pace.poll)
            self.up = True
            base = self._first_answer(process)
            self.reporter.update(phase=Phase.LOADING_ADAPTERS)
            for item in self.duty.loadable:
                self._load(item, base, process)
        if set(self.duty.declared) <= set(self.reporter.status.adapters):
            self.reporter.update(phase=Phase.READY, reason="", message="")
        self.vitals.reset()

    def _answers(self) -> bool:
        try:
            return self.client.health(self.pace.answer).ok
        except Unanswered:
            return False

    def _first_answer(self, process: EngineProcess) -> Answer:
        """Any answer that is not a server error: a model that only embeds refuses the question and is well."""
        while True:
            try:
                if (answer := self.client.probe(self.duty.model, self.pace.load)).status < 500:
                    return answer
            except Unanswered as error:
                logger.warning("%s", error)
            _pause(process, self.pace.poll)

    def _load(self, item: Loadable, base: Answer, process: EngineProcess) -> None:
        name = item.adapter.name
        try:
            loaded = self.client.load_adapter(name, str(item.path), self.pace.load)
            probe = self.client.probe(name, self.pace.load) if loaded.ok else loaded
        except Unanswered as error:
            _pause(process, self.pace.poll)
            return bad_adapter(self.reporter, name, str(error))
        if not loaded.ok or probe.status >= 500 or probe.status == 404:
            return bad_adapter(self.reporter, name, probe.error())
        if base.ok and probe.ok and item.adapter.strength and engine_client.effect(base, probe) == 0:
            if not self.duty.beyond_text:
                return bad_adapter(self.reporter, name, USELESS)
            self.reporter.warn(ADAPTER_DOUBTFUL, f"adapter {name}: {BLIND}")
        self.reporter.update(adapters=(*self.reporter.status.adapters, name))

    def _watch(self, process: EngineProcess) -> None:
        while True:
            _pause(process, self.pace.watch)
            if not self.duty.headless:
                self._look()
            if not self.vitals.alive and not self.reporter.status.reason:
                self.reporter.update(reason=Reason.ENGINE_FAILED, message=self.vitals.why)

    def _look(self) -> None:
        try:
            if self.client.health(self.pace.answer).status == 503:
                self.vitals.condemn("the engine is dead")
            pending = self.client.pending(self.pace.answer)
            quiet = self.vitals.progress(pending, self.client.tokens(self.pace.answer) if pending else 0.0)
            self.vitals.answered()
        except Unanswered:
            return self.vitals.unanswered()
        if quiet:
            self._question()

    def _question(self) -> None:
        """Put a question to an engine that owes answers and moves nothing."""
        try:
            self.client.probe(self.duty.model, self.pace.question)
        except Unanswered:
            self.vitals.condemn("the engine hangs: requests wait and not one token comes")
        else:
            self.vitals.reset()

    def _drain(self, process: EngineProcess) -> None:
        """Out of the Service first, then no new requests, then the end of those in flight, then the end."""
        self.reporter.update(phase=Phase.DRAINING)
        deadline = self.monotonic() + max(1, self.duty.grace_seconds - STOP_MARGIN)
        try:
            if self.up:
                _pause(process, self.pace.unready)
                self.client.drain(self.pace.answer)
                while self.client.pending(self.pace.answer) and self.monotonic() < deadline:
                    _pause(process, self.pace.poll)
        except (Unanswered, _Ended) as error:
            logger.warning("drain cut short: %s", error)
        process.terminate()
        left = deadline - self.monotonic() if self.up else 0.0  # one that still loads owes nobody an answer
        process.wait(max(STOP_MARGIN / 2, left))


def bad_adapter(reporter: Reporter, name: str, why: str) -> None:
    """The engine goes on without it; the pod says why and is not ready until somebody mends it."""
    message = f"adapter {name}: {why}"
    reporter.warn(Reason.ADAPTER_INVALID, message)
    reporter.update(reason=Reason.ADAPTER_INVALID, message=message)


def _pause(process: EngineProcess, seconds: float) -> None:
    if (status := process.wait(seconds)) is not None:
        raise _Ended(status)
