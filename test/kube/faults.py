"""The grammar of faults: what may happen to a server and the line to it, as values that hypothesis draws.

An `Action` happens to the world at a moment of the script; `Next` is a fault of the next request. One thing is left out,
because nobody can see it by resourceVersions: an etcd that was restored and then wrote more than it had lost before
anybody looked. So `Restore` lets time pass before anything else is written.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

from test.expect import eventually
from test.kube.history import bookmark, line, status, too_large
from test.kube.looptime import LoopClock, turns
from test.kube.mirror import Credential, Mirror
from test.kube.server import WatchServer
from test.kube.wire import Answer, Break, End, Fault, Stall

NAMES = "abcd"
# A watch lasts at most ten minutes and a silent peer is given up after 75 s: by then everything has been noticed.
LONG = 700.0


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


class Action:
    """Something that happens."""

    async def act(self, world: World) -> None:
        raise NotImplementedError


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
class Restore(Action):
    versions: int
    bump: bool

    async def act(self, world: World) -> None:
        world.server.restore(self.versions, bump=self.bump)
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
    """The last changes are said once more: duplicates, and replays of what has been left behind."""

    count: int

    async def act(self, world: World) -> None:
        for change in world.server.history.changes[-self.count :]:
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
    fault: Fault

    async def act(self, world: World) -> None:
        world.server.faults.append(self.fault)


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


HTML = b"<html>bad gateway</html>"
GONE = line("ERROR", status(410, "Expired"))
INTERNAL = line("ERROR", status(500, "InternalError"))
BUSY = line("ERROR", status(429, "TooManyRequests", retryAfterSeconds=2))
TOO_LARGE = line("ERROR", too_large())
CUT_SHORT = b'{"type":"MODIFIED","object":{"metadata":{"name":"a"'
RETRY_AFTER = ("0", "1", "7", "1000000000", "soon", "Fri, 31 Dec 1999 23:59:59 GMT")

ends = st.sampled_from(End)
answers = st.builds(
    Answer,
    status=st.sampled_from([401, 403, 404, 410, 429, 500, 503, 504]),
    body=st.sampled_from([None, b"", HTML, b"null", b'{"reason":"Expired"}', b"\xff\xfe"]),
    headers=st.sampled_from([(), *((f"Retry-After: {value}",) for value in RETRY_AFTER)]),
)
lies = st.one_of(
    st.builds(Answer, status=st.sampled_from([200, 500]), body=st.just(b"{"), announced=st.sampled_from([0, 9, 9999])),
    st.builds(
        Answer, status=st.just(200), body=st.sampled_from([b"", b"{}", HTML, b'{"items":[]}', CUT_SHORT + b"\n"])
    ),
)
breaks = st.builds(
    Break,
    after=st.integers(0, 4),
    say=st.sampled_from([b"", CUT_SHORT, CUT_SHORT + b"\n", HTML + b"\n", b"\n\r\n", GONE, INTERNAL, BUSY, TOO_LARGE]),
    then=ends,
)
faults: st.SearchStrategy[Fault] = st.one_of(answers, lies, breaks, st.builds(Stall, drip=st.booleans()))

names = st.sampled_from(NAMES)
changes: st.SearchStrategy[Action] = st.one_of(
    st.builds(Put, names, called=st.sampled_from(["", "", "ADDED", "MODIFIED"]), size=st.sampled_from([0, 0, 200_000])),
    st.builds(Delete, names),
    st.builds(Recreate, names),
    st.builds(Skip, st.integers(1, 1000)),
)
troubles: st.SearchStrategy[Action] = st.one_of(
    st.builds(Next, faults),
    st.builds(Drop, st.sampled_from([End.FIN, End.RST])),
    st.builds(Say, st.sampled_from([b"\n\r\n", HTML + b"\n", line("FUTURE", {}), GONE, INTERNAL, BUSY, TOO_LARGE])),
    st.builds(Repeat, st.integers(1, 6)),
    st.builds(Bookmark, st.sampled_from([0, 0, 1, 5])),
    st.builds(Lag, st.booleans()),
    st.builds(RotateToken, st.sampled_from(["one", "two"])),
    st.builds(Restore, st.integers(1, 5), st.booleans()),
    st.builds(Compact),
    st.builds(Expire),
    st.builds(Pass, st.sampled_from([1.0, 20.0, 80.0, LONG])),
)
actions = st.one_of(changes, troubles, st.builds(Turns, st.integers(0, 40)))


@dataclass(frozen=True)
class Script:
    """One world, and what happens in it."""

    watch_list: str
    first: tuple[Fault, ...]
    actions: tuple[Action, ...]


scripts = st.builds(
    Script,
    watch_list=st.sampled_from(["yes", "refused", "ignored"]),
    first=st.lists(faults, max_size=4).map(tuple),
    actions=st.lists(actions, max_size=25).map(tuple),
)
