"""What the supervisor makes of an engine that is dead, silent, hung or only busy. The client is a double that answers
from a script; the wire itself is covered by serve_test.
"""

from typing import Any

import pytest

from runtime.contract import Phase
from runtime.engine.client import Answer, EngineClient, Unanswered, counted, effect
from runtime.engine.health import QUIET, SILENT, Vitals
from runtime.engine.supervisor import Duty, Supervisor
from runtime.status import Reporter
from test.runtime.engine.health_test import Time

OK = Answer(200, b"")


class Scripted(EngineClient):
    """Answers what its attributes say; None is no answer."""

    said: dict[str, Any]

    def __init__(self, **said: Any) -> None:
        super().__init__(0, "secret")
        object.__setattr__(self, "said", {"health": OK, "probe": OK, "pending": 0, "tokens": 0.0, **said})

    def _say(self, what: str) -> Any:
        if self.said[what] is None:
            raise Unanswered(what)
        return self.said[what]

    def health(self, timeout: float) -> Answer:
        return self._say("health")  # type: ignore[no-any-return]  # as scripted

    def probe(self, model: str, timeout: float) -> Answer:
        return self._say("probe")  # type: ignore[no-any-return]  # as scripted

    def pending(self, timeout: float) -> int:
        return self._say("pending")  # type: ignore[no-any-return]  # as scripted

    def tokens(self, timeout: float) -> float | None:
        return self.said["tokens"]  # type: ignore[no-any-return]  # as scripted; None: vLLM counts none


def watched(client: Scripted, time: Time, looks: int = 10, seconds: float = QUIET / 2) -> Vitals:
    vitals = Vitals(time)
    supervisor = Supervisor(Duty("m"), client, Reporter(Phase.READY), vitals, monotonic=time)
    for _ in range(looks):
        time.now += seconds
        supervisor._look()
    return vitals


def test_an_idle_engine_is_alive() -> None:
    assert watched(Scripted(), Time()).alive


def test_a_dead_engine_is_known_by_its_own_word() -> None:
    vitals = watched(Scripted(health=Answer(503, b"")), Time(), looks=1)
    assert (vitals.alive, vitals.why) == (False, "the engine is dead")


def test_a_server_without_an_answer_is_given_up_after_a_while() -> None:
    assert watched(Scripted(health=None), Time(), looks=1, seconds=SILENT - 1).alive
    assert not watched(Scripted(health=None), Time(), looks=2, seconds=SILENT / 2).alive


def test_requests_that_wait_on_an_engine_that_answers_a_question_are_a_slow_readers() -> None:
    assert watched(Scripted(pending=3), Time()).alive


def test_an_engine_that_owes_answers_and_answers_no_question_hangs() -> None:
    vitals = watched(Scripted(pending=3, probe=None), Time())
    assert (vitals.alive, vitals.why) == (False, "the engine hangs: requests wait and not one token comes")


def test_an_engine_that_counts_no_tokens_is_not_judged_by_them() -> None:
    """`disable-log-stats`: a question behind a long queue is answered late by a healthy engine too."""
    assert watched(Scripted(pending=300, tokens=None, probe=None), Time()).alive


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# HELP vllm:generation_tokens_total x\n", None),
        ('vllm:prompt_tokens_total{engine="0"} 3.0\nvllm:generation_tokens_total{engine="0"} 2.0\n', 5.0),
        ("vllm:prompt_tokens_total 0.0\n", 0.0),
    ],
)
def test_counters_that_are_absent_are_no_zero(text: str, expected: float | None) -> None:
    assert counted(text) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"), [({"a": -0.5, "b": -1.0}, 0.0), ({"a": -0.75, "b": -1.0}, 0.25), ({"c": -0.5}, 1.0)]
)
def test_an_adapters_effect_is_the_largest_difference(tokens: dict[str, float], expected: float) -> None:
    def answer(likely: dict[str, float]) -> Answer:
        import json

        return Answer(200, json.dumps({"choices": [{"index": 0, "logprobs": {"top_logprobs": [likely]}}]}).encode())

    assert effect(answer({"a": -0.5, "b": -1.0}), answer(tokens)) == expected
