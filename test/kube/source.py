"""What `kube.client.Client` offers to a reflector, served from histories in memory: every turn of the loop can be chosen.

A healthy server that is slow on request and forgets what was compacted. What else goes wrong between a client and its
server needs sockets and is `test.kube.server`'s.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from kube import errors
from kube.client import Client
from kube.codec import ListMeta, Page
from kube.meta import Key, ObjectMeta, Resource
from test.kube.history import Change, History, end_bookmark, line, status

GONE = line("ERROR", status(410, "Expired"))


class Stream:
    """An open watch. What was said since the last look comes as one batch, as from a socket."""

    def __init__(self) -> None:
        self._said: list[bytes] = []
        self._news = asyncio.Event()
        self._ended = False

    def say(self, *lines: bytes) -> None:
        self._said += lines
        self._news.set()

    def end(self) -> None:
        """As when the server's time for a watch is up."""
        self._ended = True
        self._news.set()

    async def lines(self) -> list[bytes]:
        while not self._said and not self._ended:
            self._news.clear()
            await self._news.wait()
        said, self._said = self._said, []
        return said

    async def close(self) -> None:
        self._ended = True


def _open() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


class Source:
    """One server of many kinds, by their plural. It answers a watch or a list of a kind once the kind's gate is open."""

    def __init__(self) -> None:
        self.histories: defaultdict[str, History] = defaultdict(History)
        self.asked: list[str] = []  # the version of every watch, "" for one from the beginning; "page" for a page
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(_open)
        self.opened: list[Callable[[], None]] = []  # done once each, before the client reads what a new watch says
        self.forbidden: set[str] = set()  # kinds that our role does not let us read
        self.absent: set[str] = set()  # kinds that are not served
        self._streams: list[Stream] = []

    @property
    def client(self) -> Client:
        return cast(Client, self)

    def say(self, *lines: bytes) -> None:
        """Put lines on every open watch, as one batch with what is there unread."""
        for stream in self._streams:
            stream.say(*lines)

    def end(self) -> None:
        for stream in self._streams:
            stream.end()
        self._streams.clear()

    def stall(self) -> None:
        """Open watches hear of nothing more, and do not know it: their connections are half-open, or their server is behind."""
        self._streams.clear()

    def forget(self) -> None:
        """No watch can go on from where it is: its client has to read everything again."""
        self.say(GONE)
        self._streams.clear()

    async def watch(self, resource: Resource[Any], *, namespace: str, params: Mapping[str, str]) -> Stream:
        self.asked.append(params.get("resourceVersion", ""))
        await self.gates[resource.plural].wait()
        self._check(resource)
        history, stream = self.histories[resource.plural], Stream()
        since = params.get("resourceVersion", "")
        if since and int(since) < history.compacted:
            raise errors.Gone(410, "Expired", f"too old resource version: {since}")
        self._streams.append(stream)

        def tell(change: Change) -> None:
            if stream in self._streams:
                stream.say(change.line())

        history.listeners.append(tell)
        if since:
            stream.say(*(change.line() for change in history.since(int(since))))
        else:
            stream.say(*(line("ADDED", item) for item in history.objects.values()), end_bookmark(history.version))
        if self.opened:
            self.opened.pop(0)()
        return stream

    async def page(self, resource: Resource[Any], **_: object) -> Page[Any]:
        self.asked.append("page")
        await self.gates[resource.plural].wait()
        self._check(resource)
        history = self.histories[resource.plural]
        items = tuple(msgspec.convert(item, resource.type) for item in history.objects.values())
        return Page(ListMeta(resource_version=str(history.version)), items)

    def _check(self, resource: Resource[Any]) -> None:
        if resource.plural in self.forbidden:
            raise errors.Forbidden(403, "Forbidden", f"you cannot read {resource.plural}")
        if resource.plural in self.absent:
            raise errors.NotFound(404, "NotFound", "the server could not find the requested resource")

    async def get(self, resource: Resource[Any], key: Key) -> Any:
        return resource.type(metadata=ObjectMeta(namespace=key.namespace, name=key.name, uid=f"uid-of-{key.name}"))
