"""What may happen to a server and the line to it, as values: the letters of the scripts in `test.kube.scripts`.

An `Action` happens to the world at one moment; `Next` is a fault of the next requests. One thing is left out, because
nobody can see it by resourceVersions: an etcd that was restored and then wrote more than it had lost before anybody
looked. So nothing else is written until a `Restore` has been noticed.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from test.expect import eventually
from test.kube.history import bookmark
from test.kube.looptime import LoopClock, turns
from test.kube.mirror import Credential, Mirror, follows
from test.kube.server import WatchServer
from test.kube.wire import End, Fault

# A watch lasts at most ten minutes and a silent peer is given up after 73 s: by then everything has been noticed.
LONG = 700.0
# Where the server is is not looked at more often than this.
MINUTE = 61.0


@dataclass(frozen=True)
class World:
    """What an action may touch."""

    server: WatchServer
    clock: LoopClock
    credential: Credential
    mirror: Mirror

    async def converge(self) -> None:
        """Let nothing more go wrong, and time go on until the mirror shows what the server has."""
        self.server.faults.clear()
        self.server.catch_up()

        async def shown() -> bool:
            await Pass(LONG).act(self)
            return self.mirror.shows(self.server)

        await eventually(shown)


class Action(ABC):
    """Something that happens."""

    @abstractmethod
    async def act(self, world: World) -> None: ...


@dataclass(frozen=True)
class Put(Action):
    """`called` lies about the type: ADDED for a known object, MODIFIED for an unknown one."""

    name: str
    called: str = ""
    size: int = 0

    async def act(self, world: World) -> None:
        world.server.history.put(self.name, called=self.called, text="x" * self.size)


@dataclass(frozen=True)
class Delete(Action):
    """DELETED is said even of an object that nobody knows."""

    name: str

    async def act(self, world: World) -> None:
        world.server.history.delete(self.name)


@dataclass(frozen=True)
class Recreate(Action):
    name: str

    async def act(self, world: World) -> None:
        world.server.history.recreate(self.name)


@dataclass(frozen=True)
class Compact(Action):
    async def act(self, world: World) -> None:
        world.server.history.compact()


@dataclass(frozen=True)
class Miss(Action):
    """All of this happens while nobody is connected, and the history of it is lost."""

    changes: tuple[Action, ...]

    async def act(self, world: World) -> None:
        world.server.drop()
        for change in self.changes:
            await change.act(world)
        world.server.history.compact()


@dataclass(frozen=True)
class Restore(Action):
    """On a `calm` day it is noticed as soon as the connection breaks; in the middle of troubles it may take some time."""

    versions: int
    bump: bool
    calm: bool

    async def act(self, world: World) -> None:
        if self.calm:
            await world.converge()
            await eventually(lambda: world.server.streams)
            world.clock.jump(MINUTE)
        world.server.restore(self.versions, bump=self.bump)
        if self.calm and world.server.watch_list != "ignored":  # that one costs a minute each time
            await follows(world.mirror, world.server)
        else:
            await world.converge()


@dataclass(frozen=True)
class Drop(Action):
    end: End

    async def act(self, world: World) -> None:
        world.server.drop(self.end)


@dataclass(frozen=True)
class Expire(Action):
    async def act(self, world: World) -> None:
        world.server.expire()


@dataclass(frozen=True)
class Say(Action):
    """A line that no history explains."""

    raw: bytes

    async def act(self, world: World) -> None:
        world.server.say(self.raw)
        if b'"ERROR"' in self.raw:
            for stream in world.server.streams:
                stream.request.failed = True


@dataclass(frozen=True)
class Repeat(Action):
    """Some of the last changes are said once more: duplicates, and replays of what has been left behind.

    Not by a cache that lags: it would say them before those that it holds back, which no server does.
    """

    back: int
    count: int

    async def act(self, world: World) -> None:
        if not world.server.lagging:
            for change in world.server.history.changes[-self.back :][: self.count]:
                world.server.say(change.line())


@dataclass(frozen=True)
class Bookmark(Action):
    """`behind` 0 is as it should be."""

    behind: int = 0

    async def act(self, world: World) -> None:
        if not world.server.lagging:
            world.server.say(bookmark(max(1, world.server.history.version - self.behind)))


@dataclass(frozen=True)
class Skip(Action):
    """Other kinds change; only a bookmark tells."""

    versions: int

    async def act(self, world: World) -> None:
        world.server.history.skip(self.versions)


@dataclass(frozen=True)
class Lag(Action):
    """The watch cache stands still while etcd goes on; or it catches up."""

    lagging: bool

    async def act(self, world: World) -> None:
        if self.lagging:
            world.server.lagging = True
        else:
            world.server.catch_up()


@dataclass(frozen=True)
class RotateToken(Action):
    """The server takes only the new token, and our file has it."""

    token: str

    async def act(self, world: World) -> None:
        world.server.token = world.credential.token = self.token


@dataclass(frozen=True)
class Next(Action):
    """The next requests fail so."""

    fault: Fault
    times: int = 1

    async def act(self, world: World) -> None:
        world.server.faults.extend([self.fault] * self.times)


@dataclass(frozen=True)
class Pass(Action):
    """Time passes at once, as when the loop stalls, the machine is suspended or nothing happens."""

    seconds: float

    async def act(self, world: World) -> None:
        world.clock.jump(self.seconds)
        await turns()
        if self.seconds >= LONG:
            world.server.expire()
            await turns()


@dataclass(frozen=True)
class Turns(Action):
    """The loop turns: with few of them an action meets the reflector in the middle of something."""

    count: int

    async def act(self, world: World) -> None:
        await turns(self.count)
