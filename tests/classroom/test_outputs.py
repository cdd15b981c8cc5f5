"""Files for an instructor: names that are valid anywhere, and a plain word where one can't be written."""

import errno
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from course_utils.classroom import outputs


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
    assert outputs.file_names([name]) == [file]


def test_files_names_differ_where_case_does_not_count() -> None:
    assert outputs.file_names(["Anna", "anna", "ANNA", "anna_2"]) == ["Anna", "anna_2", "ANNA_3", "anna_2_2"]


def test_a_template_that_lacks_a_value_says_so() -> None:
    with pytest.raises(UndefinedError, match="unit"):
        outputs.template("qti_test.xml").render(quizzes=[])


def test_a_file_is_saved_with_its_folder(tmp_path: Path) -> None:
    path = outputs.save(tmp_path / "für alle" / "a.csv", b"1")
    assert path.read_bytes() == b"1"


def test_a_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = outputs.save(tmp_path / "a.csv", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(outputs.os, "fsync", full)
        with pytest.raises(ValueError, match=r"a\.csv can't be written \(No space left"):
            outputs.save(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    outputs.save(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def full(handle: int) -> None:
    """A disk without room."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"a\.csv can't be written \(.+\)\. Close it if it is open"):
        outputs.save(tmp_path / "file" / "a.csv", b"1")
