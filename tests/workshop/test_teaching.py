"""Teaching notes and notebooks hold together: what a note quotes stands in the committed outputs.

A table of numbers in a note stands under `<!-- numbers: notebook -->`. The first cell of a row is what the notebook
prints there (" ... " joins pieces of one line); each number in the other cells must stand in such a line, rounded to
the digits that the note gives. A share in per cent elsewhere in the note must be one of the numbers of its tables.
"""

import re
from pathlib import Path

import nbformat
import pytest
from said import printed

from course_utils.exercises.authors import whose
from course_utils.exercises.registry import exercises
from course_utils.settings import NOTEBOOKS

NOTES = sorted((NOTEBOOKS / "teaching").glob("*.md"))
BLOCK = re.compile(r"<!-- numbers: (\S+) -->\n((?:\|.*\n?)+)")
NUMBER = re.compile(r"(?<![\w.,@])[-+]?\d[\d,]*(?:\.\d+)?")
SHARES = re.compile(r"((?:[\d.]+(?:, | and | or | to |; ))*[\d.]+) ?%")


def value(text: str) -> float:
    return float(text.replace(",", ""))


def holds(quoted: str, lines: list[str]) -> bool:
    """Whether one of `lines` holds the number `quoted`, or one that rounds to it."""
    digits = len(quoted.partition(".")[2])
    near = 0.5 * 10**-digits + 1e-9
    numbers = NUMBER.findall(" ".join(lines))
    return any(abs(value(number) - value(quoted)) <= near for number in numbers)


def table_faults(text: str, folder: Path = NOTEBOOKS) -> list[str]:
    """What the number tables of a note say and the outputs of their notebooks do not."""
    faults = []
    for stem, block in BLOCK.findall(text):
        (path,) = folder.rglob(f"{stem}.ipynb")
        lines = printed(nbformat.read(path, as_version=4))
        rows = block.strip().splitlines()[2:]
        for row in rows:
            faults += row_faults(row, lines, stem)
    return faults


def row_faults(row: str, lines: list[str], stem: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
    label = cells[0].strip().strip("`").replace("\\|", "|")
    about = lines
    for piece in label.split(" ... "):
        about = [line for line in about if piece in line]
    if not about:
        return [f"{stem}: no line of the outputs holds {label!r}"]
    numbers = NUMBER.findall(" ".join(cells[1:]))
    missing = [number for number in numbers if not holds(number, about)]
    return [f"{stem}: {label!r} is not printed with {number}" for number in missing]


def loose_shares(text: str) -> list[str]:
    """Shares in per cent outside the number tables that no number of these tables is."""
    tables = [block for _, block in BLOCK.findall(text)]
    known = {value(number) for number in NUMBER.findall(" ".join(tables))}
    prose = BLOCK.sub("", text)
    quoted = re.findall(r"\d+(?:\.\d+)?", " ".join(SHARES.findall(prose)))
    return [number for number in quoted if value(number) not in known]


@pytest.mark.parametrize("note", NOTES, ids=lambda path: path.stem)
def test_the_numbers_of_a_note_are_those_of_the_committed_notebooks(note: Path) -> None:
    assert table_faults(note.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("note", NOTES, ids=lambda path: path.stem)
def test_a_share_in_a_note_stands_in_one_of_its_tables(note: Path) -> None:
    assert loose_shares(note.read_text(encoding="utf-8")) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    table = '<table><tr><td>early</td><td>82% (80% to 86%)</td></tr></table><img alt="loss falls to 0.04">'
    outputs = [nbformat.v4.new_output("display_data", {"text/html": table})]
    outputs.append(nbformat.v4.new_output("stream", text="in 1,200 steps\n"))
    cell = nbformat.v4.new_code_cell("1", outputs=outputs)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "9.9_x.ipynb")
    return tmp_path


def note(*rows: str) -> str:
    return "\n".join(
        ["<!-- numbers: 9.9_x -->", "| row | numbers |", "| --- | --- |", *rows, "", "Then 82 and 86 %.\n"]
    )


def test_a_note_with_the_numbers_of_its_notebook_passes(folder: Path) -> None:
    right = note("| `early` | 82 % (to 86) |", "| loss ... to | 0.04 |", "| steps | 1,200 |")
    assert table_faults(right, folder) == [] and loose_shares(right) == []


@pytest.mark.parametrize("row", ["| early | 81 % |", "| late | 82 % |", "| loss falls | 0.05 |", "| steps | 1,300 |"])
def test_a_number_that_the_notebook_does_not_print_is_a_fault(row: str, folder: Path) -> None:
    assert len(table_faults(note(row), folder)) == 1


def test_a_share_that_no_table_holds_is_a_fault() -> None:
    assert loose_shares(note("| early | 82 % |")) == ["86"]


def test_a_cell_says_whose_function_runs() -> None:
    def zero_shot() -> None: ...

    assert whose(zero_shot) == "your zero_shot"


@pytest.mark.parametrize("name", exercises())
def test_every_solution_is_called_the_courses(name: str) -> None:
    assert whose(exercises()[name].reference).startswith("the course's ")
