"""Fixtures that several packages share: a real etcd and API server on loopback, a client, a namespace, the CRDs.

The control plane starts once per session (about three seconds, no root) and only for tests that ask for it. Tests are
kept apart by a fresh namespace each.
"""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as independent
from kubernetes import config, watch

from hack.local.controlplane import ControlPlane
from kube.client import Client
from test import profile

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    profile.load()


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane: `.kubeconfig`, `.url`, and `.kubeconfig_for(name, user, groups)` for other users."""
    with ControlPlane.api(tmp_path_factory.mktemp("controlplane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def api(apiserver: ControlPlane) -> Iterator[independent.ApiClient]:
    """An independent client of the same API server, to arrange and to check with."""
    with config.new_client_from_config(str(apiserver.kubeconfig)) as client:
        yield client


@pytest.fixture
async def client(apiserver: ControlPlane) -> AsyncIterator[Client]:
    """Our own client, as the administrator."""
    async with await Client.connect(user_agent="test", kubeconfig=str(apiserver.kubeconfig)) as connected:
        yield connected


@pytest.fixture
def namespace(api: independent.ApiClient) -> str:
    """A namespace of this test's own. Nothing deletes it: the server goes with the session."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    independent.CoreV1Api(api).create_namespace({"metadata": {"name": name}})
    return name


@pytest.fixture(scope="session")
def crds(api: independent.ApiClient) -> None:
    """Every CRD below manifests/, established. Fails where there is none."""
    establish_crds(api)


def establish_crds(api: independent.ApiClient) -> None:
    """Create them and wait, for tests with a server of their own."""
    extensions = independent.ApiextensionsV1Api(api)
    missing = set()
    for document in _custom_resource_definitions():
        extensions.create_custom_resource_definition(document)
        missing.add(document["metadata"]["name"])
    assert missing, "manifests/ has no CustomResourceDefinition"
    for event in watch.Watch().stream(extensions.list_custom_resource_definition, timeout_seconds=30):
        conditions = event["object"].status.conditions or ()
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            missing.discard(event["object"].metadata.name)
        if not missing:
            return
    raise AssertionError(f"never established: {missing}")


def _custom_resource_definitions() -> Iterator[dict[str, Any]]:
    for file in sorted((ROOT / "manifests").rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if isinstance(document, dict) and document.get("kind") == "CustomResourceDefinition":
                yield document
