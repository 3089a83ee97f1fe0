"""Fine-tunes a model with LoRA or QLoRA: the tuning Job's program.

Parse → validate → load → run → save. Names and types of the configuration, the data and the right to push are checked
before torch is imported; option values that only the libraries know, before the model is loaded or, where PEFT needs it,
with it. A checkpoint kept beside the result lets the next pod go on where this one was stopped.
Exit codes are the contract's: 64 to 69 and 73 before training, 71, 75 and 76 while, 73 after it too.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import contract, program
from runtime.contract import Phase, Reason, TunePlan
from runtime.data import dataset
from runtime.data.dataset import DataSet
from runtime.data.shapes import Columns
from runtime.fault import config_invalid
from runtime.push import MODEL_ANNOTATION, find, parse_reference, push
from runtime.retry import Schedule, until_deadline
from runtime.status import Reporter
from runtime.training import config as training_config
from runtime.training import export, recipe
from runtime.training.checkpoint import Checkpoint, Remote, Store, run_id
from runtime.training.config import TrainingConfig
from runtime.training.recipe import Batch

if TYPE_CHECKING:
    from runtime.data.mask import Encodings
    from runtime.training.trainer import Run

logger = logging.getLogger(__name__)

PUSH_DEADLINE = 900.0
GRACE = 30.0  # seconds between SIGTERM and SIGKILL, where nobody says
SAMPLE = 64  # examples on which the masking is tried

# By these a pod knows a result for its own run's, and what to report of it.
RUN_ANNOTATION = "sh.kaito.run"
STEP_ANNOTATION = "sh.kaito.tuning.step"
TOTAL_STEPS_ANNOTATION = "sh.kaito.tuning.total-steps"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = program.Parser(prog="runtime.tune", description="Fine-tune a model; the plan comes in RUNTIME_PLAN.")
    parser.add_argument("--weights", type=Path, default=Path(contract.WEIGHTS_DIR), metavar="DIR")
    parser.add_argument("--data", type=Path, default=Path(contract.DATA_DIR), metavar="DIR")
    parser.add_argument("--results", type=Path, default=Path(contract.RESULTS_DIR), metavar="DIR")
    parser.add_argument("--secrets", type=Path, default=Path(contract.SECRETS_DIR), metavar="DIR")
    parser.add_argument(
        "--config", type=Path, default=Path(contract.CONFIG_DIR, contract.TRAINING_CONFIG), metavar="FILE"
    )
    parser.add_argument("--push-deadline", type=float, default=PUSH_DEADLINE, metavar="SECONDS")
    program.add_common(parser)
    return parser.parse_args(arguments)


def read_plan() -> TunePlan:
    text = os.environ.get(contract.PLAN_ENV, "")
    try:
        plan = contract.decode(TunePlan, text)
    except ValueError as error:
        raise config_invalid(f"{contract.PLAN_ENV}: {error}") from error
    if plan.method not in ("lora", "qlora"):
        raise config_invalid(f"method `{plan.method}` is not one of lora, qlora")
    return plan


def read_data(options: argparse.Namespace, config: TrainingConfig) -> DataSet:
    given = config.dataset
    folder = options.data.parent / given["dataset_path"] if given.get("dataset_path") else options.data
    columns = Columns(
        given.get("messages_column") or "", given.get("context_column") or "", given.get("response_column") or ""
    )
    if columns.response == "text" and not columns.context:
        columns = Columns(columns.messages)  # KAITO's default, which there means nothing
    return dataset.read(folder, columns, given.get("dataset_extension") or "")


def tune(options: argparse.Namespace, reporter: Reporter) -> None:
    plan = read_plan()
    config = training_config.load(options.config)
    for warning in config.warnings:
        reporter.warn("ConfigIgnored", warning)
    data = read_data(options, config)
    logger.info("%s", data.describe())
    store = open_store(options, plan, config, data, reporter)
    if not pushed_before(options, plan, store, reporter):
        resume = begin(options, store)
        run, batch = prepare(options, plan, config, data, resume, reporter)
        trainer = execute(run, batch, store, resume, reporter)
        save(options, plan, data, store.run, run, trainer, reporter)
    program.ignore_sigterm()  # the result is there
    store.discard()


def open_store(
    options: argparse.Namespace, plan: TunePlan, config: TrainingConfig, data: DataSet, reporter: Reporter
) -> Store:
    """Name the run, and say where its checkpoints go."""
    remote = None
    if plan.output_image:
        image = parse_reference(plan.output_image)
        remote = Remote(image.with_tag(f"{image.tag}-checkpoint"), _secrets(options, plan))
    given = [config.model, config.quantization, config.lora, config.training, config.dataset]
    name = run_id([plan.model, plan.revision, plan.method, data.fingerprint, *given])
    return Store(options.results / "checkpoints", name, remote, reporter)


def pushed_before(options: argparse.Namespace, plan: TunePlan, store: Store, reporter: Reporter) -> bool:
    """Report the result of this very run where a pod before this one pushed it, but did not live to say so."""
    if not plan.output_image:
        return False
    image, secrets = parse_reference(plan.output_image), _secrets(options, plan)
    found = until_deadline(Schedule(options.push_deadline), lambda: find(image, secrets), reporter)
    if found is None or found[1].get(RUN_ANNOTATION) != store.run:
        return False
    artifact, said = found
    reporter.update(artifact=artifact, step=int(said[STEP_ANNOTATION]), total_steps=int(said[TOTAL_STEPS_ANNOTATION]))
    logger.info("%s is this run's result already", artifact.ref)
    return True


def begin(options: argparse.Namespace, store: Store) -> Checkpoint | None:
    """Find the checkpoint to go on from. Without one, keep that of step 0: it proves the right to push the result."""
    schedule = Schedule(options.push_deadline)
    resume = store.restore(schedule)
    if resume is None:
        store.publish(store.record(0, {}), schedule)
    logger.info("starting at step %d", resume.step if resume else 0)
    return resume


def _secrets(options: argparse.Namespace, plan: TunePlan) -> tuple[Path, ...]:
    return (options.secrets / plan.push_secret,) if plan.push_secret else ()


def prepare(
    options: argparse.Namespace,
    plan: TunePlan,
    config: TrainingConfig,
    data: DataSet,
    resume: Checkpoint | None,
    reporter: Reporter,
) -> "tuple[Run, Batch]":
    """Import what is heavy, tokenise, and decide everything that is not said."""
    quieten()
    from runtime.training import model as models
    from runtime.training.trainer import Run

    reporter.update(phase=Phase.LOADING)
    on = models.device(plan.accelerator)
    for warning in models.overridden(config, on):
        reporter.warn("ConfigIgnored", warning)
    width, context = models.read_geometry(options.weights)
    tokenizer = models.load_tokenizer(options.weights, plan, config)
    reporter.update(phase=Phase.TOKENISING)
    train, held_out = tokenise(plan, config, data, tokenizer, context, reporter)
    chosen = recipe.choose(width, len(train.rows))
    reporter.update(phase=Phase.LOADING)
    run = Run(
        output=options.results / "checkpoints",
        config=config,
        recipe=chosen,
        tokenizer=tokenizer,
        train=train,
        held_out=held_out,
        lora=lambda model: models.lora_options(config, chosen, model),
        load=lambda: models.load_model(options.weights, plan, config, on),
        precision=models.arguments_for(on, config.training),
    )
    return run, choose_batch(plan, config, run, resume, on.cpu)


def quieten() -> None:
    """Settings that the libraries read when they are imported."""
    for name, value in {
        "HF_HUB_OFFLINE": "1",  # everything is on disk
        "HF_HOME": os.path.join(contract.CACHE_DIR, "hub"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin starve whoever shares the CPUs
    }.items():
        os.environ.setdefault(name, value)
    # One process, one GPU: the Trainer would copy the model to every other that it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    from transformers.utils import logging as library

    library.disable_progress_bar()
    library.set_verbosity_error()


def tokenise(
    plan: TunePlan, config: TrainingConfig, data: DataSet, tokenizer: Any, context: int, reporter: Reporter
) -> "tuple[Encodings, Encodings | None]":
    """Encode every example and keep some for evaluation. The split depends on the seed alone."""
    import itertools
    import random

    from runtime.data.mask import Encoder, Encodings, encode_all

    everything = config.dataset.get("train_on") == "all"
    encoder = Encoder.choose(tokenizer, list(itertools.islice(data.examples(), SAMPLE)), everything=everything)
    max_length = plan.max_length or config.training.get("max_length") or 0
    encoded = encode_all(encoder, data.examples(), limit=context, max_length=max_length)
    if encoded.truncated:
        reporter.warn("RowsTruncated", f"{encoded.truncated} rows were cut to {encoded.max_length} tokens")
    if encoded.dropped:
        reporter.warn("RowsDropped", f"{encoded.dropped} rows had no answer left within {encoded.max_length} tokens")
    logger.info(
        "%d rows, %d tokens, %.0f %% of them learned, told apart by %s",
        *(len(encoded.rows), encoded.tokens, 100 * encoded.learned_share, encoder.method),
    )
    rows = list(encoded.rows)
    if config.dataset.get("shuffle_dataset") is not False:
        random.Random(config.dataset.get("shuffle_seed") or 42).shuffle(rows)
    kept = recipe.held_out(len(rows), config.dataset.get("train_test_split"))
    part: Callable[[list[Any]], Encodings] = lambda some: Encodings(some, encoded.max_length, 0, 0)  # noqa: E731
    return part(rows[kept:]), part(rows[:kept]) if kept else None


def choose_batch(plan: TunePlan, config: TrainingConfig, run: "Run", resume: Checkpoint | None, cpu: bool) -> Batch:
    """Rows per optimiser step as the user or the recipe says, split into what should fit. A resumed run keeps its split."""
    if resume is not None and resume.extra:
        return Batch(**resume.extra)
    given = config.training
    checkpointing = bool(given.get("gradient_checkpointing"))
    if given.get("per_device_train_batch_size"):
        return Batch(given["per_device_train_batch_size"], given.get("gradient_accumulation_steps") or 1, checkpointing)
    rows = (given.get("gradient_accumulation_steps") or 0) * max(plan.micro_batch, 1) or run.recipe.batch
    # Not by max_length, which may be a cap that no row comes near: a batch is as long as its longest row.
    fitting = plan.micro_batch or (recipe.HOST_TOKENS // run.train.typical if cpu else rows)
    return Batch(*recipe.micro_batch(rows, fitting), checkpointing)


def execute(run: "Run", batch: "Batch", store: Store, resume: Checkpoint | None, reporter: Reporter) -> Any:
    from runtime.training.trainer import train

    grace = float(os.environ.get(contract.GRACE_ENV) or GRACE)
    return train(run, batch, store, resume, reporter, max(grace - 10, 5))


def save(
    options: argparse.Namespace, plan: TunePlan, data: DataSet, name: str, run: "Run", trainer: Any, reporter: Reporter
) -> None:
    """Export, then push: the artifact is in the report only once the registry has it."""
    reporter.update(phase=Phase.EXPORTING, eta_seconds=None)
    status = reporter.status
    facts = {
        "dataset_sha256": data.fingerprint,
        "rows": len(run.train.rows),
        "steps": status.step,
        "loss": status.loss,
        "eval_loss": status.eval_loss,
    }
    adapter = export.export(trainer, run.tokenizer, plan, facts, options.results)
    if not plan.output_image:
        export.publish_to_volume(adapter, options.results)
        export.write_sentinel(options.results)
        return
    export.write_sentinel(options.results)
    reporter.update(phase=Phase.PUSHING)
    artifact = push(
        adapter,
        parse_reference(plan.output_image),
        secrets=_secrets(options, plan),
        annotations={
            MODEL_ANNOTATION: plan.model,
            "sh.kaito.dataset.sha256": data.fingerprint,
            RUN_ANNOTATION: name,
            STEP_ANNOTATION: str(status.step),
            TOTAL_STEPS_ANNOTATION: str(status.total_steps),
        },
        schedule=Schedule(options.push_deadline),
        reporter=reporter,
    )
    reporter.update(artifact=artifact)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    work: Callable[[Reporter], None] = lambda reporter: tune(options, reporter)  # noqa: E731
    common = {"port": options.port, "termination_log": options.termination_log}
    return program.run(work, phase=Phase.VALIDATING, internal=Reason.TRAINER_FAILED, **common)


if __name__ == "__main__":
    sys.exit(main())
