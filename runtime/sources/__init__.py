"""Where files come from: OCI images, the hub, URLs. One module each, all with the same small shape.

`key` names what is fetched (it must change when the bytes would), `download` fills the given folder and returns the tree
to publish. An attempt that failed with `Fault.retry` may be repeated on the same folder and goes on where it was.
"""

from pathlib import Path
from typing import Protocol

from runtime.status import Reporter


class Source(Protocol):
    @property
    def key(self) -> str:
        """What is fetched, for comparing only."""

    def download(self, work: Path, reporter: Reporter) -> Path:
        """Make one attempt. Raises Fault."""
