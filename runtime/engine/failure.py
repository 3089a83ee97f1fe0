"""Why the engine ended, from its exit status and its last lines, in the contract's codes.

vLLM says why in words alone: exit status 1 is everything from a typo to a full GPU. This is the one place that reads
those words; a phrase that it does not know ends as EngineFailed with the line itself, which loses no information.
"""

import re
import signal
from collections.abc import Sequence

from runtime.contract import ExitCode, Reason
from runtime.fault import Fault

# What vLLM puts before its lines: process, level, time, place.
_PREFIX = re.compile(
    r"^(\([^)]*pid[= ]\d+\)\s*)?((INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*)?"
)
_ERROR = re.compile(r"^([\w.]*(?:Error|Exception|Exit|Interrupt)\b.*|\S+: error: .*)")
# Lines that only say that something before them went wrong.
_CONSEQUENCE = re.compile(
    r"Engine core initialization failed|EngineDeadError|WorkerProc initialization failed|^SystemExit"
)

_OUT_OF_MEMORY = (ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY)
_UNSUPPORTED = (ExitCode.MODEL_UNSUPPORTED, Reason.MODEL_UNSUPPORTED)
_CONFIG = (ExitCode.CONFIG_INVALID, Reason.CONFIG_INVALID)
_WEIGHTS = (ExitCode.INPUT_MISSING, Reason.WEIGHTS_UNREACHABLE)
_ACCELERATOR = (ExitCode.ACCELERATOR_MISSING, Reason.ACCELERATOR_MISSING)
_PHRASES: Sequence[tuple[str, tuple[ExitCode, Reason]]] = (
    (r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate memory|^MemoryError", _OUT_OF_MEMORY),
    (r"No available memory for the cache blocks|memory for kv|larger than the available KV cache", _OUT_OF_MEMORY),
    (r"less than desired GPU memory utilization|Available memory on node", _OUT_OF_MEMORY),
    (r"Failed to infer device type|No CUDA GPUs are available|no NVIDIA driver", _ACCELERATOR),
    (r"architectures? .*(not supported|failed to be inspected)|does not recognize this architecture", _UNSUPPORTED),
    (r"Should have a `model_type` key|trust_remote_code|Unknown quantization|has no vLLM implementation", _UNSUPPORTED),
    (r"Cannot find any model weights|SafetensorError|HeaderTooLarge|No such file or directory", _WEIGHTS),
    (r"does not appear to have|can't find .*config|Can't load|couldn't connect to|LocalEntryNotFound", _WEIGHTS),
    (
        r"^argument |: error: |max_model_len|ValidationError|Input should be|invalid choice|must be divisible by",
        _CONFIG,
    ),
)


def last_error(lines: Sequence[str]) -> str:
    """What names the cause: the last error that is not merely the consequence of another one."""
    bare = [_PREFIX.sub("", line).strip() for line in lines]
    errors = [place for place, line in enumerate(bare) if _ERROR.match(line)]
    causes = [place for place in errors if not _CONSEQUENCE.search(bare[place])]
    said = [place for place, line in enumerate(bare) if line]
    place = next(iter([*reversed(causes), *reversed(errors), *reversed(said)]), None)
    return "" if place is None else _whole(bare[place].removeprefix("-c: error: "), bare[place + 1 :])


def _whole(line: str, following: Sequence[str]) -> str:
    """Pydantic's first line only counts the errors; what is wrong stands in the next ones."""
    if "validation error" not in line:
        return line
    end = next((place for place, text in enumerate(following) if "[type=" in text), -1)
    detail = " ".join(filter(None, following[: end + 1])).partition(" [type=")[0]
    return detail.removeprefix("Value error, ") or line


def classify(status: int, lines: Sequence[str], *, killed_for_memory: bool = False) -> Fault:
    """`status` as subprocess has it: negative for a signal."""
    if killed_for_memory:
        return Fault(*_OUT_OF_MEMORY, "the pod's memory limit was exceeded and the kernel killed the engine")
    line = last_error(lines)
    told = line or "it left no error message"
    for phrase, (code, reason) in _PHRASES:
        if re.search(phrase, line):
            return Fault(code, reason, line)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return Fault(ExitCode.INTERNAL, Reason.ENGINE_FAILED, f"the engine {how}: {told}")
