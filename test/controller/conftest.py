"""Fixtures of the controller's tests: a stage, and a controller that runs on it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

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
        with unless_gone():
            made.delete()
        with unless_gone():
            made.patch({"metadata": {"finalizers": None}})
        for claim in made.claims():
            with unless_gone():
                made.remove_claim(claim["metadata"]["name"])
                made.delete_claim(claim["metadata"]["name"])


@contextmanager
def unless_gone() -> Iterator[None]:
    """Some of it goes by itself: what a controller had asked for when it was ended may be carried out only now."""
    try:
        yield
    except independent.ApiException as error:
        if error.status != 404:
            raise


@pytest.fixture
async def controller(client: Client, stage: Stage) -> AsyncIterator[Loop]:
    """The controller with the tests' settings, running."""
    async with running(client) as loop:
        yield loop
