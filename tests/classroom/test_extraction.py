"""What counts of a notebook: the last definition with all that it needs, stubs and copies told apart, quiz answers."""

import ast
import inspect

import handed_in
import pytest

from course_utils.classroom.grading import copying, extraction
from course_utils.exercises import registry, renames

FUSION = "7.1.late_fusion"
STUB = registry.exercise(FUSION).stub_source


def piece(*cells: str) -> str:
    """What is to be run for the late fusion."""
    return extraction.extract(cells).pieces[FUSION]


def value(*cells: str):
    """What `late_fusion` is after its piece has run. The cells are ours."""
    names = {}
    exec(piece(*cells), names)
    return names["late_fusion"]


# --- which definition


def test_the_last_definition_counts() -> None:
    first, last = "def late_fusion(p, w):\n    return 1", "def late_fusion(p, w):\n    return 2"
    assert value(first, last)(0, 0) == 2
    assert "return 1" not in piece(first, last)


@pytest.mark.parametrize(
    "cells",
    [
        ["def mine(p, w):\n    return 5", f'check("{FUSION}", mine)'],
        ["def mine(p, w):\n    return 5", f'late_fusion = check("{FUSION}", mine)'],
        ["def mine(p, w):\n    return 5", f'exercises.check(name="{FUSION}", function=mine)'],
        [STUB, "def mine(p, w):\n    return 5", f'late_fusion = check("{FUSION}", mine)'],
        ["def late_fusion(p, w):\n    return 5", f'late_fusion = check("{FUSION}", late_fusion)'],
        ["late_fusion = lambda p, w: 5"],
        ["class Mine:\n    def __call__(self, p, w):\n        return 5", f'check("{FUSION}", Mine())'],
        ["class late_fusion:\n    def __new__(self, p, w):\n        return 5"],
        ["if True:\n    def late_fusion(p, w):\n        return 5"],
        ["from functools import partial\ndef fuse(n, p, w):\n    return n", "late_fusion = partial(fuse, 5)"],
        [
            "def late_fusion(p, w):\n    return 4",
            "first = late_fusion\ndef late_fusion(p, w):\n    return first(p, w) + 1",
        ],
        [
            "def wrong(p, w):\n    return 1",
            f'check("{FUSION}", wrong)',
            "def late_fusion(p, w):\n    return 5",
            f'check("{FUSION}", late_fusion)',
        ],
        ["def late_fusion(p, w):\n    return 5", f'def ask():\n    check("{FUSION}", print)'],
    ],
)
def test_a_function_is_found_however_it_is_defined(cells: list[str]) -> None:
    assert value(*cells)(0, 0) == 5


# --- what it needs


@pytest.mark.parametrize(
    "cells",
    [
        ["SMALL = 2", "def half(x):\n    return SMALL + 1", "def late_fusion(p, w):\n    return half(0) + SMALL"],
        ["import math as m", "def late_fusion(p, w):\n    return m.floor(5.5)"],
        ["from math import *", "def late_fusion(p, w):\n    return floor(5.5)"],
        [
            "try:\n    import nothing_of_this_name as np\nexcept ImportError:\n    np = 5",
            "def late_fusion(p, w):\n    return np",
        ],
        ["TABLE = {}", "for n in range(3):\n    TABLE[n] = n + 3", "def late_fusion(p, w):\n    return TABLE[2]"],
        ["WORDS = []", "WORDS.append(5)", "def late_fusion(p, w):\n    return WORDS[0]"],
        ["n = 2", "n += 3", "def late_fusion(p, w):\n    return n"],
        ["k = 5", "x = k", "k = 7", "def late_fusion(p, w):\n    return x"],
        ["k = 5", "def make():\n    return k", "x = make()", "k = 7", "def late_fusion(p, w):\n    return x"],
        ["def late_fusion(p, w):\n    return helper()", "def helper():\n    return 5"],
        ["def late_fusion(p, w):\n    return sum(helper(n) for n in [1])", "def helper(n):\n    return 5"],
        [
            "import functools",
            "def plus(f):\n    @functools.wraps(f)\n    def g(*a):\n        return f(*a) + 1\n    return g",
            "@plus  # one more\ndef late_fusion(p, w):\n    return 4",
        ],
        [
            "from dataclasses import dataclass",
            "@dataclass\nclass Pair:\n    a: int = 5",
            "def late_fusion(p, w):\n    return Pair().a",
        ],
        ["a = 1; b = 4", "def late_fusion(p, w):\n    return a + b"],
        ["TEXT = '''x\n\nyz'''", "def late_fusion(p, w):\n    return len(TEXT)"],
        ["def late_fusion(p, w):\n    late_fusion.n += 1\n    return late_fusion.n", "late_fusion.n = 4"],
        ["from __future__ import annotations", "def late_fusion(p: Nobody, w: Knows):\n    return 5"],
    ],
)
def test_a_function_comes_with_what_it_needs(cells: list[str]) -> None:
    assert value(*cells)(0, 0) == 5


def test_nothing_else_is_taken() -> None:
    cells = [
        "import torch, subprocess",
        "model = download('7 GB')",
        "model.train()",
        "def other():\n    return model",
        "def late_fusion(p, w):\n    model = p\n    return [model for x in p]",
        "late_fusion([1], [2])",
    ]
    assert piece(*cells) == cells[4] + "\n"


def test_what_ipython_alone_understands_is_taken_out() -> None:
    cells = [
        "%matplotlib inline\n!pip install x\nn = !ls\nfive = 5\nfive?",
        "%%time\ndef late_fusion(p, w):\n    %timeit 1\n    return five",
        "%%bash\ndef late_fusion(p, w)",
    ]
    assert extraction.extract(cells).notes == ()
    assert "five = 5" in piece(*cells) and "ls" not in piece(*cells)


def test_cells_that_cannot_be_read_are_told_by_their_numbers() -> None:
    deep = "x = " + "-" * 3000 + "1"
    long = "#" * (extraction.LONGEST_CELL + 1)
    cells = [
        "def broken(:",
        "five = 5",
        deep,
        "x = " + "[" * 500,
        long,
        "a\0b",
        "def late_fusion(p, w):\n    return five",
    ]
    found = extraction.extract(cells)
    assert found.notes == ("Code cells 1, 3, 4, 5, 6 are no Python that can be read, and left out.",)
    assert FUSION in found.pieces
    assert extraction.extract(["x ="]).notes == ("Code cell 1 is no Python that can be read, and left out.",)


def test_a_notebook_that_is_all_tangled_is_left_out() -> None:
    names = [f"n{i}" for i in range(100)]
    cells = [f"{name} = ({', '.join(names)})" for name in names for _ in range(3)]
    found = extraction.extract([*cells, "def late_fusion(p, w):\n    return n99"])
    assert not found.pieces and "needs more than 5,000 values" in found.notes[0]


# --- open, missing, copied


def test_a_stub_is_open_and_no_definition_is_missing() -> None:
    edited = STUB.replace("# Your code here", "# I don't know").replace(
        "NotImplementedError", 'NotImplementedError("?")'
    )
    for cell in (STUB, edited):
        found = extraction.extract([cell, f'late_fusion = check("{FUSION}", late_fusion)'])
        assert found.open == {FUSION} and not found.pieces and not found.copied
    found = extraction.extract([f'check("{FUSION}", never_defined)'])
    assert not found.open and not found.pieces


def copied(name: str) -> str:
    """The course's solution in other lines, with another docstring and name, without annotations."""
    task = registry.exercise(name)
    function = ast.parse(inspect.getsource(task.reference)).body[0]
    function.name, function.returns = "my_own", None
    for argument in function.args.args:
        argument.annotation = None
    function.body[0] = ast.Expr(ast.Constant("Mine."))
    return ast.unparse(function) + "  # mine"


@pytest.mark.parametrize("name", registry.exercises())
def test_the_courses_own_solution_is_told_from_a_short_one(name: str) -> None:
    found = extraction.extract([copied(name), f'check("{name}", my_own)'])
    if copying.is_no_chance(registry.exercise(name)):
        assert found.copied == {name} and not found.pieces
    else:
        assert name in found.pieces and "so short that this may be chance" in found.notes[0]


def test_most_solutions_can_be_told() -> None:
    assert sum(map(copying.is_no_chance, registry.exercises().values())) >= 20


def test_honest_answers_are_no_copies() -> None:
    answers = handed_in.right_answers()[::8]
    assert len({name for name, _ in answers}) == len(registry.exercises())
    for name, cells in answers:
        found = extraction.extract(cells)
        assert name in found.pieces and found.notes == ()


# --- quizzes


def test_an_earlier_name_means_the_exercise_of_today(monkeypatch) -> None:
    quiz = next(iter(registry.quizzes()))
    monkeypatch.setattr(renames, "RENAMED", {"7.1.merge_all": FUSION, "7.1.old_quiz": quiz})
    found = extraction.extract(
        ["def mine(p, w):\n    return 5", 'check("7.1.merge_all", mine)', 'quiz("7.1.old_quiz", "b")']
    )
    assert FUSION in found.pieces and found.quizzes == {quiz: "b"}


def test_the_last_valid_answer_to_a_quiz_counts() -> None:
    name, other = list(registry.quizzes())[:2]
    cells = [
        f'quiz("{name}")',
        f'quiz("{name}", "a")',
        f'quiz("{name}", answer=" B) ")',
        f'quiz("{name}", "z")',
        f'letter = "a"\nquiz("{other}", letter)',
        'quiz("7.1.no_such_quiz", "a")',
        f'quiz("{other}", 3)\nquiz()',
    ]
    assert extraction.extract(cells).quizzes == {name: "b"}
