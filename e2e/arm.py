"""The emulator's admin endpoint for synchronous tests: what Azure was asked, and faults to give it."""

from collections import Counter
from pathlib import Path
from typing import Any

import requests


class Arm:
    """See hack/local/aks/admin.py for what each call means."""

    def __init__(self, url: str, authority: Path) -> None:
        self._url = url
        self._verify = str(authority)

    def puts(self) -> Counter[str]:
        """How many PUTs there were, by pool: also those that were refused."""
        return Counter(entry["pool"] for entry in self._call("GET", "/admin/log?method=PUT"))

    def pools(self) -> list[str]:
        return list(self._call("GET", "/admin/state")["pools"])

    def fault(self, **fault: Any) -> None:
        self._call("POST", "/admin/faults", fault)

    def clear_faults(self) -> None:
        self._call("DELETE", "/admin/faults")

    def delete_pool(self, pool: str) -> None:
        self._call("POST", "/admin/delete-pool", {"pool": pool})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, self._url + path, json=body, verify=self._verify, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None
