"""How we prove to Azure who we are. Nothing here knows what is asked for afterwards.

In order of preference: workload identity (a projected service-account token), managed identity, client secret; `none` sends
no token at all and is for an emulator on the loopback or in a test cluster.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from azure.core.credentials import AccessToken
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.identity.aio import ClientSecretCredential, ManagedIdentityCredential, WorkloadIdentityCredential
from azure.mgmt.core.policies import AsyncARMChallengeAuthenticationPolicy

from provisioner.settings import Settings


class NoCredential:
    """What the SDK insists on having even when no policy asks it for a token."""

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        raise RuntimeError("no credential is configured (--credential none), yet a token was asked for")

    async def close(self) -> None:
        pass


class NoAuthentication(SansIOHTTPPolicy):  # type: ignore[misc]  # azure.core has no type information here
    """Takes the place of the bearer-token policy, which refuses plain HTTP."""


@asynccontextmanager
async def credential(settings: Settings, transport: Any) -> AsyncIterator[Any]:
    """The credential that the settings ask for, which asks for tokens over `transport`."""
    async with AsyncExitStack() as stack:
        chosen = _chosen(settings, transport)
        stack.push_async_callback(chosen.close)
        yield chosen


def _chosen(settings: Settings, transport: Any) -> Any:
    options: dict[str, Any] = {"transport": transport}
    if settings.authority_host:
        options["authority"] = settings.authority_host
    match settings.credential:
        case "workload-identity":
            return WorkloadIdentityCredential(
                tenant_id=settings.tenant_id,
                client_id=settings.client_id,
                token_file_path=settings.federated_token_file,
                **options,
            )
        case "managed-identity":
            return ManagedIdentityCredential(client_id=settings.client_id or None, transport=transport)
        case "client-secret":
            return ClientSecretCredential(settings.tenant_id, settings.client_id, settings.client_secret, **options)
        case _:
            return NoCredential()


def policy(settings: Settings, chosen: Any) -> Any:
    """The pipeline policy that goes with the credential."""
    if settings.credential == "none":
        return NoAuthentication()
    return AsyncARMChallengeAuthenticationPolicy(chosen, f"{settings.arm_audience.rstrip('/')}/.default")
