"""The admin endpoint: how tests and the demo make the emulated cloud misbehave, and what they may ask it afterwards. JSON, no password.

    GET    /admin/state                 cluster, pools, operations, armed faults, settings
    GET    /admin/nodes                 the Node object of every machine that should be one (`?pool=` for one pool's)
    GET    /admin/log                   ARM requests, oldest first; `?pool=&kind=&method=` select (kind: PUT DELETE GET LIST CLUSTER OPERATION)
    GET    /admin/settings              timing, paging, LIST lag, throttling, token … (model.Settings)
    PATCH  /admin/settings              change the given ones
    GET    /admin/catalogue             names of the errors that `refuse` and `fail` know
    POST   /admin/faults                arm a fault (model.Fault); answers with its id
    DELETE /admin/faults[?id=]          disarm it, or all
    POST   /admin/evict                 {"pool", "again"?}: machines vanish, the pool stays (spot eviction); again: new ones come
    POST   /admin/delete-pool           {"pool"}: deleted behind the client's back
    POST   /admin/cluster               {"power": "Stopped"|"Running"} through Stopping/Starting, or {"state": "Upgrading"} set as such
    POST   /admin/reset                 {"settings"?}: no pools, faults, log; full budgets; settings as given or as at the start.
                                        With booted nodes pools are deleted, not forgotten: poll /admin/state until there is none

Faults, each for the next `times` (1; 0 = until disarmed) requests of kind `on` (PUT) for pools that match the shell pattern `pool` (*):

    refuse      answered at once with `error` (catalogue) or with status, code, message, shape; retryAfter
    fail        accepted, then the operation ends in `error` (catalogue) or in code, message (on: PUT or DELETE)
    drop        connection closed without an answer, before the change is made or (`after`: true) after it
    stall       the answer is held back for `seconds`
    slow        the operation takes `seconds`
    extra-node  the pool gets one machine more than its count
    no-join     the pool succeeds, its machines never become nodes
    gpu-delay   GPUs are allocatable `seconds` after the node is there

Owns only this translation; what a fault does is in `cloud`, `lifecycle` and `arm`.
"""

import types
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from hack.local.aks import errors, nodes
from hack.local.aks.arm import Arm
from hack.local.aks.budget import Budgets
from hack.local.aks.cloud import Cloud
from hack.local.aks.errors import Refusal
from hack.local.aks.journal import Entry, Journal
from hack.local.aks.model import Fault, Settings, World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """The handlers. `at_start` are the settings that a reset returns to."""

    def __init__(
        self, cloud: Cloud, arm: Arm, journal: Journal, time: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._cloud, self._arm, self._journal, self._time, self._changed = cloud, arm, journal, time, changed
        self._at_start = cloud.world.settings

    def routes(self) -> list[web.RouteDef]:
        """Return what stands in the module's docstring."""
        return [
            web.get("/admin/state", _answering(self._state)),
            web.get("/admin/nodes", _answering(self._nodes)),
            web.get("/admin/log", _answering(self._log)),
            web.get("/admin/settings", _answering(self._settings)),
            web.patch("/admin/settings", _answering(self._configure)),
            web.get("/admin/catalogue", _answering(self._catalogue)),
            web.post("/admin/faults", _answering(self._inject)),
            web.delete("/admin/faults", _answering(self._disarm)),
            web.post("/admin/evict", _answering(self._evict)),
            web.post("/admin/delete-pool", _answering(self._delete_pool)),
            web.post("/admin/cluster", _answering(self._cluster)),
            web.post("/admin/reset", _answering(self._reset)),
        ]

    async def _state(self, request: web.Request) -> Any:
        self._cloud.advance(self._time())
        return self._cloud.world

    async def _nodes(self, request: web.Request) -> Any:
        self._cloud.advance(self._time())
        pools = self._cloud.world.pools.values()
        wanted = request.query.get("pool")
        return [
            nodes.manifest(nodes.of(self._cloud.identity, pool, machine.instance))
            for pool in pools
            if wanted in (None, pool.name) and pool.joins
            for machine in pool.machines
            if machine.phase != "Leaving"
        ]

    async def _log(self, request: web.Request) -> Any:
        return self._journal.select(
            **{key: request.query[key] for key in ("pool", "kind", "method") if key in request.query}
        )

    async def _settings(self, request: web.Request) -> Any:
        return self._cloud.world.settings

    async def _configure(self, request: web.Request) -> Any:
        current = msgspec.to_builtins(self._cloud.world.settings)
        change = {key: value for key, value in (await request.json()).items() if key != "boots"}
        if unknown := change.keys() - current.keys():
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}; there are {', '.join(sorted(current))}")
        settings = msgspec.convert({**current, **change}, Settings)
        self._cloud.configure(lambda _: settings)
        self._changed()
        return settings

    async def _catalogue(self, request: web.Request) -> Any:
        return {"refuse": sorted(errors.REFUSAL_NAMES), "fail": sorted(errors.OUTCOME_NAMES)}

    async def _inject(self, request: web.Request) -> Any:
        armed = self._cloud.inject(msgspec.convert(await request.json(), Fault))
        self._changed()
        return armed

    async def _disarm(self, request: web.Request) -> Any:
        self._cloud.disarm(int(request.query["id"]) if "id" in request.query else None)
        self._changed()

    async def _evict(self, request: web.Request) -> Any:
        body = await request.json()
        self._cloud.evict(body["pool"], self._time(), again=bool(body.get("again")))
        self._changed()

    async def _delete_pool(self, request: web.Request) -> Any:
        self._cloud.remove((await request.json())["pool"], self._time())
        self._changed()

    async def _cluster(self, request: web.Request) -> Any:
        body = await request.json()
        if "power" in body:
            self._cloud.power(body["power"], self._time())
        if "state" in body:
            self._cloud.set_cluster_state(body["state"])
        self._changed()
        return self._cloud.world.cluster

    async def _reset(self, request: web.Request) -> Any:
        body = await request.json() if request.can_read_body else {}
        settings = msgspec.convert(body["settings"], Settings) if "settings" in body else self._at_start
        self._cloud.reset(self._time(), settings)
        self._arm.budgets = Budgets()
        self._journal.clear()
        self._changed()


def _answering(handle: Callable[[web.Request], Awaitable[Any]]) -> Handler:
    """Turn a function that returns data, or raises, into a handler."""

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            result = await handle(request)
        except Refusal as refused:
            return web.json_response(refused.body(), status=refused.status)
        except (ValueError, KeyError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        return web.Response(body=msgspec.json.encode(result), content_type="application/json")

    return handler


class AdminError(Exception):
    """The admin endpoint refused what it was asked."""


class AdminClient:
    """The admin endpoint from Python. `ssl` as aiohttp takes it; None verifies as usual."""

    def __init__(self, endpoint: str, *, ssl: Any = None) -> None:
        self._session = aiohttp.ClientSession(
            endpoint, connector=aiohttp.TCPConnector(ssl=ssl) if ssl is not None else None
        )

    async def __aenter__(self) -> "AdminClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def fault(self, kind: str, error: str = "", **fields: Any) -> int:
        """Arm a fault and return its id. Fields in the JSON's spelling: on, pool, times, status, code, message, retryAfter, after, seconds."""
        body = {"kind": kind, "error": error, **fields}
        return int((await self._call("POST", "/admin/faults", json=body))["id"])

    async def disarm(self, fault: int | None = None) -> None:
        """Take a fault back, or all of them."""
        await self._call("DELETE", "/admin/faults", params={} if fault is None else {"id": str(fault)})

    async def configure(self, **settings: Any) -> Settings:
        """Change settings, in the JSON's spelling: createSeconds=3."""
        return msgspec.convert(await self._call("PATCH", "/admin/settings", json=settings), Settings)

    async def state(self) -> World:
        """Return the whole emulated world."""
        return msgspec.convert(await self._call("GET", "/admin/state"), World)

    async def nodes(self, pool: str = "") -> list[dict[str, Any]]:
        """Return the Node objects that the machines become; in pure mode the caller creates them."""
        found: list[dict[str, Any]] = await self._call("GET", "/admin/nodes", params={"pool": pool} if pool else {})
        return found

    async def log(self, **wanted: str) -> list[Entry]:
        """Return the request log, of one pool, kind or method."""
        return msgspec.convert(await self._call("GET", "/admin/log", params=wanted), list[Entry])

    async def evict(self, pool: str, *, again: bool = False) -> None:
        """Let the pool's machines vanish; with `again` new ones come."""
        await self._call("POST", "/admin/evict", json={"pool": pool, "again": again})

    async def delete_pool(self, pool: str) -> None:
        """Delete a pool behind the client's back."""
        await self._call("POST", "/admin/delete-pool", json={"pool": pool})

    async def stop_cluster(self) -> None:
        """Begin to stop the managed cluster."""
        await self._call("POST", "/admin/cluster", json={"power": "Stopped"})

    async def start_cluster(self) -> None:
        """Begin to start it again."""
        await self._call("POST", "/admin/cluster", json={"power": "Running"})

    async def set_cluster_state(self, state: str) -> None:
        """Set the cluster's provisioningState as such."""
        await self._call("POST", "/admin/cluster", json={"state": state})

    async def reset(self, settings: Settings | None = None) -> None:
        """Return to the start; with booted nodes see the module's docstring."""
        await self._call("POST", "/admin/reset", json={"settings": msgspec.to_builtins(settings)} if settings else {})

    async def _call(self, method: str, path: str, **more: Any) -> Any:
        async with self._session.request(method, path, **more) as response:
            if response.status != 200:
                raise AdminError(f"{method} {path}: {response.status} {await response.text()}")
            return await response.json()
