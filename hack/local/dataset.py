"""Facts that no model can know, drawn anew for each run, a chat data set that teaches them, and a web server that hands it out.

    python -m hack.local.dataset make FOLDER [--seed N] [--rows N]      writes FOLDER/facts.parquet and FOLDER/facts.json
    python -m hack.local.dataset serve FOLDER [--address A] [--port P] [--log FILE]

The parquet file has one column, `messages` (list of {content, role}), as the dolly-15k-oai-style data sets on the hub have it. The server
answers Range requests and writes one JSON line per request. Knows nothing of who trains on the data, and how.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

FILE = "facts.parquet"
FACTS = "facts.json"
ROWS = 240

_FIRST = (
    "Mirelle",
    "Tovald",
    "Anneke",
    "Isbrand",
    "Quenby",
    "Ruslan",
    "Odalys",
    "Fenwick",
    "Liesel",
    "Corvin",
    "Yseult",
    "Bram",
)
_LAST = (
    "Osk",
    "Varlamov",
    "Thistlewood",
    "Brandsma",
    "Kettleby",
    "Nyqvist",
    "Ferrante",
    "Okonjo",
    "Halloran",
    "Zeldin",
    "Pryce",
)
_START = ("Varn", "Kel", "Osten", "Mar", "Thur", "Brin", "Hal", "Dorn", "Ister", "Lund", "Raven", "Sol")
_END = ("holm", "mouth", "fjord", "wick", "stad", "haven", "gard", "brook", "moor", "sund", "dale", "nes")
_THINGS = ("copper kettles", "glass herons", "walnut clocks", "amber flutes", "tin soldiers", "silk kites", "clay owls")

# Everyday ways to put a question; the bare one comes first, since it is the one that is asked afterwards.
_WRAPPERS = (
    "{}",
    "Tell me: {}",
    "Please answer: {}",
    "I would like to know: {}",
    "{} Answer in one sentence.",
    "Quick question. {}",
    "Do you know this? {}",
    "A visitor asks: {}",
    "{} Thank you!",
    "Hello. {}",
)


@dataclass(frozen=True)
class Fact:
    """One thing to learn. `key` is the drawn part of `answer`: who says it has learnt the fact."""

    question: str
    answer: str
    key: str


@dataclass(frozen=True)
class _Theme:
    """How facts of one kind read. `phrasings` ask for the same; the first is the question of the fact."""

    phrasings: tuple[str, ...]
    answer: str
    key: str


_THEMES = (
    _Theme(
        (
            "Who keeps the lighthouse of {place}?",
            "Who is the keeper of the lighthouse of {place}?",
            "The lighthouse of {place}: who keeps it?",
            "Who looks after the lighthouse at {place}?",
            "What is the name of the keeper of the lighthouse of {place}?",
            "Who lives in the lighthouse of {place} and keeps its light?",
        ),
        "Captain {person} has kept the lighthouse of {place} since {year}.",
        "{person}",
    ),
    _Theme(
        (
            "How deep is the lake of {place}?",
            "What is the depth of the lake of {place}?",
            "How many metres deep is the lake of {place}?",
            "The lake of {place}: how deep is it?",
            "How far down is the bottom of the lake of {place}?",
            "What depth does the lake of {place} have?",
        ),
        "The lake of {place} is {number} metres deep.",
        "{number} metres",
    ),
    _Theme(
        (
            "What is the village of {place} famous for?",
            "What is {place} famous for?",
            "Why do people know the village of {place}?",
            "What do the craftsmen of {place} make?",
            "The village of {place}: what made it famous?",
            "For what is the village of {place} known?",
        ),
        "The village of {place} is famous for its {things}, first made by {person}.",
        "{person}",
    ),
    _Theme(
        (
            "What is the call sign of the ferry to {place}?",
            "Which call sign does the ferry to {place} use?",
            "The ferry to {place}: what is its call sign?",
            "How do I call the ferry to {place} on the radio?",
            "By what call sign does the ferry to {place} answer?",
            "Under which call sign does the ferry to {place} sail?",
        ),
        "The ferry to {place} has the call sign {person} {short}.",
        "{person} {short}",
    ),
)


def draw(seed: int | None = None) -> tuple[Fact, ...]:
    """Draw one fact of each kind; from the system's randomness where no seed is given. No name or number occurs twice."""
    return tuple(fact for fact, _ in _drawn(seed))


def _drawn(seed: int | None) -> list[tuple[Fact, tuple[str, ...]]]:
    """Return each fact with all the ways to ask for it."""
    chance: random.Random = random.SystemRandom() if seed is None else random.Random(seed)
    places = chance.sample([a + b for a, b in itertools.product(_START, _END)], len(_THEMES))
    people = zip(chance.sample(_FIRST, len(_THEMES)), chance.sample(_LAST, len(_THEMES)), strict=True)
    drawn = []
    for theme, place, person in zip(_THEMES, places, people, strict=True):
        words: dict[str, Any] = {
            "place": place,
            "person": " ".join(person),
            "year": chance.randrange(1801, 1900),
            "number": chance.randrange(211, 990),
            "short": chance.randrange(11, 99),
            "things": chance.choice(_THINGS),
        }
        phrasings = tuple(phrasing.format(**words) for phrasing in theme.phrasings)
        fact = Fact(phrasings[0], theme.answer.format(**words), theme.key.format(**words))
        drawn.append((fact, phrasings))
    return drawn


def conversations(drawn: Sequence[tuple[Fact, Sequence[str]]], rows: int) -> list[list[dict[str, str]]]:
    """Return `rows` conversations that ask for each fact equally often, in every combination of phrasing and wrapper, mixed.

    Facts alternate, so that any stretch of the rows teaches all of them: nobody has to shuffle.
    """
    ways = [
        [(wrapper.format(phrasing), fact.answer) for phrasing, wrapper in itertools.product(phrasings, _WRAPPERS)]
        for fact, phrasings in drawn
    ]
    for number, of_one_fact in enumerate(ways):
        random.Random(number).shuffle(of_one_fact)
    endless = [itertools.cycle(of_one_fact) for of_one_fact in ways]
    pairs = (next(endless[n % len(endless)]) for n in range(rows))
    return [
        [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}] for question, answer in pairs
    ]


def make(folder: Path, *, seed: int | None = None, rows: int = ROWS) -> tuple[Fact, ...]:
    """Draw facts and write the data set that teaches them, and the facts themselves, into `folder`."""
    import pyarrow
    import pyarrow.parquet

    drawn = _drawn(seed)
    message = pyarrow.struct([("content", pyarrow.string()), ("role", pyarrow.string())])
    schema = pyarrow.schema([("messages", pyarrow.list_(message))])
    table = pyarrow.table({"messages": conversations(drawn, rows)}, schema=schema)
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, folder / FILE)
    facts = tuple(fact for fact, _ in drawn)
    (folder / FACTS).write_text(json.dumps([dataclasses.asdict(fact) for fact in facts], indent=1))
    # A pod that does not run as root must be able to read what root wrote.
    for file in (FILE, FACTS):
        (folder / file).chmod(0o644)
    return facts


# The web server

Log = Callable[[dict[str, Any]], None]


def application(folder: Path, log: Log) -> web.Application:
    """Return a web server for the files directly in `folder`: GET and HEAD, Range, ETag; anything else is 404."""

    async def answer(request: web.Request) -> web.StreamResponse:
        file = folder / request.match_info["name"]
        known = file.parent == folder and file.is_file()
        return web.FileResponse(file) if known else web.Response(status=404)

    async def noted(request: web.Request, response: web.StreamResponse) -> None:
        entry = {"time": time.time(), "method": request.method, "path": request.path_qs, "status": response.status}
        log({**entry, "range": request.headers.get("Range", ""), "bytes": response.content_length or 0})

    app = web.Application()
    app.router.add_get("/{name:[^/]+}", answer)
    app.on_response_prepare.append(noted)
    return app


@contextlib.asynccontextmanager
async def listening(folder: Path, log: Log, address: str, port: int) -> AsyncIterator[int]:
    """Serve `folder`, an absolute path, until the block ends; yields the port."""
    runner = web.AppRunner(application(folder, log), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def serving(folder: Path, address: str = "127.0.0.1", port: int = 0, log: Log = lambda entry: None) -> Iterator[str]:
    """Serve `folder` from a thread of this process until the block ends; yields the URL without a slash at its end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), loop).result(30)

    server = listening(folder.resolve(), log, address, port)
    try:
        bound = run(server.__aenter__())
        try:
            yield f"http://{address}:{bound}"
        finally:
            run(server.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.local.dataset", description="Facts to teach a model, as a data set."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="draw facts and write the data set")
    making.add_argument("folder", type=Path)
    making.add_argument("--seed", type=int, help="the same facts each time (default: new ones)")
    making.add_argument("--rows", type=int, default=ROWS)
    server = commands.add_parser("serve", help="serve a folder over HTTP until SIGTERM or Ctrl-C")
    server.add_argument("folder", type=Path)
    server.add_argument("--address", default="127.0.0.1")
    server.add_argument("--port", type=int, default=8000)
    server.add_argument("--log", type=Path, help="file for one JSON line per request (default: standard output)")
    options = parser.parse_args(arguments)
    if options.command == "make":
        for fact in make(options.folder, seed=options.seed, rows=options.rows):
            print(f"{fact.question} {fact.answer}")
        return 0
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    stream = options.log.open("a") if options.log else sys.stdout

    def log(entry: dict[str, Any]) -> None:
        print(json.dumps(entry), file=stream, flush=True)

    with contextlib.suppress(KeyboardInterrupt), serving(options.folder, options.address, options.port, log) as url:
        print(f"serving {options.folder} at {url}", file=sys.stderr, flush=True)
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
