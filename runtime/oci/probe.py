"""Asks a registry why a copy failed. skopeo answers with one exit code and prose; the registry with a status code.

One small request with the same login: GET of the manifest for a pull, an upload that is opened and cancelled for a push.
It knows the distribution API's authentication (Basic, Bearer, identity tokens), and nothing of what was copied.
"""

import base64
import dataclasses
import enum
import http.client
import json
import re
import ssl
import urllib.parse

from runtime.oci.login import Login
from runtime.oci.reference import DOCKER_HUB, Reference

TIMEOUT = 15.0
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)


class Action(enum.StrEnum):
    PULL = "pull"
    PUSH = "pull,push"


class Verdict(enum.Enum):
    OK = enum.auto()
    UNAUTHORIZED = enum.auto()  # no login, or one that is not accepted
    DENIED = enum.auto()  # the login is accepted and may not do this
    NOT_FOUND = enum.auto()
    UNAVAILABLE = enum.auto()  # no answer, or a 5xx


@dataclasses.dataclass(frozen=True)
class Finding:
    verdict: Verdict
    detail: str  # "registry.example answered 401 to pull of team/adapter"


@dataclasses.dataclass(frozen=True)
class _Answer:
    code: int
    challenge: str
    location: str
    body: bytes


def probe(reference: Reference, login: Login | None, action: Action) -> Finding:
    """Say what the registry answers to this action with this login. Never raises."""
    try:
        code, accepted = _ask(reference, login, action)
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = f"no answer from {reference.registry}: {type(error).__name__}: {error}"
        return Finding(Verdict.UNAVAILABLE, text)
    return Finding(_verdict(code, accepted), f"{reference.registry} answered {code} to {_said(reference, action)}")


def _said(reference: Reference, action: Action) -> str:
    return f"pull of {reference.repository}" if action is Action.PULL else f"push to {reference.repository}"


def _verdict(code: int, accepted: bool) -> Verdict:
    match code:
        case 401 | 403 | 405 if accepted:
            return Verdict.DENIED
        case 401:
            return Verdict.UNAUTHORIZED
        case 403 | 405:
            return Verdict.DENIED
        case 404:
            return Verdict.NOT_FOUND
    return Verdict.OK if code < 400 else Verdict.UNAVAILABLE


def _ask(reference: Reference, login: Login | None, action: Action) -> tuple[int, bool]:
    """Return the status code, and whether a token service accepted the login before."""
    answer = _request(reference, action, "")
    if answer.code != http.HTTPStatus.UNAUTHORIZED or (
        login is None and not answer.challenge.lower().startswith("bearer")
    ):
        return answer.code, False
    if not answer.challenge.lower().startswith("bearer"):
        return _request(reference, action, _basic(login)).code, False
    code, token = _token(answer.challenge, reference, login, action)
    if not token:
        return (code if code >= 400 else int(http.HTTPStatus.UNAUTHORIZED)), False
    return _request(reference, action, f"Bearer {token}").code, login is not None


def _basic(login: Login | None) -> str:
    if login is None or not login.password:
        return ""
    return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


def _request(reference: Reference, action: Action, authorization: str) -> _Answer:
    host = "registry-1.docker.io" if reference.registry == DOCKER_HUB else reference.registry
    base = f"{'http' if reference.plain_http else 'https'}://{host}/v2/{reference.repository}"
    headers = {"Accept": _MANIFESTS} | ({"Authorization": authorization} if authorization else {})
    if action is Action.PULL:
        return _send("GET", f"{base}/manifests/{reference.digest or reference.tag}", headers)
    answer = _send("POST", f"{base}/blobs/uploads/", headers | {"Content-Length": "0"})
    if answer.code == http.HTTPStatus.ACCEPTED and answer.location:
        _send("DELETE", urllib.parse.urljoin(f"{base}/blobs/uploads/", answer.location), headers)
    return answer


def _token(challenge: str, reference: Reference, login: Login | None, action: Action) -> tuple[int, str]:
    """Fetch a token from the service that the challenge names. Returns the status code and the token or ""."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = {"service": fields.get("service", ""), "scope": f"repository:{reference.repository}:{action}"}
    realm = fields.get("realm", "")
    if login is not None and login.identity_token:
        form = urllib.parse.urlencode({**query, "grant_type": "refresh_token", "refresh_token": login.identity_token})
        answer = _send("POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, form)
    else:
        basic = _basic(login)
        headers = {"Authorization": basic} if basic else {}
        answer = _send("GET", f"{realm}?{urllib.parse.urlencode(query)}", headers)
    if answer.code != http.HTTPStatus.OK:
        return answer.code, ""
    given = json.loads(answer.body)
    return answer.code, given.get("token") or given.get("access_token") or ""


def _send(method: str, url: str, headers: dict[str, str], body: str | None = None) -> _Answer:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=TIMEOUT, context=context
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
    try:
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
        answer = connection.getresponse()
        fields = answer.headers
        return _Answer(answer.status, fields.get("WWW-Authenticate", ""), fields.get("Location", ""), answer.read())
    finally:
        connection.close()
