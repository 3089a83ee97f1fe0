"""The emulator as a running server: ARM and the admin endpoint on one port, with the world persisted around every change.

`running` is the in-process server for tests (pure mode: no machines, no root); `python -m hack.local.aks` serves the box.
"""

import ssl
import time as wall
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from msgspec.structs import replace

from hack.local.aks.admin import Admin, AdminClient
from hack.local.aks.arm import Arm
from hack.local.aks.cloud import Cloud
from hack.local.aks.journal import Journal
from hack.local.aks.model import Identity, Settings, World


class Service:
    """One emulated cloud with its journal and HTTP application.

    `on_change` is called after every request that may have changed the world: boot mode looks at it at once then.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        *,
        folder: Path | None = None,
        time: Callable[[], float] = wall.time,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.journal = Journal(folder)
        # What is persisted wins over the flags, all but the mode: faults and settings survive a kill -9 too.
        world = self.journal.load() or World(settings=settings)
        self.cloud = Cloud(identity, replace(world, settings=replace(world.settings, boots=settings.boots)))
        self.time = time
        self._on_change = on_change
        self._arm = Arm(self.cloud, self.journal, time, self.changed)

    def changed(self) -> None:
        """Persist the world and tell who follows it."""
        self.journal.save(self.cloud.world)
        self._on_change()

    def application(self) -> web.Application:
        """Return the HTTP application; everything that is not the admin endpoint is Resource Manager."""
        app = web.Application(client_max_size=4 * 1024**2)
        app.router.add_routes(Admin(self.cloud, self._arm, self.journal, self.time, self.changed).routes())
        app.router.add_route("*", "/{path:.*}", self._arm.answer)
        return app


@asynccontextmanager
async def listening(
    service: Service, host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve until the block ends; yields the address. A client that keeps a connection open does not delay the end."""
    runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Emulator:
    """A running emulator: `endpoint` is the base URL for the SDK, `service` the same world without HTTP."""

    endpoint: str
    identity: Identity
    admin: AdminClient
    service: Service = field(repr=False)


@asynccontextmanager
async def running(
    settings: Settings | None = None,
    *,
    identity: Identity | None = None,
    folder: Path | None = None,
    time: Callable[[], float] = wall.time,
    port: int = 0,
) -> AsyncIterator[Emulator]:
    """Serve a pure-mode emulator on loopback over plain HTTP.

    `time` is seconds since the epoch: give it a test's clock and operations end when that clock says so. `folder` and `port` let a test
    kill the server and start it again where it was.
    """
    service = Service(identity or Identity(), settings or Settings(), folder=folder, time=time)
    async with listening(service, "127.0.0.1", port) as (host, bound):
        endpoint = f"http://{host}:{bound}"
        async with AdminClient(endpoint) as admin:
            yield Emulator(endpoint, service.cloud.identity, admin, service)
