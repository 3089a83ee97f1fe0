"""Whether a running engine is well: alive, hung or merely busy. Pure bookkeeping over what others observe.

vLLM's /health notices only a dead engine. A hung one shows in this: requests wait, no token is read or written for a
while, and a question put to it meanwhile is not answered either. A busy one moves tokens; a slow reader leaves the
engine idle, and then the question is answered.
"""

import dataclasses
from collections.abc import Callable

QUIET = 60.0  # seconds without a token, while requests are in flight, before the engine is asked
SILENT = 60.0  # seconds without any HTTP answer before the server counts as hung


@dataclasses.dataclass
class Vitals:
    """What was seen last. `alive` turns False for good: the kubelet then restarts the container."""

    monotonic: Callable[[], float]
    alive: bool = True
    why: str = ""
    _tokens: float | None = None
    _moved_at: float = 0.0
    _answered_at: float = 0.0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._moved_at = self._answered_at = self.monotonic()

    def answered(self) -> None:
        self._answered_at = self.monotonic()

    def unanswered(self) -> None:
        if self.monotonic() - self._answered_at >= SILENT:
            self.condemn(f"the engine's server has not answered for {SILENT:.0f} s")

    def progress(self, pending: int, tokens: float | None) -> bool:
        """Take note; returns whether it is time to ask the engine itself.

        Never where no tokens are counted: the answer of a busy engine would come late too, behind all that wait.
        """
        if pending == 0 or tokens is None or tokens != self._tokens:
            self._tokens, self._moved_at = tokens, self.monotonic()
        return self.monotonic() - self._moved_at >= QUIET

    def condemn(self, why: str) -> None:
        self.alive, self.why = False, self.why or why
