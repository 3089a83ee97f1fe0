"""`hack.undeploy` on a real API server: it waits for Workspaces and their NodeClaims, and leaves kinds that are not ours."""

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as independent
from kubernetes import config
from kubernetes.client.exceptions import ApiException

from hack import undeploy
from hack.local.controlplane import ControlPlane
from test.conftest import ROOT

WORKSPACE = {
    "apiVersion": "kaito.sh/v1beta1",
    "kind": "Workspace",
    "metadata": {"name": "left"},
    "resource": {"labelSelector": {}},
    "inference": {"preset": {"name": "phi-4"}},
}
CLAIM: dict[str, Any] = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodeClaim",
    "spec": {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of this module's own, for nothing else survives it, with everything of the box's overlay."""
    with ControlPlane.api(tmp_path_factory.mktemp("undeploy")) as plane:
        overlay = ROOT / "manifests/overlays/local"
        kubectl(plane, "apply", "-f", ROOT / "manifests/default/namespace.yaml")
        kubectl(plane, "apply", "-k", overlay)
        kubectl(plane, "wait", "--for=condition=Established", "crd", "--all")
        yield plane


@pytest.fixture(autouse=True)
def kubeconfig(cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))


@pytest.fixture
def api(cluster: ControlPlane) -> Iterator[independent.ApiClient]:
    with config.new_client_from_config(str(cluster.kubeconfig)) as client:
        yield client


def kubectl(plane: ControlPlane, *arguments: str | Path) -> None:
    subprocess.run(["kubectl", "--kubeconfig", plane.kubeconfig, *arguments], check=True, capture_output=True)


def claim(
    api: independent.ApiClient, labels: dict[str, str], reference: dict[str, str] | None = None
) -> dict[str, Any]:
    metadata = {"name": f"ws{uuid.uuid4().hex[:9]}", "labels": labels}
    spec = CLAIM["spec"] | {"nodeClassRef": CLAIM["spec"]["nodeClassRef"] | (reference or {})}
    created: dict[str, Any] = independent.CustomObjectsApi(api).create_cluster_custom_object(
        "karpenter.sh", "v1", "nodeclaims", CLAIM | {"metadata": metadata, "spec": spec}
    )
    return created


@pytest.mark.parametrize(
    ("labels", "reference", "waited_for"),
    [
        ({"kaito.sh/workspace": "w"}, {}, True),
        ({"kaito.sh/ragengine": "r"}, {}, True),
        ({}, {"group": "kaito.sh", "kind": "KaitoNodeClass"}, True),
        ({"karpenter.sh/nodepool": "other"}, {}, False),
    ],
)
def test_every_claim_that_the_provisioner_manages_is_waited_for(
    api: independent.ApiClient, labels: dict[str, str], reference: dict[str, str], waited_for: bool
) -> None:
    name = claim(api, labels, reference)["metadata"]["name"]

    assert undeploy.left() == ([f"nodeclaim {name}"] if waited_for else [])

    independent.CustomObjectsApi(api).delete_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", name)


def test_nothing_is_removed_while_a_workspace_or_a_claim_of_one_is_left(
    api: independent.ApiClient, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = independent.CustomObjectsApi(api)
    objects.create_namespaced_custom_object("kaito.sh", "v1beta1", "default", "workspaces", WORKSPACE)
    name = claim(api, {"kaito.sh/workspace": "left"})["metadata"]["name"]
    claim(api, {"karpenter.sh/nodepool": "other"})

    code = undeploy.main(["--overlay", "local", "--timeout", "0"])

    assert code == 1
    assert f"still there: workspace default/left, nodeclaim {name}." in capsys.readouterr().err
    assert independent.AppsV1Api(api).read_namespaced_deployment("workspace-controller", "kaito-system")
    objects.delete_namespaced_custom_object("kaito.sh", "v1beta1", "default", "workspaces", "left")
    objects.delete_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", name)


def test_it_goes_on_when_the_last_one_is_gone(api: independent.ApiClient) -> None:
    name = claim(api, {"kaito.sh/workspace": "going"})["metadata"]["name"]
    objects = independent.CustomObjectsApi(api)

    undeploy.wait_until_nothing_is_left(
        60, pause=lambda _: objects.delete_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", name)
    )

    assert undeploy.left() == []


def test_everything_of_ours_goes_and_karpenters_kind_stays(
    api: independent.ApiClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert undeploy.main(["--overlay", "local", "--no-wait"]) == 0

    assert "nodeclaims.karpenter.sh kept" in capsys.readouterr().out
    with pytest.raises(ApiException, match="404"):
        independent.AppsV1Api(api).read_namespaced_deployment("workspace-controller", "kaito-system")
    definitions = {
        definition.metadata.name
        for definition in independent.ApiextensionsV1Api(api).list_custom_resource_definition().items
        if definition.metadata.deletion_timestamp is None
    }
    assert definitions == {"nodeclaims.karpenter.sh"}


def test_it_may_be_called_again_when_nothing_is_there(api: independent.ApiClient) -> None:
    assert undeploy.main(["--overlay", "local", "--no-wait"]) == 0
