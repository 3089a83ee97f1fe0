"""The server's supervisor: starts vLLM as a child, brings its adapters up, says how it is, drains it, explains its end.

Owns the order of these steps and nothing of how one is done: what vLLM is started with is engine/render.py's, what its
answers mean is engine/client.py's, why it died is engine/failure.py's. It imports neither torch nor vLLM, so that it
answers on STATUS_PORT at once and outlives whatever the engine does.
"""

import argparse
import dataclasses
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from runtime import contract, log, machine, program
from runtime.adapters import preflight, strength
from runtime.contract import Accelerator, Adapter, ExitCode, Phase, Reason, ServePlan
from runtime.engine import client as engine_client
from runtime.engine import config, failure, pod, render
from runtime.engine.client import Answer, EngineClient, Unanswered
from runtime.engine.health import Vitals
from runtime.engine.process import EngineProcess, command
from runtime.engine.render import Engine, Surroundings
from runtime.fault import Fault
from runtime.status import Reporter, StatusServer, write_report

logger = logging.getLogger(__name__)

COMPILING = ("torch.compile", "Capturing CUDA graph", "Warming up model for the compilation")


class Stopped(BaseException):
    """SIGTERM. Not an Exception, so that no library takes it for a failure of its own."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds. Tests shorten what waits for nothing but time."""

    poll: float = 0.25  # between two looks at an engine that starts
    watch: float = 5.0  # between two looks at one that runs
    answer: float = 10.0  # for an HTTP answer that needs no model
    load: float = 300.0  # for an adapter to be loaded, or a first answer
    question: float = 240.0  # for one token from an engine that may hang
    unready: float = 2.0  # from readiness False to the last new request: what the Service's proxies need to hear of it


@dataclasses.dataclass(frozen=True)
class Loaded:
    """An adapter that passed the pre-flight, as the engine is to load it."""

    adapter: Adapter
    path: Path
    rank: int


class Supervisor:
    """One engine from start to end. `live` and `ready` may be asked from any thread at any time."""

    def __init__(
        self,
        around: Surroundings,
        *,
        config_file: Path = Path(contract.CONFIG_DIR) / contract.INFERENCE_CONFIG,
        adapter_dir: Path = Path(contract.ADAPTER_DIR),
        start: Callable[[str, Sequence[str]], Sequence[str]] = command,
        pace: Pace = Pace(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.around = around
        self.config_file = config_file
        self.adapter_dir = adapter_dir
        self.start = start
        self.pace = pace
        self.monotonic = monotonic
        self.vitals = Vitals(monotonic)
        self.reporter = Reporter(Phase.VALIDATING)
        self.up = False  # the engine has answered over HTTP

    def live(self) -> bool:
        return self.vitals.alive

    def ready(self) -> bool:
        return self.vitals.alive and self.reporter.status.phase == Phase.READY

    def serve(self, reporter: Reporter) -> None:
        """Run until SIGTERM. Raises Fault when the engine cannot start or ends by itself."""
        self.reporter = reporter
        try:
            self._serve(pod.read_plan(os.environ.get(contract.PLAN_ENV, "")))
        except Stopped:
            logger.info("stopped")

    def _serve(self, plan: ServePlan) -> None:
        user = config.load(self.config_file)
        if plan.accelerator == Accelerator.CUDA:
            machine.require_gpus(plan.tensor_parallel_size)
        pod.check_weights(self.around.weights)
        with tempfile.TemporaryDirectory(prefix="serve-", dir=pod.scratch_root(self.around.cache)) as scratch:
            loaded = self._preflight(plan, Path(scratch))
            around = pod.with_templates(
                self.around, self.adapter_dir / plan.chat_adapter if plan.chat_adapter else None
            )
            engine = render.render(plan, user, [item.rank for item in loaded], around, secrets.token_urlsafe(32))
            for warning in engine.warnings:
                self.reporter.warn(Reason.CONFIG_INVALID, warning)
            self._supervise(plan, engine, loaded, Path(scratch))

    def _preflight(self, plan: ServePlan, scratch: Path) -> list[Loaded]:
        """Adapters fit to be loaded. One that is not becomes a warning: the others and the model are served."""
        base = preflight.base_tensors(self.around.weights) if plan.adapters else {}
        loaded = []
        for adapter in plan.adapters:
            try:
                checked = preflight.check(self.adapter_dir / adapter.name, base, plan.model)
            except preflight.Invalid as invalid:
                self._bad_adapter(adapter.name, str(invalid))
                continue
            for warning in checked.warnings:
                self.reporter.warn(Reason.ADAPTER_INVALID, f"adapter {adapter.name}: {warning}")
            path = strength.scale(checked.path, adapter.strength, scratch / adapter.name)
            loaded.append(Loaded(adapter, path, checked.rank))
        return loaded

    def _supervise(self, plan: ServePlan, engine: Engine, loaded: Sequence[Loaded], scratch: Path) -> None:
        file = scratch / "vllm.yaml"
        file.touch(mode=0o600)
        file.write_text(render.to_yaml(engine), encoding="utf-8")
        kills = machine.out_of_memory_kills()
        self.reporter.update(phase=Phase.LOADING)
        process = EngineProcess(
            self.start(str(file), render.arguments(engine)), pod.environment(engine, os.environ), self._heard
        )
        client = EngineClient(self.around.port, engine.settings.secret, engine.api_key)
        try:
            self._bring_up(plan, engine, loaded, process, client)
            self._watch(engine, process, client)
        except Stopped:
            self._drain(process, client)
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

    def _bring_up(
        self, plan: ServePlan, engine: Engine, loaded: Sequence[Loaded], process: EngineProcess, client: EngineClient
    ) -> None:
        if engine.headless:  # the leader answers for this node
            self.reporter.update(phase=Phase.READY)
            return
        while not self._answers(client):
            _pause(process, self.pace.poll)
        self.up = True
        base = self._first_answer(engine.model, process, client)
        self.reporter.update(phase=Phase.LOADING_ADAPTERS)
        for item in loaded:
            self._load(item, base, process, client)
        missing = [adapter.name for adapter in plan.adapters if adapter.name not in self.reporter.status.adapters]
        if not missing:
            self.reporter.update(phase=Phase.READY, reason="", message="")
        self.vitals.reset()

    def _answers(self, client: EngineClient) -> bool:
        try:
            return client.health(self.pace.answer).ok
        except Unanswered:
            return False

    def _first_answer(self, model: str, process: EngineProcess, client: EngineClient) -> Answer:
        """Any answer that is not a server error: a model that only embeds refuses the question and is well."""
        while True:
            try:
                if (answer := client.probe(model, self.pace.load)).status < 500:
                    return answer
            except Unanswered as error:
                logger.warning("%s", error)
            _pause(process, self.pace.poll)

    def _load(self, item: Loaded, base: Answer, process: EngineProcess, client: EngineClient) -> None:
        name = item.adapter.name
        try:
            answer = client.load_adapter(name, str(item.path), self.pace.load)
            probe = client.probe(name, self.pace.load) if answer.ok else answer
        except Unanswered as error:
            _pause(process, self.pace.poll)
            return self._bad_adapter(name, str(error))
        if not answer.ok or probe.status >= 500 or probe.status == 404:
            return self._bad_adapter(name, probe.error())
        self.reporter.update(adapters=(*self.reporter.status.adapters, name))
        if base.ok and probe.ok and item.adapter.strength and engine_client.effect(base, probe) == 0:
            self.reporter.warn(Reason.ADAPTER_INVALID, f"adapter {name} answers exactly as the base model does")

    def _bad_adapter(self, name: str, why: str) -> None:
        message = f"adapter {name}: {why}"
        self.reporter.warn(Reason.ADAPTER_INVALID, message)
        self.reporter.update(reason=Reason.ADAPTER_INVALID, message=message)

    def _watch(self, engine: Engine, process: EngineProcess, client: EngineClient) -> None:
        while True:
            _pause(process, self.pace.watch)
            if not engine.headless:
                self._look(engine.model, client)
            if not self.vitals.alive and not self.reporter.status.reason:
                self.reporter.update(reason=Reason.ENGINE_FAILED, message=self.vitals.why)

    def _look(self, model: str, client: EngineClient) -> None:
        try:
            if client.health(self.pace.answer).status == 503:
                self.vitals.condemn("the engine is dead")
            pending = client.pending(self.pace.answer)
            quiet = self.vitals.progress(pending, client.tokens(self.pace.answer) if pending else 0.0)
            self.vitals.answered()
        except Unanswered:
            return self.vitals.unanswered()
        if quiet:
            self._question(model, client)

    def _question(self, model: str, client: EngineClient) -> None:
        """Put a question to an engine that owes answers and moves nothing."""
        try:
            client.probe(model, self.pace.question)
        except Unanswered:
            self.vitals.condemn("the engine hangs: requests wait and not one token comes")
        else:
            self.vitals.reset()

    def _drain(self, process: EngineProcess, client: EngineClient) -> None:
        """Out of the Service first, then no new requests, then the end of those in flight, then the end."""
        self.reporter.update(phase=Phase.DRAINING)
        deadline = self.monotonic() + max(1, self.around.grace_seconds - render.STOP_MARGIN)
        try:
            if self.up and process.wait(self.pace.unready) is None:
                client.drain(self.pace.answer)
                while client.pending(self.pace.answer) and self.monotonic() < deadline:
                    _pause(process, self.pace.poll)
        except (Unanswered, _Ended) as error:
            logger.warning("drain cut short: %s", error)
        process.terminate()
        process.wait(max(render.STOP_MARGIN / 2, deadline - self.monotonic()))


class _Ended(Exception):
    """The engine's process ended by itself."""

    def __init__(self, status: int) -> None:
        super().__init__(f"engine ended with status {status}")
        self.status = status


def _pause(process: EngineProcess, seconds: float) -> None:
    if (status := process.wait(seconds)) is not None:
        raise _Ended(status)


def main() -> int:
    log.setup()
    signal.signal(signal.SIGTERM, _stop)
    options = _parse()
    reporter = Reporter(Phase.VALIDATING)
    try:
        around = dataclasses.replace(pod.surroundings(os.environ), weights=options.weights, port=options.api_port)
        supervisor = Supervisor(around, config_file=options.config, adapter_dir=options.adapters)
        with StatusServer(reporter, port=options.port, live=supervisor.live, ready=supervisor.ready):
            supervisor.serve(reporter)
        reporter.succeed()
    except Fault as fault:
        reporter.fail(fault)
    except Exception as error:
        logger.exception("unexpected error")
        reporter.fail(Fault(ExitCode.INTERNAL, Reason.INTERNAL, f"{type(error).__name__}: {error}"))
    write_report(reporter.status, options.termination_log)
    return reporter.status.exit or 0


def _parse() -> argparse.Namespace:
    parser = program.Parser(prog="runtime.serve", description=f"Serve the model of ${contract.PLAN_ENV}.")
    program.add_common(parser)
    parser.add_argument("--weights", type=Path, default=Path(contract.WEIGHTS_DIR), metavar="DIR")
    parser.add_argument("--adapters", type=Path, default=Path(contract.ADAPTER_DIR), metavar="DIR")
    parser.add_argument("--config", type=Path, default=Path(contract.CONFIG_DIR) / contract.INFERENCE_CONFIG)
    parser.add_argument("--api-port", type=int, default=contract.API_PORT, help="of the model's HTTP server")
    return parser.parse_args()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would cut the drain short
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
