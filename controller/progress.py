"""Asks the program in a pod what it is doing: one GET of its status port, at most every INTERVAL seconds per pod.

It is for display, and for the reason of a failure while the program is still retrying. Outcomes never depend on it: a
NetworkPolicy may forbid the request, and then the answer is None, "unknown".
"""

import aiohttp

from kube.api.workload import Pod
from kube.clock import Clock, SystemClock
from runtime import contract

INTERVAL = 10.0  # seconds
TIMEOUT = 2.0  # seconds; the server answers from memory; slower means that it cannot be reached
LIMIT = 64 * 1024  # bytes of an answer; a status has about 1 KiB


class Progress:
    """Answers are remembered per pod UID until the pod is forgotten."""

    def __init__(self, clock: Clock | None = None, timeout: float = TIMEOUT) -> None:
        self._clock = clock or SystemClock()
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._answers: dict[str, tuple[float, contract.Status | None]] = {}

    async def read(self, pod: Pod) -> contract.Status | None:
        """Return what the pod's program last said of itself, asking anew when that is older than INTERVAL."""
        uid, address = pod.metadata.uid, pod.status.pod_ip
        if address and not self.due(pod):
            self._answers[uid] = (self._clock.monotonic(), await self._ask(address))
        return self._answers[uid][1] if uid in self._answers else None

    def due(self, pod: Pod) -> float:
        """Return the seconds until `read` would ask anew. The event that brings a pod's address has it asked at once."""
        if not pod.status.pod_ip:
            return INTERVAL
        asked, _ = self._answers.get(pod.metadata.uid, (float("-inf"), None))
        return max(0.0, asked + INTERVAL - self._clock.monotonic())

    def forget(self, pod_uid: str) -> None:
        """The pod is gone."""
        self._answers.pop(pod_uid, None)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, address: str) -> contract.Status | None:
        host = f"[{address}]" if ":" in address else address
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.get(f"http://{host}:{contract.STATUS_PORT}/status") as response:
                return contract.decode(contract.Status, await _read(response.content))
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return None


async def _read(content: aiohttp.StreamReader) -> bytes:
    """Read to the end or to LIMIT: one `read` returns what has arrived so far."""
    body = b""
    while len(body) < LIMIT and (piece := await content.read(LIMIT - len(body))):
        body += piece
    return body
