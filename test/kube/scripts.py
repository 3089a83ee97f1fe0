"""The grammar of fault scripts: what hypothesis draws. Every letter of it stands in the table of fault_table_test.py."""

from dataclasses import dataclass

from hypothesis import strategies as st

from test.kube import faults
from test.kube.history import BUSY, CUT_SHORT, GONE, HTML, INTERNAL, TOO_LARGE, line
from test.kube.wire import Answer, Break, End, Fault, Stall

NAMES = "abc"
RETRY_AFTER = ("0", "1", "7", "1000000000", "soon", "Fri, 31 Dec 1999 23:59:59 GMT")

CODES = (401, 403, 404, 410, 429, 500, 503, 504)
BODIES = (None, b"", HTML, b"null", b'{"reason":"Expired"}', b"\xff\xfe")
NO_LISTS = (b"", b"{}", HTML, b'{"items":[]}', CUT_SHORT + b"\n")
LENGTHS = (0, 9, 9999)
SAID_LAST = (b"", CUT_SHORT, CUT_SHORT + b"\n", HTML + b"\n", b"\n\r\n", GONE, INTERNAL, BUSY, TOO_LARGE)
SAID_BETWEEN = (b"\n\r\n", HTML + b"\n", line("FUTURE", {}), GONE, INTERNAL, BUSY, TOO_LARGE)
WATCH_LISTS = ("yes", "refused", "ignored")

headers = st.sampled_from([(), *((f"Retry-After: {value}",) for value in RETRY_AFTER)])
wrong: st.SearchStrategy[Fault] = st.one_of(
    st.builds(Answer, st.sampled_from(CODES), st.sampled_from(BODIES), headers),
    st.builds(Answer, st.just(200), st.sampled_from(NO_LISTS)),
    st.builds(Answer, st.sampled_from([200, 500]), st.just(b"{"), announced=st.sampled_from(LENGTHS)),
    st.builds(Break, st.integers(0, 4), st.sampled_from(SAID_LAST), st.sampled_from(End)),
    st.builds(Stall, st.booleans()),
)
names = st.sampled_from(NAMES)
missed: st.SearchStrategy[faults.Action] = st.one_of(
    st.builds(faults.Put, names), st.builds(faults.Delete, names), st.builds(faults.Recreate, names)
)
LETTERS: dict[type[faults.Action], st.SearchStrategy[faults.Action]] = {
    faults.Put: st.builds(
        faults.Put, names, st.sampled_from(["", "", "ADDED", "MODIFIED"]), st.sampled_from([0, 0, 200_000])
    ),
    faults.Delete: st.builds(faults.Delete, names),
    faults.Recreate: st.builds(faults.Recreate, names),
    faults.Skip: st.builds(faults.Skip, st.integers(1, 1000)),
    faults.Next: st.builds(faults.Next, wrong, st.sampled_from([1, 1, 1, 12])),
    faults.Drop: st.builds(faults.Drop, st.sampled_from([End.FIN, End.RST])),
    faults.Say: st.builds(faults.Say, st.sampled_from(SAID_BETWEEN)),
    faults.Repeat: st.builds(faults.Repeat, st.integers(1, 8), st.integers(1, 3)),
    faults.Bookmark: st.builds(faults.Bookmark, st.sampled_from([0, 0, 1, 5])),
    faults.Lag: st.builds(faults.Lag, st.booleans()),
    faults.RotateToken: st.builds(faults.RotateToken, st.sampled_from(["one", "two"])),
    faults.Miss: st.builds(faults.Miss, st.lists(missed, min_size=1, max_size=4).map(tuple)),
    faults.Restore: st.builds(faults.Restore, st.integers(1, 5), st.booleans(), st.booleans()),
    faults.Compact: st.builds(faults.Compact),
    faults.Expire: st.builds(faults.Expire),
    faults.Pass: st.builds(faults.Pass, st.sampled_from([1.0, 20.0, 80.0, faults.LONG])),
    faults.Turns: st.builds(faults.Turns, st.integers(0, 40)),
}
# What changes the content is worth more than what disturbs: without it there is nothing to lose.
CHANGES = (faults.Put, faults.Delete, faults.Recreate, faults.Skip, faults.Turns)
actions = st.one_of(
    st.one_of([LETTERS[kind] for kind in CHANGES]), LETTERS[faults.Next], st.one_of(list(LETTERS.values()))
)


@dataclass(frozen=True)
class Script:
    """One world, and what happens in it; after each action the loop turns `pace` times."""

    watch_list: str
    pace: int
    first: tuple[Fault, ...]
    actions: tuple[faults.Action, ...]


scripts = st.builds(
    Script,
    watch_list=st.sampled_from(WATCH_LISTS),
    pace=st.sampled_from([0, 5, 60]),
    first=st.lists(wrong, max_size=3).map(tuple),
    actions=st.lists(actions, min_size=4, max_size=30).map(tuple),
)


def drawn(letter: object) -> bool:
    """Whether scripts have `letter` in them."""
    match letter:
        case Answer(announced=None):
            answered = letter.status in CODES and letter.body in BODIES
            return answered or (letter.status == 200 and letter.body in NO_LISTS)
        case Answer():
            return letter.announced in LENGTHS
        case Break():
            return letter.say in SAID_LAST
        case faults.Say():
            return letter.raw in SAID_BETWEEN
        case Stall() | str():
            return isinstance(letter, Stall) or letter in WATCH_LISTS
    return type(letter) in LETTERS
