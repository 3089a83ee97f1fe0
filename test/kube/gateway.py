"""An HTTP gateway before the real API server: writes down who asked what, lets watches lag, and loses its server.

It speaks plain HTTP to the controllers and TLS, as a user of the caller's choice, to the API server, so that it sees every
request that leaves a client, also one that nobody answers. What it forwards it does not change. `test/kube/proxy.py` is
the one that breaks bytes.
"""

import asyncio
import base64
import hashlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

from kube.clock import Clock, SystemClock
from test.expect import LONGEST_PAUSE, eventually

FORWARDED = ("Content-Type", "Accept", "Accept-Encoding", "User-Agent")
KEPT = ("Content-Type", "Retry-After")


@dataclass
class Request:
    """One request as it arrived. `status` is 0 for as long as nobody has answered, and for ever where nobody does."""

    moment: float
    method: str
    path: str
    query: str
    watch: bool
    body: bytes = b""
    status: int = 0

    @property
    def write(self) -> bool:
        return self.method != "GET"

    @property
    def about_lease(self) -> bool:
        """Whether it belongs to the leader election."""
        return self.path.startswith("/apis/coordination.k8s.io/")

    @property
    def content(self) -> tuple[str, str, str]:
        """What the request asks for: equal for two requests that ask for the very same thing."""
        return self.method, self.path, hashlib.sha256(self.body).hexdigest()

    def __str__(self) -> str:
        return f"{self.method} {self.path}{' (watch)' if self.watch else ''} → {self.status} {self.body[:200]!r}"


@dataclass
class Gateway:
    """Use it as an async context manager; `kubeconfig` then leads through it."""

    upstream: str
    context: ssl.SSLContext
    clock: Clock  # for the moments of requests
    lag: Callable[[str], float] = lambda path: 0.0  # seconds that everything comes late that a watch of `path` says
    down: bool = False  # requests are written down and the connection dies
    requests: list[Request] = field(default_factory=list)
    unanswered: int = 0  # requests under way, neither watches nor about the Lease
    answered: int = 0  # those that have had their answer

    @classmethod
    def before(cls, kubeconfig: Path, folder: Path, clock: Clock) -> "Gateway":
        """A gateway before the server of a kubeconfig, acting as its user. Keeps the user's key in `folder`."""
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
        certificate = folder / "gateway.pem"
        certificate.write_text(_decoded(user["client-certificate-data"]) + _decoded(user["client-key-data"]))
        context.load_cert_chain(certificate)
        return cls(cluster["server"], context, clock)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self.upstream,
            connector=aiohttp.TCPConnector(limit=0, ssl=self.context),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        await self._session.close()
        await self._runner.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through the gateway. The identity is the gateway's, so none is in it."""
        context = {"cluster": "gateway", "user": "gateway"}
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "gateway",
            "clusters": [{"name": "gateway", "cluster": {"server": self.url}}],
            "users": [{"name": "gateway", "user": {}}],
            "contexts": [{"name": "gateway", "context": context}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def cut(self) -> None:
        """End every connection to a client."""
        server = self._runner.server
        assert server is not None
        for connection in list(server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def since(self, moment: float) -> list[Request]:
        """What arrived after `moment`, without what leader election asks."""
        return [request for request in self.requests if request.moment > moment and not request.about_lease]

    def renewals(self, moment: float) -> int:
        """How often the Lease was written after `moment`."""
        return sum(each.write and each.about_lease and each.moment > moment for each in self.requests)

    def repeated(self) -> dict[str, int]:
        """Writes that were carried out more than once, and how often."""
        counts = Counter(each.content for each in self.requests if each.write and 200 <= each.status < 300)
        return {f"{method} {path}": count for (method, path, _), count in counts.items() if count > 1}

    async def quiet(self) -> float:
        """Wait until nobody has asked for anything for a second, nor waits for an answer. Return that moment.

        A second of looks, between which the loop turns: one in which the machine stood still was no quiet one.
        """
        before, looks = (-1, -1), 0

        def quiet() -> bool:
            nonlocal before, looks
            now = len([each for each in self.requests if not each.about_lease]), self.answered
            looks = looks + 1 if now == before and not self.unanswered else 0
            before = now
            return looks >= 1 / LONGEST_PAUSE

        await eventually(quiet)
        return self.clock.monotonic()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        watch = request.query.get("watch") == "1"
        noted = Request(self.clock.monotonic(), request.method, request.path, request.query_string, watch)
        self.requests.append(noted)
        counted = not watch and not noted.about_lease
        self.unanswered += counted
        try:
            return await self._answer(request, noted)
        finally:
            self.unanswered -= counted
            self.answered += counted

    async def _answer(self, request: web.Request, noted: Request) -> web.StreamResponse:
        noted.body = await request.read()
        if self.down:
            return _dead(request)
        try:
            async with self._session.request(
                request.method,
                request.rel_url,
                data=noted.body or None,
                headers={name: request.headers[name] for name in FORWARDED if name in request.headers},
            ) as answer:
                noted.status = answer.status
                return await self._pass_on(request, answer, self.lag(request.path) if noted.watch else 0.0)
        except aiohttp.ClientError:
            return _dead(request)

    async def _pass_on(self, request: web.Request, answer: aiohttp.ClientResponse, lag: float) -> web.StreamResponse:
        headers = {name: answer.headers[name] for name in KEPT if name in answer.headers}
        if request.query.get("watch") != "1":
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)
        passed = web.StreamResponse(status=answer.status, headers=headers)
        await passed.prepare(request)
        async for piece in _late(answer.content.iter_any(), lag):
            await passed.write(piece)
        return passed


async def _late(pieces: AsyncIterator[bytes], lag: float) -> AsyncIterator[bytes]:
    """The same pieces, each `lag` seconds after it came."""
    arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def read() -> None:
        try:
            async for piece in pieces:
                arrived.put_nowait((time.monotonic() + lag, piece))
        finally:
            arrived.put_nowait((time.monotonic() + lag, b""))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, piece = await arrived.get()
            await asyncio.sleep(due - time.monotonic())
            if not piece:
                break
            yield piece
        reading.result()  # an end that was none is one of ours too
    finally:
        reading.cancel()
        await asyncio.wait({reading})


def _dead(request: web.Request) -> web.Response:
    """What the client of a server that is gone sees: the end of its connection, and no answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()


@asynccontextmanager
async def gateway(kubeconfig: Path, folder: Path, clock: Clock | None = None) -> AsyncIterator[tuple[Gateway, str]]:
    """A running gateway, and the path of the kubeconfig that leads through it."""
    async with Gateway.before(kubeconfig, folder, clock or SystemClock()) as running:
        yield running, str(running.kubeconfig(folder / "through-gateway.kubeconfig"))
