"""How a controller logs: one JSON object per line on stderr, with what the work at hand is about on every one of them.

Refuses to know what is logged.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default={})  # noqa: B039  # never changed, only replaced


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Put `fields` on every line that is logged inside the block, by this task and what it awaits."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; what was given as `extra` becomes its fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_bound.get(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:  # half a character, of a file's name say: it can only be escaped
            return json.dumps(line, default=str)


def configure(level: str) -> None:
    """Log from `level` on ("info"), for the rest of the process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
