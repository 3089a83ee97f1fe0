"""Recognises what rows mean and turns each into one of four examples. Errors name the row and what to do about it.

The shapes are those of the field's data sets (chat messages, ShareGPT, Alpaca and Dolly, prompt and completion, plain
text, token ids). Columns that the user names win over recognition. No tokenizer and no torch here: a data set that is
wrong must fail before anything heavy is loaded.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from runtime.data.files import Row, invalid

Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool", "developer")
_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
}


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Chat messages; the assistant's turns are learned."""

    messages: tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Completion:
    """Plain text in two parts; the second is learned."""

    prompt: str
    completion: str


@dataclasses.dataclass(frozen=True)
class Text:
    """Plain text; all of it is learned."""

    text: str


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Token ids made elsewhere; labels of -100 are not learned."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


Example = Conversation | Completion | Text | Tokens


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns the user named, under KAITO's option names; empty where recognition decides."""

    messages: str = ""
    context: str = ""
    response: str = ""


@dataclasses.dataclass(frozen=True)
class Shape:
    """How rows of one data set become examples. `convert` raises ValueError saying what is wrong with a row.

    None from `convert` means: nothing to learn in this row; it is dropped and counted.
    """

    name: str
    convert: Callable[[Row], Example | None]


def detect(where: str, row: Row, columns: Columns) -> Shape:
    """Recognise the shape of a data set by its first row. Raises Fault when it fits none, or several."""
    if columns.messages or columns.context or columns.response:
        return _named(where, row, columns)
    names = {name.lower(): name for name in row}
    matches = [made for recognise in _RECOGNISERS if (made := recognise(names, row)) is not None]
    if not matches and "text" in names:  # beside a structured shape, `text` is mostly the same rows rendered
        matches = [Shape("text", lambda r: _text(_string(r, names["text"])))]
    if not matches:
        raise invalid(
            f"{where}: no known shape in the columns {', '.join(row) or '(none)'}; use `messages`, `prompt` and"
            " `completion`, `instruction` and `output`, or `text`, or name yours in DatasetConfig"
            " (context_column, response_column, messages_column)"
        )
    if len(matches) > 1:
        raise invalid(
            f"{where}: the columns fit {' and '.join(match.name for match in matches)};"
            " say which in DatasetConfig (messages_column, or context_column and response_column)"
        )
    return matches[0]


def convert(where: str, row: Row, shape: Shape) -> Example | None:
    """Convert one row, or None when it teaches nothing. Raises Fault naming the row."""
    try:
        return shape.convert(row)
    except (ValueError, KeyError) as error:
        what = f"has no column {error}" if isinstance(error, KeyError) else str(error)
        raise invalid(f"{where}: {what}") from error


def _named(where: str, row: Row, columns: Columns) -> Shape:
    wanted = [name for name in (columns.messages, columns.context, columns.response) if name]
    for name in wanted:
        if name not in row:
            raise invalid(f"{where}: no column `{name}`; the columns are {', '.join(row)}")
    if columns.messages:
        return _messages_shape(columns.messages, row[columns.messages])
    if columns.context and columns.response:
        return Shape("columns", lambda r: _turns(_string(r, columns.context), _string(r, columns.response)))
    only = columns.response or columns.context
    return Shape("text", lambda r: _text(_string(r, only)))


def _string(row: Row, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is {_kind(value)}, expected text")  # one type for all row errors
    return value


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def _text(text: str) -> Text | None:
    return Text(text) if text.strip() else None


def _turns(user: str, assistant: str, system: str = "") -> Conversation | None:
    if not assistant.strip():
        return None
    head = ({"role": "system", "content": system},) if system else ()
    return Conversation((*head, {"role": "user", "content": user}, {"role": "assistant", "content": assistant}))


# Recognisers: lower-cased name → column, and the first row; a Shape or None.
_Names = Mapping[str, str]


def _by_messages(names: _Names, row: Row) -> Shape | None:
    column = names.get("messages") or names.get("conversations") or names.get("conversation")
    return _messages_shape(column, row[column]) if column else None


def _messages_shape(column: str, first: Any) -> Shape:
    encoded = isinstance(first, str)
    name = "messages as JSON text" if encoded else "messages"

    def convert_row(row: Row) -> Example | None:
        value = row[column]
        if encoded:
            try:
                value = json.loads(value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"`{column}` is text that is not JSON: {error}") from error
        if not isinstance(value, list):
            raise ValueError(f"`{column}` is {_kind(value)}, expected a list of messages")
        return _conversation([_message(column, number, entry) for number, entry in enumerate(value, 1)])

    return Shape(name, convert_row)


def _conversation(messages: list[Message]) -> Conversation | None:
    """Keep what ends with an answer; a question at the end has nothing to learn from."""
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    learned = any(m["role"] == "assistant" and (m["content"].strip() or m.get("tool_calls")) for m in messages)
    return Conversation(tuple(messages)) if learned else None


def _message(column: str, number: int, entry: Any) -> Message:
    at = f"`{column}` message {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{at} is {_kind(entry)}, expected an object with role and content")
    if "from" in entry:
        role = _SHAREGPT.get(str(entry["from"]).lower(), "")
        content, said = entry.get("value"), entry["from"]
    else:
        role, content, said = entry.get("role", ""), entry.get("content"), entry.get("role")
    if role not in ROLES:
        raise ValueError(f"{at} has the role {said!r}, expected one of {', '.join(ROLES)}")
    extra = {k: v for k, v in entry.items() if k not in ("from", "value", "role", "content") and v is not None}
    return {"role": role, "content": _content(at, content, extra), **extra}


def _content(at: str, content: Any, extra: Mapping[str, Any]) -> str:
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    if content is None and extra.get("tool_calls"):
        return ""
    if not isinstance(content, str):
        raise ValueError(f"{at} has content that is {_kind(content)}, expected text")
    return content


def _by_instruction(names: _Names, _: Row) -> Shape | None:
    """Alpaca (instruction, input, output) and Dolly (instruction, context, response)."""
    instruction, answer = names.get("instruction"), names.get("output") or names.get("response")
    if not instruction or not answer:
        return None
    more, system = names.get("input") or names.get("context"), names.get("system")

    def convert_row(row: Row) -> Example | None:
        question = _string(row, instruction)
        if more and row.get(more):
            question = f"{question}\n\n{_string(row, more)}"
        return _turns(question, _string(row, answer), _string(row, system) if system and row.get(system) else "")

    return Shape("instruction and output", convert_row)


def _by_prompt(names: _Names, row: Row) -> Shape | None:
    prompt, completion = names.get("prompt"), names.get("completion")
    if not prompt or not completion:
        return None
    if isinstance(row[prompt], list):
        return Shape("prompt and completion messages", lambda r: _joined(prompt, completion, r))

    def convert_row(row: Row) -> Example | None:
        answer = _string(row, completion)
        return Completion(_string(row, prompt), answer) if answer.strip() else None

    return Shape("prompt and completion", convert_row)


def _joined(prompt: str, completion: str, row: Row) -> Example | None:
    messages = [
        _message(name, number, m) for name in (prompt, completion) for number, m in enumerate(row[name] or (), 1)
    ]
    return _conversation(messages)


def _by_question(names: _Names, _: Row) -> Shape | None:
    question, answer = names.get("question"), names.get("answer") or names.get("response")
    if not question or not answer:
        return None
    return Shape("question and answer", lambda row: _turns(_string(row, question), _string(row, answer)))


def _by_tokens(names: _Names, _: Row) -> Shape | None:
    if "input_ids" not in names:
        return None

    def convert_row(row: Row) -> Example | None:
        ids = _integers(row, "input_ids")
        labels = _integers(row, "labels") if row.get("labels") is not None else ids
        if len(ids) != len(labels):
            raise ValueError(f"{len(ids)} input_ids and {len(labels)} labels; they must be of one length")
        return Tokens(ids, labels) if ids else None

    return Shape("token ids", convert_row)


def _integers(row: Row, name: str) -> tuple[int, ...]:
    value = row[name]
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise ValueError(f"`{name}` is {_kind(value)}, expected a list of integers")
    return tuple(value)


_RECOGNISERS = (_by_messages, _by_instruction, _by_prompt, _by_question, _by_tokens)
