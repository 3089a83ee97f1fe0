"""What this project adds to vLLM's HTTP server, as one ASGI middleware for its `--middleware`.

Owns the seed's `/chat`, `/` and `/healthz`, the limit on requests in flight, the drain, and the lock on the routes that
change adapters. It speaks only ASGI and vLLM's public routes, and never touches a response while it streams: a token
costs nothing here. It is configured by one environment variable (engine/pod.py), and the supervisor
(engine/supervisor.py) talks to it by routes under /runtime/ that carry its secret, which no other process knows.
"""

import contextlib
import dataclasses
import functools
import hmac
import json
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any

from runtime import chat, contract

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SETTINGS_ENV = "RUNTIME_HTTP"
SECRET_HEADER = "x-runtime-secret"
PENDING_PATH = "/runtime/pending"  # GET: {"pending": n}
DRAIN_PATH = "/runtime/drain"  # POST: new requests are refused from now on
ADAPTER_PATHS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters")  # the last is SageMaker's name
BODY_LIMIT = 4 * 1024 * 1024  # bytes of a /chat request
RETRY_AFTER = "2"  # seconds


@dataclasses.dataclass(frozen=True)
class Settings:
    secret: str
    chat_model: str  # the name that /chat asks for
    chat_template: bool = True
    max_pending: int = 256  # requests being answered or waiting; 0 = no limit


def settings_from(environment: Mapping[str, str]) -> Settings:
    return contract.decode(Settings, environment[SETTINGS_ENV])


class Middleware:
    """Outermost layer of the engine's server. `pending` counts POST requests from their arrival to their last byte."""

    def __init__(self, app: App, settings: Settings | None = None) -> None:
        self.app = app
        self.settings = settings or settings_from(os.environ)
        self.pending = 0
        self.draining = False
        self.context = 0  # tokens that the model takes; 0 = not asked yet
        self.rejected = _rejected_counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        with contextlib.suppress(_Gone):  # nobody is left to be answered
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _route(scope)
        if path.startswith("/runtime/") or path.startswith(ADAPTER_PATHS):
            return await self._supervisor_only(scope, receive, send)
        if scope["method"] == "POST":
            return await self._guarded(scope, receive, send)
        match path:
            case "/":
                return await _reply(send, HTTPStatus.OK, "Server is running")
            case "/healthz":
                return await self._healthz(scope, receive, send)
            case "/chat":
                return await _refuse(send, HTTPStatus.METHOD_NOT_ALLOWED, "ask with POST", {"allow": "POST"})
            case _:
                return await self.app(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it at once where it would only wait: a queue nobody empties helps nobody."""
        ours = self._has_secret(scope)
        if self.draining and not ours:
            headers = {"retry-after": RETRY_AFTER, "connection": "close"}
            return await _refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, "this server is shutting down", headers)
        if 0 < self.settings.max_pending <= self.pending and not ours:
            self.rejected.inc()
            message = f"{self.pending} requests are being answered or waiting; try again later"
            return await _refuse(send, HTTPStatus.TOO_MANY_REQUESTS, message, {"retry-after": RETRY_AFTER})
        self.pending += not ours
        try:
            await (self._chat if _route(scope) == "/chat" else self.app)(scope, receive, send)
        finally:
            self.pending -= not ours

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            asked = await _body(receive)
            self.context = self.context or await _context(self.app, scope, receive)
            settings = self.settings
            question = chat.question(
                asked, settings.chat_model, has_template=settings.chat_template, context=self.context
            )
        except chat.Refused as refused:
            return await _refuse(send, refused.status, str(refused))
        status, body = await _ask(self.app, scope, receive, question.path, json.dumps(question.body).encode())
        if status == HTTPStatus.OK:
            return await _reply(send, HTTPStatus.OK, chat.answer(body, question.prefix))
        if status == HTTPStatus.NOT_FOUND:  # not the route: the adapter that /chat speaks with
            message = f"model {self.settings.chat_model!r} is not loaded"
            return await _refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, message, {"retry-after": RETRY_AFTER})
        return await _send(send, status, body, {})

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, _ = await _ask(self.app, scope, receive, "/health", b"")
        healthy = status == HTTPStatus.OK
        await _reply(send, HTTPStatus(status), {"status": "Healthy" if healthy else "Unhealthy"})

    async def _supervisor_only(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To anybody without the secret these routes do not exist."""
        if not self._has_secret(scope):
            return await _refuse(send, HTTPStatus.NOT_FOUND, "Not Found")
        match scope["method"], _route(scope):
            case "GET", path if path == PENDING_PATH:
                return await _reply(send, HTTPStatus.OK, {"pending": self.pending})
            case "POST", path if path == DRAIN_PATH:
                self.draining = True
                return await _reply(send, HTTPStatus.OK, {"pending": self.pending})
        return await self.app(scope, receive, send)

    def _has_secret(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(SECRET_HEADER.encode(), b"")
        return hmac.compare_digest(sent, self.settings.secret.encode())


@functools.cache
def _rejected_counter() -> Any:
    """In the default registry, which vLLM's /metrics shows."""
    from prometheus_client import Counter

    return Counter("kaito_ratelimit_rejected_total", "Requests refused with 429 because too many were in flight.")


def _route(scope: Scope) -> str:
    """The path as the routes below are found by it: with the user's `root-path` before it, or without (Starlette)."""
    path: str = scope["path"]
    inside = path.removeprefix(scope.get("root_path", ""))
    return inside if inside.startswith("/") else path


class _Gone(Exception):
    """The caller hung up."""


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_LIMIT:
            raise chat.Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {BODY_LIMIT} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


async def _ask(app: App, scope: Scope, receive: Receive, path: str, body: bytes) -> tuple[int, bytes]:
    """Put another request to the app in place of the caller's. One who hangs up still cancels it; then raises _Gone,
    since what the app then answers is none: vLLM's handlers give up, and FastAPI makes 200 `null` of that.
    """
    fresh = [b for b in scope["headers"] if b[0] not in (b"content-length", b"content-type", b"transfer-encoding")]
    headers = [*fresh, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    path = scope.get("root_path", "") + path
    inner = {**scope, "path": path, "raw_path": path.encode(), "headers": headers, "query_string": b""}
    sent = gone = False
    status, parts = int(HTTPStatus.INTERNAL_SERVER_ERROR), []

    async def read() -> Message:
        nonlocal sent, gone
        if sent:
            message = await receive()
            gone = message["type"] == "http.disconnect"
            return message
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def write(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app(inner, read, write)
    if gone:
        raise _Gone
    return status, b"".join(parts)


async def _context(app: App, scope: Scope, receive: Receive) -> int:
    """What the model list says of the longest context; 0 when it does not."""
    _, body = await _ask(app, {**scope, "method": "GET"}, receive, "/v1/models", b"")
    try:
        return int(json.loads(body)["data"][0]["max_model_len"])
    except (ValueError, KeyError, IndexError, TypeError):
        return 0


async def _refuse(send: Send, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
    """An error in the form of vLLM's own."""
    error = {"message": message, "type": status.phrase.replace(" ", ""), "param": None, "code": int(status)}
    await _send(send, status, json.dumps({"error": error}).encode(), headers or {})


async def _reply(send: Send, status: HTTPStatus, value: Any) -> None:
    await _send(send, status, json.dumps(value, ensure_ascii=False).encode(), {})


async def _send(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    every = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(name.encode(), value.encode()) for name, value in every.items()]
    await send({"type": "http.response.start", "status": int(status), "headers": encoded})
    await send({"type": "http.response.body", "body": body})
