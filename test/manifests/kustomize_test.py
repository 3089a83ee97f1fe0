"""The kustomize tree: every overlay renders, what it renders is accepted by a real API server, and says what we promise."""

import copy
import functools
import os
import pathlib
import subprocess
from typing import Any

import pytest
import yaml
from kubernetes import client as independent

from controller import settings as controller_settings
from hack.generate.rbac import NAMESPACE
from hack.local import assets
from hack.local.controlplane import ControlPlane
from kube import options
from provisioner import settings as provisioner_settings
from test.conftest import ROOT

Document = dict[str, Any]
OVERLAYS = ("aks", "byo", "local")
CONTROLLERS = [
    ("aks", "workspace-controller"),
    ("aks", "node-provisioner"),
    ("byo", "workspace-controller"),
    ("local", "workspace-controller"),
    ("local", "node-provisioner"),
]


@functools.cache
def rendered(overlay: str) -> tuple[Document, ...]:
    output = subprocess.run(
        [assets.kubectl(), "kustomize", ROOT / "manifests/overlays" / overlay],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(yaml.safe_load_all(output))


def of_kind(overlay: str, kind: str) -> list[Document]:
    return [document for document in rendered(overlay) if document["kind"] == kind]


def settings(overlay: str, name: str) -> dict[str, str]:
    """The environment that a controller is given, from its generated ConfigMap."""
    (found,) = [each["data"] for each in of_kind(overlay, "ConfigMap") if each["metadata"]["name"].startswith(name)]
    return dict(found)


def deployment(overlay: str, name: str) -> Document:
    (found,) = [document for document in of_kind(overlay, "Deployment") if document["metadata"]["name"] == name]
    return found


@pytest.fixture
def system_namespace(api: independent.ApiClient) -> str:
    """The controllers' namespace with the pod security that production has."""
    core = independent.CoreV1Api(api)
    if NAMESPACE not in [namespace.metadata.name for namespace in core.list_namespace().items]:
        core.create_namespace(yaml.safe_load((ROOT / "manifests/default/namespace.yaml").read_text()))
    return NAMESPACE


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_accepted_by_the_api_server(apiserver: ControlPlane, system_namespace: str, overlay: str) -> None:
    applied = subprocess.run(
        [assets.kubectl(), "apply", "--dry-run=server", "-k", ROOT / "manifests/overlays" / overlay],
        env={**os.environ, "KUBECONFIG": str(apiserver.kubeconfig)},
        check=False,
        capture_output=True,
        text=True,
    )

    assert applied.returncode == 0, applied.stderr
    assert "would violate PodSecurity" not in applied.stderr
    assert len(applied.stdout.splitlines()) == len(rendered(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_its_controllers_and_the_crds_of_ours(overlay: str) -> None:
    crds = {document["metadata"]["name"] for document in of_kind(overlay, "CustomResourceDefinition")}

    assert {(overlay, document["metadata"]["name"]) for document in of_kind(overlay, "Deployment")} == {
        each for each in CONTROLLERS if each[0] == overlay
    }
    assert {"workspaces.kaito.sh", "kaitonodeclasses.kaito.sh"} <= crds


def test_karpenters_crd_is_installed_by_the_box_alone() -> None:
    having = {
        overlay
        for overlay in OVERLAYS
        for crd in of_kind(overlay, "CustomResourceDefinition")
        if crd["spec"]["group"] == "karpenter.sh"
    }

    assert having == {"local"}


@pytest.mark.parametrize(("overlay", "name"), CONTROLLERS)
def test_a_controller_runs_restricted_probed_and_with_enough_memory(overlay: str, name: str) -> None:
    template = deployment(overlay, name)["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert template["metadata"]["annotations"]["prometheus.io/port"] == "8080"


@pytest.mark.parametrize(("overlay", "name"), CONTROLLERS)
def test_a_controller_elects_a_leader_and_knows_its_pod(overlay: str, name: str) -> None:
    (container,) = deployment(overlay, name)["spec"]["template"]["spec"]["containers"]
    (named,) = [source["configMapRef"]["name"] for source in container["envFrom"]]

    assert settings(overlay, name)["LEADER_ELECT"] == "true"
    assert named.startswith(f"{name}-")
    assert {variable["name"] for variable in container["env"]} == {"POD_NAME", "POD_NAMESPACE"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_controller_may_read_secrets_and_no_rule_has_a_wildcard(overlay: str) -> None:
    roles = of_kind(overlay, "ClusterRole") + of_kind(overlay, "Role")
    rules = [rule for role in roles for rule in role["rules"]]

    assert not [rule for rule in rules if "secrets" in rule["resources"]]
    assert not [rule for rule in rules if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_setting_of_the_workspace_controller_is_one_that_it_knows(overlay: str) -> None:
    given = settings(overlay, "workspace-controller")

    assert set(given) <= options.known_variables(controller_settings.Settings)
    assert options.load(controller_settings.Settings, [], given).leader_elect


@pytest.mark.parametrize("overlay", ["aks", "local"])
def test_every_setting_of_the_node_provisioner_is_one_that_it_knows(overlay: str) -> None:
    token = {"AZURE_FEDERATED_TOKEN_FILE": "/token", "AZURE_TENANT_ID": "tenant"}  # the webhook's part
    given = settings(overlay, "node-provisioner")

    assert set(given) <= options.known_variables(provisioner_settings.Settings)
    assert options.load(provisioner_settings.Settings, [], given | token).leader_elect


def test_the_box_has_its_own_images_endpoint_and_credential_and_trusts_its_authority() -> None:
    for name in ("workspace-controller", "node-provisioner"):
        (container,) = deployment("local", name)["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "198.18.0.1:5000/kaito/control:dev"
        assert container["args"] == ["--ca-bundle=/etc/kaito/ca/ca.crt"]
    assert settings("local", "node-provisioner")["ARM_ENDPOINT"] == "https://198.18.0.1:9443"
    assert settings("local", "node-provisioner")["AZURE_CREDENTIAL"] == "none"
    assert settings("local", "workspace-controller")["ACCELERATOR"] == "cpu"


@pytest.mark.parametrize("name", ["workspace-controller", "node-provisioner"])
def test_a_controller_of_the_box_differs_from_one_on_aks_by_image_authority_replicas_and_identity(name: str) -> None:
    ours, aks = (copy.deepcopy(deployment(overlay, name)) for overlay in ("local", "aks"))
    for each in (ours, aks):
        pod = each["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        del each["spec"]["replicas"], container["image"], container["args"]
        each["spec"]["template"]["metadata"]["labels"].pop("azure.workload.identity/use", None)
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "ca-bundle"]
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "ca-bundle"]
        for source in container["envFrom"]:  # the name ends with a hash of the settings
            source["configMapRef"]["name"] = name

    assert ours == aks


def test_the_settings_of_the_box_are_those_that_its_comment_names() -> None:
    given = {name: settings("local", name) for name in ("workspace-controller", "node-provisioner")}
    aks = {name: settings("aks", name) for name in given}
    differing = {key for name in given for key in given[name] if given[name][key] != aks[name].get(key)}

    whose = {"AZURE_SUBSCRIPTION_ID", "ARM_RESOURCE_GROUP", "AZURE_CLUSTER_NAME", "LOCATION"}
    images = {"RUNTIME_IMAGE", "WEIGHTS_REGISTRY"}
    assert differing == whose | images | {"ARM_ENDPOINT", "AZURE_CREDENTIAL", "ALLOWED_ADDRESS_RANGES", "ACCELERATOR"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_deployment_with_placeholders_is_refused_before_it_reaches_the_cluster(
    overlay: str, tmp_path: pathlib.Path
) -> None:
    path = f"{pathlib.Path(assets.kubectl()).parent}:{os.environ['PATH']}"
    nowhere = tmp_path / "kubeconfig"  # without one kubectl would look for a server on this machine
    nowhere.write_text(
        yaml.safe_dump(
            {
                "current-context": "nowhere",
                "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere"}}],
                "clusters": [{"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}}],
            }
        )
    )
    deployed = subprocess.run(
        ["make", "deploy", f"OVERLAY={overlay}"],
        env={**os.environ, "PATH": path, "KUBECONFIG": str(nowhere)},
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )

    assert deployed.returncode != 0  # no cluster, in any case
    assert ("kubectl apply" not in deployed.stdout) == (overlay != "local")
    assert (f"put your names into manifests/overlays/{overlay}" in deployed.stderr) == (overlay != "local")


def test_on_aks_the_device_plugin_stands_outside_the_restricted_namespace() -> None:
    (plugin,) = of_kind("aks", "DaemonSet")

    assert plugin["metadata"]["namespace"] == "kube-system"


def test_on_aks_the_identity_of_the_settings_is_the_service_accounts() -> None:
    accounts = {
        document["metadata"]["name"]: document["metadata"].get("annotations", {})
        for document in of_kind("aks", "ServiceAccount")
    }
    labels = deployment("aks", "node-provisioner")["spec"]["template"]["metadata"]["labels"]
    identity = settings("aks", "node-provisioner")["AZURE_CLIENT_ID"]

    assert accounts["node-provisioner"] == {"azure.workload.identity/client-id": identity}
    assert accounts["workspace-controller"] == {}
    assert labels["azure.workload.identity/use"] == "true"
