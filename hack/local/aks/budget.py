"""The service's request budgets as token buckets. Pure: the caller says what time it is.

Figures: Azure's documented AKS throttling limits. Not kept over a restart: a fresh emulator starts with full buckets, as a fresh region does.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

Bucket = Literal["pool-put", "cluster-get", "operation-get", "other"]

# bucket → (burst, refill per second)
LIMITS: dict[Bucket, tuple[float, float]] = {
    "pool-put": (20, 1 / 60),  # for each pool of its own
    "cluster-get": (60, 1),
    "operation-get": (200, 2),  # subscription and region
    "other": (60, 1),  # GET, LIST and DELETE of agent pools: subscription and region
}

_ROUNDING = 1e-6  # whoever waited as long as told has its token, whatever the sums of floats say


@dataclass
class Budgets:
    """Tokens left, by bucket and key.

    Invariants: 0 <= tokens <= burst; time given to `spend` never goes back.
    """

    _left: dict[tuple[Bucket, str], tuple[float, float]] = field(default_factory=dict)

    def spend(self, bucket: Bucket, key: str, now: float) -> float | None:
        """Take one token. Returns None, or the seconds after which one is there if there is none now."""
        burst, rate = LIMITS[bucket]
        tokens, since = self._left.get((bucket, key), (burst, now))
        tokens = min(burst, tokens + (now - since) * rate)
        if tokens < 1 - _ROUNDING:
            self._left[bucket, key] = (tokens, now)
            return (1 - tokens) / rate
        self._left[bucket, key] = (max(0.0, tokens - 1), now)
        return None

    def remaining(self, bucket: Bucket, key: str) -> int:
        """Return the whole tokens left after the last `spend`."""
        return math.floor(self._left.get((bucket, key), (LIMITS[bucket][0], 0.0))[0])
