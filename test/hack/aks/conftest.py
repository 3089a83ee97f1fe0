"""The real SDK against the emulator over loopback. Time stands still unless a test moves it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.containerservice.aio import ContainerServiceClient

from hack.local.aks.admin import AdminClient
from hack.local.aks.model import Settings
from hack.local.aks.server import Emulator, running


class ManualTime:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def jump(self, seconds: float) -> None:
        self.seconds += seconds


class _NoAuth(SansIOHTTPPolicy):  # type: ignore[misc]  # azure-core is imported untyped
    """Over plain HTTP the SDK refuses to send tokens: no policy, no token."""


class _Credential:
    async def get_token(self, *scopes: str, **more: Any) -> AccessToken:
        return AccessToken("unused", 2**31)

    async def close(self) -> None:
        """Hold nothing."""


@dataclass(frozen=True)
class Aks:
    """The SDK's agent-pool operations with the cluster filled in."""

    emulator: Emulator
    client: ContainerServiceClient

    @property
    def admin(self) -> AdminClient:
        return self.emulator.admin

    @property
    def cluster(self) -> tuple[str, str]:
        return self.emulator.identity.resource_group, self.emulator.identity.cluster

    async def begin_put(self, name: str, **more: Any) -> Any:
        body = more.pop("body", None) or pool_body(**more.pop("properties", {}))
        return await self.client.agent_pools.begin_create_or_update(*self.cluster, name, body, **more)

    async def put(self, name: str, **more: Any) -> Any:
        """PUT without waiting for the operation."""
        return await (await self.begin_put(name, polling=False, **more)).result()

    async def get(self, name: str) -> Any:
        return await self.client.agent_pools.get(*self.cluster, name)

    async def list(self) -> list[Any]:
        return [pool async for pool in self.client.agent_pools.list(*self.cluster)]

    async def begin_delete(self, name: str, **more: Any) -> Any:
        return await self.client.agent_pools.begin_delete(*self.cluster, name, **more)


def pool_body(**properties: Any) -> dict[str, Any]:
    return {
        "properties": {"count": 1, "vmSize": "Standard_NC6s_v3", "tags": {"kaito.sh_nodeclaim-uid": "u1"}, **properties}
    }


def sdk(emulator: Emulator, **more: Any) -> ContainerServiceClient:
    return ContainerServiceClient(
        _Credential(),
        emulator.identity.subscription,
        base_url=emulator.endpoint,
        authentication_policy=_NoAuth(),
        polling_interval=0,
        retry_total=0,
        **more,
    )


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


@pytest.fixture
async def aks(time: ManualTime) -> AsyncIterator[Aks]:
    settings = Settings(create_seconds=60, delete_seconds=30, update_seconds=10, retry_after=0)
    async with running(settings, time=time) as emulator, sdk(emulator) as client:
        yield Aks(emulator, client)
