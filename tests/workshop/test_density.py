"""The measure of how dense our lines are, on lines that can be counted by hand."""

import subprocess
import sys

import pytest

from course_utils.settings import ROOT
from course_utils.workshop.density import Density, density


@pytest.mark.parametrize(
    ("source", "operations"),
    [
        ("a = 1", 0),
        ("a = f(b) + c", 2),
        ("a = b if c > d and e else f", 3),
        ("a = [f(x) for x in y]", 2),
        ("a = " + " + ".join("abcdefghijklm"), 8),
        ('"""A docstring."""\na += 1', 0),
        ("if f(a):\n    b = 1", 0),
    ],
)
def test_operations_of_a_statement(source: str, operations: int) -> None:
    assert density([source]) == Density(operations, 1, 0)


@pytest.mark.parametrize(
    ("source", "nested"),
    [
        ("a = [x for x in y]", 0),
        ("a = [x for x in y for z in x]", 1),
        ("a = [sum(z for z in x) for x in y]", 1),
    ],
)
def test_comprehensions_inside_others(source: str, nested: int) -> None:
    assert density([source]).nested == nested


def test_sources_count_together() -> None:
    both = density(["a = f(b)", "c = 1\nd = 2\ne = g(h(i))"])
    assert both == Density(3, 4, 0)
    assert str(both) == "0.75 operations a statement, 0.0 nested comprehensions per 1,000 statements"


def test_no_statement_is_refused() -> None:
    with pytest.raises(ValueError, match="no statement"):
        density(["import os"])


def test_make_check_prints_the_package_and_the_cells() -> None:
    command = [sys.executable, "-m", "course_utils.workshop.density"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    package, cells = done.stdout.splitlines()
    assert package.startswith("course_utils: ") and cells.startswith("notebooks/text: ")
    assert "course_utils.workshop.density" in (ROOT / "Makefile").read_text("utf-8")
