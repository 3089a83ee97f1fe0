"""What runs beside a test."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def endless(work: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run `work` beside the block and cancel it at its end. It must not have ended by itself, whatever the block did."""
    running = asyncio.ensure_future(work)
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled(), running.exception()
