"""The client against a real API server: verbs, preconditions, typed errors."""

from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.meta import Key


def config_map(namespace: str, name: str, **data: str) -> dict[str, object]:
    return {"metadata": {"namespace": namespace, "name": name}, "data": data}


async def test_what_is_created_can_be_read(client: Client, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map(namespace, "one", colour="blue"))
    assert created.data == {"colour": "blue"}
    assert await client.get(CONFIG_MAPS, Key(namespace, "one")) == created
