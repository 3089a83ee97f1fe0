"""NodeClaims as data: names, seats, what is rendered; and on the real API server: alternatives, adoption, own nodes."""

import copy
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from controller.claims import claim_name, duration, progress_of, seated, surplus
from controller.loop import Loop
from controller.selection import matching, node_labels, node_selection, selects
from kube.api.nodeclaim import NodeClaim
from kube.api.workload import Node
from kube.api.workspace import LabelSelector, Workspace
from kube.client import Client
from test.clock import VirtualClock
from test.controller.stage import INFERENCE, SETTINGS, TUNING, Json, Stage, at_rest, changed, running
from test.expect import eventually


def claim(name: str, ordinal: str = "", *, deleting: bool = False) -> NodeClaim:
    metadata: dict[str, Any] = {"name": name, "annotations": {"kaito.sh/ordinal": ordinal} if ordinal else {}}
    return msgspec.convert(
        {"metadata": metadata | ({"deletionTimestamp": "2030-01-01T00:00:00Z"} if deleting else {})}, NodeClaim
    )


@given(st.uuids(), st.integers(0, 63), st.integers(0, 9))
def test_a_claims_name_is_a_valid_agent_pool_name(uid: object, ordinal: int, attempt: int) -> None:
    name = claim_name(str(uid), ordinal, attempt)
    assert len(name) == 12
    assert name.isalnum()
    assert name.islower()
    assert name == claim_name(str(uid), ordinal, attempt)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=8), st.integers(0, 4))
def test_no_claim_sits_on_two_seats(given_: list[tuple[int, bool]], count: int) -> None:
    claims = [claim(f"c{i}", str(ordinal) if labelled else "") for i, (ordinal, labelled) in enumerate(given_)]
    seats = seated(claims, count)
    names = [each.metadata.name for seat in seats for each in seat]
    assert len(seats) == count
    assert len(names) == len(set(names))


def test_an_adopted_claim_takes_the_seat_of_one_that_is_going() -> None:
    seats = seated([claim("a", "0", deleting=True), claim("kaitos")], 1)
    assert [each.metadata.name for each in seats[0]] == ["a", "kaitos"]


def test_one_claim_that_may_become_a_node_is_enough_for_a_seat() -> None:
    def made(name: str, second: int, **conditions: str) -> NodeClaim:
        status = [{"type": type_, "status": value} for type_, value in conditions.items()]
        metadata = {"name": name, "creationTimestamp": f"2030-01-01T00:00:{second:02}Z"}
        return msgspec.convert({"metadata": metadata, "status": {"conditions": status}}, NodeClaim)

    oldest, newer = made("b", 1), made("a", 2)
    ready, failed = made("c", 3, Launched="True", Ready="True"), made("d", 0, Launched="False")
    going = claim("e", "0", deleting=True)
    assert surplus([newer, oldest]) == [newer]
    assert surplus([oldest, newer, ready]) == [oldest, newer]
    assert surplus([failed, going, newer]) == []
    assert surplus([failed, going]) == []


def test_a_claim_that_awaits_its_turn_says_less_than_one_that_speaks() -> None:
    conditions = [
        {"type": "Launched", "status": "Unknown", "reason": "AwaitingReconciliation"},
        {"type": "Registered", "status": "Unknown", "reason": "NodeNotFound"},
    ]
    found = progress_of(msgspec.convert({"status": {"conditions": conditions}}, NodeClaim))
    assert found is not None
    assert found.reason == "NodeNotFound"


def test_durations_are_read_as_go_writes_them() -> None:
    assert duration("1h30m5s").total_seconds() == 5405
    assert not duration("")


def instance_type(claim: Json) -> str:
    wanted = {each["key"]: each["values"] for each in claim["spec"]["requirements"]}
    return str(wanted["node.kubernetes.io/instance-type"][0])


async def refuse(stage: Stage, claim: Json) -> None:
    """Say that there is no capacity, and wait until the claim is given up."""
    stage.say(claim, [("Launched", "False", "InsufficientCapacity", "no capacity in any zone")])
    uid = claim["metadata"]["uid"]
    await eventually(lambda: uid not in [each["metadata"]["uid"] for each in stage.claims()])


SELECTOR = msgspec.convert(
    {
        "matchLabels": {"apps": "llm", "kaito.sh/workspace": "someone-elses"},
        "matchExpressions": [
            {"key": "team", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
            {"key": "gpu", "operator": "Exists"},
            {"key": "zone", "operator": "NotIn", "values": ["z1"]},
        ],
    },
    LabelSelector,
)


def test_all_operators_of_a_selector_are_honoured() -> None:
    """R15: KAITO ignores matchExpressions."""
    good = {"apps": "llm", "kaito.sh/workspace": "someone-elses", "team": "b", "gpu": "", "zone": "z2"}
    assert selects(SELECTOR, good)
    for broken in ({"team": "c"}, {"old": "1"}, {"zone": "z1"}, {"apps": "x"}):
        assert not selects(SELECTOR, good | broken)
    assert not selects(SELECTOR, {key: value for key, value in good.items() if key != "gpu"})


def test_a_new_node_gets_labels_that_satisfy_the_selector() -> None:
    made = node_labels(SELECTOR)
    assert made == {"apps": "llm", "team": "a", "gpu": "true"}
    assert selects(SELECTOR, made | {"kaito.sh/workspace": "someone-elses"})


def test_an_empty_selector_chooses_no_node() -> None:
    node = msgspec.convert({"metadata": {"name": "n"}}, Node)
    assert matching([node], msgspec.convert({"resource": {"labelSelector": {}}}, Workspace)) == []


def test_pods_go_to_the_workspaces_own_nodes_unless_the_user_brings_them() -> None:
    workspace = msgspec.convert(
        {"metadata": {"name": "w", "namespace": "ns"}, "resource": {"labelSelector": {"matchLabels": {"apps": "llm"}}}},
        Workspace,
    )
    keys = [each["key"] for each in node_selection(workspace, byo=False)]
    assert keys == ["apps", "kaito.sh/workspace", "kaito.sh/workspacenamespace"]
    assert [each["key"] for each in node_selection(workspace, byo=True)] == ["apps"]


async def test_a_claim_is_written_as_kaitos_with_what_it_leaves_out(stage: Stage, controller: Loop) -> None:
    stage.create(changed(INFERENCE, resource={"capacityTypes": ["spot"], "zones": ["westus2-1"]}))
    made = (await eventually(stage.claims))[0]
    uid = stage.workspace()["metadata"]["uid"]
    assert made["metadata"]["name"] == claim_name(uid, 0, 0)
    assert made["metadata"]["labels"] == {
        "apps": "smollm",
        "karpenter.sh/nodepool": "kaito",
        "kaito.sh/workspace": stage.name,
        "kaito.sh/workspacenamespace": stage.namespace,
        "kaito.sh/workspace-uid": uid,
    }
    assert made["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
    spec = made["spec"]
    assert {each["key"]: each["values"] for each in spec["requirements"]} == {
        "karpenter.sh/nodepool": ["kaito"],
        "node.kubernetes.io/instance-type": ["Standard_NC6s_v3"],
        "kubernetes.io/os": ["linux"],
        "karpenter.azure.com/sku-name": ["Standard_NC6s_v3"],
        "karpenter.sh/capacity-type": ["spot"],
        "topology.kubernetes.io/zone": ["westus2-1"],
    }
    assert spec["taints"] == [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    assert spec["nodeClassRef"] == {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"}
    assert spec["expireAfter"] == "Never"
    assert spec["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert "storage" in spec["resources"]["requests"]


async def test_the_next_instance_type_is_tried_after_the_first_ones_claims_are_gone(
    stage: Stage, controller: Loop
) -> None:
    stage.create(changed(INFERENCE, resource={"instanceTypes": ["Standard_NC24ads_A100_v4"]}))
    first = (await eventually(stage.claims))[0]
    stage.hold_claim(first["metadata"]["name"])
    stage.say(first, [("Launched", "False", "InsufficientCapacity", "no capacity in any zone")])
    await eventually(lambda: "deletionTimestamp" in stage.claims()[0]["metadata"])
    assert len(stage.claims()) == 1
    assert stage.status()["plan"]["instanceType"] == "Standard_NC24ads_A100_v4"
    stage.remove_claim(first["metadata"]["name"])
    second = (await eventually(stage.claims))[0]
    assert second["spec"]["requirements"][1]["values"] == ["Standard_NC24ads_A100_v4"]
    await stage.reads(ResourceReady="F InsufficientCapacity")  # until the second has news of its own
    assert "trying Standard_NC24ads_A100_v4" in stage.condition("ResourceReady")["message"]
    stage.provision(second)
    await stage.reads(ResourceReady="T")


async def test_patience_with_an_instance_type_ends_at_the_timeout(client: Client, stage: Stage) -> None:
    clock = VirtualClock(datetime.now(UTC))  # beside timestamps of the API server
    async with running(client, clock=clock) as loop:
        resource = {"instanceTypes": ["Standard_NC24ads_A100_v4"], "provisioning": {"timeout": "30m"}}
        stage.create(changed(INFERENCE, resource=resource))
        first = (await eventually(stage.claims))[0]
        stage.hold_claim(
            first["metadata"]["name"]
        )  # or a second one would be as old, by our clock, and be given up too
        stage.say(first, [("Launched", "Unknown", "Creating", "")])
        await stage.reads(ResourceReady="F Creating")
        await at_rest(loop)
        await clock.advance(31 * 60)

        async def turned() -> bool:
            await clock.advance(1)  # a reconcile that the jump met on its way comes back by the clock
            return bool(stage.status()["plan"]["instanceType"] == "Standard_NC24ads_A100_v4")

        await eventually(turned)


async def test_two_instance_types_that_cannot_be_had_are_asked_for_less_and_less_often(
    client: Client, stage: Stage
) -> None:
    """An hour of refusals, each within ten seconds of the claim: turning from one type to the other is no fresh start."""
    clock = VirtualClock(datetime.now(UTC))
    async with running(client, clock=clock) as loop:
        stage.create(changed(INFERENCE, resource={"instanceTypes": ["Standard_NC24ads_A100_v4"]}))
        await eventually(stage.claims)
        asked = []
        for _ in range(360):
            for claim in stage.claims():
                asked.append(instance_type(claim))
                await refuse(stage, claim)
            await clock.advance(10)
            await at_rest(loop)
            assert len(asked) <= 30
        assert min(Counter(asked).values()) >= 5


async def test_a_node_that_serves_stays_when_its_instance_type_is_taken_out(stage: Stage, controller: Loop) -> None:
    """What steers the creation of nodes applies to those that are created afterwards."""
    stage.create(changed(INFERENCE, resource={"instanceTypes": ["Standard_NC24ads_A100_v4"]}))
    claim = await stage.nodes_ready()
    await stage.serving()
    stage.patch({"resource": {"instanceType": None, "zones": ["westus2-1"]}})
    await eventually(lambda: stage.condition("WorkspaceReady")["observedGeneration"] == 2)
    await at_rest(controller)
    assert [each["metadata"]["uid"] for each in stage.claims()] == [claim["metadata"]["uid"]]
    assert "deletionTimestamp" not in stage.claims()[0]["metadata"]
    assert stage.row()["WorkspaceReady"].startswith("T")
    stage.delete_claim(claim["metadata"]["name"])
    successor = (
        await eventually(
            lambda: [each for each in stage.claims() if each["metadata"]["uid"] != claim["metadata"]["uid"]]
        )
    )[0]
    assert instance_type(successor) == "Standard_NC24ads_A100_v4"


async def test_a_node_that_is_still_asked_for_is_given_up_when_its_instance_type_is_taken_out(
    stage: Stage, controller: Loop
) -> None:
    stage.create(changed(INFERENCE, resource={"instanceTypes": ["Standard_NC24ads_A100_v4"]}))
    await eventually(stage.claims)
    stage.patch({"resource": {"instanceType": None}})
    await eventually(lambda: [instance_type(each) for each in stage.claims()] == ["Standard_NC24ads_A100_v4"])


async def test_a_claim_that_kaito_made_is_adopted(client: Client, stage: Stage) -> None:
    """KAITO's claims have random names and no UID; none is made beside them."""
    stage.create(INFERENCE)
    name = f"ws{stage.namespace[-9:]}"
    body = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodeClaim",
        "metadata": {
            "name": name,
            "labels": {"kaito.sh/workspace": stage.name, "kaito.sh/workspacenamespace": stage.namespace},
        },
        "spec": {
            "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
            "requirements": [
                {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}
            ],
        },
    }
    stage.custom.create_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", body)
    async with running(client):
        stage.provision(stage.claims()[0])
        await stage.reads(ResourceReady="T")
        assert [each["metadata"]["name"] for each in stage.claims()] == [name]


async def test_of_two_claims_for_one_node_the_one_that_is_ready_stays(stage: Stage, controller: Loop) -> None:
    """Whoever made the second one, after a restore or a failover: it costs as much as the first and serves nobody."""
    stage.create(INFERENCE)
    claim = await stage.nodes_ready()
    twin = copy.deepcopy({name: claim[name] for name in ("apiVersion", "kind", "spec")})
    twin["metadata"] = {key: claim["metadata"][key] for key in ("labels", "annotations")}
    twin["metadata"]["name"] = f"ws{stage.namespace[-9:]}"
    stage.custom.create_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", twin)
    await eventually(lambda: [each["metadata"]["uid"] for each in stage.claims()] == [claim["metadata"]["uid"]])
    await stage.reads(ResourceReady="T")


async def test_a_namesakes_claims_are_left_alone(client: Client, stage: Stage) -> None:
    async with running(client):
        stage.create(INFERENCE)
        first = (await eventually(stage.claims))[0]
    stage.patch({"metadata": {"finalizers": None}})
    stage.delete()
    await eventually(lambda: not stage.workspace())
    async with running(client):
        stage.create(INFERENCE)
        claims = await eventually(lambda: found if len(found := stage.claims()) == 2 else [])
        uids = {each["metadata"]["labels"]["kaito.sh/workspace-uid"] for each in claims}
        assert uids == {first["metadata"]["labels"]["kaito.sh/workspace-uid"], stage.workspace()["metadata"]["uid"]}


async def test_own_nodes_are_used_by_selector_and_no_claim_is_made(client: Client, stage: Stage) -> None:
    team = stage.namespace
    manifest = changed(TUNING, resource={"labelSelector": {"matchLabels": {"team": team}}})
    del manifest["resource"]["instanceType"]
    manifest["apiVersion"] = "kaito.sh/v1beta1"
    async with running(client, replace(SETTINGS, node_provisioner="byo")):
        stage.create(manifest)
        await stage.reads(ResourceReady="F NoMatchingNodes", WorkspaceReady="F NoMatchingNodes")
        name = f"own-{team}"
        stage.add_node(name, {"team": team}, gpus=0)
        stage.set_node(name, gpus=1)
        await stage.reads(ResourceReady="T", NodeClaimReady="-")
        assert stage.status()["workerNodes"] == [name]
        job = await eventually(stage.job)
        terms = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]["nodeSelectorTerms"]
        assert terms == [{"matchExpressions": [{"key": "team", "operator": "In", "values": [team]}]}]
        assert not stage.claims()


async def test_claims_made_before_the_user_brought_own_nodes_go_with_their_workspace(
    client: Client, stage: Stage
) -> None:
    """Switched to `byo`, the controller watches NodeClaims no more, and a machine that nobody deletes costs for ever."""
    async with running(client):
        stage.create(INFERENCE)
        await eventually(stage.claims)
    async with running(client, replace(SETTINGS, node_provisioner="byo")):
        stage.delete()
        await eventually(lambda: not stage.workspace())
        assert not stage.claims()


async def test_a_claim_that_goes_slowly_keeps_its_workspace_with_own_nodes_too(client: Client, stage: Stage) -> None:
    async with running(client):
        stage.create(INFERENCE)
        claim = (await eventually(stage.claims))[0]
    stage.hold_claim(claim["metadata"]["name"])
    clock = VirtualClock(datetime.now(UTC))
    async with running(client, replace(SETTINGS, node_provisioner="byo"), clock) as loop:
        stage.delete()
        await stage.reads(WorkspaceDeleting="T")
        await at_rest(loop)
        stage.remove_claim(claim["metadata"]["name"])
        await clock.advance(30)
        await eventually(lambda: not stage.workspace())
