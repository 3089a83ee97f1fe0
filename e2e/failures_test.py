"""What goes wrong on the way, as a user sees it: a specific reason in the REASON column, what to do in the message, and
healing where that is possible. Failures that cost nothing come first; those of a tuning share one node.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import yaml
from kubernetes import client

from e2e.arm import Arm
from hack.local.recorder import Recorder
from hack.local.session import PRESET, Session, condition, condition_of
from hack.local.shell import CommandFailed
from test.expect import wait_until

INSTANCE_TYPE = "Standard_NC6s_v3"
TUNING = "tuning-released"


def root(workspace: Mapping[str, Any]) -> Mapping[str, Any]:
    return condition_of(workspace, "WorkspaceReady")


def inference(name: str, *, preset: str = PRESET, instance_type: str = INSTANCE_TYPE) -> dict[str, Any]:
    return {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"instanceType": instance_type, "labelSelector": {"matchLabels": {"app": name}}},
        "inference": {"preset": {"name": preset}},
    }


def apply(session: Session, manifest: Mapping[str, Any]) -> None:
    path = session.site.work / f"{manifest['metadata']['name']}.yaml"
    path.write_text(yaml.safe_dump(dict(manifest), sort_keys=False))
    session.shell.run(f"kubectl apply -f {path.name}")


def await_reason(session: Session, name: str, reason: str, timeout: float) -> Mapping[str, Any]:
    """Wait until the REASON column says so; returns the condition behind it."""
    return root(session.await_workspace(name, lambda found: root(found).get("reason") == reason, timeout))


def replacement(core: client.CoreV1Api, name: str) -> str:
    """What the Workspace's events say about a NodeClaim that was replaced."""
    events = core.list_namespaced_event("default", field_selector=f"involvedObject.name={name}").items
    return " ".join(event.message for event in events if event.reason == "NodeClaimReplaced")


def showed(recorder: Recorder, name: str, *reasons: str) -> bool:
    """Whether one of these ever stood in the REASON column."""
    return any(recorder.when("Workspace", name, f"WorkspaceReady {reason}") is not None for reason in reasons)


def await_nodes(session: Session, name: str, timeout: float = 120, *, other_than: Sequence[str] = ()) -> list[str]:
    def there(found: Mapping[str, Any]) -> bool:
        nodes = found.get("status", {}).get("workerNodes", [])
        return condition(found, "ResourceReady") == "True" and not set(nodes) & set(other_than)

    return list(session.await_workspace(name, there, timeout)["status"]["workerNodes"])


@pytest.fixture(autouse=True)
def clean(session: Session, arm: Arm) -> Iterator[None]:
    yield
    arm.clear_faults()
    session.delete_all()


def test_an_unknown_instance_type_is_answered_with_its_nearest_before_anything_is_paid(
    session: Session, arm: Arm
) -> None:
    apply(session, inference("odd-size", instance_type="Standard_NC6_v3"))
    said = await_reason(session, "odd-size", "InstanceTypeUnknown", 30)
    assert "Standard_NC6s_v3" in said["message"]
    assert arm.pools() == []


def test_an_unknown_preset_is_refused_on_apply_with_what_is_known(session: Session) -> None:
    with pytest.raises(CommandFailed) as refused:
        apply(session, inference("odd-model", preset="smollm2-136m-instruct"))
    assert "unknown preset" in refused.value.output
    assert PRESET in refused.value.output


def test_a_quota_refusal_shows_its_numbers_and_costs_nothing(session: Session, arm: Arm) -> None:
    arm.fault(kind="refuse", error="quota-family", times=0)
    apply(session, inference("no-quota"))
    said = await_reason(session, "no-quota", "QuotaExceeded", 60)
    assert "required 6" in said["message"]
    assert arm.pools() == []


def test_a_capacity_refusal_is_named_and_heals_when_capacity_comes_back(session: Session, arm: Arm) -> None:
    arm.fault(kind="fail", error="allocation", times=1)
    apply(session, inference("no-capacity"))
    said = await_reason(session, "no-capacity", "InsufficientCapacity", 60)
    assert INSTANCE_TYPE in said["message"]
    await_nodes(session, "no-capacity", 240)


def test_an_agent_pool_deleted_behind_our_back_is_named_and_replaced(
    session: Session, arm: Arm, core: client.CoreV1Api, recorder: Recorder
) -> None:
    apply(session, inference("lost-pool"))
    before = await_nodes(session, "lost-pool")
    (pool,) = arm.pools()
    arm.delete_pool(pool)
    await_nodes(session, "lost-pool", 240, other_than=before)
    # Azure takes the pool's node away as well; which of the two the provisioner sees first is not ours to say.
    wait_until(lambda: showed(recorder, "lost-pool", "InstanceNotFound", "NodeDeleted"))
    said = replacement(core, "lost-pool")
    assert "InstanceNotFound" in said or "NodeDeleted" in said


def test_a_deleted_node_is_named_and_replaced_and_its_agent_pool_goes(
    session: Session, arm: Arm, core: client.CoreV1Api, recorder: Recorder
) -> None:
    apply(session, inference("lost-node"))
    (node,) = before = await_nodes(session, "lost-node")
    (pool,) = arm.pools()
    session.shell.run(f"kubectl delete node {node} --wait=false")
    await_nodes(session, "lost-node", 240, other_than=before)
    wait_until(lambda: showed(recorder, "lost-node", "NodeDeleted"))
    assert "NodeDeleted" in replacement(core, "lost-node")
    session.await_workspace("lost-node", lambda _: pool not in arm.pools(), 60)


def test_a_tuning_says_what_is_wrong_step_by_step_heals_and_then_gives_its_node_back(
    session: Session, core: client.CoreV1Api, custom: client.CustomObjectsApi
) -> None:
    """Data nobody can read, an address where nobody answers, no Secret, a wrong password; and then all is right."""
    (session.site.work / "data" / "broken.jsonl").write_text('{"messages": [{"role": "nobody"}]}\n')
    manifest = yaml.safe_load(session.write_manifest().read_text())
    good = manifest["tuning"]["input"]["urls"]
    manifest["apiVersion"] = "kaito.sh/v1beta1"
    manifest["metadata"]["name"] = TUNING
    manifest["tuning"]["onSuccess"] = "Release"
    image = f"{session.site.private_registry}/adapters/released:0.0.1"
    manifest["tuning"]["output"] = {"image": image, "imagePushSecret": "not-there-yet"}
    manifest["tuning"]["input"]["urls"] = [f"{session.site.data_url}/broken.jsonl"]
    apply(session, manifest)
    said = await_reason(session, TUNING, "DatasetInvalid", 300)
    assert "broken.jsonl" in said["message"]
    session.await_workspace(TUNING, lambda found: found["status"]["state"] == "Failed", 30)  # once its Job says so

    nobody = "http://198.18.0.1:9/facts.parquet"  # port 9, discard: nobody listens
    manifest["tuning"]["input"]["urls"] = [nobody]
    apply(session, manifest)
    said = await_reason(session, TUNING, "DataUnreachable", 120)
    assert nobody in said["message"]

    manifest["tuning"]["input"]["urls"] = good
    apply(session, manifest)
    said = await_reason(session, TUNING, "SecretMissing", 120)
    assert "not-there-yet" in said["message"]

    session.create_push_secret("not-there-yet", password="not-it")
    said = await_reason(session, TUNING, "PushUnauthorized", 240)
    assert "not-there-yet" in said["message"]
    assert not session.workspace(TUNING)["status"].get("tuning", {}).get("step")  # before any GPU time was spent

    session.create_push_secret("not-there-yet")
    workspace = session.await_ready(TUNING)
    assert workspace["status"]["state"] == "Succeeded"
    assert root(workspace)["reason"] == "Tuned"
    assert "InferenceReady" not in json.dumps([c["type"] for c in workspace["status"]["conditions"]])

    session.await_workspace(
        TUNING, lambda _: not custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"], 120
    )
    assert core.list_node(label_selector="kaito.sh/workspace").items == []
    assert condition(session.workspace(TUNING), "WorkspaceReady") == "True"
