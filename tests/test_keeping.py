"""What outlives a hosted machine: nothing unasked, all once it is asked; a Drive that goes costs a sentence."""

import errno
import importlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import hosted
import pytest

from course_utils import colab, keeping, unit
from course_utils.exercises import check, copies, progress, registry
from course_utils.models import tiers
from course_utils.models.hardware import Hardware

LAPTOP = Hardware("cpu", "float32", "no fast 16-bit units", 16, 10, cores=8, network=False)
NAME = "7.1.zero_shot"


@pytest.fixture(autouse=True)
def session(tmp_path, monkeypatch):
    """A new session with an empty home. What keep() sets in the environment is taken back."""
    new_session(monkeypatch, tmp_path / "home")
    yield
    importlib.reload(progress)


def new_session(monkeypatch, home: Path) -> None:
    """As on a fresh machine: nothing in memory, nothing in the home folder, nothing asked for."""
    monkeypatch.setenv("COURSE_KEPT", "")
    monkeypatch.setenv("COURSE_PROGRESS", "on")
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(home / "progress.json"))
    importlib.reload(copies)
    importlib.reload(progress)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    return hosted.use_colab(monkeypatch, tmp_path / "drive")


def kept_names() -> set[str]:
    return {path.name for path in keeping.folder().iterdir()}


def mount(drive) -> Path:
    """The reader's Drive, mounted before the course is asked anything."""
    top = drive.place / "MyDrive"
    top.mkdir(parents=True)
    return top


def done(day: str = "2026-01-31") -> progress.Record:
    return progress.Record("done", attempts=2, done_on=day)


def card(capsys) -> str:
    """What the card says under "kept", in one line; "" without such a row."""
    choices = {"chat": tiers.choose("chat", LAPTOP, "bundled")}
    opened = unit.Unit("7.5", LAPTOP, choices, Path("."), tier="bundled")
    capsys.readouterr()
    rows = [line.strip("│ ") for line in unit.card(opened).splitlines()]
    text = " ".join(" ".join(rows).split())
    return text.partition(" kept ")[2].strip("└─┘ ")


# ---------------------------------------------------------------- asked, not assumed


def test_a_mounted_drive_is_not_written_to_unasked_and_the_card_names_the_call(drive, capsys):
    top = mount(drive)
    assert "go when this machine goes; colab.keep() keeps them on your Drive" in card(capsys)
    progress.put("exercises", NAME, done())
    check(NAME, registry.exercise(NAME).stub)
    assert os.listdir(top) == [] and drive.asked == 0


def test_without_a_mounted_drive_the_card_says_that_it_will_be_asked_for(drive, capsys):
    assert "colab.keep() asks for your Drive and keeps them there" in card(capsys)
    assert not drive.place.exists() and drive.asked == 0


def test_at_home_the_card_is_silent_and_the_call_says_where_things_are(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert card(capsys) == ""
    colab.keep()
    said = capsys.readouterr().out
    assert "Here all stays where it is" in said and str(tmp_path / "home" / "progress.json") in said
    with pytest.raises(ValueError, match="Only Colab and Kaggle"):
        keeping.start()


def test_the_call_lets_colab_ask_says_what_and_where_and_the_card_repeats_it(drive, capsys):
    colab.keep()
    place = drive.place / "MyDrive" / "genai-course"
    said = " ".join(capsys.readouterr().out.split())
    assert drive.asked == 1 and f"are copied to {place}" in said
    assert "In your next session, call colab.keep() again" in said and "trash" in said
    assert "Qwen/Qwen3-8B alone takes 16 GB, a free Drive has 15" in said and "HF_HOME" in said
    assert "colab.keep() was called" in (place / "README.txt").read_text()
    assert f"arecopiedto{place}" in card(capsys).replace(" ", "")  # the card wraps long paths


def test_a_drive_that_is_mounted_is_not_asked_for_again(drive):
    mount(drive)
    colab.keep()
    colab.keep()
    assert drive.asked == 0 and keeping.folder() == drive.place / "MyDrive" / "genai-course"


@pytest.mark.parametrize("error", [ValueError("mount failed"), RuntimeError("credential propagation was unsuccessful")])
def test_a_refusal_is_a_sentence_and_everything_goes_on(drive, capsys, error):
    drive.refuses = error
    colab.keep()
    said = capsys.readouterr().out
    assert "Nothing is kept" in said and str(error) in said and "colab.keep() asks again" in said
    progress.put("exercises", NAME, done())
    assert progress.get("exercises", NAME) == done() and not drive.place.exists()


def test_without_colabs_module_the_call_is_a_sentence(tmp_path, monkeypatch, capsys):
    """A child process of the notebook knows of Colab, but can't ask for the Drive."""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    monkeypatch.setattr(keeping, "DRIVE", tmp_path / "drive")
    colab.keep()
    assert "Nothing is kept: there is no Drive" in capsys.readouterr().out


def test_a_file_in_the_place_of_the_folder_is_a_sentence(drive, capsys):
    (mount(drive) / "genai-course").write_text("mine")
    colab.keep()
    assert "can't be written to" in capsys.readouterr().out and keeping.folder() is None


def test_kaggles_rules_are_said_and_its_folder_is_used(tmp_path, monkeypatch, capsys):
    hosted.use_kaggle(monkeypatch, tmp_path / "working")
    assert "colab.keep() keeps them in" in card(capsys)
    colab.keep()
    said = " ".join(capsys.readouterr().out.split())
    assert "Persistence" in said and "Files only" in said and "Save Version" in said and "Drive uploads" not in said
    progress.put("exercises", NAME, done())
    assert list((tmp_path / "working" / "genai-course").glob("progress-*.json"))


# ---------------------------------------------------------------- nothing is lost


def test_what_was_done_before_the_call_and_in_earlier_sessions_is_put_together(drive, tmp_path, monkeypatch, capsys):
    progress.put("exercises", NAME, done())
    colab.keep()
    progress.put("quizzes", "7.1.fusion", done())

    new_session(monkeypatch, tmp_path / "second")
    progress.put("exercises", "7.5.lora", done("2026-02-01"))
    progress.put("exercises", NAME, progress.Record("tried", attempts=9, hints=1))
    capsys.readouterr()
    assert "colab.keep() goes on with what is on your Drive" in card(capsys)
    colab.keep()
    assert "It knows 3 exercises and quizzes so far" in " ".join(capsys.readouterr().out.split())
    both = {"status": "done", "attempts": 9, "hints": 1, "solution_shown": False, "done_on": "2026-01-31"}
    assert asdict(progress.get("exercises", NAME)) == both
    assert progress.get("quizzes", "7.1.fusion") == done()

    new_session(monkeypatch, tmp_path / "third")
    colab.keep()
    assert asdict(progress.get("exercises", NAME)) == both
    assert progress.get("exercises", "7.5.lora") == done("2026-02-01")


def test_two_machines_at_the_same_time_lose_nothing_of_each_other(drive, tmp_path, monkeypatch):
    """No lock reaches from one to the other, so they must not share a file."""
    progress.put("exercises", NAME, done())
    colab.keep()
    first = {path.name for path in keeping.folder().glob("progress-*")}
    new_session(monkeypatch, tmp_path / "second")
    colab.keep()
    progress.put("exercises", "7.5.lora", done())
    second = {path.name for path in keeping.folder().glob("progress-*")} - first
    assert first and second
    new_session(monkeypatch, tmp_path / "third")
    colab.keep()
    assert progress.get("exercises", "7.5.lora") == done() == progress.get("exercises", NAME)


def test_without_progress_no_copy_is_written(drive):
    colab.keep()
    assert kept_names() <= {"README.txt", "answers"}  # answers, if another test of this process left some


def test_where_progress_is_off_none_is_copied(drive, monkeypatch):
    progress.put("exercises", NAME, done())
    monkeypatch.setenv("COURSE_PROGRESS", "off")
    colab.keep()
    progress.put("exercises", NAME, done())
    assert kept_names() <= {"README.txt", "answers"}  # answers, if another test of this process left some


def test_where_the_local_file_fails_the_copy_still_knows(drive, tmp_path, monkeypatch, capsys):
    colab.keep()
    (tmp_path / "home" / "progress.json").mkdir(parents=True)
    progress.put("exercises", NAME, done())
    assert "Progress can't be kept in a file" in capsys.readouterr().out
    assert any(NAME in path.read_text() for path in keeping.folder().glob("progress-*"))


def test_neither_locks_nor_renames_are_needed(drive, monkeypatch):
    """A file system like a mounted Drive at its worst."""
    colab.keep()
    kept = keeping.folder()

    def refusing(name: str):
        real = getattr(os, name)

        def call(*arguments, **options):
            if any(str(argument).startswith(str(kept)) for argument in arguments):
                raise OSError(errno.ENOTSUP, "Operation not supported")
            return real(*arguments, **options)

        return call

    for name in ("replace", "rename", "link", "symlink", "chmod", "utime"):
        monkeypatch.setattr(os, name, refusing(name))
    progress.put("exercises", NAME, done())
    found = [json.loads(path.read_text()) for path in kept.glob("progress-*")]
    assert any(NAME in content.get("exercises", {}) for content in found)


def test_a_copy_that_was_cut_off_costs_one_change_at_most(drive, tmp_path, monkeypatch, capsys):
    colab.keep()
    for number in range(4):
        progress.put("exercises", f"7.1.number_{number}", done())
    newest = max(keeping.folder().glob("progress-*"), key=lambda path: len(path.read_bytes()))
    newest.write_bytes(newest.read_bytes()[:-40])
    new_session(monkeypatch, tmp_path / "second")
    colab.keep()
    assert f"{newest} is damaged" in capsys.readouterr().out and newest.exists()
    assert [progress.get("exercises", f"7.1.number_{number}").status for number in range(3)] == ["done"] * 3


@pytest.mark.parametrize("content", ["", "[]", "{", '{"exercises": {"x": {"status": "won"}}}', "\x00" * 9])
def test_what_is_no_progress_is_not_read_nor_removed(drive, capsys, content):
    mount(drive)
    keeping.start()
    strange = keeping.folder() / "progress-strange-a.json"
    strange.write_text(content)
    os.utime(strange, (0, 0))
    colab.keep()
    assert "is damaged" in capsys.readouterr().out and strange.read_text() == content


def test_old_copies_that_say_nothing_new_go_and_no_others(drive, tmp_path, monkeypatch):
    for number in range(3):
        new_session(monkeypatch, tmp_path / str(number))
        progress.put("exercises", f"7.1.number_{number}", done())
        colab.keep()
    mine = {path.name for path in keeping.folder().glob("progress-*")}
    lone = keeping.folder() / "progress-lone-a.json"
    lone.write_text(json.dumps({"version": 1, "exercises": {"7.5.lora": {"status": "tried"}}, "quizzes": {}}))
    new_session(monkeypatch, tmp_path / "fresh")
    colab.keep()  # all are young: nothing goes
    assert mine <= {path.name for path in keeping.folder().glob("progress-*")}
    for path in keeping.folder().glob("progress-*"):
        os.utime(path, (0, 0))
    new_session(monkeypatch, tmp_path / "last")
    colab.keep()
    left = [path for path in keeping.folder().glob("progress-*") if path.stat().st_mtime < 9]
    assert len(left) == 1  # the one of "fresh", which knew all others
    new_session(monkeypatch, tmp_path / "after")
    colab.keep()
    for number in range(3):
        assert progress.get("exercises", f"7.1.number_{number}") == done()
    assert progress.get("exercises", "7.5.lora").status == "tried"


# ---------------------------------------------------------------- a Drive that goes


def test_an_unmounted_drive_is_said_once_is_never_imitated_and_is_taken_up_again(drive, tmp_path, capsys):
    colab.keep()
    place = keeping.folder()
    drive.place.rename(tmp_path / "away")
    capsys.readouterr()
    progress.put("exercises", NAME, done())
    progress.put("exercises", "7.5.lora", done())
    said = capsys.readouterr().out
    assert said.count("can't be used (it is not there any more)") == 1 and "stays on this machine only" in said
    assert not drive.place.exists() and progress.get("exercises", NAME) == done()
    assert "is gone" in card(capsys)
    (tmp_path / "away").rename(drive.place)
    progress.put("quizzes", "7.1.fusion", done())
    assert any(NAME in path.read_text() for path in place.glob("progress-*"))


def test_a_full_drive_is_said_with_its_cure_and_the_local_file_goes_on(drive, monkeypatch, capsys):
    colab.keep()
    capsys.readouterr()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copies.os, "fsync", full)
    progress.put("exercises", NAME, done())
    said = capsys.readouterr().out
    assert "No space left on device" in said and "empty its trash" in said
    assert progress.get("exercises", NAME) == done()


def test_what_did_not_arrive_whole_is_noticed(drive, monkeypatch, capsys):
    colab.keep()
    monkeypatch.setattr(copies.os, "fsync", lambda handle: os.ftruncate(handle, 3))
    progress.put("exercises", NAME, done())
    assert "did not arrive whole" in capsys.readouterr().out


# ---------------------------------------------------------------- long trainings


def test_a_folder_is_lasting_where_things_are_kept(drive, tmp_path):
    opened = unit.Unit("7.5", LAPTOP, {}, tmp_path)
    place = opened.lasting("support")
    assert place == tmp_path / "support" and keeping.runs_of(place) is None
    colab.keep()
    assert keeping.runs_of(place) == keeping.folder() / "runs" / "7.5-support"
    assert keeping.runs_of(tmp_path / "other") is None


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "a b"])
def test_a_lasting_folder_has_a_plain_name(tmp_path, name):
    with pytest.raises(ValueError, match="plain name"):
        keeping.lasting(tmp_path, name)
