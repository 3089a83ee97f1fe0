"""Fixtures of the controller's tests: a stage, and a controller that runs on it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from kubernetes import client as independent

from controller.loop import Loop
from kube.client import Client
from test.controller.stage import Stage, running


@pytest.fixture
def stage(api: independent.ApiClient, namespace: str, crds: None) -> Iterator[Stage]:
    """A stage; what stood on it is cleared away, so that the next test's controller finds none of it."""
    made = Stage(api, namespace)
    yield made
    found = made.custom.list_namespaced_custom_object("kaito.sh", "v1beta1", namespace, "workspaces")["items"]
    for workspace in found:
        made.name = workspace["metadata"]["name"]
        made.delete()
        if made.workspace():
            made.patch({"metadata": {"finalizers": None}})
        for claim in made.claims():
            made.remove_claim(claim["metadata"]["name"])
            if "deletionTimestamp" not in claim["metadata"]:
                made.delete_claim(claim["metadata"]["name"])


@pytest.fixture
async def controller(client: Client, stage: Stage) -> AsyncIterator[Loop]:
    """The controller with the tests' settings, running."""
    async with running(client) as loop:
        yield loop
