"""Loads what is tuned: tokenizer, base model in the wanted precision, LoRA layers where the model has linear ones.

It translates the libraries' errors, by type, into what the user can act on. How training goes on is `trainer`'s.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime.contract import Accelerator, ExitCode, Reason, TunePlan
from runtime.fault import Fault, config_invalid
from runtime.training.config import TrainingConfig
from runtime.training.recipe import Recipe

# KAITO's environment variable for target modules, beside the option in LoraConfig.
TARGETS_ENV = "DEFAULT_TARGET_MODULES"
BF16_CAPABILITY = (8, 0)  # NVIDIA's compute capability; before it bfloat16 is emulated


@dataclasses.dataclass(frozen=True)
class Device:
    """What the arithmetic runs on. `dtype` is torch's."""

    accelerator: str
    dtype: Any

    @property
    def cpu(self) -> bool:
        return self.accelerator == Accelerator.CPU


def device(accelerator: str) -> Device:
    """Check the device before anything is loaded. Raises Fault when a GPU was asked for and none can be used."""
    import torch

    if accelerator == Accelerator.CPU:
        return Device(accelerator, torch.bfloat16)
    if not torch.cuda.is_available():
        raise _no_gpu("torch finds no CUDA device")
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        raise _no_gpu(str(error)) from error
    modern = torch.cuda.get_device_capability() >= BF16_CAPABILITY
    return Device(accelerator, torch.bfloat16 if modern else torch.float16)


def _no_gpu(what: str) -> Fault:
    return Fault(ExitCode.ACCELERATOR_MISSING, Reason.ACCELERATOR_MISSING, f"no usable GPU: {what}")


def read_geometry(weights: Path) -> tuple[int, int]:
    """Hidden size and longest context of the model in `weights`, from its config.json alone."""
    try:
        config = json.loads((weights / "config.json").read_text())
    except FileNotFoundError as error:
        raise _no_weights(f"{weights} has no config.json") from error
    except (OSError, ValueError) as error:
        raise _no_weights(f"{weights}/config.json cannot be read: {error}") from error
    text = config.get("text_config", config)
    return int(text.get("hidden_size") or 4096), int(text.get("max_position_embeddings") or 2048)


def _no_weights(what: str) -> Fault:
    return Fault(ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE, what)


def _unsupported(what: str) -> Fault:
    return Fault(ExitCode.MODEL_UNSUPPORTED, Reason.MODEL_UNSUPPORTED, what)


def load_tokenizer(weights: Path, plan: TunePlan, config: TrainingConfig) -> Any:
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(weights, trust_remote_code=_trust(plan, config))
    except OSError as error:
        raise _no_weights(f"the tokenizer in {weights} cannot be read: {error}") from error
    except ValueError as error:
        raise _unsupported(f"the tokenizer of {plan.model} is not supported: {error}") from error
    template = config.model.get("chat_template")
    if template:
        tokenizer.chat_template = Path(template).read_text() if Path(template).is_file() else template
    elif isinstance(tokenizer.chat_template, dict):  # several, by name: one is learned, and served
        named = tokenizer.chat_template
        tokenizer.chat_template = named.get("default") or next(iter(named.values()))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _trust(plan: TunePlan, config: TrainingConfig) -> bool:
    return plan.trust_remote_code or bool(config.model.get("trust_remote_code", False))


def load_model(weights: Path, plan: TunePlan, config: TrainingConfig, on: Device) -> Any:
    """Load the base model, quantised to 4 bits for QLoRA, onto the one device that it is trained on."""
    import torch
    import transformers

    options: dict[str, Any] = {"dtype": _dtype(config, on), "trust_remote_code": _trust(plan, config)}
    if plan.method == "qlora" or config.quantization.get("load_in_4bit") or config.quantization.get("load_in_8bit"):
        try:
            options["quantization_config"] = transformers.BitsAndBytesConfig(**quantization(config, on))
        except (ValueError, TypeError, ImportError) as error:
            raise config_invalid(f"QuantizationConfig: {error}") from error
    if not on.cpu:
        options["device_map"] = {"": 0}  # "auto" would leave on the CPU, without a word, what does not fit
    if config.model.get("attn_implementation"):
        options["attn_implementation"] = config.model["attn_implementation"]
    ran_out = _times_out_of_memory(on)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(weights, **options)
    except OSError as error:
        raise _no_weights(f"the model in {weights} cannot be read: {error}") from error
    except (ValueError, ImportError) as error:
        raise _unsupported(f"{plan.model} cannot be loaded: {error}") from error
    except (
        RuntimeError
    ) as error:  # transformers gathers what fails while it converts weights, whatever it was, into one
        if not isinstance(error, torch.OutOfMemoryError) and _times_out_of_memory(on) == ran_out:
            raise
        remedy = "use a larger GPU" if plan.method == "qlora" else "use method qlora, or a larger GPU"
        what = f"the weights of {plan.model} do not fit a GPU; {remedy}"
        raise Fault(ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY, what) from error
    model.config.use_cache = False
    if on.cpu:
        _keep_differentiable(model)
    return model


def _times_out_of_memory(on: Device) -> int:
    """How often memory has run out so far, as the allocator counts."""
    import torch

    return 0 if on.cpu else torch.cuda.memory_stats().get("num_ooms", 0)


def _keep_differentiable(model: Any) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on an evaluation: no gradient flows through the packed form.

    It repacks for good on CPUs with AVX512-BF16, and training after the first evaluation would silently learn nothing
    below the last layers.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _dtype(config: TrainingConfig, on: Device) -> Any:
    """The user's dtype where the device has it."""
    import torch

    wanted = config.model.get("dtype")
    if wanted in (None, "auto"):
        return on.dtype
    named = getattr(torch, str(wanted).removeprefix("torch."), None)
    if not isinstance(named, torch.dtype):
        raise config_invalid(f"ModelConfig.torch_dtype: torch has no dtype `{wanted}`")
    return on.dtype if named is torch.bfloat16 and on.dtype is torch.float16 else named


def quantization(config: TrainingConfig, on: Device) -> dict[str, Any]:
    """Options of BitsAndBytesConfig: QLoRA's nf4 with double quantisation, unless the user says otherwise."""
    if config.quantization.get("load_in_8bit"):
        defaults: dict[str, Any] = {"load_in_8bit": True}
    else:
        defaults = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    given = {key: value for key, value in config.quantization.items() if key != "quant_method" and value is not None}
    # The device decides: bfloat16 on a GPU without it would be emulated.
    return defaults | given | {"bnb_4bit_compute_dtype": on.dtype}


def lora_options(config: TrainingConfig, recipe: Recipe, model: Any) -> dict[str, Any]:
    """Options of LoraConfig. Raises Fault when the user names target modules that the model does not have."""
    given = {key: value for key, value in config.lora.items() if value is not None}
    named = os.environ.get(TARGETS_ENV, "")
    defaults = {
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": recipe.dropout,
        "target_modules": named.split(",") if named else "all-linear",
        "task_type": "CAUSAL_LM",
    }
    if "r" in given and "lora_alpha" not in given:
        defaults["lora_alpha"] = 2 * given["r"]
    chosen = defaults | given | {"task_type": "CAUSAL_LM"}
    present = linear_names(model)
    if chosen["target_modules"] == "all-linear":
        # PEFT would list every layer by its full name; engines and people read the short ones.
        chosen["target_modules"] = sorted(present)
    if isinstance(chosen["target_modules"], list):
        chosen["target_modules"] = sorted(module.strip() for module in chosen["target_modules"])
        check_targets(chosen["target_modules"], present)
    return chosen


def linear_names(model: Any) -> set[str]:
    """Last parts of the names of all linear layers but the output's, quantised ones included."""
    output = model.get_output_embeddings()
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if "Linear" in type(module).__name__ and module is not output
    }


def check_targets(wanted: Iterable[str], present: Iterable[str]) -> None:
    """PEFT ignores names that match nothing, and then tunes less than was asked for."""
    names = set(present)
    missing = [name for name in wanted if name.rpartition(".")[2] not in names]
    if missing:
        raise config_invalid(
            f"LoraConfig.target_modules: this model has no {', '.join(missing)}; it has {', '.join(sorted(names))}"
        )


def arguments_for(on: Device, given: Mapping[str, Any]) -> dict[str, Any]:
    """The precision part of SFTConfig: the device's, whatever was asked for that it does not have."""
    import torch

    full = given.get("bf16") is False and given.get("fp16") is False
    half = {"bf16": on.dtype is torch.bfloat16 and not full, "fp16": on.dtype is torch.float16 and not full}
    return {**half, "use_cpu": on.cpu}


def overridden(config: TrainingConfig, on: Device) -> list[str]:
    """What the user asked of this device that it does not do, a sentence each."""
    half = arguments_for(on, config.training)
    asked = {
        "TrainingArguments.bf16": config.training.get("bf16") not in (None, half["bf16"]),
        "TrainingArguments.fp16": config.training.get("fp16") not in (None, half["fp16"]),
        "QuantizationConfig.bnb_4bit_compute_dtype": _differs(
            config.quantization.get("bnb_4bit_compute_dtype"), on.dtype
        ),
        "ModelConfig.torch_dtype": _differs(config.model.get("dtype"), _dtype(config, on)),
    }
    name = str(on.dtype).removeprefix("torch.")
    return [f"{key} is not used: this device computes in {name}" for key, ignored in asked.items() if ignored]


def _differs(wanted: Any, used: Any) -> bool:
    """Say whether a dtype's name, of which torch has several for some, means another than the one that is used."""
    import torch

    return wanted not in (None, "auto") and getattr(torch, str(wanted).removeprefix("torch."), None) is not used
