"""Daemons of the box: started in their own session, found again by any later command, ended without harming others.

Each one carries two environment variables: the run folder it belongs to and its name. The mark is in the kernel before
the program runs and its children inherit it, so that no crash of ours between starting and writing down can lose a
process. The pid file only says which of the marked ones is the daemon itself. Knows nothing of what the daemons do.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OWNER_MARK = "AKS_IN_A_BOX_FOLDER"
NAME_MARK = "AKS_IN_A_BOX_PROCESS"
LOG_TAIL_BYTES = 2000


class BoxError(Exception):
    """Something that the user must know or do; printed without a traceback."""


@dataclass(frozen=True)
class Process:
    """One running process, safe against reuse of its pid: `started` is its start time in clock ticks after boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        return self.started != 0 and _start_time(self.pid) == self.started  # 0: it had ended when we looked first

    def end(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds (at once for 0). Returns when it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():  # the handle pins the pid: what is true now stays true for the signals below
                return
            for sent, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
                if seconds and _signal_and_wait(handle, sent, seconds):
                    break
        finally:
            os.close(handle)
        _reap(self.pid)


class Daemons:
    """The daemons of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._records = self.folder / "processes"
        self.logs = self.folder / "logs"

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
    ) -> Process:
        """Start a daemon in the background. Its output goes to `logs/<name>.log`."""
        self._records.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [str(word) for word in argv]
        if die_with_parent:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        marks = {OWNER_MARK: str(self.folder), NAME_MARK: name}
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {}), **marks},
                start_new_session=True,
            )
        daemon = Process(child.pid, _start_time(child.pid))
        self._record(name).write_text(f"{daemon.pid} {daemon.started}\n")
        # Popen would warn about a child that outlives it; this one is ours to end by pid, perhaps from another process.
        child.returncode = 0
        # The kernel shows a new program's environment a moment after it has started: from here on `marked` sees it.
        while daemon.alive() and daemon not in self.marked(name):
            time.sleep(0.001)
        return daemon

    def find(self, name: str) -> Process | None:
        """The running daemon of that name."""
        try:
            pid, started = self._record(name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        recorded = Process(int(pid), int(started))
        return recorded if recorded.alive() else None

    def stop(self, name: str, grace: float = 10.0) -> None:
        """End one daemon, then whatever of its children is left. Does nothing when there is none."""
        if (daemon := self.find(name)) is not None:
            daemon.end(grace)
        for left in self.marked(name):
            left.end(0)
        self._record(name).unlink(missing_ok=True)

    def stop_all(self) -> None:
        """End everything that carries this folder's mark, known by name or not."""
        while found := self.marked():  # one that is ended may have started another meanwhile
            for left in found:
                left.end(0)
        for record in self._records.glob("*.pid"):
            record.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Daemons that run now."""
        recorded = sorted(record.stem for record in self._records.glob("*.pid"))
        return [name for name in recorded if self.find(name) is not None]

    def marked(self, name: str | None = None) -> list[Process]:
        """Every process that carries this folder's mark (and the name's)."""
        return carrying({OWNER_MARK: str(self.folder)} | ({NAME_MARK: name} if name else {}))

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def wait_until(self, name: str, ready: Callable[[], bool], timeout: float, interval: float = 0.05) -> None:
        """Return once `ready()`. Raises BoxError with the end of the log when the daemon died or time is up."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.find(name) is None:
                raise BoxError(f"{name} ended while it was starting; the end of {self.log(name)}:\n{self._tail(name)}")
            if time.monotonic() > deadline:
                raise BoxError(f"{name} is not ready after {timeout:.0f} s; {self.log(name)} ends:\n{self._tail(name)}")
            time.sleep(interval)

    def _record(self, name: str) -> Path:
        return self._records / f"{name}.pid"

    def _tail(self, name: str) -> str:
        return self.log(name).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")


def process(pid: int) -> Process | None:
    """The process that has this pid now."""
    started = _start_time(pid)
    return Process(pid, started) if started else None


def carrying(variables: Mapping[str, str]) -> list[Process]:
    """Every process that was started with these environment variables; never ourselves."""
    wanted = {_pair(key, value) for key, value in variables.items()}
    return [found for found, environment in _environments() if wanted <= environment]


def owners() -> set[Path]:
    """Run folders of all boxes that have a process on this machine."""
    prefix = f"{OWNER_MARK}=".encode()
    return {
        Path(os.fsdecode(entry.removeprefix(prefix)))
        for _, environment in _environments()
        for entry in environment
        if entry.startswith(prefix)
    }


def _environments() -> Iterator[tuple[Process, set[bytes]]]:
    """Processes with their initial environment, as far as this user may read it; never ourselves."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or belongs to somebody else
            environment = set((entry / "environ").read_bytes().split(b"\0"))
            if (found := process(int(entry.name))) is not None:
                yield found, environment


def _pair(key: str, value: str) -> bytes:
    return os.fsencode(f"{key}={value}")


def _start_time(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat; 0 for a process that is gone or only waits to be reaped."""
    try:
        # The command in field 2 may hold spaces and brackets, but what follows its last bracket is plain.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    state, started = fields[0], fields[19]
    return 0 if state in "ZX" else int(started)


def _signal_and_wait(handle: int, sent: signal.Signals, seconds: float) -> bool:
    """True when the process has ended within `seconds`."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(handle, sent)
    return bool(select.select([handle], [], [], seconds)[0])


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # started by another process, which reaps it
        os.waitpid(pid, os.WNOHANG)
