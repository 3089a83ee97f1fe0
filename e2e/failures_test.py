"""What goes wrong on the way, as a user sees it: a specific reason in the REASON column, what to do in the message, and
healing where that is possible. Failures that cost nothing come first; those that need a node share one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from kubernetes import client

from e2e.arm import Arm
from hack.local.session import PRESET, PUSH_SECRET, Session, condition

TUNING = "tuning-released"


def root(workspace: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [c for c in workspace.get("status", {}).get("conditions", []) if c["type"] == "WorkspaceReady"]
    return found[0] if found else {}


def inference(name: str, *, preset: str = PRESET, instance_type: str = "Standard_NC6s_v3") -> dict[str, Any]:
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


@pytest.fixture(autouse=True)
def clean(session: Session, arm: Arm) -> Iterator[None]:
    yield
    arm.clear_faults()
    session.delete_all()


def test_an_unknown_instance_type_is_named_with_its_nearest_before_anything_is_paid(session: Session, arm: Arm) -> None:
    apply(session, inference("unknown-sku", instance_type="Standard_NC6s_v33"))
    workspace = session.await_workspace("unknown-sku", lambda found: root(found).get("status") == "False", 30)
    assert "Standard_NC6s_v3" in root(workspace)["message"]
    assert arm.pools() == []


def test_an_unknown_preset_is_refused_at_once(session: Session) -> None:
    from hack.local.shell import CommandFailed

    with pytest.raises(CommandFailed) as refused:
        apply(session, inference("unknown-preset", preset="smollm2-136m-instruct"))
    assert "preset" in refused.value.output


def test_a_quota_refusal_shows_its_numbers_and_costs_nothing(session: Session, arm: Arm) -> None:
    arm.fault(kind="refuse", error="quota-family", times=0)
    apply(session, inference("no-quota"))
    workspace = session.await_workspace("no-quota", lambda found: root(found).get("reason") == "QuotaExceeded", 60)
    assert any(character.isdigit() for character in root(workspace)["message"])
    assert arm.pools() == []


def test_a_capacity_refusal_is_named_and_heals_when_capacity_comes_back(session: Session, arm: Arm) -> None:
    arm.fault(kind="fail", error="allocation", times=1)
    apply(session, inference("no-capacity"))
    session.await_workspace("no-capacity", lambda found: root(found).get("reason") == "InsufficientCapacity", 60)
    session.await_workspace("no-capacity", lambda found: condition(found, "ResourceReady") == "True", 240)


def test_a_wrong_push_secret_is_named_before_training_and_a_corrected_one_heals_then_release_gives_the_node_back(
    session: Session, core: client.CoreV1Api, custom: client.CustomObjectsApi
) -> None:
    session.create_push_secret("wrong-password", password="not-it")
    manifest = yaml.safe_load(session.write_manifest().read_text())
    manifest["apiVersion"] = "kaito.sh/v1beta1"
    manifest["metadata"]["name"] = TUNING
    manifest["tuning"]["onSuccess"] = "Release"
    manifest["tuning"]["output"] = {
        "image": f"{session.site.private_registry}/adapters/released:0.0.1",
        "imagePushSecret": "wrong-password",
    }
    apply(session, manifest)
    refused = session.await_workspace(TUNING, lambda found: root(found).get("reason") == "PushUnauthorized", 400)
    assert "wrong-password" in root(refused)["message"]
    assert not refused["status"]["tuning"].get("step")

    right = core.read_namespaced_secret(PUSH_SECRET, "default").data
    core.patch_namespaced_secret("wrong-password", "default", {"data": right})
    workspace = session.await_ready(TUNING)
    assert workspace["status"]["state"] == "Succeeded"
    assert root(workspace)["reason"] == "Tuned"
    assert "inference" not in json.dumps([c["type"] for c in workspace["status"]["conditions"]]).lower()

    session.await_workspace(
        TUNING, lambda _: not custom.list_cluster_custom_object("karpenter.sh", "v1", "nodeclaims")["items"], 120
    )
    assert core.list_node(label_selector="kaito.sh/workspace").items == []
    assert condition(session.workspace(TUNING), "WorkspaceReady") == "True"
