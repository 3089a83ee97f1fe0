"""Waiting for a state of the world: the one polling helper of the tests, bounded by a deadline."""

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")

# A test that waits longer than this for something local has found a hang, also on a machine that does more than it can.
TIMEOUT = 30.0
LONGEST_PAUSE = 0.05


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], timeout: float = TIMEOUT, longest_pause: float = LONGEST_PAUSE
) -> T: ...
@overload
async def eventually(
    predicate: Callable[[], T], timeout: float = TIMEOUT, longest_pause: float = LONGEST_PAUSE
) -> T: ...
async def eventually(
    predicate: Callable[[], Any], timeout: float = TIMEOUT, longest_pause: float = LONGEST_PAUSE
) -> Any:
    """Ask until the answer is truthy, and return it. An AssertionError counts as "not yet" and is shown at the end."""
    deadline = time.monotonic() + timeout
    pause = 0.002
    while True:
        failure: AssertionError | None = None
        try:
            answer = predicate()
            answer = await answer if inspect.isawaitable(answer) else answer
            if answer:
                return answer
        except AssertionError as error:
            failure = error
        if time.monotonic() >= deadline:
            asked = predicate.func if isinstance(predicate, functools.partial) else predicate
            raise failure or AssertionError(f"still not so after {timeout} s: {inspect.getsource(asked).strip()}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, longest_pause)


def wait_until(predicate: Callable[[], T], timeout: float = TIMEOUT, longest_pause: float = LONGEST_PAUSE) -> T:
    """`eventually`, for tests that have no event loop."""
    return asyncio.run(eventually(predicate, timeout, longest_pause))
