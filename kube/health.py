"""The HTTP server that a kubelet probes and Prometheus scrapes: /healthz, /readyz and /metrics.

Answers as the API server's own endpoints do: 200 "ok", or 500 with one line per check; `?verbose` and a single check as
`/readyz/<check>` work too. Checks are plain functions that look at state and never ask anybody. Refuses to know what is
being checked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

from aiohttp import web
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import CollectorRegistry

from kube import metrics

log = logging.getLogger(__name__)

Check = Callable[[], bool]


class Server:
    """A running server; an async context manager, or call `close`."""

    def __init__(self, runner: web.AppRunner, port: int) -> None:
        self._runner = runner
        self._lag = asyncio.ensure_future(metrics.LoopLag().run())
        self.port = port  # the real one, where 0 was asked for

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._lag.cancel()
        await asyncio.wait({self._lag})
        await self._runner.cleanup()


async def serve(
    address: str,
    port: int,
    *,
    checks: Mapping[str, Check],
    live: Mapping[str, Check] | None = None,
    registry: CollectorRegistry = REGISTRY,
) -> Server:
    """Serve until closed. `checks` decide readiness; `live` decides whether the kubelet restarts us."""
    metrics.register(registry)
    application = web.Application()
    application.router.add_get("/metrics", _metrics(registry))
    for path, group in (("/healthz", live or {}), ("/readyz", checks)):
        application.router.add_get(path, _probe(group))
        application.router.add_get(path + "/{check}", _probe(group))
    # No access log: a probe every ten seconds is no news.
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, address, port)
    await site.start()
    return Server(runner, runner.addresses[0][1])


def _metrics(registry: CollectorRegistry) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return answer


def _probe(checks: Mapping[str, Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        asked = request.match_info.get("check")
        chosen = {"ping": _ping, **checks}
        if asked is not None:
            if asked not in chosen:
                raise web.HTTPNotFound
            chosen = {asked: chosen[asked]}
        results = {name: _passes(name, check) for name, check in chosen.items()}
        lines = [f"[+]{name} ok" if passed else f"[-]{name} failed" for name, passed in results.items()]
        if not all(results.values()):
            return web.Response(status=500, text="\n".join([*lines, "check failed", ""]))
        return web.Response(text="\n".join([*lines, "check passed", ""]) if "verbose" in request.query else "ok")

    return answer


def _ping() -> bool:
    return True


def _passes(name: str, check: Check) -> bool:
    try:
        return check()
    except Exception:  # a check that cannot tell has failed
        log.exception("Checking %s failed", name)
        return False
