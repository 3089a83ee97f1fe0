"""What `/chat` accepts and how it is put to the engine."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import chat


def translated(has_template: bool = True, **asked: Any) -> dict[str, Any]:
    return dict(chat.question(json.dumps(asked).encode(), "m", has_template=has_template).body)


def refusal(has_template: bool = True, **asked: Any) -> str:
    with pytest.raises(chat.Refused) as caught:
        translated(has_template, **asked)
    assert caught.value.status == 422
    return str(caught.value)


def test_a_prompt_alone_is_a_deterministic_conversation_of_one_turn() -> None:
    assert translated(prompt="hi") == {
        "model": "m",
        "max_tokens": chat.MAX_TOKENS,
        "temperature": 0,
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_kaitos_generation_options_become_vllms() -> None:
    body = translated(
        prompt="hi",
        clean_up_tokenization_spaces=True,
        generate_kwargs={
            "max_length": 50,
            "min_length": 2,
            "do_sample": True,
            "top_k": 10,
            "eos_token_id": 7,
            "num_beams": 1,
            "early_stopping": False,
            "repetition_penalty": 1.2,
            "top_p": None,
        },
    )
    del body["messages"], body["model"]
    assert body == {
        "max_tokens": 50,
        "min_tokens": 2,
        "temperature": 1.0,
        "top_k": 10,
        "stop_token_ids": [7],
        "repetition_penalty": 1.2,
    }


@pytest.mark.parametrize(
    ("asked", "temperature"),
    [
        ({}, 0),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": False, "temperature": 0.7}, 0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
        ({"do_sample": True, "temperature": 0.0}, 0.0),
    ],
)
def test_sampling_happens_only_where_it_is_asked_for(asked: dict[str, Any], temperature: float) -> None:
    assert translated(prompt="hi", **asked)["temperature"] == temperature
    assert translated(prompt="hi", generate_kwargs=asked)["temperature"] == temperature


def test_an_option_that_vllm_lacks_is_refused_and_not_ignored() -> None:
    assert '"num_beams": only 1' in refusal(prompt="hi", generate_kwargs={"num_beams": 4})
    assert 'unknown option "tempreature"' in refusal(prompt="hi", tempreature=1)


@pytest.mark.parametrize("prompt", [None, 3, "", "  ", ["hi"]])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    assert '"prompt" must be a text' in refusal(prompt=prompt)


def test_a_conversation_is_passed_on() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert translated(messages=turns)["messages"] == turns
    assert "not both" in refusal(prompt="hi", messages=turns)
    assert "no chat template" in refusal(has_template=False, messages=turns)


def test_the_full_text_begins_with_the_prompt_where_it_is_asked_for() -> None:
    asked = chat.question(b'{"prompt": "1+1=", "return_full_text": true}', "m", has_template=False)
    assert asked.body["prompt"] == "1+1="
    assert chat.answer(b'{"choices": [{"text": "2"}]}', asked.prefix) == {"Result": "1+1=2"}


def test_an_empty_answer_is_an_empty_text() -> None:
    assert chat.answer(b'{"choices": [{"message": {"content": null}}]}') == {"Result": ""}


@given(st.text(min_size=1).filter(str.strip))
def test_every_text_reaches_the_model_as_it_was_sent(prompt: str) -> None:
    assert translated(prompt=prompt)["messages"][0]["content"] == prompt


def outcome(body: bytes) -> int:
    try:
        chat.question(body, "m", has_template=True)
    except chat.Refused as refused:
        return refused.status
    return 200


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
KEYS = st.sampled_from(["prompt", "messages", "generate_kwargs", "do_sample", "temperature", "num_beams", "other"])
DOCUMENTS = st.dictionaries(KEYS, LEAVES | st.lists(LEAVES) | st.dictionaries(KEYS, LEAVES)) | LEAVES


@given(st.binary() | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_no_body_makes_anything_but_a_question_or_a_refusal(body: bytes) -> None:
    assert outcome(body) in (200, 400, 422)
