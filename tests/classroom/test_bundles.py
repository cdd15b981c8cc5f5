"""A bundle holds a student's work and nothing else; whatever is wrong with one is said in a sentence."""

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_utils import cli
from course_utils.classroom import bundles
from course_utils.classroom.grading import extraction
from course_utils.exercises import progress, registry
from course_utils.settings import NOTEBOOKS

ANSWER = 'def late_fusion(a, b):\n    return "ä"\n'
CHECK = 'late_fusion = check("7.1.late_fusion", late_fusion)'
QUIZ = 'quiz("7.1.fusion", "a")\nquiz("7.1.fusion", answer="B)")'


def save_notebook(path: Path, *cells: str) -> Path:
    """A notebook as Jupyter saves it: lists of lines, outputs, metadata of this machine."""
    secret = {"output_type": "stream", "name": "stdout", "text": ["an output\n"]}
    listed = []
    for cell in cells:
        lines = cell.splitlines(keepends=True)
        listed.append({"cell_type": "code", "source": lines, "outputs": [secret], "metadata": {"kernel": "mine"}})
    listed.append({"cell_type": "markdown", "source": "notes of my own", "metadata": {}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": listed, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}), "utf-8")
    return path


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a notebook that was worked on, and progress of its own."""
    monkeypatch.setenv("COURSE_PROGRESS", "on")
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "progress.json"))
    save_notebook(tmp_path / "work ü" / "labs" / "7.1 (2).ipynb", ANSWER, CHECK, QUIZ, "%matplotlib inline")
    return tmp_path / "work ü"


def test_what_is_written_is_read(work: Path) -> None:
    progress.put("exercises", "7.1.late_fusion", progress.done(progress.Record()))
    content, notes = bundles.collect("  Anna Mu\u0308ller ", work)
    path = bundles.write(content, work)
    assert path.name == "Anna M\u00fcller.course.json" and notes == []
    found = bundles.read(path)
    assert found == content
    assert found.notebooks == {"labs/7.1 (2).ipynb": (ANSWER, CHECK, QUIZ, "%matplotlib inline")}
    assert found.quizzes == {"7.1.fusion": "b"}
    assert found.progress["exercises"]["7.1.late_fusion"]["status"] == "done"
    text = path.read_text("utf-8")
    assert "an output" not in text and "notes of my own" not in text and str(work) not in text


def test_only_notebooks_with_answers_are_taken(work: Path) -> None:
    stub = registry.exercise("7.1.late_fusion").stub_source
    save_notebook(work / "untouched.ipynb", stub, CHECK, 'quiz("7.1.fusion")')
    save_notebook(work / "private.ipynb", "password = 1")
    save_notebook(work / "before-update" / "old.ipynb", ANSWER, CHECK)
    save_notebook(work / ".ipynb_checkpoints" / "old.ipynb", ANSWER, CHECK)
    content, _ = bundles.collect("Anna", work)
    assert list(content.notebooks) == ["labs/7.1 (2).ipynb"]


def test_an_answer_beside_the_stub_is_one(work: Path) -> None:
    save_notebook(work / "beside.ipynb", registry.exercise("7.1.late_fusion").stub_source, ANSWER, CHECK)
    content, _ = bundles.collect("Anna", work)
    assert "beside.ipynb" in content.notebooks


def test_quiz_answers_are_those_that_grading_counts(work: Path) -> None:
    late = 'if True:\n    quiz("7.1.fusion", "a")\nquiz("7.1.fusion", "c")'
    save_notebook(work / "quiz.ipynb", f"%%time\n{late}", 'def later():\n    quiz("7.1.fusion", "b")')
    (work / "labs" / "7.1 (2).ipynb").unlink()
    content, _ = bundles.collect("Anna", work)
    assert content.quizzes == extraction.extract(content.notebooks["quiz.ipynb"]).quizzes == {"7.1.fusion": "c"}


def test_the_courses_own_notebooks_hold_no_answers() -> None:
    with pytest.raises(ValueError, match="no notebook in .* has an answer of yours"):
        bundles.collect("Anna", NOTEBOOKS)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"cells": 7}', '{"cells": [{"cell_type": "code"}]}'])
def test_a_broken_notebook_is_named_and_left_out(work: Path, text: str) -> None:
    (work / "broken.ipynb").write_text(text)
    content, notes = bundles.collect("Anna", work)
    assert list(content.notebooks) == ["labs/7.1 (2).ipynb"]
    assert notes == ["broken.ipynb is left out: it can't be read as a notebook."]


def test_kept_answers_travel_too(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    (kept / "answers").mkdir(parents=True)
    (kept / "README.txt").write_text("kept")
    (kept / "answers" / "7.1.zero_shot.1.py").write_text("# 7.1.zero_shot: passed (2026-01-31)\n...", "utf-8")
    monkeypatch.setenv("COURSE_KEPT", str(kept))
    content, _ = bundles.collect("Anna", work)
    assert content.answers == {"7.1.zero_shot": "# 7.1.zero_shot: passed (2026-01-31)\n..."}


def test_a_name_may_join_letters(work: Path) -> None:
    """Persian and Hindi names need signs without a width."""
    name = "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627"
    assert bundles.collect(name, work)[0].student == name


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "a\u202eb", "x" * 201, "a\x00"])
def test_a_name_that_is_none(work: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        bundles.collect(name, work)


@pytest.mark.parametrize(
    ("student", "file"),
    [("../../etc/x", "_.._etc_x"), ("con", "con_"), ("a:b*c", "a_b_c"), ("...", "_"), ("李 Ü.", "李 Ü")],
)
def test_names_become_plain_file_names(student: str, file: str) -> None:
    assert bundles.file_name(student) == file


def test_an_older_bundle_is_replaced_and_nothing_else(work: Path) -> None:
    content, _ = bundles.collect("Anna", work)
    path = bundles.write(content, work)
    assert bundles.write(content, work) == path
    path.write_text("my diary")
    with pytest.raises(ValueError, match="in the way"):
        bundles.write(content, work)
    assert path.read_text() == "my diary" and not list(work.glob(".new-*"))


def test_a_bundle_that_is_too_big_is_refused(work: Path) -> None:
    content, _ = bundles.collect("Anna", work)
    huge = bundles.Bundle("Anna", "2026-01-31", {}, {"x.ipynb": ("#" * bundles.BIGGEST,)})
    with pytest.raises(ValueError, match="hand in fewer"):
        bundles.write(huge, work)
    assert content.student == "Anna" and not list(work.glob("Anna*"))


HOSTILE = [
    ("student", 7),
    ("student", "a\u202eb"),
    ("made", None),
    ("versions", {"course": 3}),
    ("versions", []),
    ("notebooks", {"a.ipynb": "code"}),
    ("notebooks", {"a.ipynb": [1]}),
    ("notebooks", {"a.ipynb": ["x"] * 10_001}),
    ("answers", {str(number): "" for number in range(10_001)}),
    ("answers", {"7.1.late_fusion": ["x"]}),
    ("quizzes", {"7.1.fusion": {}}),
    ("progress", {"exercises": []}),
    ("progress", {"exercises": {"x": 7}}),
    ("progress", {"exercises": {"x": {"status": []}}}),
]


@pytest.mark.parametrize(("field", "value"), HOSTILE, ids=[f"{name}-{n}" for n, (name, _) in enumerate(HOSTILE)])
def test_wrong_types_are_refused_though_the_checksum_is_right(
    work: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: object
) -> None:
    """`write` itself signs what no honest bundle holds."""
    content, _ = bundles.collect("Anna", work)
    monkeypatch.setattr(bundles, "asdict", lambda _: {**vars(content), field: value})
    path = bundles.write(content, work)
    with pytest.raises(ValueError, match=re.escape(path.name) + " is not a sound bundle"):
        bundles.read(path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"\xff\xfe", b"[" * 200_000, b'{"format": "course bundle 2"}', b"9" * 10_000, b"x" * 6_000_000],
)
def test_what_is_no_bundle(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.course.json"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.course\.json"):
        bundles.read(path)


def test_a_changed_bundle_is_seen(work: Path) -> None:
    content, _ = bundles.collect("Anna", work)
    path = bundles.write(content, work)
    path.write_text(path.read_text("utf-8").replace('"b"', '"c"'), "utf-8")
    with pytest.raises(ValueError, match="changed or damaged"):
        bundles.read(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_and_a_folder_are_no_bundles(work: Path, tmp_path: Path) -> None:
    (tmp_path / "link.course.json").symlink_to("/etc/passwd")
    (tmp_path / "folder.course.json").mkdir()
    for name in ("link", "folder", "nothing"):
        with pytest.raises(ValueError, match=name):
            bundles.read(tmp_path / f"{name}.course.json")


def test_the_command_says_what_is_in_it(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["bundle", "Anna", "--folder", str(work)])
    assert done.exit_code == 0, done.output
    assert "labs/7.1 (2).ipynb" in done.output and "7.1.fusion" in done.output and "torch" in done.output
    assert bundles.read(tmp_path / "Anna.course.json").student == "Anna"
    refused = CliRunner().invoke(cli.app, ["bundle", "Anna", "--folder", str(tmp_path / "nothing")])
    assert refused.exit_code == 2 and "has an answer of yours" in refused.output
