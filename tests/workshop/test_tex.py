"""Formulas in exported pages: drawn without a network, in text only, and every formula of the course."""

import pytest
from nbformat import v4

from course_utils.workshop import notebooks
from course_utils.workshop.runner import to_html
from course_utils.workshop.tex import draw_formulas


def test_formulas_become_pictures_that_say_what_they_show() -> None:
    shown = draw_formulas("Take $W' = W + \\frac{\\alpha}{r}\nB A$ and\n\n$$\\sqrt{d}$$\n\nthen $n$.")
    assert shown.count("data:image/svg+xml;base64,") == 3 and "$" not in shown
    assert 'alt="W&#x27; = W + \\frac{\\alpha}{r} B A"' in shown


@pytest.mark.parametrize("text", ["`$HOME` and `$n$`", "```\n$x$\n```", "it costs $5 or $6", "a\\$ b\\$"])
def test_code_and_money_are_no_formulas(text: str) -> None:
    assert draw_formulas(text) == text


def test_a_formula_that_cannot_be_drawn_is_shown_as_its_tex() -> None:
    assert draw_formulas("$\\nosuchthing{x}$") == "<code>\\nosuchthing{x}</code>"


def test_an_exported_page_loads_nothing_and_shows_no_raw_formula() -> None:
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("The root: $\\sqrt{d}$"), v4.new_code_cell("a = '$b$'")])
    page = to_html(notebook, "formulas")
    assert "<script" not in page and "cdnjs" not in page
    assert 'alt="\\sqrt{d}"' in page and "$\\sqrt" not in page
    assert notebook.cells[0].source == "The root: $\\sqrt{d}$"  # the notebook itself is not changed


@pytest.mark.parametrize("source", notebooks.sources(), ids=lambda path: path.stem)
def test_every_formula_of_the_course_can_be_drawn(source) -> None:
    words = [cell.source for cell in notebooks.convert(source).cells if cell.cell_type == "markdown"]
    drawn = [draw_formulas(text) for text in words if "$" in text]
    assert [text for text in drawn if "<code>" in text] == []
