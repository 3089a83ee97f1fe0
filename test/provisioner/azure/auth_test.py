"""Signing in for real, with azure-identity over TLS; only the two servers, of tokens and of ARM, are ours."""

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from hack.local.pki import Authority
from kube.clock import SystemClock
from provisioner.azure import agentpools
from provisioner.cloud import Unauthorized
from provisioner.settings import Settings

TENANT = "11111111-2222-3333-4444-555555555555"
HOST = "127.0.0.1"


@dataclass
class Azure:
    """What was asked for a token with, and what ARM was shown."""

    tokens: list[Mapping[str, str]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    refusal: Mapping[str, str] = field(default_factory=dict)  # of the next tokens, if any
    authority: str = ""
    endpoint: str = ""

    async def token(self, request: web.Request) -> web.Response:
        self.tokens.append({key: str(value) for key, value in (await request.post()).items()})
        if self.refusal:
            return web.json_response(self.refusal, status=400)
        answer = {"token_type": "Bearer", "expires_in": 3600, "access_token": f"token-{len(self.tokens)}"}
        return web.json_response(answer)

    async def machine_token(self, request: web.Request) -> web.Response:
        assert request.headers["Metadata"] == "true"
        self.tokens.append(request.query)
        answer = {"expires_on": str(int(time.time()) + 3600), "access_token": "token-1", "token_type": "Bearer"}
        return web.json_response(answer | {"resource": request.query["resource"]})

    async def pools(self, request: web.Request) -> web.Response:
        self.shown.append(request.headers.get("Authorization", ""))
        return web.json_response({"value": []})


def authority(folder: Path) -> Authority:
    folder.mkdir()
    return Authority(folder)


@asynccontextmanager
async def served(trusted: Authority | None, path: str, handler: Callable[[web.Request], object]) -> AsyncIterator[str]:
    context = None
    if trusted:
        pair = trusted.server("server", [HOST])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
    application = web.Application()
    application.router.add_route("*", path, handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=context).start()
    try:
        yield f"{'https' if trusted else 'http'}://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Azure, Path]]:
    """An identity provider that the system trusts, and an ARM whose authority is known from `ca_bundle` alone."""
    system, private = authority(tmp_path / "system"), authority(tmp_path / "private")
    monkeypatch.setenv("SSL_CERT_FILE", str(system.pair.certificate))
    made = Azure()
    async with (
        served(system, "/{tenant}/oauth2/v2.0/token", made.token) as made.authority,
        served(private, "/{path:.*}", made.pools) as made.endpoint,
        served(None, "/metadata/identity/oauth2/token", made.machine_token) as metadata,
    ):
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", metadata)
        yield made, private.pair.certificate


def settings(made: Azure, bundle: Path, folder: Path, credential: str) -> Settings:
    projected = folder / "projected"
    projected.write_text("signed by the cluster")
    return Settings(
        subscription_id="s",
        resource_group="g",
        cluster_name="c",
        location="eastus",
        credential=credential,
        tenant_id=TENANT,
        client_id="client",
        client_secret="hush",
        federated_token_file=str(projected),
        authority_host=made.authority,
        arm_endpoint=made.endpoint,
        ca_bundle=str(bundle),
    ).completed()


@pytest.mark.parametrize(
    ("credential", "proof"),
    [
        ("workload-identity", ("client_assertion", "signed by the cluster")),
        ("client-secret", ("client_secret", "hush")),
        ("managed-identity", ("resource", "{endpoint}")),
    ],
)
async def test_a_token_is_asked_for_and_shown_to_arm(
    azure: tuple[Azure, Path], tmp_path: Path, credential: str, proof: tuple[str, str]
) -> None:
    made, bundle = azure
    async with agentpools.connect(settings(made, bundle, tmp_path, credential), clock=SystemClock()) as cloud:
        assert await cloud.list() == ()
        assert await cloud.list() == ()
    (asked,) = made.tokens
    assert asked["client_id"] == "client"
    assert asked.get("scope", f"{made.endpoint}/.default") == f"{made.endpoint}/.default"
    assert asked[proof[0]] == proof[1].format(endpoint=made.endpoint)
    assert set(made.shown) == {"Bearer token-1"}


async def test_an_identity_that_is_not_known_yet_is_asked_for_again(azure: tuple[Azure, Path], tmp_path: Path) -> None:
    made, bundle = azure
    sentence = "AADSTS70021: No matching federated identity record found for presented assertion."
    made.refusal = {"error": "invalid_request", "error_description": sentence}
    given = settings(made, bundle, tmp_path, "workload-identity")
    async with agentpools.connect(given, clock=SystemClock()) as cloud:
        with pytest.raises(Unauthorized, match=sentence):
            await cloud.list()
        made.refusal = {}
        assert await cloud.list() == ()
