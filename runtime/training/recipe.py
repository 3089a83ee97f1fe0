"""What is not said is decided here: defaults that follow from the size of the model and of the data set. Pure.

One rule for all models, no names: a LoRA's best learning rate falls with the width of the model, and a data set wants
enough optimiser steps whatever its size. Sources: LoRA (Hu et al. 2021), QLoRA (Dettmers et al. 2023), "LoRA without
regret" (Schulman et al. 2025) for the width rule; checked on SmolLM2-135M, where 240 rows on four facts are learned
word for word.
"""

import dataclasses
import math
from collections.abc import Sequence

LEARNING_RATE = 2e-4  # at WIDTH: QLoRA's for 7B models
WIDTH = 4096
WIDTH_EXPONENT = 0.78
LEARNING_RATES = (5e-5, 1e-3)
EPOCHS = 3.0  # at most; at least one, and none that the held-out rows do not profit from
EVALUATIONS = 4  # in an epoch
PATIENCE = 2  # evaluations without progress before training stops
PROGRESS = 0.01  # nats per token
BATCHES = (4, 16)  # rows per optimiser step, smallest and largest
STEPS = 60  # optimiser steps in an epoch below which a smaller batch is better than fewer steps
HELD_OUT = 0.05
HELD_OUT_ROWS = (8, 500)  # fewer say nothing, more cost time
HOST_TOKENS = 2048  # per device and step on a CPU: the logits of more do not fit its caches


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Rows per optimiser step in `batch`; the rest under the libraries' own names."""

    learning_rate: float
    epochs: float
    batch: int
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    warmup: float = 0.03  # share of all steps
    scheduler: str = "cosine"


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
        """The next batch to try after running out of memory, with the same effect on the result; None at the end.

        Activations are recomputed first: it saves the most, and the planner counts its rows with it.
        """
        if not self.checkpointing:
            return dataclasses.replace(self, checkpointing=True)
        if self.micro == 1:
            return None
        half = next(size for size in range(self.micro // 2, 0, -1) if self.rows % size == 0)
        return Batch(half, self.rows // half, checkpointing=True)


def choose(width: int, rows: int) -> Recipe:
    """Defaults for a model of this hidden size and this many rows to learn from."""
    rate = LEARNING_RATE * (WIDTH / max(width, 1)) ** WIDTH_EXPONENT
    low, high = LEARNING_RATES
    batch = BATCHES[0]
    while batch < BATCHES[1] and rows // (2 * batch) >= STEPS:
        batch *= 2
    return Recipe(learning_rate=min(max(rate, low), high), epochs=EPOCHS, batch=batch)


def converged(losses: Sequence[float], epoch: float) -> bool:
    """Say whether the held-out rows have stopped profiting. Every row is seen once before that is asked."""
    if epoch < 1 or len(losses) <= PATIENCE:
        return False
    return min(losses[-PATIENCE:]) > min(losses[:-PATIENCE]) - PROGRESS


def evaluation_steps(rows: int, batch: int) -> int:
    """Optimiser steps between evaluations. The last of an epoch falls on its end or just behind."""
    return max(1, math.ceil(math.ceil(rows / batch) / EVALUATIONS))


def held_out(rows: int, train_share: float | None) -> int:
    """How many rows to keep for evaluation. A user's share of 1 means none, as in KAITO's examples."""
    if train_share is not None:
        return min(round(rows * (1 - train_share)), rows - 1)
    low, high = HELD_OUT_ROWS
    wanted = round(rows * HELD_OUT)
    return min(wanted, high) if wanted >= low else 0


def micro_batch(batch: int, fitting: int) -> tuple[int, int]:
    """Split a batch into (rows per device and step, accumulation steps): the largest divisor of it that fits."""
    micro = max(size for size in range(1, batch + 1) if batch % size == 0 and size <= max(fitting, 1))
    return micro, batch // micro
