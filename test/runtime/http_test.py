"""The middleware before an app in memory: `/chat`, health, the limit, the drain, the locked routes.

The app below stands for vLLM: it answers the two OpenAI routes in their shape and remembers what it was asked. What
vLLM itself does with a request is covered by e2e.
"""

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from prometheus_client import REGISTRY

from runtime import http
from runtime.http import Message, Middleware, Receive, Scope, Send, Settings

SETTINGS = Settings(secret="s3cret-s3cret", chat_model="tuned", max_pending=2)
OURS = {http.SECRET_HEADER: SETTINGS.secret}


class Engine:
    """An ASGI app with vLLM's answers. `gate` holds back generation until it is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: dict[str, str] = {}
        self.arrived = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        self.gate.set()
        self.models = {"base", "tuned"}
        self.healthy = True
        self.context = 8192

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        body = await self.read(receive)
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["path"].removeprefix(scope["root_path"])
        if path == "/v1/models":
            return await self.answer(send, 200, {"data": [{"id": "base", "max_model_len": self.context}]})
        self.asked.append((scope["method"], scope["path"], json.loads(body) if body else None))
        self.arrived.release()
        await self.gate.wait()
        match path:
            case "/health":
                return await self.answer(send, 200 if self.healthy else 503, None)
            case "/v1/chat/completions" | "/v1/completions":
                return await self.generate(send, path, json.loads(body))
            case _:
                return await self.answer(send, 200, {"passed": True})

    async def read(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message["body"]
        return body + await self.read(receive) if message["more_body"] else body

    async def generate(self, send: Send, path: str, asked: dict[str, Any]) -> None:
        if asked["model"] not in self.models:
            return await self.answer(send, 404, {"error": {"message": "The model does not exist."}})
        if asked["temperature"] == "hot":
            return await self.answer(send, 400, {"error": {"message": "temperature must be a number"}})
        said = asked["messages"][-1]["content"] if "messages" in asked else asked["prompt"]
        text = f"answer to {said}"
        choice = {"text": text} if path == "/v1/completions" else {"message": {"content": text}}
        await self.answer(send, 200, {"choices": [choice]})

    async def answer(self, send: Send, status: int, body: Any) -> None:
        encoded = json.dumps(body).encode() if body is not None else b""
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": encoded[:5], "more_body": True})
        await send({"type": "http.response.body", "body": encoded[5:]})


@dataclasses.dataclass
class Response:
    status: int
    body: Any
    headers: dict[str, str]


async def call(
    app: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, root: str = ""
) -> Response:
    sent: list[Message] = []
    parts = [body[:3], body[3:]]

    async def receive() -> Message:
        if not parts:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded, "query_string": b"", "root_path": root}
    await app(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent)
    shown = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Response(sent[0]["status"], json.loads(text) if text else None, shown)


async def chat(app: Any, body: Any, **headers: str) -> Response:
    return await call(app, "POST", "/chat", body if isinstance(body, bytes) else json.dumps(body).encode(), headers)


def rejected() -> float:
    return REGISTRY.get_sample_value("kaito_ratelimit_rejected_total") or 0.0


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def app(engine: Engine) -> Middleware:
    return Middleware(engine, SETTINGS)


async def test_the_seeds_question_is_answered_by_the_tuned_model(app: Middleware, engine: Engine) -> None:
    response = await chat(app, {"prompt": "What is a GPU?"}, accept="application/json")
    assert (response.status, response.body) == (200, {"Result": "answer to What is a GPU?"})
    assert response.headers["content-type"] == "application/json"
    [(method, path, asked)] = engine.asked
    assert (method, path, asked["model"], asked["temperature"]) == ("POST", "/v1/chat/completions", "tuned", 0)
    assert engine.headers["content-length"] == str(len(json.dumps(asked)))


async def test_a_model_without_chat_template_completes_the_prompt(engine: Engine) -> None:
    app = Middleware(engine, dataclasses.replace(SETTINGS, chat_template=False))
    assert (await chat(app, {"prompt": "Once"})).body == {"Result": "answer to Once"}
    assert engine.asked[0][1] == "/v1/completions"


async def test_the_answers_limit_never_exceeds_the_models_context(app: Middleware, engine: Engine) -> None:
    engine.context = 128
    await chat(app, {"prompt": "hi"})
    assert engine.asked[0][2]["max_tokens"] == 128


async def test_what_is_not_a_question_is_refused_with_its_reason(app: Middleware, engine: Engine) -> None:
    broken, missing = await chat(app, b"{nope"), await chat(app, {"question": "hi"})
    assert (broken.status, missing.status) == (400, 422)
    assert "not valid JSON" in broken.body["error"]["message"]
    assert engine.asked == []


async def test_a_body_beyond_the_limit_is_refused(app: Middleware) -> None:
    assert (await chat(app, b"x" * (http.BODY_LIMIT + 1))).status == 413


async def test_the_engines_own_refusal_reaches_the_caller(app: Middleware) -> None:
    response = await chat(app, {"prompt": "hi", "temperature": "hot"})
    assert (response.status, response.body["error"]["message"]) == (400, "temperature must be a number")


async def test_an_adapter_that_is_not_loaded_is_no_missing_route(app: Middleware, engine: Engine) -> None:
    engine.models = {"base"}
    response = await chat(app, {"prompt": "hi"})
    assert response.status == 503
    assert "'tuned' is not loaded" in response.body["error"]["message"]


async def test_chat_is_asked_with_post(app: Middleware) -> None:
    response = await call(app, "GET", "/chat")
    assert (response.status, response.headers["allow"]) == (405, "POST")


async def test_the_root_and_healthz_answer_as_the_seeds_server_did(app: Middleware, engine: Engine) -> None:
    assert (await call(app, "GET", "/")).body == "Server is running"
    assert (await call(app, "GET", "/healthz")).body == {"status": "Healthy"}
    engine.healthy = False
    sick = await call(app, "GET", "/healthz")
    assert (sick.status, sick.body) == (503, {"status": "Unhealthy"})


async def test_every_other_request_passes_unchanged(app: Middleware, engine: Engine) -> None:
    response = await call(app, "POST", "/v1/embeddings", b'{"input": "x"}')
    assert (response.status, response.body) == (200, {"passed": True})
    assert (await call(app, "GET", "/v1/models")).status == 200


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/adapters/x"])
async def test_adapter_routes_do_not_exist_without_the_secret(app: Middleware, engine: Engine, path: str) -> None:
    for headers in ({}, {http.SECRET_HEADER: "guess"}, {http.SECRET_HEADER: ""}):
        assert (await call(app, "POST", path, b"{}", headers)).status == 404
    assert engine.asked == []
    assert (await call(app, "POST", path, b"{}", OURS)).status == 200


@pytest.mark.parametrize("root", ["/llm", "/v1"])
async def test_a_root_path_opens_no_second_way_and_closes_none(app: Middleware, engine: Engine, root: str) -> None:
    """The routes below are found with it and, but for `/v1`, without it."""
    assert (await call(app, "POST", f"{root}/v1/load_lora_adapter", b"{}", root=root)).status == 404
    assert (await call(app, "GET", f"{root}{http.PENDING_PATH}", root=root)).status == 404
    assert engine.asked == []
    assert (await call(app, "POST", f"{root}/v1/load_lora_adapter", b"{}", OURS, root)).status == 200
    asked = await call(app, "POST", f"{root}/chat", b'{"prompt": "hi"}', root=root)
    assert (asked.status, engine.asked[-1][1]) == (200, f"{root}/v1/chat/completions")
    assert (await call(app, "GET", f"{root}/healthz", root=root)).body == {"status": "Healthy"}


@pytest.mark.parametrize(("method", "path"), [("GET", http.PENDING_PATH), ("POST", http.DRAIN_PATH)])
async def test_the_supervisors_routes_do_not_exist_without_the_secret(app: Middleware, method: str, path: str) -> None:
    assert (await call(app, method, path)).status == 404
    assert not app.draining
    assert (await call(app, method, path, headers=OURS)).status == 200


async def test_more_requests_than_can_run_and_wait_are_told_to_come_back(app: Middleware, engine: Engine) -> None:
    before = rejected()
    engine.gate.clear()
    waiting = [asyncio.create_task(chat(app, {"prompt": str(n)})) for n in range(2)]
    await engine.arrived.acquire()
    await engine.arrived.acquire()
    refused = await call(app, "POST", "/v1/chat/completions", b"{}")
    assert (refused.status, refused.headers["retry-after"]) == (429, http.RETRY_AFTER)
    assert rejected() == before + 1
    assert (await call(app, "GET", "/v1/models")).status == 200
    engine.gate.set()
    assert [response.status for response in await asyncio.gather(*waiting)] == [200, 200]
    assert app.pending == 0
    assert (await chat(app, {"prompt": "again"})).status == 200


async def test_the_supervisors_own_question_is_never_refused_or_counted(app: Middleware, engine: Engine) -> None:
    app.pending = SETTINGS.max_pending
    app.draining = True
    body = json.dumps({"model": "base", "prompt": "hi", "temperature": 0}).encode()
    assert (await call(app, "POST", "/v1/completions", body, OURS)).status == 200
    assert app.pending == SETTINGS.max_pending


async def test_a_draining_server_finishes_what_it_has_and_takes_nothing_new(app: Middleware, engine: Engine) -> None:
    engine.gate.clear()
    running = asyncio.create_task(chat(app, {"prompt": "long"}))
    await engine.arrived.acquire()
    assert (await call(app, "POST", http.DRAIN_PATH, headers=OURS)).body == {"pending": 1}
    refused = await chat(app, {"prompt": "late"})
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    engine.gate.set()
    assert (await running).status == 200
    assert (await call(app, "GET", http.PENDING_PATH, headers=OURS)).body == {"pending": 0}


async def test_a_failing_engine_does_not_leave_a_request_counted(app: Middleware, engine: Engine) -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("engine")

    app.app = failing
    with pytest.raises(RuntimeError):
        await call(app, "POST", "/v1/completions", b"{}")
    assert app.pending == 0


async def test_a_caller_who_hangs_up_is_sent_nothing_and_leaves_no_traceback(engine: Engine) -> None:
    """vLLM cancels the request of such a caller, and FastAPI makes 200 `null` of the answer that is then missing."""

    async def cancelling(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/models":
            return await engine(scope, receive, send)
        await engine.read(receive)
        assert await receive() == {"type": "http.disconnect"}
        await engine.answer(send, 200, None)
        await send({"type": "http.response.body", "body": b"null"})

    messages: list[Message] = [
        {"type": "http.request", "body": b'{"prompt": "hi"}', "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    app = Middleware(cancelling, SETTINGS)
    await app({"type": "http", "method": "POST", "path": "/chat", "headers": [], "root_path": ""}, receive, send)
    assert sent == messages == []
    assert app.pending == 0


async def test_settings_come_from_the_environment_of_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(http.SETTINGS_ENV, '{"secret":"abc","chat_model":"m","max_pending":7}')
    assert Middleware(Engine()).settings == Settings("abc", "m", max_pending=7)
