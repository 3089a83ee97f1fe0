"""Progress of downloads that other programs make, seen from outside: how many bytes a folder holds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.status import Reporter

POLL = 0.5  # seconds between looks


@contextmanager
def watched(folder: Path, total: int, reporter: Reporter) -> Iterator[None]:
    """Report how many bytes are in `folder` while the block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL):
            reporter.downloaded(_bytes(folder), total)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    reporter.downloaded(_bytes(folder), total)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed between the two calls
            continue
    return total
