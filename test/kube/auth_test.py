"""Credentials: found in a pod or a kubeconfig, rotated while we run, refreshed after a refusal, once for all."""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from hack.local.pki import Authority
from kube import auth, errors
from kube.api.workload import CONFIG_MAPS
from kube.client import Client
from kube.meta import Key
from test.clock import SkippingClock, VirtualClock

KEY = Key("x", "one")


class Door:
    """A TLS server that lets in one token, and remembers who came with which certificate."""

    def __init__(self) -> None:
        self.token = "first"
        self.seen: list[tuple[str, str]] = []
        self.answers: list[web.Response] = []

    async def answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        name = certificate["subject"][-1][0][1] if certificate else ""
        self.seen.append((request.headers.get("Authorization", ""), name))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"reason": "Unauthorized", "code": 401}, status=401)
        if self.answers:
            return self.answers.pop(0)
        return web.json_response({"metadata": {"name": "one", "namespace": "x"}})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
async def door(authority: Authority, tmp_path: Path) -> AsyncIterator[tuple[Door, int]]:
    pair = authority.server("server", ("127.0.0.1", "localhost"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.pair.certificate))
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_OPTIONAL
    keeper = Door()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", keeper.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield keeper, runner.addresses[0][1]
    await runner.cleanup()


@pytest.fixture
def pod(authority: Authority, door: tuple[Door, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files and variables that a kubelet gives to a pod."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("first\n")
    (folder / "ca.crt").write_bytes(authority.pair.certificate.read_bytes())
    monkeypatch.setattr(auth, "SERVICE_ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(door[1]))
    return folder


async def test_pod_finds_its_own_cluster(pod: Path) -> None:
    async with await Client.connect(user_agent="test") as client:
        assert (await client.get(CONFIG_MAPS, KEY)).metadata.key == KEY


async def test_rotated_token_is_used_within_a_minute(pod: Path, door: tuple[Door, int]) -> None:
    clock = VirtualClock()
    async with await Client.connect(user_agent="test", clock=clock) as client:
        await client.get(CONFIG_MAPS, KEY)
        (pod / "token").write_text("second")
        await clock.advance(60)
        door[0].token = "second"
        await client.get(CONFIG_MAPS, KEY)
    assert [token for token, _ in door[0].seen] == ["Bearer first", "Bearer second"]


async def test_refused_token_is_read_again_once_for_all_requests(pod: Path, door: tuple[Door, int]) -> None:
    async with await Client.connect(user_agent="test") as client:
        (pod / "token").write_text("second")
        door[0].token = "second"
        await asyncio.gather(*(client.get(CONFIG_MAPS, KEY) for _ in range(5)))
        assert client._auth.generation == 1


async def test_another_token_that_is_wrong_too_is_unauthorized_after_one_more_try(
    pod: Path, door: tuple[Door, int]
) -> None:
    async with await Client.connect(user_agent="test") as client:
        door[0].token = "unknown"
        (pod / "token").write_text("second")
        with pytest.raises(errors.Unauthorized):
            await client.get(CONFIG_MAPS, KEY)
    assert [token for token, _ in door[0].seen] == ["Bearer first", "Bearer second"]


async def test_token_that_stays_the_same_is_not_tried_again(pod: Path, door: tuple[Door, int]) -> None:
    async with await Client.connect(user_agent="test") as client:
        door[0].token = "unknown"
        with pytest.raises(errors.Unauthorized):
            await client.get(CONFIG_MAPS, KEY)
    assert len(door[0].seen) == 1


async def test_half_written_token_keeps_the_old_one(pod: Path, door: tuple[Door, int]) -> None:
    clock = VirtualClock()
    async with await Client.connect(user_agent="test", clock=clock) as client:
        (pod / "token").write_text("")
        await clock.advance(60)
        await client.get(CONFIG_MAPS, KEY)


async def test_short_retry_after_is_waited_for_and_a_long_one_is_the_callers(pod: Path, door: tuple[Door, int]) -> None:
    clock = SkippingClock()
    async with await Client.connect(user_agent="test", clock=clock) as client:
        door[0].answers = [web.Response(status=429, headers={"Retry-After": "2"}) for _ in range(2)]
        begin = clock.monotonic()
        await client.get(CONFIG_MAPS, KEY)
        assert clock.monotonic() - begin == 4
        door[0].answers = [web.Response(status=503, headers={"Retry-After": "60"})]
        with pytest.raises(errors.ServerError) as caught:
            await client.get(CONFIG_MAPS, KEY)
        assert caught.value.retry_after == 60
        door[0].answers = [web.Response(status=429, headers={"Retry-After": "1"}) for _ in range(9)]
        with pytest.raises(errors.TooManyRequests):
            await client.get(CONFIG_MAPS, KEY)


async def test_client_certificate_of_a_kubeconfig_is_renewed(
    authority: Authority, door: tuple[Door, int], tmp_path: Path
) -> None:
    pair = authority.client("user", "old-name", [])
    kubeconfig = write_kubeconfig(
        tmp_path,
        door[1],
        authority,
        {"token": "first", "client-certificate": str(pair.certificate), "client-key": str(pair.key)},
    )
    clock = VirtualClock()
    async with await Client.connect(user_agent="test", kubeconfig=str(kubeconfig), clock=clock) as client:
        await client.get(CONFIG_MAPS, KEY)
        renewed = authority.client("renewed", "new-name", [])
        pair.certificate.write_bytes(renewed.certificate.read_bytes())
        pair.key.write_bytes(renewed.key.read_bytes())
        os.utime(pair.certificate, ns=(1, 1))
        await clock.advance(60)
        await client.get(CONFIG_MAPS, KEY)
    assert [name for _, name in door[0].seen] == ["old-name", "new-name"]


@pytest.mark.parametrize("idle", [0, 61])
async def test_exec_plugin_is_asked_again_after_a_refusal(
    authority: Authority, door: tuple[Door, int], tmp_path: Path, idle: int
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    program = (
        "import json, pathlib; print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',"
        f"'kind': 'ExecCredential', 'status': {{'token': pathlib.Path({str(token)!r}).read_text()}}}}))"
    )
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", program],
        "interactiveMode": "Never",
    }
    kubeconfig = write_kubeconfig(tmp_path, door[1], authority, {"exec": plugin})
    clock = VirtualClock()
    async with await Client.connect(user_agent="test", kubeconfig=str(kubeconfig), clock=clock) as client:
        await client.get(CONFIG_MAPS, KEY)
        clock.jump(idle)
        token.write_text("second")
        door[0].token = "second"
        await client.get(CONFIG_MAPS, KEY)


async def test_server_of_a_foreign_authority_is_not_trusted(pod: Path, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    (pod / "ca.crt").write_bytes(stranger.pair.certificate.read_bytes())
    async with await Client.connect(user_agent="test") as client:
        with pytest.raises(errors.ConnectionFailed):
            await client.get(CONFIG_MAPS, KEY)


@pytest.mark.parametrize("content", [None, "", "[]", "a: [", "apiVersion: v1\nkind: Config\n"])
async def test_unusable_kubeconfig_is_said_to_be_one(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(errors.NoCredentials, match="kubeconfig"):
        await Client.connect(user_agent="test", kubeconfig=str(path))


async def test_pod_without_its_files_has_no_credentials(pod: Path) -> None:
    (pod / "ca.crt").write_text("no certificate")
    with pytest.raises(errors.NoCredentials):
        await Client.connect(user_agent="test")
    (pod / "token").unlink()
    with pytest.raises(errors.NoCredentials):
        await Client.connect(user_agent="test")


def write_kubeconfig(folder: Path, port: int, authority: Authority, user: dict[str, object]) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(authority.pair.certificate)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("https://10.0.0.1:443", "", False),
        ("https://10.0.0.1:443", "10.0.0.0/16", True),
        ("https://10.1.0.1:443", "10.0.0.0/16", False),
        ("https://10.0.0.1:443", "example.test, 10.0.0.1", True),
        ("https://[fd00::1]:443", "fd00::/8", True),
        ("https://[fe80::1]:443", "fd00::/8", False),
        ("https://[fd00::1]:443", "10.0.0.0/8", False),
        ("https://api.example.test:6443", ".example.test", True),
        ("https://api.example.test:6443", "10.0.0.0/8,other.test", False),
        ("https://10.0.0.1:443", "*", True),
        ("http://10.0.0.1:443", "", False),
    ],
)
def test_proxy_of_the_environment_is_used_but_for_what_it_excepts(
    host: str, no_proxy: str, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    assert auth._environment_proxy(host) == (None if direct else "http://proxy.test:3128")
