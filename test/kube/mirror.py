"""A reflector beside a server, with everything that its handler was told: what the tests of watches look at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from kube import auth
from kube.api.workload import CONFIG_MAPS, ConfigMap
from kube.client import Client
from kube.clock import Clock
from kube.delta import Event
from kube.meta import Key
from kube.store import Store
from kube.watch import Reflector
from test.background import endless
from test.expect import eventually
from test.kube.history import bookmark
from test.kube.server import WatchServer


class Mirror:
    """A reflector with its store and the history that its handler saw."""

    def __init__(self, client: Client, clock: Clock, namespace: str = "x") -> None:
        self.store: Store[ConfigMap] = Store()
        self.told: list[Event[ConfigMap]] = []
        self.early = False  # synced before the initial handlers had run
        self.reflector = Reflector(client, CONFIG_MAPS, self.store, self.hear, namespace=namespace, clock=clock)

    def hear(self, event: Event[ConfigMap]) -> None:
        self.early |= event.initial and self.reflector.synced.is_set()
        self.told.append(event)

    def shows(self, server: WatchServer) -> bool:
        """Whether this is what the server has, and no position that the server has not reached."""
        synced = self.reflector.synced.is_set()
        return synced and self.versions() == server.history.versions() and self.position <= server.history.version

    @property
    def position(self) -> int:
        return int(self.store.last_resource_version or 0)

    def versions(self) -> dict[str, str]:
        return {item.metadata.name: item.metadata.resource_version for item in self.store.all()}

    def kinds(self, name: str) -> list[str]:
        return [str(event.type) for event in self.told if event.object.metadata.name == name]

    def check_history(self) -> None:
        """Per object: ADDED, any number of MODIFIED, DELETED, and again; a changed UID is never a modification."""
        alive: dict[Key, str] = {}
        for event in self.told:
            key, uid = event.object.metadata.key, event.object.metadata.uid
            if event.type == "ADDED":
                assert key not in alive, f"{key} was added twice"
                alive[key] = uid
            else:
                assert alive.get(key) == uid, f"{event.type} of {key} that was never added"
                if event.type == "DELETED":
                    del alive[key]
        assert set(alive) == {item.metadata.key for item in self.store.all()}


@dataclass
class Credential:
    """Who we are to the server, and whom we trust; read anew whenever the client asks."""

    token: str = ""
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Peer(Protocol):
    """A server, or a proxy before it."""

    url: str


@asynccontextmanager
async def connected(peer: Peer, clock: Clock, credential: Credential | None = None) -> AsyncIterator[Client]:
    known = credential or Credential()

    async def source() -> auth.Identity:
        bearer = f"Bearer {known.token}" if known.token else ""
        return auth.Identity(peer.url, bearer, known.ca_file, known.cert_file, known.key_file)

    async with Client(await auth.Auth.load(source, clock), user_agent="test", clock=clock) as client:
        yield client


@asynccontextmanager
async def mirrored(peer: Peer, clock: Clock, credential: Credential | None = None) -> AsyncIterator[Mirror]:
    async with connected(peer, clock, credential) as client:
        mirror = Mirror(client, clock)
        async with endless(mirror.reflector.run()):
            yield mirror


async def heard(mirror: Mirror, server: WatchServer) -> None:
    """Have the watch kept alive by a bookmark, and return once it has arrived."""
    server.history.skip(1)
    server.say(bookmark(server.history.version))
    await eventually(lambda: mirror.position == server.history.version)


async def follows(mirror: Mirror, server: WatchServer) -> None:
    """Return once the mirror shows what the server has."""
    await eventually(lambda: mirror.shows(server))
