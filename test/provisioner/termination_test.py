"""The end of a claim where Azure does not play along: the claim stays, and says why, for as long as its pool may exist.

The normal path is in `lifecycle_test`, draining in `drain_test`.
"""

from functools import partial

from test.expect import eventually
from test.provisioner.conftest import CLAIMS, Box


async def test_a_cluster_that_is_not_found_lets_no_claim_go(idle: Box) -> None:
    await idle.start()
    name, _ = await idle.ready()
    await idle.kill()
    await idle.start(cluster_name="misspelt")
    idle.delete(name)
    await idle.becomes(name, "InstanceTerminating", "Unknown", "ClusterNotFound")
    for again in range(5):
        looks = await _looks(idle, name)
        idle.objects.patch_cluster_custom_object(*CLAIMS, name, {"metadata": {"annotations": {"again": str(again)}}})
        await eventually(partial(_looked_again, idle, name, looks))
        assert idle.status_of(name, "InstanceTerminating") == ("Unknown", "ClusterNotFound")
    await idle.kill()
    await idle.start()
    await idle.gone(name)
    assert await idle.pool(name) is None


async def _looks(box: Box, name: str) -> int:
    return len(await box.emulator.admin.log(pool=name, kind="GET"))


async def _looked_again(box: Box, name: str, looks: int) -> bool:
    return await _looks(box, name) > looks
