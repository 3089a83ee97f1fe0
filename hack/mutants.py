"""Break each invariant of kube/ on purpose and see that a test notices: `python -m hack.mutants [--only W1,F3]`.

Each file in test/mutants/ breaks one invariant as a careless maintainer might (another half of it where its name goes on
after a dash), and names the test that must fail then:

    W10: a cancelled `get` never swallows a key.
    Test: test/kube/queue_test.py::TestQueue::runTest

    --- a/kube/queue.py
    +++ b/kube/queue.py
    …

The mutants go into copies of this checkout, never into itself. First all the named tests must pass on an unbroken copy. A
mutant is caught when its test fails or hangs; one whose copy can't even collect the test says nothing, and is an error.
"""

import argparse
import contextlib
import enum
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "test/mutants"
# No search for a smaller example: that a test fails is all that is asked. Every run draws the same examples.
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
PROFILE = "--hypothesis-profile=mutants"
# A named test takes seconds; whatever takes this long doesn't end.
HANGS_SECONDS = 45.0
ENDED_WITH_FAILURES = 1


class Verdict(enum.StrEnum):
    CAUGHT = "caught"
    HANGS = "caught (hangs)"
    SURVIVED = "SURVIVED"
    USELESS = "USELESS"  # it does not apply, or its test can't run


@dataclass(frozen=True)
class Mutant:
    """One patch: the name of the invariant that it breaks, and the test that must notice."""

    name: str
    path: Path
    test: str


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    verdict: Verdict
    seconds: float
    output: str = ""

    def __str__(self) -> str:
        return f"{self.mutant.name:12} {self.verdict:15} {self.seconds:5.1f} s  {self.mutant.test}"


class MutantsError(Exception):
    """There is nothing to try, or the unbroken tests fail. The text says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hack.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names of invariants, such as W1,F3")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    given = parser.parse_args(arguments)
    try:
        outcomes = list(run(given.root, chosen(load(given.root), given.only), given.jobs))
    except MutantsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    missed = [each for each in outcomes if each.verdict not in (Verdict.CAUGHT, Verdict.HANGS)]
    for each in missed:
        print(f"\n{each.mutant.path}: {each.verdict}\n{each.output.strip()}")
    print(f"\n{len(outcomes) - len(missed)} of {len(outcomes)} mutants were caught")
    return 1 if missed else 0


def load(root: Path) -> list[Mutant]:
    """Return all mutants. Raises MutantsError for a patch that names no test."""
    return [_read(path) for path in sorted((root / FOLDER).glob("*.patch"), key=_order)]


def chosen(mutants: Sequence[Mutant], only: str) -> list[Mutant]:
    """Return the mutants of a list of names, or all. Raises MutantsError where a name or everything is missing."""
    names = [name.strip() for name in only.split(",") if name.strip()] or [mutant.name for mutant in mutants]
    known = {mutant.name: mutant for mutant in mutants}
    if not names or (unknown := [name for name in names if name not in known]):
        raise MutantsError(f"no such mutant in {FOLDER}: {', '.join(unknown) if names else 'there is none'}")
    return [known[name] for name in names]


def run(root: Path, mutants: Sequence[Mutant], jobs: int) -> Iterator[Outcome]:
    """Try every mutant, and yield the outcomes in order. Raises MutantsError where a test fails on the unbroken code."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        unbroken = Path(folder) / "unbroken"
        copy(root, unbroken)
        tests = sorted({mutant.test for mutant in mutants})
        print(f"{len(tests)} tests on unbroken code …", flush=True)
        status, output = run_tests(unbroken, tests, HANGS_SECONDS * len(tests))
        if status != 0:
            raise MutantsError(f"a named test is missing or fails although nothing is broken:\n{output}")
        with ThreadPoolExecutor(jobs) as pool:
            for outcome in pool.map(lambda mutant: attempt(unbroken, mutant), mutants):
                print(outcome, flush=True)
                yield outcome


def attempt(unbroken: Path, mutant: Mutant) -> Outcome:
    """Put one mutant into a copy of its own and run its test."""
    began = time.monotonic()
    tree = unbroken.with_name(mutant.name)
    shutil.copytree(unbroken, tree, symlinks=True)
    try:
        applied = apply(tree, mutant.path)
        if applied.returncode:
            return Outcome(mutant, Verdict.USELESS, time.monotonic() - began, applied.stderr)
        status, output = run_tests(tree, [mutant.test], HANGS_SECONDS)
        return Outcome(mutant, judge(status, output), time.monotonic() - began, output)
    finally:
        shutil.rmtree(tree)


def judge(status: int | None, output: str) -> Verdict:
    """What pytest's exit status says of a mutant; None where it had to be ended."""
    if status is None:
        return Verdict.HANGS
    if status == ENDED_WITH_FAILURES and "\nFAILED " in output:
        return Verdict.CAUGHT
    return Verdict.USELESS if status else Verdict.SURVIVED


def copy(root: Path, to: Path) -> None:
    """Copy what git tracks or would track, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():  # neither deleted nor a link to nowhere
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            # With its time: what was compiled for the unbroken copy holds for the others, but for what a patch changed.
            shutil.copy2(root / name, to / name)


def apply(tree: Path, patch: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Apply a patch, though lines were added or removed above it."""
    command = ["git", "apply", *options, str(patch.resolve())]
    # Without a repository of its own, a copy inside of another one would be taken for a part of that.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, env=environment)


def run_tests(tree: Path, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run pytest in a tree. Returns its exit status, None where it had not ended in time, and what it printed."""
    process = subprocess.Popen(
        [sys.executable, *PYTEST, PROFILE, *tests],
        cwd=tree,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that nothing which a test started outlives it
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as late:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, late.output.decode(errors="replace") if isinstance(late.output, bytes) else ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def _read(path: Path) -> Mutant:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("Test: "):
            return Mutant(path.stem, path, line.removeprefix("Test: ").strip())
    raise MutantsError(f"{path} names no test")


def _order(path: Path) -> tuple[str, int, str]:
    invariant, _, half = path.stem.partition("-")
    return invariant[:1], int(invariant[1:]), half


if __name__ == "__main__":
    sys.exit(main())
