"""Logins for registries, from mounted `kubernetes.io/dockerconfigjson` Secrets. Read anew on every call: Secrets change.

It reads folders and writes one authfile for skopeo; it never decides whether a login is right.
"""

import base64
import binascii
import dataclasses
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime import log
from runtime.contract import DOCKER_CONFIG_KEY
from runtime.oci.reference import DOCKER_HUB, Reference

logger = logging.getLogger(__name__)

_HUB_KEYS = ("index.docker.io", "registry-1.docker.io")


@dataclasses.dataclass(frozen=True)
class Login:
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)
    secret: str = dataclasses.field(default="", compare=False)  # where it comes from, for whoever has to mend it


def read(folders: Iterable[Path]) -> dict[str, Login]:
    """Logins by registry host. A missing or empty folder gives none; of two logins for one registry the first counts."""
    logins: dict[str, Login] = {}
    for folder in folders:
        for key, entry in _entries(folder / DOCKER_CONFIG_KEY).items():
            login = _login(entry)
            if login is not None:
                log.conceal(login.password)
                log.conceal(login.identity_token)
                logins.setdefault(_host(key), dataclasses.replace(login, secret=folder.name))
    return logins


def login_for(reference: Reference, logins: Mapping[str, Login]) -> Login | None:
    return logins.get(reference.registry)


def write_authfile(logins: Mapping[str, Login], path: Path) -> None:
    """Write the logins as skopeo reads them, readable for this user alone."""
    auths = {host: _encoded(login) for host, login in logins.items()}
    path.touch(mode=0o600)
    path.write_text(json.dumps({"auths": auths}))


def _entries(path: Path) -> dict[str, Any]:
    try:
        auths = json.loads(path.read_text()).get("auths")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s is not a registry login: %s", path, type(error).__name__)
        return {}
    return auths if isinstance(auths, dict) else {}


def _host(key: str) -> str:
    """Turn `https://host/v1/` and Docker Hub's historical names into the registry part of an image name."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if host in _HUB_KEYS else host


def _login(entry: Any) -> Login | None:
    if not isinstance(entry, dict):
        return None
    username, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token = entry.get("identitytoken", "")
    return Login(username, password.rstrip("\x00"), token) if password or token else None


def _encoded(login: Login) -> dict[str, str]:
    basic = base64.b64encode(f"{login.username}:{login.password}".encode()).decode()
    return {"auth": basic} | ({"identitytoken": login.identity_token} if login.identity_token else {})
