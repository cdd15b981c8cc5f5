"""Hostile submissions: none ends the run, none passes, none harms a neighbour, and each is told what happened."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from hostile import ENDLESS, HOSTILE, OWN

from course_utils.classroom.grading import jail, jailed, judging, landlock, seccomp
from course_utils.classroom.grading.jail import Limits
from course_utils.exercises import diagnosis, registry, sandbox
from course_utils.exercises.unit_7_3 import solutions

VOTE = "7.3.majority_vote"
SMALL = Limits(seconds=5, seconds_to_load=10, seconds_in_all=10, memory=2**28, threads=16)
QUICK = Limits(seconds=0.3, memory=2**28, threads=16)  # for what may never come back
SECRET = "the neighbour's answer"
RIGHT = """
from collections import Counter

def majority_vote(answers):
    counts = Counter(answer for answer in answers if answer)
    return max(counts, key=counts.get, default="")
"""


def function(body: str) -> str:
    """The source of a function with this body."""
    lines = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return f"def majority_vote(answers):\n{lines}\n"


def judged(source: str, limits: Limits = SMALL) -> judging.Verdict:
    return judging.judge({VOTE: source}, 1, limits)[VOTE]


@pytest.fixture(scope="module")
def walls() -> dict[str, bool]:
    return jail.protections(SMALL)


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory) -> Path:
    """What another student handed in."""
    path = tmp_path_factory.mktemp("submissions") / "anna.py"
    path.write_text(f"# {SECRET}\n" * 5)
    return path


@pytest.fixture(scope="module", autouse=True)
def nobody_is_harmed(walls, neighbour):
    """Before and after all of this a neighbour is judged the same, by the same processes, and nothing is left."""
    before = judged(RIGHT)
    mine = {child.pid for child in psutil.Process().children(recursive=True)}
    content, mode = neighbour.read_bytes(), neighbour.stat().st_mode
    yield
    after = judged(RIGHT)
    assert (after.status, after.words, after.printed) == (before.status, before.words, before.printed)
    assert after.status == "passed"
    left = {child.pid for child in psutil.Process().children(recursive=True)}
    assert left == mine
    assert list(neighbour.parent.iterdir()) == [neighbour]
    assert (neighbour.read_bytes(), neighbour.stat().st_mode) == (content, mode)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_function_does_not_pass(name: str, walls, neighbour) -> None:
    wall, body, words = HOSTILE[name]
    if wall and not walls[wall]:
        pytest.skip(f"this machine has no wall around {wall}")
    places = {"{judge}": os.getpid(), "{neighbour!r}": repr(str(neighbour)), "{solutions!r}": repr(solutions.__file__)}
    for field, value in places.items():
        body = body.replace(field, str(value))
    verdict = judged(function(body), QUICK if words in ("", ENDLESS) else SMALL)
    assert verdict.status == "not yet"
    assert re.search(words, verdict.words)
    assert "DONE" not in verdict.printed
    assert SECRET not in verdict.words + verdict.printed
    assert len(verdict.words) <= judging.LONGEST


@pytest.mark.parametrize("way", OWN)
def test_the_own_solution_is_reported(way: str) -> None:
    verdict = judged(function(OWN[way]))
    assert verdict.status == "own solution" and "does not count" in verdict.words


def test_hostile_cells_before_the_function() -> None:
    """What stands around the function runs behind the same walls."""
    assert "SystemExit before `majority_vote` could be called" in judged(f"raise SystemExit\n{RIGHT}").words
    assert "ended Python (exit code 3)" in judged(f"import os; os._exit(3)\n{RIGHT}").words
    impatient = Limits(seconds_to_load=0.3)
    assert "runs longer than 0.3 s before" in judged(f"while True: pass\n{RIGHT}", impatient).words
    broken = judged(f"x = 1 / 0\n{RIGHT}").words
    assert "ZeroDivisionError" in broken and "line 1: x = 1 / 0" in broken


def test_answers_are_not_sent() -> None:
    with pytest.raises(sandbox.CannotStart, match="would hold the answer majority_vote"):
        jail.packed(([1], solutions.majority_vote))


def test_inputs_that_are_functions_hold_no_answer() -> None:
    """Every input of every public example can be sent, and is small."""
    sizes = []

    class Watched(diagnosis.Attempt):
        """Calls the reference here."""

        def __call__(self, *inputs):
            sizes.append(len(jail.packed(inputs)))
            try:
                return task.reference(*inputs)
            except Exception as error:
                kinds = [kind.__name__ for kind in type(error).__mro__]
                raise diagnosis.Wrong from diagnosis.Raised(kinds[0], kinds, str(error))

    for task in registry.exercises().values():
        task.examine(Watched(None, task.stub))
    assert max(sizes) < 2**20


def test_walls_that_are_missing_are_told() -> None:
    assert jail.missing_walls(dict.fromkeys(jail.OPEN, True)) == []
    told = jail.missing_walls(dict.fromkeys(jail.OPEN, True) | {"network": False})
    assert told == ["A student's code can use the network.", jail.ADVICE]


def test_what_windows_has_and_lacks(monkeypatch) -> None:
    """Nothing limits memory there, which has to be told, and nobody is root."""
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.delattr(os, "setgroups", raising=False)
    jailed.ATTEMPTS["memory"]()
    with pytest.raises(AttributeError):
        jailed.ATTEMPTS["root"]()


@pytest.mark.skipif(not seccomp.available(), reason="there is no filter for this machine")
def test_files_are_kept_where_landlock_is_missing_or_old(tmp_path) -> None:
    """Before Landlock's third version, who may read a file can empty it by opening it."""
    kept = tmp_path / "anna.py"
    kept.write_text(SECRET)
    lines = """
        import os, sys
        from course_utils.classroom.grading import seccomp
        seccomp.restrict(can_write=False)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
            try: os.open(sys.argv[1], flags)
            except PermissionError: print("refused")
        print(open(sys.argv[1]).read())
    """
    command = [sys.executable, "-c", textwrap.dedent(lines), str(kept)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == ["refused"] * 4 + [SECRET] and kept.read_text() == SECRET


@pytest.mark.skipif(not jail.FORKS, reason="this system forks no processes")
def test_children_are_looked_for_where_no_filter_stands() -> None:
    cell = jail.shared().cell(SMALL)
    assert cell.process.childless == (seccomp.available() and seccomp.works())
    cell.process.childless = False
    assert [process.pid for process in cell.family()] == [cell.process.pid]
    cell.kill()


def test_the_source_of_a_solution_is_closed_everywhere() -> None:
    answers = json.loads(jail.plan(SMALL))["answers"]
    assert ["course_utils.prisma.speech", "word_errors"] in answers
    closed = jailed.closed_files(answers)
    opened = [path for root in jailed.readable_roots() for path in landlock.without(root, closed)]
    for task in registry.exercises().values():
        for part in task.reference_parts:
            file = Path(inspect.getsourcefile(part))
            compiled = Path(importlib.util.cache_from_source(file))
            assert not any(file.is_relative_to(path) or compiled.is_relative_to(path) for path in opened)


def test_closed_files_of_an_installed_course(tmp_path) -> None:
    """In site-packages the course stands among other packages; its answers stay closed, their compiled form too."""
    course, other = tmp_path / "course", tmp_path / "other"
    for folder in (course / "__pycache__", course / "exercises", other / "__pycache__"):
        folder.mkdir(parents=True)
    for file in ("answer.py", "answer_sheet.py", "__pycache__/answer.cpython-311.pyc"):
        (course / file).touch()
    opened = list(landlock.without(tmp_path, {course / "answer.py", course / "exercises"}))
    assert opened == [course / "answer_sheet.py", other]
