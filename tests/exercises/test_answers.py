"""A student's answers are kept once that was asked for, each in a file of its own, and are named where they help."""

import importlib
import os
from pathlib import Path

import hosted
import pytest

from course_utils import colab, keeping
from course_utils.exercises import answers, check, registry, renames

NAME = "7.1.zero_shot"


def wrong(image, texts):
    return texts


def empty():
    return None


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The folder for answers of a session that keeps things; COURSE_PROGRESS is off, as in all tests."""
    hosted.use_colab(monkeypatch, tmp_path / "drive")
    importlib.reload(answers)
    colab.keep()
    return keeping.folder() / "answers"


def test_what_was_checked_is_kept_with_its_status_and_the_next_session_names_it(kept, capsys):
    check(NAME, wrong)
    (path,) = kept.iterdir()
    head, *lines = path.read_text().splitlines()
    assert path.name == f"{NAME}.1.py" and head.startswith(f"# {NAME}: not yet (20")
    assert lines == ["def wrong(image, texts):", "    return texts"]
    capsys.readouterr()
    check(NAME, registry.exercise(NAME).stub)
    said = capsys.readouterr().out
    assert said.startswith("open: ") and "Your answer of an earlier session is in" in said
    assert str(path) in said.replace("\n", "")


def test_each_answer_is_kept_once_and_none_is_overwritten(kept):
    for function in (wrong, wrong, empty, wrong):
        answers.note(NAME, function, passed=False)
    assert sorted(path.name for path in kept.iterdir()) == [f"{NAME}.1.py", f"{NAME}.2.py"]
    (kept / f"{NAME}.1.py").unlink()
    answers.note(NAME, test_each_answer_is_kept_once_and_none_is_overwritten, passed=False)
    assert "return None" in (kept / f"{NAME}.2.py").read_text()


def test_an_answer_that_passed_is_named_before_later_ones_that_did_not(kept):
    assert answers.newest(NAME) is None
    answers.note(NAME, wrong, passed=False)
    assert answers.newest(NAME).name == f"{NAME}.1.py"
    answers.note(NAME, empty, passed=True)
    answers.note(NAME, kept_by_hand, passed=False)
    assert answers.newest(NAME).name == f"{NAME}.2.py"
    (kept / f"{NAME}.notes.py").write_text("mine")
    (kept / f"{NAME}.10.py").write_text(f"# {NAME}: passed (2026-01-31)\n")
    assert answers.newest(NAME).name == f"{NAME}.10.py"  # ten comes after two


def kept_by_hand():
    return "by hand"


def test_what_was_checked_before_the_call_is_kept_by_it(tmp_path, monkeypatch):
    hosted.use_colab(monkeypatch, tmp_path / "drive")
    importlib.reload(answers)
    answers.note(NAME, wrong, passed=False)
    assert not (tmp_path / "drive").exists()
    colab.keep()
    assert "return texts" in (keeping.folder() / "answers" / f"{NAME}.1.py").read_text()


@pytest.mark.parametrize("thing", [len, 3, None, os, int, eval("lambda: 1")])
def test_what_has_no_source_to_paste_is_left_out(kept, thing):
    answers.note(NAME, thing, passed=False)
    assert not kept.exists() or not list(kept.iterdir())


def test_a_drive_that_is_gone_costs_a_sentence(kept, tmp_path, capsys):
    (tmp_path / "drive").rename(tmp_path / "away")
    capsys.readouterr()
    answers.note(NAME, wrong, passed=False)
    assert answers.newest(NAME) is None
    assert capsys.readouterr().out.count("can't be used") == 1 and not kept.exists()


def test_an_answer_is_found_after_the_exercise_got_another_name(kept, monkeypatch):
    (kept.parent / "answers").mkdir(exist_ok=True)
    (kept / "7.1.old.1.py").write_text("# 7.1.old: passed (2026-01-31)\ndef old(): pass\n")
    monkeypatch.setitem(renames.RENAMED, "7.1.old", NAME)
    assert answers.newest(NAME).name == "7.1.old.1.py"
    answers.note(NAME, wrong, passed=False)
    assert answers.newest(NAME).name == "7.1.old.1.py"
