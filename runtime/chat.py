"""The seed's `POST /chat` as one of OpenAI's requests, and its answer as the seed's. Pure: bytes in, values out.

Owns what `/chat` accepts: `{"prompt": "…"}`, or `messages`, with the generation options of KAITO's text-generation
server, at the top or under `generate_kwargs`. Knows nothing of HTTP servers.

An answer is deterministic unless the caller asks for sampling: the same question is answered alike, as KAITO's server
did (`do_sample` false).
"""

import dataclasses
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

MAX_TOKENS = 512  # of an answer, where the caller sets no limit; vLLM cuts it to what the context still holds

# KAITO's (that is, transformers') names → vLLM's. A length counts the answer alone: what the prompt takes is not ours.
_OPTIONS = {
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "min_length": "min_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
    "eos_token_id": "stop_token_ids",
}
# Options that vLLM lacks, at the value that changes nothing; another value is refused rather than ignored.
_NEUTRAL = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "typical_p": 1,
    "length_penalty": 1,
    "diversity_penalty": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
# What concerns only how transformers works inside, or how it tidies its text.
_IGNORED = (
    "early_stopping",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "renormalize_logits",
    "clean_up_tokenization_spaces",
    "handle_long_generation",
)
_OWN = ("prompt", "messages", "prefix", "return_full_text", "generate_kwargs", "do_sample")


class Refused(Exception):
    """The request cannot be answered; `status` and the message go to the caller."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Question:
    """One request for the engine: where it goes, what it says, and what stands before the answer."""

    path: str
    body: Mapping[str, Any]
    prefix: str = ""


def question(body: bytes, model: str, *, has_template: bool, context: int = 0) -> Question:
    """Translate a `/chat` body. Raises Refused: 400 for what is not JSON, 422 for what is not a question.

    `context` is the model's limit in tokens, 0 where it is not known.
    """
    asked = _json_object(body)
    limit = min(MAX_TOKENS, context) if context else MAX_TOKENS
    common = {"model": model, "max_tokens": limit, "temperature": 0, **_generation(asked)}
    if asked.get("messages") is not None:
        return _conversation(asked, common, has_template=has_template)
    prompt = asked.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise _unprocessable('"prompt" must be a text that is not empty, as in {"prompt": "What is a GPU?"}')
    text = str(asked.get("prefix") or "") + prompt
    echo = text if asked.get("return_full_text") else ""
    if not has_template:
        return Question("/v1/completions", {**common, "prompt": text}, echo)
    return Question("/v1/chat/completions", {**common, "messages": [{"role": "user", "content": text}]}, echo)


def answer(body: bytes, prefix: str = "") -> dict[str, str]:
    """The seed's answer from the engine's, of either kind."""
    choice = json.loads(body)["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return {"Result": prefix + (text or "")}


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not valid JSON: {error}") from error
    if not isinstance(asked, dict):
        raise _unprocessable('the body must be a JSON object, as in {"prompt": "What is a GPU?"}')
    return asked


def _conversation(asked: Mapping[str, Any], common: Mapping[str, Any], *, has_template: bool) -> Question:
    if asked.get("prompt") is not None:
        raise _unprocessable('give either "prompt" or "messages", not both')
    if not has_template:
        raise _unprocessable('this model has no chat template: send "prompt" instead of "messages"')
    return Question("/v1/chat/completions", {**common, "messages": asked["messages"]})


def _generation(asked: Mapping[str, Any]) -> dict[str, Any]:
    extra = asked.get("generate_kwargs") or {}
    if not isinstance(extra, dict):
        raise _unprocessable('"generate_kwargs" must be a JSON object')
    given = {key: value for key, value in asked.items() if key not in _OWN or key == "do_sample"} | extra
    options: dict[str, Any] = {}
    for key, value in given.items():
        if value is not None:
            options |= _option(key, value)
    return options | _sampling(given)


def _option(key: str, value: Any) -> dict[str, Any]:
    if key in _OPTIONS:
        listed = key == "eos_token_id" and not isinstance(value, list)
        return {_OPTIONS[key]: [value] if listed else value}
    if key in _IGNORED or key == "do_sample" or (key in _NEUTRAL and _NEUTRAL[key] == value):
        return {}
    if key in _NEUTRAL:
        raise _unprocessable(f'"{key}": only {_NEUTRAL[key]} is supported')
    raise _unprocessable(f'unknown option "{key}"; known: {", ".join(_OPTIONS)}, do_sample, return_full_text')


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """`do_sample` decides as in transformers; without it a temperature speaks for itself."""
    match given.get("do_sample"):
        case None:
            return {}
        case False:
            return {"temperature": 0}
        case _:
            asked = given.get("temperature")
            return {"temperature": 1.0 if asked is None else asked}


def _unprocessable(message: str) -> Refused:
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, message)
