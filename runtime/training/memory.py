"""How many rows fit on a GPU: measured with the real model on two small batches, then extrapolated.

Activations grow linearly with the rows of a batch, so two measurements give the line. `rows_that_fit` is the arithmetic;
the rest needs a GPU.
"""

import logging
from typing import TYPE_CHECKING, Any

from runtime.training import recipe
from runtime.training.recipe import Batch

if TYPE_CHECKING:
    from runtime.training.trainer import Run

logger = logging.getLogger(__name__)

SHARE = 0.9  # of the memory; the rest is for fragments and for rows that are longer than measured


def rows_that_fit(one: int, two: int, total: int) -> int:
    """Rows that fit into `total` bytes, from the peaks with one and with two rows. At least one."""
    slope = max(two - one, 1)
    return max(1, 1 + int((SHARE * total - one) / slope))


def fitting_batch(run: "Run", rows: int, checkpointing: bool) -> Batch:
    """Split `rows` into what fits on this GPU; recompute activations only if a single row does not fit otherwise."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    model = _with_adapter(run)
    for recompute in (checkpointing, True):
        try:
            one, two = (_peak(torch, model, count, run.train.max_length, recompute) for count in (1, 2))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        fit = rows_that_fit(one, two, total)
        logger.info("%d rows of %d tokens fit", fit, run.train.max_length, extra={"recompute": recompute})
        return Batch(*recipe.micro_batch(rows, fit), recompute)
    return Batch(1, rows, checkpointing=True)  # two rows did not fit; the trainer finds out whether one does


def _with_adapter(run: "Run") -> Any:
    import peft

    model = run.load()
    return peft.get_peft_model(model, peft.LoraConfig(**run.lora(model)))


def _peak(torch: Any, model: Any, rows: int, length: int, recompute: bool) -> int:
    """Bytes at the peak of one forward and backward pass."""
    if recompute:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    model.train()
    ids = torch.ones((rows, length), dtype=torch.long, device=model.device)
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", dtype=model.dtype):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    model.zero_grad(set_to_none=True)
    peak: int = torch.cuda.max_memory_allocated()
    return peak
