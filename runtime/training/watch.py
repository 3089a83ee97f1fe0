"""What is done beside each training step: telling, saving, stopping. A TrainerCallback; the arithmetic is the Trainer's."""

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import transformers

from runtime.contract import ExitCode, Phase, Reason
from runtime.fault import Fault
from runtime.retry import Schedule
from runtime.status import Reporter
from runtime.training.checkpoint import Checkpoint, Store
from runtime.training.recipe import Batch, converged

logger = logging.getLogger(__name__)

SAVE_SECONDS = 120.0  # at most this much work is lost with a pod that is killed
SAVE_STEPS = 200
MEANWHILE = Schedule(deadline=60.0)  # for pushing a checkpoint while training goes on


class Preemption:
    """SIGTERM while training: finish the step, save, stop. Before and after, it ends the program at once."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since: float | None = None

    @property
    def wanted(self) -> bool:
        return self._since is not None

    def left(self, grace: float) -> float:
        """Seconds that are left of a grace that began with the signal."""
        return grace if self._since is None else max(0.0, self._since + grace - self._monotonic())

    def __enter__(self) -> "Preemption":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        if self._since is None:
            self._since = self._monotonic()


class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # untyped base
    """Reports each step, asks for checkpoints when they are due, stops when asked to."""

    def __init__(
        self,
        reporter: Reporter,
        store: Store,
        preemption: Preemption,
        batch: Batch,
        step_tokens: float,
        stop_early: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reporter = reporter
        self.store = store
        self.preemption = preemption
        self.batch = batch
        self.step_tokens = step_tokens
        self.stop_early = stop_early
        self.monotonic = monotonic
        self.last: Checkpoint | None = None
        self._saved = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = self._saved_at = self.monotonic()
        self._first = self._saved = state.global_step
        self.reporter.update(phase=Phase.TRAINING, step=state.global_step, total_steps=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        elapsed = max(self.monotonic() - self._started, 1e-9)
        steps = state.global_step - self._first
        self.reporter.update(
            step=state.global_step,
            total_steps=state.max_steps,
            tokens_per_second=steps * self.step_tokens / elapsed,
            eta_seconds=(state.max_steps - state.global_step) * elapsed / steps,
        )
        due = self.monotonic() - self._saved_at >= SAVE_SECONDS or state.global_step - self._saved >= SAVE_STEPS
        if self.preemption.wanted:
            control.should_training_stop = True
        if state.global_step > self._saved and (due or self.preemption.wanted):
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise Fault(
                ExitCode.LOSS_NOT_FINITE,
                Reason.LOSS_NOT_FINITE,
                f"the loss became {loss} at step {state.global_step}; lower TrainingArguments.learning_rate",
            )
        self.reporter.update(loss=loss)
        if state.global_step % max(1, state.max_steps // 100) == 0:
            logger.info("step %d of %d", state.global_step, state.max_steps, extra={"loss": loss})

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        losses = _eval_losses(state)
        self.reporter.update(eval_loss=losses[-1])
        logger.info("evaluated at step %d", state.global_step, extra={"eval_loss": losses[-1]})
        if self.stop_early and converged(losses, state.epoch):
            logger.info("the held-out rows have stopped profiting at step %d", state.global_step)
            control.should_training_stop = True

    def finished(self, state: Any) -> bool:
        """Say whether training ended because it was done."""
        done = self.stop_early and converged(_eval_losses(state), state.epoch)
        return done or state.global_step >= state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._saved, self._saved_at = state.global_step, self.monotonic()
        self.last = self.store.record(state.global_step, dataclasses.asdict(self.batch))
        if not self.preemption.wanted:
            self.store.publish_meanwhile(self.last, MEANWHILE)


def _eval_losses(state: Any) -> list[float]:
    """All evaluations so far; the trainer keeps them in its checkpoints."""
    return [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
