"""Resource Manager's URLs, request bodies and error answers, taken apart and put together.

Knows which resources exist, nothing of what is in them.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from hack.local.aks.cloud import Preconditions
from hack.local.aks.errors import ErrorDetail, Refusal
from hack.local.aks.model import Kind

PROVIDER = "Microsoft.ContainerService"
_CLUSTER_PATH = re.compile(
    rf"/subscriptions/(?P<subscription>[^/]+)/resourcegroups/(?P<group>[^/]+)/providers/{re.escape(PROVIDER)}"
    r"/managedclusters/(?P<cluster>[^/]+)(?P<pools>/agentpools(/(?P<pool>[^/]+))?)?/?",
    re.IGNORECASE,
)
_OPERATION_PATH = re.compile(
    rf"/subscriptions/(?P<subscription>[^/]+)/providers/{re.escape(PROVIDER)}"
    r"/locations/(?P<location>[^/]+)/(?P<view>operations|operationresults)/(?P<operation>[^/]+)/?",
    re.IGNORECASE,
)


def routed(method: str, path: str) -> tuple[Kind, Mapping[str, str]]:
    """Return what is asked of which resource; ("*", {}) where the emulated service has no such thing."""
    if match := _OPERATION_PATH.fullmatch(path):
        return ("OPERATION", match.groupdict()) if method == "GET" else ("*", {})
    match = _CLUSTER_PATH.fullmatch(path)
    if match is None:
        return "*", {}
    target = {key: value for key, value in match.groupdict().items() if value is not None}
    kinds: dict[tuple[str, bool, bool], Kind] = {
        ("PUT", True, True): "PUT",
        ("DELETE", True, True): "DELETE",
        ("GET", True, True): "GET",
        ("GET", True, False): "LIST",
        ("GET", False, False): "CLUSTER",
    }
    kind = kinds.get((method, "pools" in target, "pool" in target))
    return (kind, target) if kind else ("*", {})


def preconditions(request: web.Request) -> Preconditions:
    """Return the request's ETag conditions."""
    return Preconditions(request.headers.get("If-Match", ""), request.headers.get("If-None-Match", ""))


async def content(request: web.Request) -> Any:
    """Return the decoded body, None where it is empty. Raises Refusal where it is no JSON."""
    text = await request.text()
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        what = f"The request content was invalid and could not be deserialized: '{error}'."
        raise Refusal(400, ErrorDetail("InvalidRequestContent", what), shape="wrapped") from error


def tags(decoded: Any) -> dict[str, str]:
    """Return the tags that a body asks for, whatever else is wrong with it."""
    properties = decoded.get("properties") if isinstance(decoded, dict) else None
    found = properties.get("tags") if isinstance(properties, dict) else None
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def refused(refusal: Refusal) -> web.Response:
    """Return the answer that a refusal is."""
    body = refusal.body()
    if isinstance(body, str):
        response = web.Response(status=refusal.status, text=body, content_type="text/html")
    else:
        response = web.json_response(body, status=refusal.status)
    response.headers["x-ms-error-code"] = refusal.error.code
    if refusal.retry_after is not None:
        response.headers["Retry-After"] = str(refusal.retry_after)
    return response
