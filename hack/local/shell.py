"""Runs commands as a user at a terminal would, and shows them: `$ command`, its real output, the time it took.

The demo is made of nothing else, so what it prints is a transcript that can be typed again.
"""

import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

EXIT_SECONDS = 2.0  # from the end of a command's output to its exit


class CommandFailed(Exception):
    """A command ended with another exit status than 0, or not in time. Its output is in `output`."""

    def __init__(self, command: str, why: str, output: str) -> None:
        super().__init__(f"`{command}` {why}")
        self.command = command
        self.output = output


class Shell:
    """A place to run commands: a folder, an environment, and where the transcript goes."""

    def __init__(self, cwd: Path, environment: Mapping[str, str], out: Callable[[str], None] | None = None) -> None:
        self.cwd = cwd
        self.environment = {**os.environ, **environment}
        self._out = out or _to_stdout

    def say(self, text: str = "") -> None:
        self._out(text + "\n")

    def change_folder(self, folder: Path) -> None:
        """Go to another folder, as `cd` does; shown relative to where the shell is."""
        self.say(f"$ cd {os.path.relpath(folder, self.cwd)}")
        self.cwd = folder

    def run(self, command: str, *, timeout: float = 120, quiet: bool = False) -> str:
        """Run one line of shell and return its standard output and error. Raises CommandFailed."""
        return self._run(command, timeout, quiet, terminal=False)

    def run_on_terminal(self, command: str, *, timeout: float = 120) -> str:
        """The same on a pseudo-terminal, as `kubectl run -it` wants it."""
        return self._run(command, timeout, quiet=False, terminal=True)

    def export(self, name: str, command: str) -> str:
        """Set a variable of this shell's environment from a command's output, as `export NAME=$(command)` does.

        Raises CommandFailed with what the command said on standard error, which is shown nowhere else.
        """
        self.say(f"$ export {name}=$({command})")
        ended = subprocess.run(
            ["bash", "-c", command], cwd=self.cwd, env=self.environment, check=False, capture_output=True, text=True
        )
        if ended.returncode:
            raise CommandFailed(command, f"ended with status {ended.returncode}: {ended.stderr.strip()}", ended.stderr)
        self.environment[name] = ended.stdout.strip()
        return self.environment[name]

    def _run(self, command: str, timeout: float, quiet: bool, *, terminal: bool) -> str:
        if not quiet:
            self.say(f"$ {command}")
        started = time.monotonic()
        reader, writer = pty.openpty() if terminal else os.pipe()
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.cwd,
            env=self.environment,
            stdin=writer if terminal else subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
        os.close(writer)
        chunks: list[bytes] = []
        try:
            ended = self._copy(reader, chunks, started + timeout, quiet)
        finally:
            os.close(reader)
            status = _end(process)
        took = time.monotonic() - started
        output = b"".join(chunks).decode(errors="replace").replace("\r\n", "\n")
        if not ended:
            raise CommandFailed(command, f"did not end within {timeout:.0f} s", output)
        if status != 0:
            raise CommandFailed(command, f"ended with status {status}", output)
        if not quiet:
            self.say(f"  ({took:.1f} s)")
        return output

    def _copy(self, reader: int, chunks: list[bytes], deadline: float, quiet: bool) -> bool:
        """Collect and show output until its end; False when the deadline came first."""
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([reader], [], [], min(left, 1.0))[0]:
                continue
            try:
                chunk = os.read(reader, 65536)
            except OSError:  # EIO: how a pseudo-terminal says end of file
                chunk = b""
            if not chunk:
                return True
            chunks.append(chunk)
            if not quiet:
                self._out(chunk.decode(errors="replace").replace("\r\n", "\n"))
        return False


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Reap a process that has closed its output; one that has not ended by itself is killed with all its children."""
    try:
        return process.wait(EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def quote(argument: str) -> str:
    return shlex.quote(argument)


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
