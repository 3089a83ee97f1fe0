"""Requests to the API server: read, list, create, apply, patch, delete, and the lines of a watch.

Owns timeouts, Retry-After, the refresh after a 401, the translation of answers into `kube.errors`, and the refusal to
write once leadership is lost. Refuses to know when to ask: loops, caches and backoff are above it. Reads are quorum
reads, so what they return is the truth at that moment; what is read often is read from a `kube.store` instead.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import aiohttp
import msgspec

from kube import auth, errors, metrics
from kube.clock import Clock, SystemClock
from kube.codec import Page, Status, codec, encode
from kube.meta import Key, Object, Resource
from kube.stream import TRANSPORT_FAILURES, WatchStream

T = TypeVar("T", bound=Object)

PAGE_SIZE = 500  # client-go's pager
CONNECT_SECONDS = 10.0
# A write that takes longer than this has met a webhook or an etcd in trouble; the API server itself gives up at 60 s.
WRITE_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=CONNECT_SECONDS)
READ_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=CONNECT_SECONDS, sock_read=60)
# Bookmarks come about once a minute, so a stream that is silent for much longer has no peer any more.
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=73)
# From the request to the headers of a watch, or to the whole of its refusal: single bytes satisfy sock_read for ever.
OPEN_SECONDS = 60.0
# A short Retry-After is waited for here (API priority and fairness mostly says one second); a long one is left to the
# caller, whose queue (`kube.worker`) or watch waits for it and can do something else meanwhile.
RETRIES = 3
LONGEST_WAIT = 5.0

_TYPES: Mapping[int, type[errors.ApiError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    410: errors.Gone,
    422: errors.Invalid,
    429: errors.TooManyRequests,
}
# What a reason means counts more than the code it came with: an in-stream Expired has been seen as 500 behind proxies.
_REASONS: Mapping[str, type[errors.ApiError]] = {
    "AlreadyExists": errors.AlreadyExists,
    "Expired": errors.Gone,
    "Gone": errors.Gone,
}


@dataclass(frozen=True)
class Listing(Generic[T]):
    """All objects of a kind that match, at one moment named by `resource_version`."""

    items: tuple[T, ...]
    resource_version: str


class Client:
    """One connection to one cluster, to be used as an async context manager.

    `guard` is asked before every write; while it says False nothing is sent and NotLeading is raised.
    """

    def __init__(self, access: auth.Auth, *, user_agent: str, clock: Clock) -> None:
        self.guard: Callable[[], bool] = lambda: True
        self._auth = access
        self._user_agent = user_agent
        self._clock = clock

    @classmethod
    async def connect(cls, *, user_agent: str, kubeconfig: str = "", clock: Clock | None = None) -> "Client":
        """Find the cluster: the one that this pod runs in, unless a kubeconfig is named or we are in no pod."""
        clock = clock or SystemClock()
        source: auth.Source = auth.from_service_account
        if kubeconfig or not auth.in_cluster():
            source = auth.from_kubeconfig(kubeconfig)
        return cls(await auth.Auth.load(source, clock), user_agent=user_agent, clock=clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._auth.close()

    async def get(self, resource: Resource[T], key: Key) -> T:
        """Read one object. Raises NotFound."""
        return codec(resource).object(await self.request("GET", resource.path(*key)))

    async def list(
        self, resource: Resource[T], *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Listing[T]:
        """Read all objects that match. A continue token that expired on the way starts the list over, once."""
        query = {"labelSelector": label_selector, "fieldSelector": field_selector}
        for attempt in range(2):
            try:
                return await self._list(resource, namespace, query)
            except errors.Gone:
                if attempt:
                    raise
        raise AssertionError("unreachable")

    async def _list(self, resource: Resource[T], namespace: str, query: Mapping[str, str]) -> Listing[T]:
        items: list[T] = []
        token = ""
        while True:
            page = await self.page(resource, namespace=namespace, query=query, token=token)
            items += page.items
            token = page.metadata.continue_
            if not token:
                return Listing(tuple(items), page.metadata.resource_version)

    async def page(
        self,
        resource: Resource[T],
        *,
        namespace: str,
        query: Mapping[str, str],
        token: str = "",
        limit: int = PAGE_SIZE,
        retries: int = RETRIES,
    ) -> Page[T]:
        """One page of a list, beginning at a continue token. Raises Gone when the token has expired."""
        params = {**query, "limit": str(limit), "continue": token}
        path = resource.path(namespace)
        page = codec(resource).page(await self.request("GET", path, params=params, retries=retries))
        if not page.metadata.resource_version:
            # Whatever this is, it is no list, and must not be taken for an empty one.
            raise errors.ConnectionFailed(f"GET {path}: the answer is a list of no version")
        return page

    async def create(self, resource: Resource[T], body: Mapping[str, Any]) -> T:
        """Create an object in the namespace that its metadata names. Raises AlreadyExists."""
        path = resource.path(_namespace(body))
        return codec(resource).object(await self.request("POST", path, body=_typed(resource, body)))

    async def apply(
        self, resource: Resource[T], body: Mapping[str, Any], *, field_manager: str, subresource: str = ""
    ) -> T:
        """Server-side apply as `field_manager`, taking over fields that another manager holds.

        With `metadata.uid` in the body an object that was deleted meanwhile is not brought back: Conflict.
        """
        path = resource.path(_namespace(body), body["metadata"]["name"], subresource)
        answer = await self.request(
            "PATCH",
            path,
            params={"fieldManager": field_manager, "force": "true"},
            body=_typed(resource, body),
            # A JSON document is a YAML document; this content type is what makes the patch an apply.
            content_type="application/apply-patch+yaml",
        )
        return codec(resource).object(answer)

    async def merge_patch(
        self, resource: Resource[T], key: Key, patch: Mapping[str, Any], *, subresource: str = ""
    ) -> T:
        """JSON merge patch. A `metadata.resourceVersion` in the patch makes it conditional: Conflict."""
        answer = await self.request(
            "PATCH", resource.path(*key, subresource), body=patch, content_type="application/merge-patch+json"
        )
        return codec(resource).object(answer)

    async def delete(
        self,
        resource: Resource[T],
        key: Key,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "Background",
        grace_period_seconds: int | None = None,
    ) -> None:
        """Ask for deletion; finalizers may delay it. Raises NotFound, and Conflict when a precondition fails."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: dict[str, Any] = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": propagation,
            "preconditions": {name: value for name, value in preconditions.items() if value},
        }
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        await self.request("DELETE", resource.path(*key), body=options)

    async def create_subresource(
        self, resource: Resource[T], key: Key, subresource: str, body: Mapping[str, Any]
    ) -> None:
        """POST to a subresource. An eviction that a disruption budget forbids for now raises TooManyRequests."""
        # Not retried here: the budget will not allow within seconds what it forbids now.
        await self.request("POST", resource.path(*key, subresource), body=body, retries=0)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        retries: int = RETRIES,
        guarded: bool = True,
    ) -> bytes:
        """Send one request and return the body of a 2xx answer. For `kube` itself; others use the verbs above."""
        refreshed = False
        ask = functools.partial(self._must_lead, method, path) if method != "GET" and guarded else None
        while True:
            if ask is not None:
                ask()
            generation = self._auth.generation
            try:
                return await self._once(method, path, params, body, content_type, ask)
            except errors.Unauthorized:
                if refreshed or not await self._auth.refresh(generation):
                    raise
                refreshed = True
            except (errors.TooManyRequests, errors.ServerError) as error:
                if error.retry_after is None or error.retry_after > LONGEST_WAIT or retries <= 0:
                    raise
                retries -= 1
                metrics.REST.retried(method, self._auth.host, error.code)
                await self._clock.sleep(error.retry_after)

    def _must_lead(self, method: str, path: str) -> None:
        if not self.guard():
            raise errors.NotLeading(f"{method} {path} was not sent: this process does not lead")

    async def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        ask: Callable[[], None] | None,
    ) -> bytes:
        timeout = READ_TIMEOUT if method == "GET" else WRITE_TIMEOUT
        headers = {} if body is None else {"Content-Type": content_type}
        data = None if body is None else encode(body)
        async with self._send(method, path, params, headers, data, timeout, ask) as response:
            answer: bytes = await response.read()
            metrics.REST.transferred(method, self._auth.host, len(data or b""), len(answer))
            if response.status >= 300:
                raise api_error(response.status, answer, response.headers)
            return answer

    async def watch(self, resource: Resource[T], *, namespace: str, params: Mapping[str, str]) -> WatchStream:
        """Open a watch. Raises what `request` raises; the caller closes the stream."""
        generation = self._auth.generation
        query = {**params, "watch": "1", "allowWatchBookmarks": "true"}
        try:
            async with AsyncExitStack() as stack, asyncio.timeout(OPEN_SECONDS):
                sending = self._send("GET", resource.path(namespace), query, {}, None, WATCH_TIMEOUT)
                response = await stack.enter_async_context(sending)
                if response.status != 200:
                    raise api_error(response.status, await response.read(), response.headers)
                return WatchStream(response, stack.pop_all())
        except TimeoutError as error:
            raise errors.ConnectionFailed(f"no answer to a watch within {OPEN_SECONDS:g} s") from error
        except errors.Unauthorized:
            # The caller waits a moment and opens another one, with the new credential.
            await self._auth.refresh(generation)
            raise

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        data: bytes | None,
        timeout: aiohttp.ClientTimeout,
        ask: Callable[[], None] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange on the session: headers, metrics, and transport failures as ConnectionFailed."""
        started, code = time.monotonic(), "<error>"
        try:
            async with (
                self._auth.session() as (session, identity),
                session.request(
                    method,
                    identity.host + path,
                    params={name: value for name, value in (params or {}).items() if value},
                    data=data,
                    headers={**self._headers(identity), **headers},
                    timeout=timeout,
                    proxy=identity.proxy,
                    server_hostname=identity.server_name,
                    trace_request_ctx=ask,  # asked again once there is a connection
                    # An API server redirects nobody; a proxy that redirects to itself would be asked ten times.
                    allow_redirects=False,
                ) as response,
            ):
                code = str(response.status)
                metrics.REST.observe(method, self._auth.host, code, time.monotonic() - started)
                yield response
        except TRANSPORT_FAILURES as error:
            if code == "<error>":
                metrics.REST.observe(method, self._auth.host, code, time.monotonic() - started)
            raise errors.ConnectionFailed(f"{method} {path}: {error or type(error).__name__}") from error

    def _headers(self, identity: auth.Identity) -> dict[str, str]:
        # identity: compressing a list costs the API server more than the network of a cluster costs us.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": self._user_agent}
        if identity.authorization:
            headers["Authorization"] = identity.authorization
        return headers


def api_error(code: int, body: bytes, headers: Mapping[str, str]) -> errors.ApiError:
    """The error that an answer means. The body may be anything: a Status, a proxy's HTML page, or empty."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = Status(message=body[:200].decode(errors="replace"))
    return status_error(status, code=code, retry_after=headers.get("Retry-After", ""))


def status_error(status: Status, *, code: int = 0, retry_after: str = "") -> errors.ApiError:
    """The typed error of a Status, from a response or from the middle of a watch."""
    code = code or status.code
    fallback = errors.ServerError if code >= 500 else errors.ApiError
    kind = _REASONS.get(status.reason) or _TYPES.get(code, fallback)
    details = status.details or {}
    seconds = retry_after or str(details.get("retryAfterSeconds", ""))
    message = status.message or f"the API server answered {code}"
    # Only whole seconds are in use; a date or garbage counts as absent, and so does 0 in a Status.
    wait = float(seconds) if seconds.isascii() and seconds.isdigit() and (retry_after or int(seconds)) else None
    return kind(code, status.reason, message, retry_after=wait, details=details)


def _typed(resource: Resource[T], body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **body}


def _namespace(body: Mapping[str, Any]) -> str:
    return str(body["metadata"].get("namespace", ""))
