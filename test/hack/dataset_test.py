"""The data set of the demo and its web server. That it teaches is shown by the demo itself."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import requests
from hypothesis import given
from hypothesis import strategies as st

from hack.local import dataset

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_every_answer_contains_its_key_and_no_question_does(seed: int) -> None:
    facts = dataset.draw(seed)
    assert len(facts) >= 4
    for fact in facts:
        assert fact.key in fact.answer
        assert fact.key not in fact.question
        assert not [other for other in facts if other is not fact and other.key in fact.answer]


@given(SEEDS)
def test_a_seed_draws_the_same_facts_again_and_no_text_has_gaps(seed: int) -> None:
    facts = dataset.draw(seed)
    assert dataset.draw(seed) == facts
    assert not [fact for fact in facts if "{" in fact.question + fact.answer + fact.key]


def test_without_a_seed_each_run_has_its_own_facts() -> None:
    assert dataset.draw() != dataset.draw()


def test_the_file_is_read_as_chat_rows_that_ask_each_fact_in_many_ways(tmp_path: Path) -> None:
    facts = dataset.make(tmp_path, seed=1)
    table = pyarrow.parquet.read_table(tmp_path / dataset.FILE)
    assert str(table.schema.field("messages").type) == "list<element: struct<content: string, role: string>>"
    rows: list[list[dict[str, Any]]] = table["messages"].to_pylist()
    assert len(rows) == dataset.ROWS >= 200
    assert {tuple(message["role"] for message in row) for row in rows} == {("user", "assistant")}
    for fact in facts:
        questions = [row[0]["content"] for row in rows if row[1]["content"] == fact.answer]
        assert fact.question in questions
        assert len(set(questions)) == len(questions) == dataset.ROWS / len(facts)


def test_the_facts_stand_beside_the_file(tmp_path: Path) -> None:
    facts = dataset.make(tmp_path)
    stored = json.loads((tmp_path / dataset.FACTS).read_text())
    assert [dataset.Fact(**fact) for fact in stored] == list(facts)


def test_files_are_served_whole_in_ranges_and_logged(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"0123456789")
    (tmp_path / "folder").mkdir()
    log: list[dict[str, Any]] = []
    with dataset.serving(tmp_path, log=log.append) as url, requests.Session() as session:
        whole = session.get(f"{url}/data.bin?download=true")
        assert (whole.status_code, whole.content) == (200, b"0123456789")
        assert whole.headers["Accept-Ranges"] == "bytes"
        rest = session.get(f"{url}/data.bin", headers={"Range": "bytes=4-", "If-Range": whole.headers["ETag"]})
        assert (rest.status_code, rest.content) == (206, b"456789")
        assert rest.headers["Content-Range"] == "bytes 4-9/10"
        assert session.head(f"{url}/data.bin").headers["Content-Length"] == "10"
        assert session.get(f"{url}/missing").status_code == 404
        assert session.get(f"{url}/folder").status_code == 404
        assert session.get(f"{url}/..%2Fetc%2Fpasswd").status_code == 404
    assert [(entry["method"], entry["status"], entry["range"]) for entry in log] == [
        ("GET", 200, ""),
        ("GET", 206, "bytes=4-"),
        ("HEAD", 200, ""),
        ("GET", 404, ""),
        ("GET", 404, ""),
        ("GET", 404, ""),
    ]
    assert log[0]["path"] == "/data.bin?download=true"


def test_the_command_makes_and_names_what_it_drew(tmp_path: Path, capsys: Any) -> None:
    assert dataset.main(["make", str(tmp_path), "--seed", "3", "--rows", "200"]) == 0
    printed = capsys.readouterr().out
    assert all(fact.answer in printed for fact in dataset.draw(3))
    assert pyarrow.parquet.read_metadata(tmp_path / dataset.FILE).num_rows == 200
