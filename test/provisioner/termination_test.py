"""The end of a claim where Azure does not play along: the claim stays, and says why, for as long as its pool may exist.

The normal path is in `lifecycle_test`, draining in `drain_test`.
"""

from dataclasses import replace
from itertools import pairwise

import pytest

from provisioner import termination
from provisioner.cloud import Instance
from test.expect import eventually
from test.provisioner.conftest import Box

FOR_EVER = float("inf")
LOCK = {"on": "DELETE", "code": "ScopeLocked", "message": "The scope cannot be deleted: it is locked."}


async def test_a_cluster_that_is_not_found_lets_no_claim_go(idle: Box) -> None:
    await idle.start()
    name, _ = await idle.ready()
    await idle.kill()
    await idle.start(cluster_name="misspelt")
    idle.delete(name)
    await idle.becomes(name, "InstanceTerminating", "Unknown", "ClusterNotFound")
    for _ in range(5):
        await _look_again(idle, name, "GET")
        assert idle.status_of(name, "InstanceTerminating") == ("Unknown", "ClusterNotFound")
    await idle.kill()
    await idle.start()
    await idle.gone(name)
    assert await idle.pool(name) is None


async def test_a_deletion_that_fails_says_why_and_is_not_repeated_at_once(box: Box) -> None:
    name, _ = await box.ready()
    await box.emulator.admin.fault("fail", times=0, **LOCK)
    box.delete(name)
    condition = await box.becomes(name, "InstanceTerminating", "Unknown", "DeletionFailed")
    assert "ScopeLocked: The scope cannot be deleted" in condition["message"]
    for _ in range(3):
        await _look_again(box, name, "LIST")
    assert min(await _pauses(box, name), default=FOR_EVER) >= termination.DELETE_AGAIN
    await eventually(lambda: "DeletionFailed" in {event.reason for event in box.events(name)})


async def test_a_deletion_that_failed_is_tried_again_ever_more_slowly(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(termination, "DELETE_AGAIN", 0.5)
    name, _ = await box.ready()
    await box.emulator.admin.fault("fail", times=2, **LOCK)
    box.delete(name)
    await box.gone(name)
    assert await box.pool(name) is None
    pauses = await _pauses(box, name)
    assert len(pauses) == 2
    assert pauses[0] >= 0.5
    assert pauses[1] >= 1.0


async def test_the_pool_of_a_failed_claim_that_cannot_be_deleted_is_no_secret(box: Box) -> None:
    await box.emulator.admin.fault("fail", "allocation")
    await box.emulator.admin.fault("fail", times=0, **LOCK)
    name = box.claim()
    await box.becomes(name, "Launched", "False", "InsufficientCapacity")
    await eventually(lambda: "DeletionFailed" in {event.reason for event in box.events(name)})
    condition = await box.becomes(name, "InstanceTerminating", "Unknown", "DeletionFailed")
    assert "ScopeLocked" in condition["message"]
    assert min(await _pauses(box, name), default=FOR_EVER) >= termination.DELETE_AGAIN


async def test_a_failed_claim_whose_pool_is_gone_does_not_go_on_saying_that_it_goes(box: Box) -> None:
    await box.emulator.admin.fault("fail", "allocation")
    name = box.claim()
    await box.becomes(name, "Launched", "False", "InsufficientCapacity")
    await eventually(lambda: _no_pool(box, name))
    await eventually(lambda: not box.condition(name, "InstanceTerminating"))


async def test_a_list_that_shows_a_namesakes_pool_lets_no_claim_go(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = await box.ready()
    cloud = box.loops[-1]._cloud
    list_now = cloud.list

    async def list_of_yesterday() -> tuple[Instance, ...]:
        return tuple(replace(pool, owner_uid="earlier") for pool in await list_now())

    monkeypatch.setattr(cloud, "list", list_of_yesterday)
    box.delete(name)
    await box.gone(name)
    assert await box.pool(name) is None


async def test_the_pool_of_a_failed_claim_that_shows_up_late_is_deleted(idle: Box) -> None:
    await idle.emulator.admin.fault("refuse", "disk-does-not-fit")
    await idle.start(idle_list_seconds=0.2)
    name = idle.claim()
    await idle.becomes(name, "Launched", "False", "InvalidSpec")
    await _look_again(idle, name, "LIST")
    cluster_id = idle.core.read_namespace("kube-system").metadata.uid
    uid = (idle.read(name) or {})["metadata"]["uid"]
    tags = {"kaito.sh_nodeclaim-uid": uid, "kaito.sh_cluster-id": cluster_id}
    await idle.put_foreign_pool(name, **tags)
    await eventually(lambda: _no_pool(idle, name))


async def _no_pool(box: Box, name: str) -> bool:
    return await box.pool(name) is None


async def _look_again(box: Box, name: str, kind: str) -> None:
    """Change the claim, and wait until that has led to a look at its pool."""
    before = len(await box.emulator.admin.log(kind=kind))
    box.touch(name)

    async def looked() -> bool:
        return len(await box.emulator.admin.log(kind=kind)) > before

    await eventually(looked)


async def _pauses(box: Box, name: str) -> list[float]:
    """Seconds between one request to delete the pool and the next."""
    asked = [entry.time for entry in await box.emulator.admin.log(pool=name, kind="DELETE")]
    return [second - first for first, second in pairwise(asked)]
