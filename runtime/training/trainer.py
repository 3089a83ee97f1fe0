"""One training run with TRL's SFTTrainer: its arguments, how it is built, and what happens when memory runs out.

Steps, losses and the files of checkpoints are the Trainer's; when to save and when to stop is `watch`'s.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import transformers

from runtime.contract import ExitCode, Reason
from runtime.data.mask import Encodings
from runtime.fault import Fault, config_invalid
from runtime.status import Reporter
from runtime.training.checkpoint import Checkpoint, Store
from runtime.training.config import TrainingConfig
from runtime.training.recipe import Batch, Recipe, evaluation_steps
from runtime.training.watch import Preemption, Watch

logger = logging.getLogger(__name__)


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
        "report_to": "none",
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


def checked(run: "Run", batch: Batch) -> Any:
    """The options as SFTConfig, which knows what they may be. Raises Fault before a model is loaded for a wrong one."""
    import trl

    try:
        return trl.SFTConfig(**arguments(run, batch))
    except (ValueError, TypeError, ImportError) as error:
        raise config_invalid(f"TrainingArguments: {error}") from error


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
    import torch

    chosen = checked(run, batch)
    transformers.set_seed(chosen.seed)  # before the adapter's first weights are drawn
    trainer = _adapted(run, chosen, callback)
    trainer.remove_callback(transformers.PrinterCallback)
    # TRL turns a QLoRA adapter into bfloat16, where the small steps at the end of a schedule are rounded away.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return trainer


def _adapted(run: Run, chosen: Any, callback: Watch) -> Any:
    """Load the model and put the adapter on it. Raises Fault for what only PEFT knows, and only with the model."""
    import peft
    import trl

    model = run.load()
    options = {
        "train_dataset": dataset(run.train),
        "eval_dataset": dataset(run.held_out) if run.held_out else None,
        "processing_class": run.tokenizer,
        "callbacks": [callback],
    }
    try:
        lora = peft.LoraConfig(**run.lora(model))
        return trl.SFTTrainer(model=model, args=chosen, peft_config=lora, **options)
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:  # other RuntimeErrors are the device's
        raise config_invalid(f"LoraConfig or TrainingArguments: {error}") from error


def train(run: Run, batch: Batch, store: Store, resume: Checkpoint | None, reporter: Reporter, grace: float) -> Any:
    """Train to the end and return the trainer. Raises Fault when preempted, out of memory, or when the loss breaks."""
    import torch

    preemption = Preemption()
    while True:
        try:
            return _attempt(run, batch, store, resume, reporter, preemption, grace)
        except torch.OutOfMemoryError as error:
            smaller = batch.smaller()
            if smaller is None:
                raise _out_of_memory(run, reporter) from error
            change = f"going on with {smaller.micro} and gradient checkpointing"
            reporter.warn("BatchReduced", f"{batch.micro} rows at once did not fit into memory; {change}")
            batch, resume = smaller, store.latest()
        if preemption.wanted:
            _leave(store, resume, preemption, grace)
        _free(torch)


def _attempt(
    run: Run,
    batch: Batch,
    store: Store,
    resume: Checkpoint | None,
    reporter: Reporter,
    preemption: Preemption,
    grace: float,
) -> Any:
    step_tokens = batch.rows * run.train.tokens / len(run.train.rows)
    stop_early = not {"num_train_epochs", "max_steps"} & set(run.config.training)  # who says how long means it
    watch = Watch(reporter, store, preemption, batch, step_tokens, stop_early)
    trainer = build(run, batch, watch)
    with preemption:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume and resume.step else None)
        if preemption.wanted and not watch.finished(trainer.state):
            _leave(store, watch.last, preemption, grace)
        store.settle()
    return trainer


def _leave(store: Store, last: Checkpoint | None, preemption: Preemption, grace: float) -> NoReturn:
    """End for now, in time: the next pod goes on from the checkpoint that is kept here, or else from the one before."""
    what = "no step was made"
    if last is not None:
        kept = store.keep(last, lambda: preemption.left(grace))
        what = f"step {last.step} {'is saved' if kept else 'could not be kept'}"
    raise Fault(ExitCode.PREEMPTED, Reason.PREEMPTED, f"stopped by SIGTERM; {what}; the next pod goes on")


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
