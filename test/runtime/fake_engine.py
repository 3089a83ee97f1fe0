"""The far side of the supervisor's wire: a process that is started as vLLM is and answers the routes used of it.

Our middleware runs in it as it does in vLLM, under uvicorn as there. What it does not do: generate (a completion
repeats the prompt; the "logits" are drawn from the model's name), check adapters, stream, stop by itself, or print what
vLLM prints. Behaviour by the environment FAKE_ENGINE, a JSON object:
`says` (lines) and `exit` (status): end at once; `refuses`: adapter names that fail to load; `idle`: adapter names that
answer as the base does; `gate`: a named pipe, and the prompt "slow" is answered when its writer closes it; `start`: the
same, for listening at all.
"""

import asyncio
import json
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from runtime import http
from runtime.http import Receive, Scope, Send

BEHAVIOUR = json.loads(os.environ.get("FAKE_ENGINE", "{}"))


class Server:
    def __init__(self, model: str) -> None:
        self.base = model
        self.models = {model}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        body += message.get("body", b"")
        status, answer = await self.route(scope["path"], json.loads(body) if body else {})
        encoded = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        headers = [(b"content-length", str(len(encoded)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": encoded})

    async def route(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        match path:
            case "/health":
                return 200, ""
            case "/metrics":
                return 200, "vllm:generation_tokens_total 1.0\n"
            case "/v1/models":
                return 200, {"data": [{"id": name, "max_model_len": 64} for name in sorted(self.models)]}
            case "/v1/load_lora_adapter":
                return self.load(asked["lora_name"], Path(asked["lora_path"]))
            case "/v1/completions" | "/v1/chat/completions":
                return await self.generate(asked)
        return 404, {"detail": "Not Found"}

    def load(self, name: str, path: Path) -> tuple[int, Any]:
        if name in BEHAVIOUR.get("refuses", []) or not (path / "adapter_config.json").exists():
            return 500, {"error": {"message": f"no such thing as {name}"}}
        self.models.add(name)
        return 200, "Success"

    async def generate(self, asked: dict[str, Any]) -> tuple[int, Any]:
        model = asked["model"]
        if model not in self.models:
            return 404, {"error": {"message": f"The model `{model}` does not exist."}}
        if "messages" in asked:
            said = asked["messages"][-1]["content"]
            await self.gate(said)
            return 200, {"choices": [{"index": 0, "message": {"content": f"{model}: {said}"}}]}
        seed = self.base if model in BEHAVIOUR.get("idle", []) else model
        likely = {"top_logprobs": [{"a": -zlib.crc32(seed.encode()) / 2**32}]}
        return 200, {"choices": [{"index": n, "text": p, "logprobs": likely} for n, p in enumerate(asked["prompt"])]}

    async def gate(self, said: str) -> None:
        if said == "slow":
            await asyncio.to_thread(Path(BEHAVIOUR["gate"]).read_bytes)


def main(arguments: Sequence[str]) -> None:
    import uvicorn  # type: ignore[import-not-found]  # of vLLM's own, only in the runtime environment

    config = yaml.safe_load(Path(arguments[arguments.index("--config") + 1]).read_text())
    assert arguments[-2:] == ["--middleware", "runtime.http.Middleware"], arguments
    if "start" in BEHAVIOUR:
        Path(BEHAVIOUR["start"]).read_bytes()
    app = http.Middleware(Server(config["served-model-name"][0]))
    uvicorn.run(app, host="127.0.0.1", port=config["port"], lifespan="off")


if __name__ == "__main__":
    print("\n".join(BEHAVIOUR.get("says", ["fake engine"])), flush=True)
    if "exit" in BEHAVIOUR:
        sys.exit(BEHAVIOUR["exit"])
    main(sys.argv[1:])
