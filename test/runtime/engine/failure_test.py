"""What vLLM printed before it ended, and what the Workspace says of it. The lines are those of vLLM 0.32."""

import pytest

from runtime.contract import ExitCode, Reason
from runtime.engine.failure import classify, last_error

CORE = "(EngineCore pid=9) ERROR 11-26 14:57:40 [core.py:133] "
TAIL = [
    "(APIServer pid=1) Traceback (most recent call last):",
    '(APIServer pid=1)   File "entry.py", line 3, in main',
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        (CORE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", 71, "GpuOutOfMemory"),
        (CORE + "ValueError: No available memory for the cache blocks. Try …", 71, "GpuOutOfMemory"),
        (CORE + "ValueError: Free memory on device (1/16 GiB) on startup is less than desired GPU memory utilization"
         " (0.9, 14 GiB).", 71, "GpuOutOfMemory"),
        ("ValueError: Model architectures ['XForCausalLM'] are not supported for now.", 67, "ModelUnsupported"),
        ("RuntimeError: Failed to infer device type", 69, "AcceleratorMissing"),
        ("RuntimeError: Cannot find any model weights with `/workspace/weights`", 66, "WeightsUnreachable"),
        ("api_server.py: error: argument --dtype: invalid choice: 'int3'", 64, "ConfigInvalid"),
        ("ValueError: User-specified max_model_len (9000) is greater than the derived", 64, "ConfigInvalid"),
        ("KeyError: 'surprise'", 70, "EngineFailed"),
    ],
)  # fmt: skip
def test_the_root_cause_decides_and_not_what_followed_from_it(line: str, code: int, reason: str) -> None:
    fault = classify(1, ["INFO started", line, *TAIL])
    assert (fault.exit, fault.reason) == (ExitCode(code), Reason(reason))
    assert line.rpartition("] ")[2].partition(".")[0] in str(fault)


def test_what_is_wrong_with_a_config_is_told_and_not_how_much() -> None:
    lines = [
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, The checkpoint has model type `foo` but Transformers does not recognize this architecture.",
        "",
        "You can update Transformers. [type=value_error, input_value=ArgsKwargs(()), input_type=ArgsKwargs]",
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
    ]
    fault = classify(1, lines)
    assert (fault.exit, fault.reason) == (ExitCode.MODEL_UNSUPPORTED, Reason.MODEL_UNSUPPORTED)
    assert str(fault) == (
        "The checkpoint has model type `foo` but Transformers does not recognize this architecture. "
        "You can update Transformers."
    )


def test_a_wrong_value_is_told_without_the_program_that_read_it() -> None:
    fault = classify(2, ["usage: -c [-h]", "-c: error: argument --dtype: invalid choice: 'int3' (choose from 'auto')"])
    assert (fault.exit, str(fault)) == (64, "argument --dtype: invalid choice: 'int3' (choose from 'auto')")


def test_the_place_in_the_log_is_not_part_of_the_message() -> None:
    assert last_error([CORE + "ValueError: bad head size 3", *TAIL]) == "ValueError: bad head size 3"


def test_a_consequence_is_told_where_nothing_else_is_known() -> None:
    assert last_error(TAIL).startswith("RuntimeError: Engine core initialization failed")


def test_a_kill_by_the_kernel_for_memory_is_out_of_memory_whatever_was_printed() -> None:
    fault = classify(-9, ["INFO loading"], killed_for_memory=True)
    assert (fault.exit, fault.reason) == (ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY)


def test_a_signal_is_named() -> None:
    assert str(classify(-11, ["INFO loading"])) == "the engine was killed by SIGSEGV: INFO loading"


def test_silence_is_said_to_be_silence() -> None:
    assert str(classify(3, [])) == "the engine ended with status 3: it left no error message"
