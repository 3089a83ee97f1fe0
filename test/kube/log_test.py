"""What a controller logs, as a collector of logs reads it: a JSON object per line."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from kube.clock import SystemClock
from kube.log import JsonFormatter, bound
from kube.meta import Key
from kube.queue import WorkQueue
from kube.worker import Workers


class Lines(logging.Handler):
    """Keeps what would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.written: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        assert "\n" not in text
        self.written.append(json.loads(text))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("test.log")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)


log = logging.getLogger("test.log")


def test_line_says_when_how_bad_who_and_what(lines: Lines) -> None:
    log.warning("%s of %d", "two\nlines", 3, extra={"key": Key("x", "a"), "at": SystemClock().now()})
    (line,) = lines.written
    assert (line["level"], line["logger"], line["message"]) == ("warning", "test.log", "two\nlines of 3")
    assert line["key"] == ["x", "a"]
    assert line["time"][4] == line["time"][7] == "-"
    assert set(line) == {"time", "level", "logger", "message", "key", "at"}


def test_failure_is_in_its_line(lines: Lines) -> None:
    try:
        int("many")
    except ValueError:
        log.exception("Reconciling failed")
    (line,) = lines.written
    assert line["error"].endswith("ValueError: invalid literal for int() with base 10: 'many'")


@pytest.mark.parametrize("odd", ["caf\udce9", object(), {1, 2}, b"\xff", {"a": {3: "b"}}, float("nan")], ids=type)
def test_no_field_is_too_odd_for_a_line(lines: Lines, odd: object) -> None:
    log.info("%s", odd, extra={"odd": odd})
    assert len(lines.written) == 1


async def test_what_is_bound_stays_with_its_task(lines: Lines) -> None:
    async def work(name: str) -> None:
        with bound(key=name):
            await asyncio.sleep(0)
            log.info("Working")
            with bound(step="two"):
                log.info("Still")
        log.info("Done")

    await asyncio.gather(work("a"), work("b"))
    found = [(line["message"], line.get("key"), line.get("step")) for line in lines.written]
    each = [("Working", "{}", None), ("Still", "{}", "two")]
    expected = [(message, name, step) for name in "ab" for message, _, step in each]
    assert sorted(map(str, found)) == sorted(map(str, [*expected, ("Done", None, None), ("Done", None, None)]))


async def test_lines_of_a_reconcile_say_which_one(lines: Lines) -> None:
    async def reconcile(key: Key) -> None:
        log.info("Looking")

    queue: WorkQueue[Key] = WorkQueue("test")
    for name in "ab":
        queue.add(Key("x", name))
    queue.shut_down()
    await Workers("workspace", queue, reconcile, count=2).run()
    assert {(line["controller"], line["key"]) for line in lines.written} == {
        ("workspace", "x/a"),
        ("workspace", "x/b"),
    }
    assert len({line["reconcile_id"] for line in lines.written}) == 2
