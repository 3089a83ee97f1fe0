"""Data sets: files, shapes, and that whatever is wrong with one is said before torch is imported. Masks: mask_test."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.contract import ExitCode, Reason
from runtime.data import dataset, files
from runtime.data.shapes import Columns, Completion, Conversation, Example, Text, Tokens
from runtime.fault import Fault

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def lines(folder: Path, *rows: Any, name: str = "train.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def read(folder: Path, **columns: str) -> list[Example]:
    return list(dataset.read(folder, Columns(**columns)).examples())


def conversation(user: str, assistant: str, system: str = "") -> Conversation:
    head = [{"role": "system", "content": system}] if system else []
    return Conversation((*head, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}))


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"messages": CHAT}, conversation("q", "a")),
        ({"messages": json.dumps(CHAT)}, conversation("q", "a")),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, conversation("q", "a")),
        ({"messages": [*CHAT, {"role": "user", "content": "and?"}]}, conversation("q", "a")),
        ({"instruction": "q", "input": "", "output": "a"}, conversation("q", "a")),
        ({"instruction": "q", "input": "c", "output": "a", "text": "rendered"}, conversation("q\n\nc", "a")),
        ({"instruction": "q", "context": None, "response": "a", "category": "x"}, conversation("q", "a")),
        ({"question": "q", "answer": "a"}, conversation("q", "a")),
        ({"prompt": "q", "completion": "a"}, Completion("q", "a")),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, conversation("q", "a")),
        ({"text": "q a"}, Text("q a")),
        ({"input_ids": [1, 2], "labels": [-100, 2]}, Tokens((1, 2), (-100, 2))),
    ],
)
def test_each_shape_becomes_its_example(row: dict[str, Any], example: Example, tmp_path: Path) -> None:
    assert read(lines(tmp_path / "data", row)) == [example]


def test_parts_of_content_are_joined_and_tool_calls_kept(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    (found,) = read(lines(tmp_path / "data", {"messages": [parts, call]}))
    assert isinstance(found, Conversation)
    assert found.messages[0]["content"] == "ab"
    assert found.messages[1]["tool_calls"] == [{"name": "f"}]


def test_named_columns_win_over_recognition(tmp_path: Path) -> None:
    row = {"text": "rendered", "frage": "q", "antwort": "a"}
    folder = lines(tmp_path / "data", row)
    assert read(folder, context="frage", response="antwort") == [conversation("q", "a")]
    assert read(folder, response="antwort") == [Text("a")]


def test_formats_and_compressions_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow

    rows = [{"question": f"q {i}", "answer": "ä, b"} for i in range(3)]
    text = "\n".join(json.dumps(row) for row in rows)
    folders = [tmp_path / name for name in ("lines", "array", "gz", "zst", "csv", "tsv", "parquet", "arrow")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "a.jsonl").write_text(text)
    (folders[1] / "a.json").write_text("\n " + json.dumps(rows, indent=1))
    (folders[2] / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (folders[3] / "a.jsonl.zst").write_bytes(pyarrow.Codec("zstd").compress(text.encode(), asbytes=True))
    (folders[4] / "a.csv").write_text("question,answer\n" + "".join(f'q {i},"ä, b"\n' for i in range(3)))
    (folders[5] / "a.tsv").write_text("question\tanswer\n" + "".join(f"q {i}\tä, b\n" for i in range(3)))
    parquet(folders[6] / "a.parquet", rows)
    table = pyarrow.Table.from_pylist(rows)
    with (
        pyarrow.OSFile(str(folders[7] / "a.arrow"), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)
    wanted = [conversation(f"q {i}", "ä, b") for i in range(3)]
    assert [read(folder) for folder in folders] == [wanted] * len(folders)


def test_all_files_of_one_format_are_read_in_order_of_name(tmp_path: Path) -> None:
    folder = lines(tmp_path / "data", {"text": "2"}, name="b.jsonl")
    lines(folder, {"text": "1"}, name="a.jsonl")
    (folder / ".fetched.json").write_text("{}")
    (folder / "README.md").write_text("about")
    assert read(folder) == [Text("1"), Text("2")]


def test_rows_with_nothing_to_learn_are_counted_and_left_out(tmp_path: Path) -> None:
    folder = lines(tmp_path / "data", {"text": "x"}, {"text": " "}, {"text": ""})
    found = dataset.read(folder, Columns())
    assert (found.rows, found.empty, list(found.examples())) == (3, 2, [Text("x")])


def test_the_fingerprint_follows_names_and_contents(tmp_path: Path) -> None:
    one = dataset.read(lines(tmp_path / "one", {"text": "x"}), Columns()).fingerprint
    same = dataset.read(lines(tmp_path / "same", {"text": "x"}), Columns()).fingerprint
    other = dataset.read(lines(tmp_path / "other", {"text": "y"}), Columns()).fingerprint
    assert one == same != other


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_json_text_survives_whatever_it_contains(texts: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = lines(Path(name) / "data", *({"text": text} for text in texts))
        assert read(folder) == [Text(text) for text in texts]


# What is wrong → (file name, content, what the message must name).
MALFORMED: dict[str, tuple[str, bytes, str]] = {
    "no data file": ("README.md", b"hello", "no data file found (README.md)"),
    "empty file": ("train.jsonl", b"", "no rows"),
    "broken line": ("train.jsonl", b'{"text": "a"}\n{"text": ', "train.jsonl row 2 is not valid JSON"),
    "a row that is no object": (
        "train.jsonl",
        b'{"text": "a"}\n["b"]',
        "row 2 is a list; each row must be a JSON object",
    ),
    "broken array": ("train.json", b'[{"text": "a"}', "train.json is not valid JSON"),
    "not UTF-8": ("train.jsonl", b'{"text": "\xff"}', "save it as UTF-8"),
    "cut parquet": ("train.parquet", b"PAR1 and no more", "not a whole parquet file"),
    "unknown columns": ("train.jsonl", b'{"foo": 1, "bar": 2}', "no known shape in the columns foo, bar"),
    "two shapes": (
        "train.jsonl",
        b'{"messages": [], "instruction": "q", "output": "a"}',
        "fit messages and instruction and output",
    ),
    "unknown role": (
        "train.jsonl",
        b'{"messages": [{"role": "bot", "content": "x"}]}',
        "row 1: `messages` message 1 has the role 'bot'",
    ),
    "missing content": ("train.jsonl", b'{"messages": [{"role": "user"}]}', "has content that is empty, expected text"),
    "unknown speaker": ("train.jsonl", b'{"conversations": [{"from": "alien", "value": "x"}]}', "has the role 'alien'"),
    "no answers": ("train.jsonl", b'{"messages": [{"role": "user", "content": "q"}]}', "none of the 1 rows"),
    "number for text": ("train.jsonl", b'{"text": "a"}\n{"text": 7}', "row 2: `text` is a int, expected text"),
    "vanished column": ("train.jsonl", b'{"text": "a"}\n{"txt": "b"}', "row 2: has no column 'text'"),
    "ragged csv": ("train.csv", b"question,answer\na,b\nc\n", "train.csv row 2 has not as many fields"),
    "labels too short": ("train.jsonl", b'{"input_ids": [1, 2], "labels": [1]}', "2 input_ids and 1 labels"),
}


@pytest.mark.parametrize("wrong", MALFORMED)
def test_a_malformed_data_set_names_its_row_and_the_remedy(wrong: str, tmp_path: Path) -> None:
    name, content, message = MALFORMED[wrong]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Fault) as raised:
        dataset.read(tmp_path, Columns())
    assert (raised.value.exit, raised.value.reason) == (ExitCode.DATA_INVALID, Reason.DATASET_INVALID)
    assert message in str(raised.value)


def test_several_formats_are_refused_and_one_can_be_chosen(tmp_path: Path) -> None:
    folder = lines(tmp_path / "data", {"text": "x"})
    (folder / "train.csv").write_text("text\ny\n")
    with pytest.raises(Fault, match="several formats"):
        files.find(folder)
    assert [file.name for file in files.find(folder, "csv")] == ["train.csv"]


def test_a_named_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="no column `chat`; the columns are text"):
        read(lines(tmp_path / "data", {"text": "x"}), messages="chat")


def test_a_bad_data_set_ends_the_program_before_torch_is_imported(tmp_path: Path) -> None:
    folder = lines(tmp_path / "data", {"foo": 1})
    code = (
        "import sys, runtime.tune as t\n"
        "code = t.main(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    arguments = ["--data", str(folder), "--results", str(tmp_path), "--config", str(tmp_path / "none"), "--port", "0"]
    environment = {"RUNTIME_PLAN": '{"model": "org/tiny", "accelerator": "cpu"}', "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "65 []", done.stderr
