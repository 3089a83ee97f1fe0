"""The supervisor's side of the engine's HTTP server: is it well, does it answer, load this adapter. Loopback only.

Translates HTTP into values and `Unanswered`; decides nothing. The routes are vLLM's public ones and the middleware's.
"""

import dataclasses
import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runtime import http as middleware

PROMPTS = ("The capital of France is", "Question: What is two plus two?\nAnswer:", "Once upon a time")
TOP = 5  # log-probabilities compared per prompt


class Unanswered(Exception):
    """No HTTP answer: refused, reset or not in time."""


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return self.status == 200

    def error(self) -> str:
        """The message of vLLM's error document, or the body's beginning."""
        try:
            return str(json.loads(self.body)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return self.body[:300].decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class EngineClient:
    port: int
    secret: str
    api_key: str = ""

    def health(self, timeout: float) -> Answer:
        return self._request("GET", "/health", timeout=timeout)

    def probe(self, model: str, timeout: float) -> Answer:
        """One token for each of a few fixed prompts, with the likeliest alternatives: proof that `model` answers."""
        body = {"model": model, "prompt": list(PROMPTS), "max_tokens": 1, "temperature": 0, "logprobs": TOP}
        return self._request("POST", "/v1/completions", body, timeout)

    def load_adapter(self, name: str, path: str, timeout: float) -> Answer:
        return self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, timeout)

    def pending(self, timeout: float) -> int:
        """Requests that the server has accepted and not finished."""
        answer = self._request("GET", middleware.PENDING_PATH, timeout=timeout)
        return int(json.loads(answer.body)["pending"])

    def drain(self, timeout: float) -> None:
        self._request("POST", middleware.DRAIN_PATH, {}, timeout)

    def tokens(self, timeout: float) -> float | None:
        """All tokens read and written so far: it grows while the engine works. None with vLLM's `disable-log-stats`."""
        return counted(self._request("GET", "/metrics", timeout=timeout).body.decode(errors="replace"))

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = 5.0) -> Answer:
        headers = {middleware.SECRET_HEADER: self.secret, "content-type": "application/json"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unanswered(f"{method} {path}: {type(error).__name__} {error}") from error
        finally:
            connection.close()


def counted(metrics: str) -> float | None:
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count")
    values = [float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(names)]
    return sum(values) if values else None


def effect(base: Answer, adapted: Answer) -> float:
    """Largest difference of the likeliest tokens' log-probabilities; 0 means that the adapter changes nothing."""
    pairs = zip(_likeliest(base), _likeliest(adapted), strict=False)
    return max((_difference(one, other) for one, other in pairs), default=0.0)


def _likeliest(answer: Answer) -> Sequence[Mapping[str, float]]:
    choices = sorted(json.loads(answer.body)["choices"], key=lambda choice: choice["index"])
    return [choice["logprobs"]["top_logprobs"][0] for choice in choices]


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    if one.keys() != other.keys():
        return 1.0  # other tokens are likely: more than any rounding
    return max(abs(one[token] - other[token]) for token in one)
