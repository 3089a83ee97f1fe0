"""Read your own writes: with watches that lag and keys queued all the time, nothing is asked for twice. They lag by 0.7 s;
in a nightly run by 2 s, through a thousand reconciles that went past the gate.

Seen at the gateway before the API server, and in the log of the cloud: one PUT and one DELETE per claim, however often it
is reconciled on what the cache holds meanwhile.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.local.controlplane import ControlPlane
from kube.meta import Key
from test.kube.gateway import gateway
from test.profile import examples
from test.provisioner.conftest import Box
from test.reconciles import count_passes, pestered

PATIENCE = 60.0


async def from_creation_to_deletion(box: Box, names: list[str]) -> None:
    """The whole lives of some claims, side by side, everybody but the provisioner being quick."""
    for name in names:
        box.claim(name)
    for name in names:
        await box.joined(name)
    for name in names:
        await box.becomes(name, "Ready", "True", timeout=PATIENCE)
    for name in names:
        box.delete(name)
    for name in names:
        await box.gone(name, timeout=PATIENCE)


def everything(path: str) -> bool:
    return True


def nodes(path: str) -> bool:
    return path.endswith("/nodes")


@pytest.mark.parametrize("late", [everything, nodes])
async def test_nothing_is_asked_for_twice_while_the_watches_lag(
    idle: Box,
    apiserver: ControlPlane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: Callable[[str], bool],
) -> None:
    passed = count_passes(monkeypatch)
    names: list[str] = []
    count = examples(8, 20)
    async with gateway(apiserver.kubeconfig, tmp_path) as (between, kubeconfig):
        lag, idle.kubeconfig = examples(7, 20) / 10, kubeconfig
        between.lag = lambda path: lag if late(path) else 0
        await idle.start()
        async with pestered(idle.loops[-1].queue, lambda: [Key("", name) for name in names[-count:]]):
            while passed.total() < examples(100, 1000):  # more lives where a busy machine reconciles rarely
                names += [f"lagging{number}" for number in range(len(names), len(names) + count)]
                await from_creation_to_deletion(idle, names[-count:])
        await idle.stop()
    asked = Counter((entry.kind, entry.pool) for entry in await idle.emulator.admin.log() if entry.method != "GET")
    assert asked == {(kind, name): 1 for kind in ("PUT", "DELETE") for name in names}
    assert between.repeated() == {}
    refused = [each for each in between.requests if each.write and each.status >= 400]
    # A node is written by its kubelet too, and a patch that meets such a write is refused, rightly.
    assert [str(each) for each in refused if each.status != 409 or "/nodes/" not in each.path] == []
