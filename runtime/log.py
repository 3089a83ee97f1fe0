"""Log lines: one JSON object each, on standard error, with whatever looks like a credential taken out.

Redaction happens in the formatter, the last place before the text leaves the process, so that no caller and no library
can forget it. It knows shapes of credentials (URL user info, signed query strings, Authorization headers, hub tokens)
and the values that `conceal` was told; it knows nothing of where they come from.
"""

import json
import logging
import os
import re
import sys
import time

REDACTED = "[redacted]"
# (pattern, replacement). Query parameters are those of Azure SAS, AWS and Google signed URLs and of plain tokens.
_SHAPES = (
    (re.compile(r"(\w+://)[^/\s@]+@"), rf"\1{REDACTED}@"),
    (
        re.compile(r"(?i)([?&](?:sig|signature|x-amz-[\w-]+|x-goog-[\w-]+|token|access_token|key)=)[^&\s\"']+"),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"(?i)\b(basic|bearer)\s+[\w.~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"\bhf_\w{8,}"), REDACTED),
)
_values: set[str] = set()


def conceal(value: str) -> None:
    """Never show `value` again. Short values are ignored: they would blot out ordinary words."""
    if len(value) >= 6:
        _values.add(value)


def redact(text: str) -> str:
    for value in _values:
        text = text.replace(value, REDACTED)
    for pattern, replacement in _SHAPES:
        text = pattern.sub(replacement, text)
    return text


class JsonLine(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, the `extra` fields, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, ensure_ascii=False))


_STANDARD = {*vars(logging.makeLogRecord({})), "message", "taskName", "asctime"}


def setup() -> None:
    """Send all logging of the process through `JsonLine`. `LOG_LEVEL` sets the level of our own loggers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    for name in ("runtime", "__main__"):  # a program's own module is called __main__
        logging.getLogger(name).setLevel(os.environ.get("LOG_LEVEL", "INFO").upper())
