"""What others wrote shows as it is, and does nothing: on a page, in a cell, as the name of a file."""

import pytest
from jinja2 import UndefinedError

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


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("Anna Müller", "Anna_Müller"),
        ("../../etc/passwd", "etc_passwd"),
        ('a<b>c:d"e\\f|g?h*i', "a_b_c_d_e_f_g_h_i"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("dot.", "dot"),
        ("", "student"),
        ("...", "student"),
        ("x" * 300, "x" * 60),
        ("Jose\u0301", "José"),  # the same letters, composed
    ],
)
def test_a_files_name_is_valid_anywhere(name: str, file: str) -> None:
    assert texts.file_names([name]) == [file]


def test_files_names_differ_where_case_does_not_count() -> None:
    assert texts.file_names(["Anna", "anna", "ANNA", "anna_2"]) == ["Anna", "anna_2", "ANNA_3", "anna_2_2"]


def test_a_template_that_lacks_a_value_says_so() -> None:
    with pytest.raises(UndefinedError, match="unit"):
        texts.template("qti_test.xml").render(quizzes=[])
