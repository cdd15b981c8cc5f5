"""What others wrote shows as it is, and does nothing: on a line, on a page, in a cell."""

import pytest

from course_utils.classroom import texts


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Anna\tMüller\n", "Anna Müller"),
        ("a\x1b[31mb", "a�[31mb"),  # a terminal would turn red
        ("exe.\u202eipynb", "exe.�ipynb"),  # would be read from the right
        ("half \ud83d", "half �"),  # no file can hold it
        ("می\u200cخواهم", "می\u200cخواهم"),  # the joiner is spelling
        ("李雷 🙂", "李雷 🙂"),
    ],
)
def test_a_line_shows_all_that_is_in_it(written: str, shown: str) -> None:
    assert texts.plain(written) == shown


def test_a_text_keeps_its_lines() -> None:
    assert texts.visible("a\n    b\tc\x00") == "a\n    b\tc�"


def test_html_is_escaped_and_code_marked() -> None:
    made = texts.as_html('<b> & "`x < y`" and `open')
    assert made == '&lt;b&gt; &amp; "<code>x &lt; y</code>" and `open'


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t=", "\r=", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start: str) -> None:
    made = texts.cell(f"{start}1+1")
    assert made == "'" + f"{start}1+1".strip()


@pytest.mark.parametrize("value", ["Anna", "a = b", "-", "", 3, 0, None])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert texts.cell(value) == value
