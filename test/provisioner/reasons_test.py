"""The closed lists of reasons: nothing else is written on a claim, and everything is explained."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.generate.docs import reasons_page
from kube.api.reasons import ClaimReason, Disruption
from provisioner.cloud import CloudError
from test.conftest import ROOT

SOURCES = sorted((ROOT / "provisioner").rglob("*.py"))
# Where a reason stands in a call; of `set` a true condition repeats its own name, which is a constant too.
POSITIONS = {"set": 2, "wait": 1, "fail": 1, "disrupt": 0}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_reason_is_a_word_of_its_own(source: Path) -> None:
    assert [ast.unparse(reason) for reason in _reasons(source) if isinstance(reason, ast.Constant)] == []


def _reasons(source: Path) -> Iterator[ast.expr]:
    for call in ast.walk(ast.parse(source.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            position = POSITIONS.get(call.func.attr)
            if position is not None and len(call.args) > position:
                yield call.args[position]


def test_some_reason_was_looked_at() -> None:
    assert sum(1 for source in SOURCES for _ in _reasons(source)) > 20


def test_every_reason_of_a_claim_is_explained() -> None:
    page = reasons_page()
    for reason in (*ClaimReason, *Disruption):
        assert f"| `{reason}` | {reason.meaning} |" in page
        assert reason.meaning.endswith(".")


def test_every_answer_of_a_cloud_has_a_reason_and_a_terminal_one_ends_the_claim() -> None:
    kinds = list(_kinds(CloudError))
    assert all(kind.reason in ClaimReason for kind in kinds)
    assert all(kind.reason.ends for kind in kinds if kind.terminal)


def _kinds(kind: type[CloudError]) -> Iterator[type[CloudError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)
