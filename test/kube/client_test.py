"""The client against a real API server: verbs, preconditions, paging, typed errors, watches."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from kubernetes import client as independent

from hack.local.controlplane import ControlPlane
from kube import client as client_module
from kube import errors
from kube.api.workload import CONFIG_MAPS, JOBS, NODES, PODS, ConfigMap
from kube.client import Client, api_error
from kube.delta import Event
from kube.meta import Key, Object, Resource
from kube.store import Consistency, Store
from kube.watch import Reflector
from test.expect import eventually

EVICTION = {"apiVersion": "policy/v1", "kind": "Eviction"}


def config_map(namespace: str, name: str, **data: str) -> dict[str, object]:
    return {"metadata": {"namespace": namespace, "name": name}, "data": data}


def pod(namespace: str, name: str) -> dict[str, object]:
    spec = {"containers": [{"name": "main", "image": "none"}], "terminationGracePeriodSeconds": 0}
    return {"metadata": {"namespace": namespace, "name": name, "labels": {"app": name}}, "spec": spec}


async def test_what_is_created_can_be_read(client: Client, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map(namespace, "one", colour="blue"))
    assert created.data == {"colour": "blue"}
    assert await client.get(CONFIG_MAPS, Key(namespace, "one")) == created


async def test_creating_twice_says_already_exists(client: Client, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map(namespace, "one"))
    with pytest.raises(errors.AlreadyExists):
        await client.create(CONFIG_MAPS, config_map(namespace, "one"))


async def test_what_is_absent_is_not_found(client: Client, namespace: str) -> None:
    for request in (
        client.get(CONFIG_MAPS, Key(namespace, "none")),
        client.delete(CONFIG_MAPS, Key(namespace, "none")),
        client.get(Resource(Object, "nobody.example", "v1", "things", "Thing"), Key(namespace, "none")),
    ):
        with pytest.raises(errors.NotFound) as caught:
            await request
        assert caught.value.code == 404


async def test_list_crosses_pages(client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PAGE_SIZE", 2)
    for number in range(5):
        await client.create(CONFIG_MAPS, config_map(namespace, f"n{number}"))
    listing = await client.list(CONFIG_MAPS, namespace=namespace)
    names = [item.metadata.name for item in listing.items]
    assert [name for name in names if name.startswith("n")] == ["n0", "n1", "n2", "n3", "n4"]
    assert listing.resource_version.isdigit()


async def test_selectors_narrow_a_list(client: Client, namespace: str) -> None:
    for name in ("a", "b"):
        await client.create(PODS, pod(namespace, name))
    by_label = await client.list(PODS, namespace=namespace, label_selector="app=a")
    by_field = await client.list(PODS, namespace=namespace, field_selector="metadata.name=b")
    assert [item.metadata.name for item in (*by_label.items, *by_field.items)] == ["a", "b"]


async def test_apply_creates_then_changes_and_an_equal_one_changes_nothing(client: Client, namespace: str) -> None:
    first = await client.apply(CONFIG_MAPS, config_map(namespace, "one", a="1", b="2"), field_manager="test")
    second = await client.apply(CONFIG_MAPS, config_map(namespace, "one", a="1"), field_manager="test")
    third = await client.apply(CONFIG_MAPS, config_map(namespace, "one", a="1"), field_manager="test")
    assert first.data == {"a": "1", "b": "2"}
    assert second.data == {"a": "1"}
    assert third.metadata.resource_version == second.metadata.resource_version


async def test_apply_takes_over_fields_of_others(client: Client, namespace: str) -> None:
    await client.apply(CONFIG_MAPS, config_map(namespace, "one", a="1"), field_manager="other")
    taken = await client.apply(CONFIG_MAPS, config_map(namespace, "one", a="2"), field_manager="test")
    assert taken.data == {"a": "2"}


async def test_apply_with_a_uid_does_not_bring_back_the_dead(client: Client, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map(namespace, "one"))
    await client.delete(CONFIG_MAPS, Key(namespace, "one"))
    body = {"metadata": {"namespace": namespace, "name": "one", "uid": created.metadata.uid}}
    with pytest.raises(errors.Conflict):
        await client.apply(CONFIG_MAPS, body, field_manager="test")
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, Key(namespace, "one"))


async def test_merge_patch_with_an_outdated_version_conflicts(client: Client, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map(namespace, "one", a="1"))
    key = created.metadata.key
    patch = {"metadata": {"resourceVersion": created.metadata.resource_version}, "data": {"a": "2", "b": None}}
    patched = await client.merge_patch(CONFIG_MAPS, key, patch)
    assert patched.data == {"a": "2"}
    with pytest.raises(errors.Conflict):
        await client.merge_patch(CONFIG_MAPS, key, patch)


async def test_status_is_written_through_its_subresource(client: Client, namespace: str) -> None:
    created = await client.create(PODS, pod(namespace, "one"))
    status = {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    await client.merge_patch(PODS, created.metadata.key, status, subresource="status")
    assert (await client.get(PODS, created.metadata.key)).status.phase == "Running"


@pytest.mark.parametrize("precondition", ["uid", "resource_version"])
async def test_delete_with_a_wrong_precondition_conflicts(client: Client, namespace: str, precondition: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map(namespace, "one"))
    right = {"uid": created.metadata.uid, "resource_version": created.metadata.resource_version}
    with pytest.raises(errors.Conflict):
        await client.delete(CONFIG_MAPS, created.metadata.key, **{precondition: "1"})  # type: ignore[arg-type]  # str
    await client.delete(CONFIG_MAPS, created.metadata.key, uid=right["uid"], resource_version=right["resource_version"])
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, created.metadata.key)


async def test_finalizer_delays_deletion(client: Client, namespace: str) -> None:
    body = {"metadata": {"namespace": namespace, "name": "one", "finalizers": ["test.example/wait"]}}
    created = await client.create(CONFIG_MAPS, body)
    await client.delete(CONFIG_MAPS, created.metadata.key)
    assert (await client.get(CONFIG_MAPS, created.metadata.key)).metadata.deleting
    await client.merge_patch(CONFIG_MAPS, created.metadata.key, {"metadata": {"finalizers": None}})
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, created.metadata.key)


async def test_invalid_object_is_invalid_and_nonsense_a_bad_request(client: Client, namespace: str) -> None:
    job = {"metadata": {"namespace": namespace, "name": "one"}, "spec": {"template": {"spec": {"containers": []}}}}
    with pytest.raises(errors.Invalid):
        await client.create(JOBS, job)
    with pytest.raises(errors.BadRequest):
        await client.list(CONFIG_MAPS, namespace=namespace, label_selector="=,=")


async def test_eviction_ends_a_pod_unless_a_budget_forbids_it(
    client: Client, api: independent.ApiClient, namespace: str
) -> None:
    for name in ("free", "needed"):
        created = await client.create(PODS, pod(namespace, name))
        ready = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        await client.merge_patch(PODS, created.metadata.key, ready, subresource="status")
    budget = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "needed"}}}}
    independent.PolicyV1Api(api).create_namespaced_pod_disruption_budget(namespace, budget)

    async def evict(name: str) -> None:
        body = {**EVICTION, "metadata": {"namespace": namespace, "name": name}}
        await client.create_subresource(PODS, Key(namespace, name), "eviction", body)

    await evict("free")
    with pytest.raises(errors.NotFound):
        await client.get(PODS, Key(namespace, "free"))
    with pytest.raises(errors.TooManyRequests):
        await evict("needed")


async def test_user_without_rights_is_forbidden(apiserver: ControlPlane, namespace: str) -> None:
    kubeconfig = apiserver.kubeconfig_for("nobody", "nobody")
    async with await Client.connect(user_agent="test", kubeconfig=str(kubeconfig)) as nobody:
        with pytest.raises(errors.Forbidden):
            await nobody.list(NODES)


async def test_server_that_is_not_there_is_a_failed_connection(tmp_path: Path, apiserver: ControlPlane) -> None:
    gone = apiserver.kubeconfig.read_text().replace(apiserver.url, "https://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(gone)
    async with await Client.connect(user_agent="test", kubeconfig=str(tmp_path / "kubeconfig")) as client:
        with pytest.raises(errors.ConnectionFailed):
            await client.list(NODES)


@pytest.mark.parametrize(
    ("code", "body", "retry_after", "kind", "wait"),
    [
        (410, b'{"reason":"Expired","message":"too old"}', "", errors.Gone, None),
        (429, b'{"reason":"TooManyRequests","details":{"retryAfterSeconds":3}}', "", errors.TooManyRequests, 3),
        (429, b"", "7", errors.TooManyRequests, 7),
        (503, b"<html>gateway</html>", "Fri, 31 Dec 1999 23:59:59 GMT", errors.ServerError, None),
        (500, b"\xff\xfe", "-1", errors.ServerError, None),
        (500, b"[]", "1e9", errors.ServerError, None),
        (409, b'{"reason":"AlreadyExists"}', "", errors.AlreadyExists, None),
        (409, b'{"reason":"Conflict"}', "", errors.Conflict, None),
        (418, b"null", "", errors.ApiError, None),
    ],
)
def test_answer_is_translated_by_code_and_reason(
    code: int, body: bytes, retry_after: str, kind: type[errors.ApiError], wait: float | None
) -> None:
    error = api_error(code, body, {"Retry-After": retry_after})
    assert type(error) is kind
    assert (error.code, error.retry_after) == (code, wait)


async def test_reflector_mirrors_the_real_server(client: Client, namespace: str) -> None:
    store: Store[ConfigMap] = Store()
    told: list[str] = []

    def hear(event: Event[ConfigMap]) -> None:
        told.append(f"{event.type} {event.object.metadata.name}")

    reflector = Reflector(
        client, CONFIG_MAPS, store, hear, namespace=namespace, field_selector="metadata.name!=kube-root-ca.crt"
    )
    consistency = Consistency()
    consistency.watch(CONFIG_MAPS, store)
    await client.create(CONFIG_MAPS, config_map(namespace, "before"))
    running = asyncio.ensure_future(reflector.run())
    await eventually(reflector.synced.is_set)
    assert reflector.metrics.lists == 0, "this server knows WatchList"
    owner = Key(namespace, "owner")
    created = await client.create(CONFIG_MAPS, config_map(namespace, "after"))
    consistency.wrote(owner, CONFIG_MAPS, created)
    await eventually(lambda: consistency.caught_up(owner))
    assert store.get(created.metadata.key) == created
    await client.merge_patch(CONFIG_MAPS, created.metadata.key, {"data": {"a": "1"}})
    await client.delete(CONFIG_MAPS, created.metadata.key)
    await eventually(lambda: told[-1] == "DELETED after")
    assert told == ["ADDED before", "ADDED after", "MODIFIED after", "DELETED after"]
    running.cancel()
    await asyncio.wait({running})


class Shape(Object, frozen=True, kw_only=True):
    spec: dict[str, str] = {}


async def test_unknown_fields_are_skipped(client: Client) -> None:
    namespaces = Resource(Shape, "", "v1", "namespaces", "Namespace", namespaced=False)
    found = await client.list(namespaces)
    assert "kube-system" in {item.metadata.name for item in found.items}
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"spec": 3}', type=Shape)
