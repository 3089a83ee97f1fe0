"""Serves the plan's model and adapters: reads, checks, renders, then hands over to the supervisor of the engine.

It imports neither torch nor vLLM, so that it answers on STATUS_PORT at once and outlives whatever the engine does. What
vLLM is started with is engine/render.py's, how it lives and ends engine/supervisor.py's, whether an adapter is fit
adapters/'s.
"""

import argparse
import contextlib
import dataclasses
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from runtime import contract, machine, program
from runtime.adapters import preflight, served
from runtime.contract import Accelerator, Phase, ServePlan
from runtime.engine import config, pod, process, render
from runtime.engine.client import EngineClient
from runtime.engine.health import Vitals
from runtime.engine.process import EngineProcess
from runtime.engine.render import Engine
from runtime.engine.supervisor import ADAPTER_DOUBTFUL, NORMAL, Duty, Loadable, Pace, Stopped, Supervisor, bad_adapter
from runtime.status import Reporter

CONFIG_IGNORED = "ConfigIgnored"  # a warning's code: something in the user's config has no effect here


@dataclasses.dataclass(frozen=True)
class Server:
    """What a run of this program needs besides the plan. The defaults are the pod's."""

    weights: Path = Path(contract.WEIGHTS_DIR)
    config_file: Path = Path(contract.CONFIG_DIR) / contract.INFERENCE_CONFIG
    adapter_dir: Path = Path(contract.ADAPTER_DIR)
    command: Callable[[str, Sequence[str]], Sequence[str]] = process.command
    port: int = contract.API_PORT
    pace: Pace = NORMAL
    vitals: Vitals = dataclasses.field(default_factory=lambda: Vitals(time.monotonic))

    def serve(self, plan: ServePlan, reporter: Reporter) -> None:
        """Run until `Stopped` was raised in this thread. Raises Fault when the engine cannot start or ends by itself."""
        around = dataclasses.replace(pod.surroundings(os.environ), weights=self.weights, port=self.port)
        user = config.load(self.config_file)
        if plan.accelerator == Accelerator.CUDA:
            machine.require_gpus(plan.tensor_parallel_size)
        pod.check_weights(self.weights)
        with tempfile.TemporaryDirectory(prefix="serve-", dir=pod.writable(around.cache)) as scratch:
            loadable = self._preflight(plan, Path(scratch), reporter)
            around = pod.with_templates(around, self.adapter_dir, plan.chat_adapter)
            engine = render.render(plan, user, [item.rank for item in loadable], around, secrets.token_urlsafe(32))
            for warning in engine.warnings:
                reporter.warn(CONFIG_IGNORED, warning)
            declared = [adapter.name for adapter in plan.adapters]
            duty = Duty(engine.model, declared, loadable, engine.headless, engine.beyond_text, around.grace_seconds)
            self._supervise(engine, duty, Path(scratch), reporter)

    def _preflight(self, plan: ServePlan, scratch: Path, reporter: Reporter) -> list[Loadable]:
        """Adapters fit to be loaded. One that is not does not stop the engine, and keeps this pod from being ready.

        The engine starts with the others and answers on its port; `/status` says AdapterInvalid, and since not all that
        was declared is loaded the phase never becomes Ready: the model's Service sends nothing here.
        """
        base = preflight.base_tensors(self.weights) if plan.adapters else {}
        loadable = []
        for adapter in plan.adapters:
            try:
                checked = preflight.check(self.adapter_dir / adapter.name, base, plan.model)
                path = served.prepare(checked, adapter.strength, scratch / adapter.name)
            except preflight.Invalid as invalid:
                bad_adapter(reporter, adapter.name, str(invalid))
                continue
            for warning in checked.warnings:
                reporter.warn(ADAPTER_DOUBTFUL, f"adapter {adapter.name}: {warning}")
            loadable.append(Loadable(adapter, path, checked.rank))
        return loadable

    def _supervise(self, engine: Engine, duty: Duty, scratch: Path, reporter: Reporter) -> None:
        file = scratch / "vllm.yaml"
        file.touch(mode=0o600)  # it may hold an API key
        file.write_text(render.to_yaml(engine), encoding="utf-8")
        command = self.command(str(file), render.arguments(engine))
        environment = pod.environment(engine, os.environ, scratch)
        client = EngineClient(self.port, engine.settings.secret, engine.api_key)
        supervisor = Supervisor(duty, client, reporter, self.vitals, pace=self.pace)
        supervisor.run(lambda heard: EngineProcess(command, environment, heard))


def run(server: Server, options: argparse.Namespace) -> int:
    vitals = server.vitals

    def work(reporter: Reporter) -> None:
        with contextlib.suppress(Stopped):  # before there was an engine
            server.serve(pod.read_plan(os.environ.get(contract.PLAN_ENV, "")), reporter)

    return program.run(
        work,
        phase=Phase.VALIDATING,
        port=options.port,
        termination_log=options.termination_log,
        on_sigterm=_stop,
        live=lambda _: vitals.alive,
        ready=lambda status: vitals.alive and status.phase == Phase.READY,
    )


def main(command: Callable[[str, Sequence[str]], Sequence[str]] = process.command, pace: Pace = NORMAL) -> int:
    options = _parse()
    server = Server(options.weights, options.config, options.adapters, command, options.api_port, pace)
    return run(server, options)


def _parse() -> argparse.Namespace:
    parser = program.Parser(prog="runtime.serve", description=f"Serve the model of ${contract.PLAN_ENV}.")
    program.add_common(parser)
    parser.add_argument("--weights", type=Path, default=Path(contract.WEIGHTS_DIR), metavar="DIR")
    parser.add_argument("--adapters", type=Path, default=Path(contract.ADAPTER_DIR), metavar="DIR")
    parser.add_argument("--config", type=Path, default=Path(contract.CONFIG_DIR) / contract.INFERENCE_CONFIG)
    parser.add_argument("--api-port", type=int, default=contract.API_PORT, help="of the model's HTTP server")
    return parser.parse_args()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    program.ignore_sigterm()  # once is enough: a second one would cut the drain short
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
