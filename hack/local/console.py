"""How the box tells what it is doing: one line per step with the time it took, and running shell commands for it.

Knows nothing of what the steps do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hack.local.process import BoxError

LINE_LENGTH = 80
PROGRESS_SECONDS = 10.0  # a line at least this often while something long runs


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print what was done and the time it took; nothing when it failed, the error says it then."""
    started = time.monotonic()
    yield
    say(f"  {what} ({time.monotonic() - started:.1f} s)")


def run(
    *argv: str | Path,
    stdin: str | bytes | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> str:
    """Run a command to its end and return what it printed. Raises BoxError with its own words when it fails."""
    command = [str(word) for word in argv]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    result = subprocess.run(command, input=data, capture_output=True, env=environment, cwd=cwd, check=False)
    if check and result.returncode:
        words = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise BoxError(f"`{' '.join(command)}` ended with status {result.returncode}: {words}")
    return result.stdout.decode(errors="replace")


def run_with_progress(
    what: str,
    argv: Sequence[str | Path],
    *,
    describe: Callable[[int, str], str] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a long command, printing `describe(number of lines so far, last line)` now and then, by default the line.

    Its output is shown only when it fails.
    """
    started = said = time.monotonic()
    lines: list[str] = []
    command = [str(word) for word in argv]
    with _group(command, environment, cwd) as process:
        assert process.stdout is not None  # for the type checker: a pipe was asked for
        for line in process.stdout:
            lines.append(line.rstrip())
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                words = describe(len(lines), lines[-1]) if describe else lines[-1][:LINE_LENGTH]
                say(f"    {what}: {words}, {said - started:.0f} s")
    if process.returncode:
        raise BoxError(f"{what} failed (`{' '.join(command)}`):\n" + "\n".join(lines[-20:]))


@contextlib.contextmanager
def _group(
    command: Sequence[str], environment: Mapping[str, str] | None, cwd: Path | None
) -> Iterator["subprocess.Popen[str]"]:
    """A command in a process group of its own, which is killed when the block is left early: Ctrl-C ends builds too."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
