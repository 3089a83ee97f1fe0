"""The mutants have not rotted: there is one for each invariant, it still applies, and the test that it names exists.

That each of them is caught takes minutes: `make mutants`. What that command says of a mutant is tested here on a small tree.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from hack import mutants
from test.conftest import ROOT

# Of reference §5.2: queue, rate limits, store, reflector, informer, controller, lease, events, conditions, consistency.
FAMILIES = {"W": 11, "R": 4, "S": 5, "F": 10, "I": 3, "C": 5, "L": 7, "E": 4, "D": 5, "K": 4}
INVARIANTS = {f"{family}{number + 1}" for family, count in FAMILIES.items() for number in range(count)}


def test_each_invariant_has_a_mutant() -> None:
    assert {mutant.name for mutant in mutants.load(ROOT)} >= INVARIANTS
    assert {mutant.name.partition("-")[0] for mutant in mutants.load(ROOT)} == INVARIANTS


@pytest.mark.parametrize("mutant", mutants.load(ROOT), ids=lambda mutant: mutant.name)
def test_mutant_says_what_it_breaks_and_still_applies(mutant: mutants.Mutant) -> None:
    says, test, empty, *diff = mutant.path.read_text(encoding="utf-8").splitlines()
    assert says.startswith(f"{mutant.name}: ")
    assert says.endswith(".")
    assert (test, empty) == (f"Test: {mutant.test}", "")
    (changed,) = {line.removeprefix("+++ b/") for line in diff if line.startswith("+++ ")}
    assert changed.startswith(("kube/", "controller/", "provisioner/"))
    applied = mutants.apply(ROOT, mutant.path, "--check")
    assert not applied.returncode, applied.stderr


def test_tests_that_the_mutants_name_exist() -> None:
    named = sorted({mutant.test for mutant in mutants.load(ROOT)})
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *named],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not collected.returncode, collected.stdout


THING = "LIMIT = 10\n\n\ndef capped(number):\n    return min(number, LIMIT)\n"
THING_TEST = """from thing import capped


def test_large_numbers_are_capped():
    assert capped(99) == 10


def test_small_numbers_stay():
    assert capped(3) == 3
"""
SETUP = "[tool:pytest]\npythonpath = .\npython_files = *_test.py\n"
PROFILES = """from hypothesis import settings

settings.register_profile("mutants")
"""


def a_mutant(root: Path, name: str, old: str, new: str, test: str = "test_large_numbers_are_capped") -> None:
    header = f"{name}: numbers are capped.\nTest: thing_test.py::{test}\n\n--- a/thing.py\n+++ b/thing.py\n"
    hunk = f"@@ -4,2 +4,2 @@\n def capped(number):\n-    {old}\n+    {new}\n"
    (root / mutants.FOLDER / f"{name}.patch").write_text(header + hunk)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one module, its tests, and no mutant yet."""
    files = {"thing.py": THING, "thing_test.py": THING_TEST, "setup.cfg": SETUP, "conftest.py": PROFILES}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / mutants.FOLDER).mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_each_mutant_gets_its_verdict_and_the_checkout_stays_as_it_was(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_mutant(root, "A1", "return min(number, LIMIT)", "return number")
    assert mutants.main(["--root", str(root)]) == 0
    assert "1 of 1 mutants were caught" in capsys.readouterr().out
    a_mutant(root, "A2", "return min(number, LIMIT)", "return min(LIMIT, number)")
    a_mutant(root, "A3", "return min(number, LIMIT)", "return min(number LIMIT)")
    a_mutant(root, "A4", "return max(number, LIMIT)", "return number")
    assert mutants.main(["--root", str(root), "--jobs", "2", "--only", "A2,A3,A4"]) == 1
    printed = capsys.readouterr().out
    verdicts = {line[:2]: line[13:].split("  ")[0] for line in printed.splitlines() if " s  thing_test" in line}
    assert verdicts == {"A2": "SURVIVED", "A3": "USELESS", "A4": "USELESS"}
    assert "0 of 3 mutants were caught" in printed
    assert "A4.patch: USELESS\nerror: patch failed" in printed
    assert (root / "thing.py").read_text() == THING


def test_test_that_does_not_end_is_ended(root: Path) -> None:
    (root / "thing_test.py").write_text("import time\n\ndef test_patience():\n    time.sleep(600)\n")
    status, _ = mutants.run_tests(root, ["thing_test.py"], 0.5)
    assert mutants.judge(status, "") == mutants.Verdict.HANGS


def test_test_that_hangs_on_unbroken_code_is_an_error(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "thing_test.py").write_text("import time\n\ndef test_patience():\n    time.sleep(600)\n")
    a_mutant(root, "A1", "return min(number, LIMIT)", "return number", test="test_patience")
    monkeypatch.setattr(mutants, "HANGS_SECONDS", 0.5)
    assert mutants.main(["--root", str(root)]) == 1
    assert "fails although nothing is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--only", "A1,Z9"], "no such mutant in test/mutants: Z9"), ([], "missing or fails although nothing is broken")],
)
def test_what_proves_nothing_is_an_error(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    a_mutant(root, "A1", "return min(number, LIMIT)", "return number", test="test_that_never_was")
    assert mutants.main(["--root", str(root), *arguments]) == 1
    assert complaint in capsys.readouterr().err


def test_no_mutants_at_all_is_an_error(root: Path) -> None:
    assert mutants.main(["--root", str(root)]) == 1
