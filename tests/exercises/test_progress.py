"""Progress is kept whatever else happens: several notebooks at once, odd paths, odd contents."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_utils.exercises import hint, progress, registry, renames

NAME = "7.1.zero_shot"


def done() -> progress.Record:
    """A record that has everything."""
    return progress.Record("done", attempts=2, hints=1, solution_shown=True, done_on="2026-01-31")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch) -> Path:
    """The progress file of this test, which is not there yet."""
    monkeypatch.setenv("COURSE_PROGRESS", "on")
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(tmp_path / "kept" / "progress.json"))
    importlib.reload(progress)  # as in a fresh session
    yield tmp_path / "kept" / "progress.json"
    importlib.reload(progress)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_three_notebooks_write_at_once_and_nothing_is_lost(kept: Path) -> None:
    code = (
        "import sys; from course_utils.exercises import progress\n"
        "for i in range(200): progress.put('exercises', f'{sys.argv[1]}.{i}', progress.Record('tried', i))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(who)]) for who in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    entries = json.loads(kept.read_text())["exercises"]
    expected = {f"{who}.{i}": i for who in range(3) for i in range(200)}
    assert {name: entry["attempts"] for name, entry in entries.items()} == expected
    assert os.listdir(kept.parent) == [kept.name]


def test_what_another_notebook_has_done_is_not_undone(kept: Path) -> None:
    before = progress.get("exercises", NAME)
    progress.put("exercises", NAME, done())  # the other notebook
    progress.put("exercises", NAME, progress.tried(before))
    assert progress.get("exercises", NAME) == done()


def test_a_lock_of_a_killed_process_is_broken(kept: Path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "LEFT_OVER", 0.2)
    kept.parent.mkdir()
    lock = kept.with_name(f".{kept.name}.lock")
    lock.touch()
    progress.put("exercises", NAME, done())
    assert json.loads(kept.read_text())["exercises"][NAME]["status"] == "done" and not lock.exists()


def test_a_lock_that_never_comes_free_is_said_and_memory_is_used(kept: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    kept.parent.mkdir()
    kept.with_name(f".{kept.name}.lock").touch()
    progress.put("exercises", NAME, done())
    assert "another program holds it" in capsys.readouterr().out and not kept.exists()
    assert progress.get("exercises", NAME) == done()


def odd_path(kind: str, folder: Path) -> Path:
    """A path that is no ordinary file."""
    if kind.startswith("/dev"):
        return Path(kind)
    path = folder / "odd"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    return path


@pytest.mark.skipif(os.name == "nt", reason="devices and named pipes of POSIX")
@pytest.mark.parametrize("kind", ["/dev/full", "/dev/null", "/dev/zero", "pipe", "folder"])
def test_what_is_no_ordinary_file_is_refused_at_once(kept: Path, tmp_path, monkeypatch, capsys, kind: str) -> None:
    path = odd_path(kind, tmp_path)
    before = path.stat()
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(path))
    start = time.monotonic()
    hint(NAME)
    hint(NAME)
    assert time.monotonic() - start < 2
    said = capsys.readouterr().out
    assert said.count(f"{path} is no ordinary file") == 1 and "Hint 2 of 3" in said
    assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)


OTHERS = {
    "thesis.txt": b"Chapter one. It was a dark and stormy night.",
    "package.json": b'{"name": "mine", "version": "1.0"}',
    "list.json": b"[1, 2, 3]",
    "picture.png": b"\x89PNG\r\n\x1a\n\x00\xff",
    "half.json": b'{"a": [1,',
    "nested.json": b"[" * 100_000,
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_program_is_refused_and_left_alone(kept, tmp_path, monkeypatch, capsys, name) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / name).write_bytes(OTHERS[name])
    monkeypatch.setenv("COURSE_PROGRESS_FILE", str(theirs / name))
    hint(NAME)
    progress.put("exercises", NAME, done())
    said = capsys.readouterr().out
    assert f"{theirs / name} is no progress file of this course" in said and "left as it is" in said
    assert contents(theirs) == {name: OTHERS[name]}
    assert progress.get("exercises", NAME) == done()  # in memory


def test_an_empty_file_that_was_named_is_used(kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_text("{}\n")
    progress.put("exercises", NAME, done())
    assert json.loads(kept.read_text())["exercises"][NAME]["hints"] == 1


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_a_link(kept: Path, tmp_path: Path) -> None:
    kept.parent.mkdir()
    (tmp_path / "real.json").write_text("{}")
    kept.symlink_to(tmp_path / "real.json")
    progress.put("exercises", NAME, done())
    assert kept.is_symlink() and NAME in (tmp_path / "real.json").read_text()


def entry(**values) -> str:
    return json.dumps({"exercises": {NAME: values}})


UNSOUND = {
    "a number below zero": entry(hints=-99),
    "a huge number": entry(hints=10**100),
    "5,000 digits": '{"exercises": {"a": {"hints": 1%s}}}' % ("0" * 5000),
    "no number": '{"exercises": {"a": {"hints": NaN}}}',
    "infinity beside it": '{"exercises": {}, "more": Infinity}',
    "an unknown status": entry(status="finished"),
    "no date": entry(status="done", done_on="yesterday"),
    "a depth bomb": '{"exercises": {}, "more": ' + "[" * 100_000,
    "a sound depth bomb": '{"exercises": {}, "more": ' + "[" * 990 + "]" * 990 + "}",
    "deep records": '{"exercises": ' + '{"a": ' * 5000 + "1" + "}" * 5001,
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_unsound_contents_are_put_aside(kept: Path, capsys, kind: str) -> None:
    kept.parent.mkdir()
    kept.write_text(UNSOUND[kind])
    hint(NAME)
    said = capsys.readouterr().out
    assert "damaged" in said and "Hint 1 of 3" in said
    assert kept.with_name("progress.json.broken").read_text() == UNSOUND[kind]
    assert progress.get("exercises", NAME).hints == 1


def test_a_home_that_is_not_known_is_no_trouble(kept: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COURSE_PROGRESS_FILE", "~nobody-of-that-name/progress.json")
    monkeypatch.chdir(kept.parent.parent)
    progress.put("exercises", NAME, done())
    assert progress.get("exercises", NAME) == done()


def test_progress_survives_another_name_of_an_exercise(kept: Path, monkeypatch, capsys) -> None:
    progress.put("exercises", "7.1.old", done())
    progress.put("exercises", NAME, progress.Record("tried", attempts=7))
    monkeypatch.setitem(renames.RENAMED, "7.1.old", NAME)
    found = progress.get("exercises", NAME)
    assert (found.status, found.attempts, found.done_on) == ("done", 7, "2026-01-31")
    hint("7.1.old")  # in a notebook that an update has left as it was
    assert progress.get("exercises", NAME).hints == 2 and "Hint 2" in capsys.readouterr().out
    old = json.loads(kept.read_text())["exercises"]["7.1.old"]
    assert old["status"] == "done"  # an older course beside this one still finds it


def test_earlier_names_lead_to_what_is_there() -> None:
    known = {**registry.exercises(), **registry.quizzes()}
    assert set(renames.RENAMED.values()) <= set(known)
    assert not set(renames.RENAMED) & set(known)
