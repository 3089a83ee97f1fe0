"""A claim's whole life on the normal path: created, launched, registered, initialized, deleted; and how fast.

Failures are in `refusal_test`, crashes in `crash_test`, draining in `drain_test`.
"""

import asyncio
import copy
import time
from datetime import UTC, datetime

from provisioner.azure.agentpools import CLUSTER_AGE
from test.clock import VirtualClock
from test.expect import eventually
from test.kube.unplugged import until
from test.provisioner.conftest import GPU, SIZE, Box


async def test_a_claim_becomes_one_pool_and_a_ready_node(box: Box) -> None:
    name = box.claim()
    node = await box.joined(name)
    await box.becomes(name, "Ready", "True")

    claim = box.read(name)
    assert claim is not None
    assert [box.status_of(name, each)[0] for each in ("Launched", "Registered", "Initialized")] == ["True"] * 3
    assert claim["status"]["nodeName"] == node
    assert claim["status"]["providerID"] == box.node(node).spec.provider_id
    assert claim["status"]["capacity"][GPU] == "1"
    assert claim["metadata"]["labels"]["node.kubernetes.io/instance-type"] == SIZE
    assert claim["metadata"]["labels"]["karpenter.sh/capacity-type"] == "on-demand"
    assert claim["metadata"]["finalizers"] == ["karpenter.sh/termination"]
    assert await box.puts(name) == 1


async def test_the_pool_says_whose_it_is_and_what_it_is_for(box: Box) -> None:
    name = box.claim()
    await box.joined(name)
    properties = (await box.pool(name)).properties
    claim = box.read(name)
    assert claim is not None

    assert properties["tags"]["kaito.sh_nodeclaim-uid"] == claim["metadata"]["uid"]
    assert properties["nodeTaints"] == ["sku=gpu:NoSchedule"]
    assert properties["osDiskSizeGB"] == 120
    assert properties["nodeLabels"]["kaito.sh/workspace"] == "phi"
    assert properties["nodeLabels"]["kaito.sh/machine-type"] == "gpu"
    assert (properties["vmSize"], properties["count"], properties["mode"]) == (SIZE, 1, "User")


async def test_the_node_carries_what_the_claim_says(box: Box) -> None:
    name, node_name = await box.ready()
    node = box.node(node_name)
    assert node.metadata.labels["karpenter.sh/registered"] == "true"
    assert node.metadata.labels["karpenter.sh/initialized"] == "true"
    assert node.metadata.labels["kaito.sh/kaitonodeclass"] == "default"
    assert node.metadata.annotations["karpenter.sh/do-not-disrupt"] == "true"
    assert "kaito.sh/launch-time" not in node.metadata.annotations
    assert node.metadata.finalizers == ["karpenter.sh/termination"]
    assert node.metadata.owner_references[0].name == name


async def test_a_second_node_of_the_pool_is_named_and_left_alone(idle: Box) -> None:
    await idle.start()
    name = idle.claim()
    (manifest,) = await eventually(lambda: idle.emulator.admin.nodes(name))
    await idle.kill()  # so that both nodes are there when one is chosen
    spare = copy.deepcopy(manifest)
    spare["metadata"]["name"] += "-spare"
    spare["spec"]["providerID"] += "-spare"
    idle.core.create_node(spare)
    both = {await idle.joined(name), spare["metadata"]["name"]}
    await idle.start()
    said = await idle.becomes(name, "Registered", "True")
    claim = idle.read(name)
    assert claim is not None
    chosen = claim["status"]["nodeName"]
    (other,) = both - {chosen}
    assert said["message"] == f"Node {chosen}; ignoring {other} of the same pool"
    assert not idle.node(other).metadata.finalizers


async def test_a_node_without_its_gpus_is_not_initialized(box: Box) -> None:
    name = box.claim()
    node = await box.joined(name, gpus=False)
    condition = await box.becomes(name, "Initialized", "Unknown", "ResourceNotRegistered")
    assert GPU in condition["message"]
    box.report(node)
    await box.becomes(name, "Ready", "True")


async def test_a_node_with_a_startup_taint_is_not_initialized(box: Box) -> None:
    name = box.claim(startupTaints=[{"key": "example.com/wait", "effect": "NoSchedule"}])
    node = await box.joined(name)
    await box.becomes(name, "Initialized", "Unknown", "StartupTaintsExist")
    box.core.patch_node(node, {"spec": {"taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]}})
    await box.becomes(name, "Ready", "True")


async def test_a_deleted_claim_takes_pool_and_node_with_it(box: Box) -> None:
    name, node = await box.ready()
    box.delete(name)
    await box.gone(name)
    assert await box.pool(name) is None
    assert node not in box.node_names(name)


async def test_a_claim_that_is_deleted_while_its_pool_is_created_leaves_nothing(box: Box) -> None:
    await box.emulator.admin.configure(createSeconds=60)
    name = box.claim()
    await eventually(lambda: box.puts(name))
    box.delete(name)
    await box.gone(name)
    assert await box.pool(name) is None


async def test_a_claim_whose_node_never_joined_can_be_deleted(box: Box) -> None:
    await box.emulator.admin.fault("no-join", on="PUT")
    name = box.claim()
    await eventually(lambda: box.pool_state(name))
    box.delete(name)
    await box.gone(name)
    assert await box.pool(name) is None


async def test_a_deleted_node_takes_its_claim_with_it(box: Box) -> None:
    name, node = await box.ready()
    box.core.delete_node(node)
    await box.gone(name)
    assert await box.pool(name) is None
    assert box.node_names(name) == []


async def test_claims_of_others_are_not_touched(box: Box) -> None:
    body = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {"name": "foreign"},
        "spec": {
            "nodeClassRef": {"group": "karpenter.azure.com", "kind": "AKSNodeClass", "name": "default"},
            "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": [SIZE]}],
        },
    }
    box.create(body)
    await box.ready()  # events come in order: by now the foreign claim has been seen as well
    foreign = box.read("foreign")
    assert foreign is not None
    assert "finalizers" not in foreign["metadata"]
    assert "status" not in foreign
    assert await box.pool("foreign") is None


async def test_a_claim_that_only_names_the_class_is_managed(box: Box) -> None:
    from test.provisioner.conftest import a_claim, new_name

    body = a_claim(new_name())
    body["metadata"]["labels"] = {}
    name = box.create(body)
    await box.joined(name)
    await box.becomes(name, "Ready", "True")


async def test_a_node_class_shapes_the_pool(box: Box) -> None:
    spec = {"vnetSubnetID": "/subscriptions/s/subnets/gpu", "tags": {"team": "ml"}, "osSKU": "AzureLinux"}
    body = {"apiVersion": "kaito.sh/v1alpha1", "kind": "KaitoNodeClass", "metadata": {"name": "default"}, "spec": spec}
    box.objects.create_cluster_custom_object("kaito.sh", "v1alpha1", "kaitonodeclasses", body)
    name = box.claim()
    await eventually(lambda: box.pool_state(name))
    properties = (await box.pool(name)).properties
    assert (properties["vnetSubnetID"], properties["osSKU"]) == (spec["vnetSubnetID"], "AzureLinux")
    assert properties["tags"]["team"] == "ml"


async def test_thirty_claims_at_once_need_one_request_each(idle: Box) -> None:
    box = idle
    await box.emulator.admin.configure(throttle=True)
    began = time.monotonic()
    await box.start(list_seconds=5.0)
    names = [box.claim() for _ in range(30)]

    async def all_put() -> bool:
        log = await box.emulator.admin.log(kind="PUT")
        return {entry.pool for entry in log} == set(names)

    await eventually(all_put)
    log = await box.emulator.admin.log()
    assert [entry.pool for entry in log if entry.kind == "PUT" and not entry.committed] == []
    assert sum(entry.kind == "PUT" for entry in log) == 30
    assert sum(entry.kind == "CLUSTER" for entry in log) <= 1 + (time.monotonic() - began) / CLUSTER_AGE
    assert [entry.status for entry in log if entry.status == 429] == []


async def test_create_request_and_readiness_follow_at_once(idle: Box) -> None:
    """The figures of the issue: claim → PUT ≤ 0.5 s; ready and GPUs there → claim Ready ≤ 1 s, which takes no timer at all.

    Of the provisioner's time, that is, which stands still here unless it is moved: how long a busy machine computes says
    nothing, a timer of the provisioner's would wait for ever.
    """
    clock = VirtualClock(start=datetime.now(UTC))
    starting = asyncio.create_task(idle.start(clock))  # takes time: a watch may have to be tried again
    await until(clock, lambda: idle.emulator.service.journal.select(kind="LIST"))
    await starting
    name = idle.claim()
    await clock.advance(0.5)
    await eventually(lambda: idle.puts(name))
    node = await idle.joined(name, gpus=False)
    await idle.becomes(name, "Registered", "True")
    idle.report(node)
    await idle.becomes(name, "Ready", "True")
