"""Azure Resource Manager's side of HTTP: URLs, api-versions, tokens, budgets, headers and the request log, around a `Cloud`.

One pipeline, `Arm.answer`, in the order in which the real service refuses. It decides nothing about pools; faults that concern a request
as such (refuse, stall, drop) are applied here.
"""

import asyncio
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from aiohttp import web

from hack.local.aks import body, errors, wire
from hack.local.aks.budget import Bucket, Budgets
from hack.local.aks.cloud import Accepted, Cloud
from hack.local.aks.errors import ErrorDetail, Refusal
from hack.local.aks.journal import Entry, Journal
from hack.local.aks.model import Fault, Kind, Operation, Pool

_API_VERSION = re.compile(r"^\d{4}-\d{2}-\d{2}(-preview)?$")
# The newest that azure-mgmt-containerservice 41.8.0 speaks, and the oldest with the fields that are emulated.
_NEWEST, _OLDEST = "2026-08-01", "2023-01-01"
_OPERATIONS_VERSION = "2016-03-30"
_BUCKETS: Mapping[Kind, Bucket] = {"PUT": "pool-put", "CLUSTER": "cluster-get", "OPERATION": "operation-get"}
_REMAINING = {"GET": "reads", "PUT": "writes", "DELETE": "deletes"}


@dataclass
class _Call:
    """One request on its way through the pipeline, with what the log will say about it."""

    request: web.Request
    kind: Kind
    target: Mapping[str, str]
    arrived: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    headers: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    operation: str = ""
    committed: bool = False
    dropped: bool = False
    code: str = ""

    @property
    def pool(self) -> str:
        return unquote(self.target.get("pool") or "")

    @property
    def origin(self) -> str:
        return f"{self.request.scheme}://{self.request.host}"


class Arm:
    """The service as seen over HTTP."""

    def __init__(self, cloud: Cloud, journal: Journal, time: Callable[[], float], changed: Callable[[], None]) -> None:
        self._cloud = cloud
        self._journal = journal
        self._time = time
        self._changed = changed  # called after each mutation, before its answer is sent
        self.budgets = Budgets()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, whatever it is, and log it."""
        kind, target = wire.routed(request.method, request.path)
        call = _Call(request, kind, target, self._time())
        try:
            response = await self._served(call)
        except Refusal as refused:
            response = wire.refused(refused)
            call.code = refused.error.code
        response.headers.update(self._headers(call))
        if call.dropped and request.transport is not None:
            request.transport.abort()
        self._log(call, response.status)
        return response

    async def _served(self, call: _Call) -> web.Response:
        self._check_version(call)
        self._check_token(call)
        self._check_parents(call)
        if stall := self._cloud.take("stall", call.kind, call.pool):
            await asyncio.sleep(stall.seconds)
        self._spend(call)
        drop = self._cloud.take("drop", call.kind, call.pool)
        call.dropped = drop is not None
        if drop and not drop.after:
            return web.Response(status=502)
        content = await wire.content(call.request)
        if refuse := self._cloud.take("refuse", call.kind, call.pool):
            raise self._injected(refuse, call, content)
        serial = self._cloud.world.serial
        response = self._carried_out(call, content)
        call.committed = call.kind in ("PUT", "DELETE") and self._cloud.world.serial != serial
        self._changed()
        return response

    def _check_version(self, call: _Call) -> None:
        version = call.request.query.get("api-version", "")
        if not version:
            text = "The api-version query parameter (?api-version=) is required for all requests."
            raise Refusal(400, ErrorDetail("MissingApiVersionParameter", text), shape="wrapped")
        if not _API_VERSION.match(version):
            text = f"The api-version '{version}' is invalid. The supported versions are '{_NEWEST},{_OLDEST}'."
            raise Refusal(400, ErrorDetail("InvalidApiVersionParameter", text), shape="wrapped")
        if call.kind != "OPERATION" and not _OLDEST <= version[:10] <= _NEWEST:
            location = self._cloud.identity.location
            text = (
                f"No registered resource provider found for location '{location}' and API version '{version}' for type "
                f"'managedClusters/agentPools'. The supported api-versions are '{_OLDEST}' to '{_NEWEST}'."
            )
            raise Refusal(400, ErrorDetail("NoRegisteredProviderFound", text), shape="wrapped")

    def _check_token(self, call: _Call) -> None:
        token = self._cloud.world.settings.token
        given = call.request.headers.get("Authorization", "")
        if token and not given:
            raise self._cloud.refusal("token-missing")
        if token and given != f"Bearer {token}":
            raise self._cloud.refusal("token-invalid")

    def _check_parents(self, call: _Call) -> None:
        identity = self._cloud.identity
        if not call.target:
            text = f"The request {call.request.method} {call.request.path} matches no resource type of the emulator."
            raise Refusal(404, ErrorDetail("InvalidResourceType", text), shape="wrapped")
        # Resource Manager compares names without case; the texts name what was asked for.
        for key, name, own in (
            ("subscription", "subscription-gone", identity.subscription),
            ("group", "group-gone", identity.resource_group),
            ("cluster", "cluster-gone", identity.cluster),
        ):
            asked = call.target.get(key)
            if asked is not None and unquote(asked).lower() != own.lower():
                facts = errors.Facts(subscription=asked, resource_group=asked, cluster=asked)
                if key == "cluster":
                    facts = errors.Facts(resource_group=identity.resource_group, cluster=asked)
                raise errors.refusal(name, facts)

    def _spend(self, call: _Call) -> None:
        bucket = _BUCKETS.get(call.kind, "other")
        key = call.pool if bucket == "pool-put" else ""
        wait = self.budgets.spend(bucket, key, self._time()) if self._cloud.world.settings.throttle else None
        word = _REMAINING.get(call.request.method, "reads")
        call.headers[f"x-ms-ratelimit-remaining-subscription-{word}"] = str(self.budgets.remaining(bucket, key))
        if wait is not None:
            refused = self._cloud.refusal("throttled", call.pool)
            raise Refusal(refused.status, refused.error, shape=refused.shape, retry_after=math.ceil(wait))

    def _injected(self, fault: Fault, call: _Call, content: Any) -> Refusal:
        if fault.code:
            error = ErrorDetail(fault.code, fault.message)
            return Refusal(fault.status or 400, error, shape=fault.shape, retry_after=fault.retry_after)
        properties = content.get("properties") if isinstance(content, dict) else None
        refused = self._cloud.refusal(fault.error, call.pool, properties if isinstance(properties, dict) else {})
        refused.retry_after = fault.retry_after if fault.retry_after is not None else refused.retry_after
        return refused

    def _carried_out(self, call: _Call, content: Any) -> web.Response:
        now = self._time()
        match call.kind:
            case "PUT":
                call.tags = wire.tags(content)
                accepted = self._cloud.put(call.pool, content, wire.preconditions(call.request), now)
                return self._accepted(call, accepted, 201 if accepted.created else 200)
            case "DELETE":
                ignore = call.request.query.get("ignore-pod-disruption-budget", "").lower() == "true"
                conditions = wire.preconditions(call.request)
                return self._accepted(call, self._cloud.delete(call.pool, conditions, now, ignore_budgets=ignore), 202)
            case "GET":
                return web.json_response(body.rendered(self._cloud.identity, self._cloud.get(call.pool, now)))
            case "LIST":
                return self._page(call, now)
            case "CLUSTER":
                self._cloud.advance(now)
                return web.json_response(self._cluster())
            case _:
                found = self._cloud.operation(unquote(call.target["operation"]), now)
                result = call.target["view"].lower() == "operationresults"
                return self._result(call, found) if result else self._status(call, found)

    def _accepted(self, call: _Call, accepted: Accepted, status: int) -> web.Response:
        pool = accepted.pool
        if pool is None:
            return web.Response(status=204)
        call.operation = pool.operation
        call.headers |= self._progress(call, pool.operation)
        if status == 202:
            return web.Response(status=202)
        return web.json_response(body.rendered(self._cloud.identity, pool), status=status)

    def _progress(self, call: _Call, operation: str) -> dict[str, str]:
        identity, hint = self._cloud.identity, self._cloud.world.settings.retry_after
        base = f"{call.origin}/subscriptions/{identity.subscription}/providers/{wire.PROVIDER}/locations/{identity.location}"
        headers = {"Azure-AsyncOperation": f"{base}/operations/{operation}?api-version={_OPERATIONS_VERSION}"}
        if call.request.method == "DELETE":
            headers["Location"] = f"{base}/operationresults/{operation}?api-version={_OPERATIONS_VERSION}"
        return {**headers, "Retry-After": str(hint)} if hint else headers

    def _status(self, call: _Call, found: Operation) -> web.Response:
        view: dict[str, Any] = {"name": found.id, "status": found.status, "startTime": body.iso(found.started_at)}
        if found.status == "InProgress":
            if hint := self._cloud.world.settings.retry_after:
                call.headers["Retry-After"] = str(hint)
            return web.json_response(view)
        view["endTime"] = body.iso(found.ended_at)
        if found.error is not None:
            view["error"] = msgspec.to_builtins(found.error)
        return web.json_response(view)

    def _result(self, call: _Call, found: Operation) -> web.Response:
        if found.status == "InProgress":
            call.headers |= {**self._progress(call, found.id), "Location": str(call.request.url)}
            return web.Response(status=202)
        if found.error is not None:
            raise Refusal(409, found.error, shape="wrapped")
        return web.Response(status=204)

    def _page(self, call: _Call, now: float) -> web.Response:
        pools, last = self._cloud.page(call.request.query.get("$skipToken", ""), now)
        page: dict[str, Any] = {"value": [body.rendered(self._cloud.identity, pool) for pool in pools]}
        if last:
            version = quote(call.request.query["api-version"])
            page["nextLink"] = f"{call.origin}{call.request.path}?api-version={version}&$skipToken={quote(last)}"
        return web.json_response(page)

    def _cluster(self) -> dict[str, Any]:
        identity, cluster = self._cloud.identity, self._cloud.world.cluster
        pools: list[Pool] = sorted(self._cloud.world.pools.values(), key=lambda pool: pool.name)
        profiles = [{"name": pool.name, **body.rendered(identity, pool)["properties"]} for pool in pools]
        return {
            "id": identity.path,
            "name": identity.cluster,
            "type": f"{wire.PROVIDER}/managedClusters",
            "location": identity.location,
            "properties": {
                "provisioningState": cluster.state,
                "powerState": {"code": cluster.power},
                "kubernetesVersion": body.KUBERNETES,
                "currentKubernetesVersion": body.KUBERNETES,
                "nodeResourceGroup": identity.node_resource_group,
                "agentPoolProfiles": profiles,
            },
        }

    def _headers(self, call: _Call) -> dict[str, str]:
        request = call.request
        correlation = request.headers.get("x-ms-correlation-request-id", call.id)
        headers = {
            "x-ms-request-id": call.id,
            "x-ms-correlation-request-id": correlation,
            "x-ms-routing-request-id": f"{self._cloud.identity.location.upper()}:{call.id}",
            "Cache-Control": "no-cache",
            **call.headers,
        }
        if client := request.headers.get("x-ms-client-request-id"):
            headers["x-ms-client-request-id"] = client
        return headers

    def _log(self, call: _Call, status: int) -> None:
        request = call.request
        entry = Entry(
            n=len(self._journal.entries) + 1,
            time=call.arrived,
            seconds=round(self._time() - call.arrived, 6),
            method=request.method,
            path=request.path,
            kind=call.kind,
            pool=call.pool,
            status=0 if call.dropped else status,
            reply="dropped" if call.dropped else "sent",
            committed=call.committed,
            code=call.code,
            tags=call.tags,
            if_match=request.headers.get("If-Match", ""),
            if_none_match=request.headers.get("If-None-Match", ""),
            ignore_budgets=request.query.get("ignore-pod-disruption-budget", "").lower() == "true",
            api_version=request.query.get("api-version", ""),
            user_agent=request.headers.get("User-Agent", ""),
            correlation=request.headers.get("x-ms-correlation-request-id", ""),
            operation=call.operation,
        )
        self._journal.append(entry)
