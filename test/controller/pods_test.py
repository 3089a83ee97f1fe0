"""Names, hashes and references that pods and Jobs are rendered with."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.inference import pinned
from controller.planning import Decision, Rung
from controller.tuning import job_hash, progressed, result_hash, short, tuned_message
from kube.api.workspace import Artifact, TuningSpec, TuningStatus
from runtime import contract
from test.controller.stage import TUNING

DIGEST = "sha256:" + "0" * 64
DECISION = Decision(rungs=(Rung("x", 1, 1, "nvidia.com/gpu", 100),))


@pytest.mark.parametrize(
    ("ref", "image"),
    [
        ("r.example/a/b:1", f"r.example/a/b@{DIGEST}"),
        ("r.example:5000/a/b", f"r.example:5000/a/b@{DIGEST}"),
        ("r.example:5000/a/b:1", f"r.example:5000/a/b@{DIGEST}"),
        (f"r.example/a@{DIGEST}", f"r.example/a@{DIGEST}"),
        ("busybox", f"busybox@{DIGEST}"),
    ],
)
def test_a_tuned_adapter_is_pulled_by_digest(ref: str, image: str) -> None:
    assert pinned(Artifact(ref=ref, digest=DIGEST)) == image


def test_without_a_digest_the_tag_has_to_do() -> None:
    assert pinned(Artifact(ref="r.example/a:1")) == "r.example/a:1"


def spec(**changes: object) -> TuningSpec:
    return msgspec.convert(TUNING["tuning"] | changes, TuningSpec)


def test_what_comes_after_does_not_change_what_is_trained() -> None:
    assert job_hash(spec(onSuccess="Release"), DECISION) == job_hash(spec(), DECISION)
    assert job_hash(spec(method="QLORA"), DECISION) == job_hash(spec(), DECISION)


def test_another_secret_is_another_job_but_the_same_result() -> None:
    rotated = spec(output={"image": "private.example/team/adapter:1", "imagePushSecret": "rotated"})
    assert job_hash(rotated, DECISION) != job_hash(spec(), DECISION)
    assert result_hash(rotated, DECISION) == result_hash(spec(), DECISION)


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": {"name": "phi-4"}},
        {"method": "lora"},
        {"input": {"urls": ["https://data.example/other.parquet"]}},
        {"output": {"image": "private.example/team/other:1", "imagePushSecret": "registry-push"}},
    ],
)
def test_what_changes_the_meaning_changes_the_result(changes: dict[str, object]) -> None:
    assert result_hash(spec(**changes), DECISION) != result_hash(spec(), DECISION)


@given(st.floats(0, 1e6))
def test_durations_are_short(seconds: float) -> None:
    assert len(short(seconds)) <= 8
    assert short(seconds)[-1] in "ms"


def test_durations_read_as_people_say_them() -> None:
    assert [short(seconds) for seconds in (4, 95, 3900)] == ["4s", "1m35s", "1h5m"]


@pytest.mark.parametrize(
    ("planned", "made", "told"),
    [
        (171, 75, "; stopped at step 75 of 171: the held-out rows had stopped profiting"),
        (171, 171, "; 171 steps"),
        (0, 0, ""),  # a report that says nothing of training
    ],
)
def test_what_was_made_is_told_with_its_steps(planned: int, made: int, told: str) -> None:
    report = contract.Status(phase="Succeeded", step=made, total_steps=planned)
    assert tuned_message(Artifact(ref="r/a:1", digest="sha256:1"), report) == "r/a:1 sha256:1" + told


def test_steps_never_go_back() -> None:
    known = TuningStatus(step=30, total_steps=40)
    resumed = contract.Status(phase="Training", step=20, total_steps=40)
    assert progressed(known, resumed) == known
    assert progressed(known, contract.Status(phase="Fetching")) == known
