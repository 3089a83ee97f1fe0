"""One training run with TRL's SFTTrainer: arguments, the callback that reports, saves and stops, memory back-off.

Steps, losses and checkpoints are the Trainer's; when to save, when to stop and what to tell is decided here.
"""

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import transformers

from runtime.contract import ExitCode, Phase, Reason
from runtime.data.mask import Encodings
from runtime.fault import Fault
from runtime.retry import Schedule
from runtime.status import Reporter
from runtime.training.checkpoint import Checkpoint, Store
from runtime.training.config import TrainingConfig
from runtime.training.recipe import Recipe, converged, evaluation_steps

logger = logging.getLogger(__name__)

SAVE_SECONDS = 120.0  # at most this much work is lost with a pod that is killed
SAVE_STEPS = 200
MEANWHILE = Schedule(deadline=60.0)  # for pushing a checkpoint while training goes on


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows per device and step, and how many such steps make one optimiser step."""

    micro: int
    accumulation: int
    checkpointing: bool = False  # recompute activations: a third more time for much less memory

    @property
    def rows(self) -> int:
        return self.micro * self.accumulation

    def smaller(self) -> "Batch | None":
        """The next batch to try after running out of memory, with the same effect on the result; None at the end."""
        if self.micro > 1:
            half = next(size for size in range(self.micro // 2, 0, -1) if self.rows % size == 0)
            return Batch(half, self.rows // half, self.checkpointing)
        return None if self.checkpointing else Batch(1, self.rows, checkpointing=True)


def arguments(run: "Run", batch: Batch) -> dict[str, Any]:
    """Options of SFTConfig: defaults, then the user's, then what the runtime decides."""
    defaults: dict[str, Any] = {
        "learning_rate": run.recipe.learning_rate,
        "num_train_epochs": run.recipe.epochs,
        "lr_scheduler_type": run.recipe.scheduler,
        "warmup_steps": run.recipe.warmup,
        "eval_strategy": "steps",
        "eval_steps": evaluation_steps(len(run.train.rows), batch.rows),
        "gradient_checkpointing": False,
        "report_to": [],
        "seed": 42,
    }
    decided: dict[str, Any] = {
        "output_dir": str(run.output),
        "per_device_train_batch_size": batch.micro,
        "per_device_eval_batch_size": batch.micro,
        "gradient_accumulation_steps": batch.accumulation,
        "max_length": run.train.max_length,
        "save_strategy": "no",  # the callback decides, by time as well as by steps
        "logging_steps": 1,  # a loss that is not a number must not be trained on
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "packing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        **run.precision,
    }
    if batch.checkpointing:
        decided["gradient_checkpointing"] = True
    if run.held_out is None:
        decided["eval_strategy"] = "no"
    given = {key: value for key, value in run.config.training.items() if value is not None}
    return defaults | given | decided


class Preemption:
    """SIGTERM while training: finish the step, save, stop. Before and after, it ends the program at once."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> "Preemption":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.wanted = True


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


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that one run needs, but for the batch."""

    output: Path
    config: TrainingConfig
    recipe: Recipe
    tokenizer: Any
    train: Encodings
    held_out: Encodings | None
    lora: Callable[[Any], Mapping[str, Any]]
    load: Callable[[], Any]
    precision: Mapping[str, Any]


def dataset(encodings: Encodings) -> Any:
    import datasets

    rows = [{"input_ids": row.input_ids, "labels": row.labels} for row in encodings.rows]
    return datasets.Dataset.from_list(rows)


def build(run: Run, batch: Batch, callback: Watch) -> Any:
    """Make the trainer, with its adapter's weights in float32."""
    import peft
    import torch
    import trl

    chosen = arguments(run, batch)
    transformers.set_seed(chosen["seed"])  # before the adapter's first weights are drawn
    model = run.load()
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**chosen),
        train_dataset=dataset(run.train),
        eval_dataset=dataset(run.held_out) if run.held_out else None,
        processing_class=run.tokenizer,
        peft_config=peft.LoraConfig(**run.lora(model)),
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    # TRL turns a QLoRA adapter into bfloat16, where the small steps at the end of a schedule are rounded away.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return trainer


def train(run: Run, batch: Batch, store: Store, resume: Checkpoint | None, reporter: Reporter, grace: float) -> Any:
    """Train to the end and return the trainer. Raises Fault when preempted, out of memory, or when the loss breaks."""
    import torch

    while True:
        try:
            return _attempt(run, batch, store, resume, reporter, grace)
        except torch.OutOfMemoryError as error:
            smaller = batch.smaller()
            if smaller is None:
                raise _out_of_memory(run, reporter) from error
            reporter.warn("BatchReduced", f"{batch.micro} rows did not fit into memory; going on with {smaller.micro}")
            batch, resume = smaller, store.latest()
        _free(torch)


def _attempt(run: Run, batch: Batch, store: Store, resume: Checkpoint | None, reporter: Reporter, grace: float) -> Any:
    preemption = Preemption()
    step_tokens = batch.rows * run.train.tokens / len(run.train.rows)
    stop_early = not {"num_train_epochs", "max_steps"} & set(run.config.training)  # who says how long means it
    watch = Watch(reporter, store, preemption, batch, step_tokens, stop_early)
    trainer = build(run, batch, watch)
    with preemption:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume and resume.step else None)
        store.settle()
        if preemption.wanted and not watch.finished(trainer.state):
            _leave(store, watch.last, grace)
    reporter.update(total_steps=trainer.state.global_step)
    return trainer


def _leave(store: Store, last: Checkpoint | None, grace: float) -> NoReturn:
    """End for now: the next pod goes on from the checkpoint that is kept here."""
    if last is not None:
        store.publish(last, Schedule(deadline=grace, first=0.5, longest=2.0))
    what = f"step {last.step} is saved" if last else "no step was made"
    raise Fault(ExitCode.PREEMPTED, Reason.PREEMPTED, f"stopped by SIGTERM; {what}, the next pod goes on")


def _free(torch: Any) -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory(run: Run, reporter: Reporter) -> Fault:
    return Fault(
        ExitCode.OUT_OF_MEMORY,
        Reason.OUT_OF_MEMORY,
        f"one row of {run.train.max_length} tokens did not fit into memory at step {reporter.status.step};"
        f" set TrainingArguments.max_length to {run.train.max_length // 2}, use method qlora, or a larger GPU",
    )
