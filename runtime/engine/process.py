"""The engine as a child process: started, heard, stopped. Knows nothing of HTTP and does not judge what it hears.

The child leads a process group of its own, so that the kernel's or vLLM's orphans end with it.
"""

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

LAST_LINES = 400  # vLLM's traceback of one failed worker, its core and its server is about 150
MODULE = "vllm.entrypoints.launchers.api_server.entry"
REAP_SECONDS = 10.0


class EngineProcess:
    """One run of the engine. `on_line` hears each line of its output, in a thread, after it was passed on to ours."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
        self._child = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self._pump = threading.Thread(target=self._forward, name="engine-output", daemon=True)
        self._pump.start()

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def lines(self) -> list[str]:
        """The last lines of output, complete once the engine has ended."""
        return list(self._lines)

    def wait(self, seconds: float) -> int | None:
        """Wait at most so long for the end. Returns the exit status (negative: the signal), None while it runs."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self) -> None:
        """Ask the server to stop; it takes its own children along."""
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """End whatever is left of the group and read the rest of its output."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self.wait(REAP_SECONDS)
        self._pump.join(REAP_SECONDS)

    def _forward(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as output:
            for line in output:
                sys.stdout.write(line)
                sys.stdout.flush()
                self._lines.append(line.rstrip())
                self._on_line(line)


def command(config: str, arguments: Sequence[str]) -> list[str]:
    """How vLLM's server is started. Its `main` is what `vllm serve` calls; `vllm` itself fails with the CPU build."""
    program = f"from {MODULE} import main; main()"
    return [sys.executable, "-c", program, "--config", config, *arguments]
