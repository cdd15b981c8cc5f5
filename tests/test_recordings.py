"""Recordings: the magic shows one at the bundled tier and runs the lines elsewhere; none was edited by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.core.interactiveshell import InteractiveShell

from course_utils import recordings

LINES = "total = 6 * 7\nprint(total)\ntotal + 1"
STREAM = {"output_type": "stream", "name": "stdout", "text": "42, as recorded\n"}
TABLE = {"output_type": "display_data", "data": {"text/plain": "a table"}, "metadata": {}}
TQDM = "Tokenizing:   0%|          | 0/336 [00:00<?, ? examples/s]"
BAR = {"output_type": "display_data", "data": {"text/plain": TQDM}, "metadata": {}}


def content() -> dict:
    """The fields of a recording of `LINES`."""
    model = {"name": "a model", "size": 3, "sha256": "ab" * 32, "source": "from a test"}
    cell = {"code": LINES, "outputs": [STREAM, BAR, TABLE], "seconds": 12.3, "processor": 4.0}
    fields = {"name": "sums", "notebook": "7.9", "date": "2026-01-31", "machine": "2 cores"}
    return fields | {"packages": {}, "models": [model], "files": [], "prepared": "", "cells": [cell]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one recording, instead of the course's."""
    monkeypatch.setattr(recordings, "FOLDER", tmp_path)
    recordings.write(content())
    return tmp_path


@pytest.fixture
def shell():
    """IPython in this process, with names of its own."""
    shell = InteractiveShell()
    yield shell
    InteractiveShell.clear_instance()


def session(tier: str) -> SimpleNamespace:
    """As much of a unit as the magic asks for."""
    choice = SimpleNamespace(tier=tier, reason="asked for")
    return SimpleNamespace(name="7.1", choices={"speech": choice})


def run(shell: InteractiveShell, tier: str, first: str, code: str = LINES):
    """What becomes of a cell that begins with `first`, in a session at `tier`."""
    shell.register_magic_function(recordings.magic(session(tier), shell), "cell", "real")
    return shell.run_cell(f"{first}\n{code}")


def test_at_the_bundled_tier_the_recording_is_shown_and_says_what_it_is(folder, shell, capsys) -> None:
    assert run(shell, "bundled", "%%real sums").success
    said = " ".join(capsys.readouterr().out.split())
    assert "RECORDING of these very lines, made on 2026-01-31 on 2 cores; 12 s by the clock" in said
    assert "a model, sha256 abababababab; from a test" in said
    assert 'speech is at the bundled tier (asked for). open_unit("7.1", tier="small")' in said
    assert "42, as recorded" in said and "a table" in said
    assert "Tokenizing" not in said  # a progress bar
    assert "total" not in shell.user_ns  # nothing ran


@pytest.mark.parametrize("tier", ["small", "full"])
def test_elsewhere_the_lines_run_as_if_the_first_were_not_there(tier, folder, shell, capsys) -> None:
    assert run(shell, tier, "%%real sums").success
    said = capsys.readouterr().out
    assert said.startswith("42\n") and "43" in said  # what is printed, and the last expression
    assert "RECORDING" not in said
    assert shell.user_ns["total"] == 42


def test_one_role_at_the_bundled_tier_is_enough_to_show_the_recording(shell) -> None:
    unit = session("small")
    assert recordings.why_not_here(unit) == ""
    unit.choices["image-text"] = SimpleNamespace(tier="bundled", reason="no network")
    assert recordings.why_not_here(unit) == "image-text is at the bundled tier (no network)"


def test_an_error_in_the_lines_ends_the_cell(folder, shell, capsys) -> None:
    done = run(shell, "small", "%%real sums", "total = 1\ntotal / 0")
    assert isinstance(done.error_in_exec, ZeroDivisionError)
    assert "total / 0" in capsys.readouterr().out  # the traceback shows the reader's line


class OutOfMemoryError(RuntimeError):
    """torch's error for a full card is called so."""


class Broken(Exception):
    """What the hub's library raises when a download breaks off."""

    __module__ = "httpx2"


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), Broken("peer closed the connection")])
def test_a_full_card_and_a_download_that_breaks_off_step_down_too(error, folder, shell, capsys) -> None:
    shell.user_ns["error"] = error
    assert run(shell, "small", "%%real sums", "raise error").success
    assert "did not get to their end here" in capsys.readouterr().out


def test_only_a_last_expression_is_shown(folder, shell, capsys) -> None:
    assert run(shell, "small", "%%real sums", "for i in range(2):\n    i + 100").success
    assert capsys.readouterr().out == ""


def test_without_a_network_the_way_to_run_them_names_it(folder, shell, capsys) -> None:
    unit = session("bundled")
    for choice in unit.choices.values():
        choice.reason = "not small: no network, and it is not in the cache"
    shell.register_magic_function(recordings.magic(unit, shell), "cell", "real")
    shell.run_cell("%%real sums\n" + LINES)
    assert 'With a network, open_unit("7.1", tier="small") runs these lines.' in capsys.readouterr().out


@pytest.mark.parametrize("error", ["ConnectionError('no route\\nto the hub')", "MemoryError('full')"])
def test_without_network_or_memory_it_says_so_and_steps_down(error, folder, shell, capsys) -> None:
    assert run(shell, "small", "%%real sums", f"raise {error}").success
    said = capsys.readouterr().out
    assert "did not get to their end here" in said and error.split("(")[0] in said
    assert "changed these lines" in said  # the recording is of other lines


def two_cells() -> dict:
    """A recording of two cells: the first fails while `broken` is set, the second needs it."""
    times = {"seconds": 1.0, "processor": 1.0}
    first = {"code": "if broken:\n    raise OSError('no program')\nready = 1", "outputs": [], **times}
    second = {"code": "print(ready)", "outputs": [STREAM], **times}
    return content() | {"name": "pair", "cells": [first, second]}


def test_after_a_cell_that_stepped_down_the_rest_of_its_section_is_shown(folder, shell, capsys) -> None:
    recordings.write(two_cells())
    shell.register_magic_function(recordings.magic(session("small"), shell), "cell", "real")
    cells = [f"%%real pair\n{cell.code}" for cell in recordings.read("pair").cells]
    shell.user_ns["broken"] = True
    assert shell.run_cell(cells[0]).success and shell.run_cell(cells[1]).success
    said = capsys.readouterr().out
    assert "need what an earlier cell of this section did not get done" in said and "42, as recorded" in said
    shell.user_ns["broken"] = False  # installed meanwhile: both run
    assert shell.run_cell(cells[0]).success and shell.run_cell(cells[1]).success
    assert capsys.readouterr().out == "1\n"


@pytest.mark.parametrize("tier", ["bundled"])
@pytest.mark.parametrize(
    ("first", "code", "said"),
    [
        ("%%real sumz", LINES, "No recording 'sumz' was made yet (there are: sums)"),
        ("%%real ../sums", LINES, "No recording '../sums' was made yet"),
        ("%%real", LINES, "No recording '' was made yet"),
        ("%%real sums", LINES.replace("7", "8"), "You have changed these lines"),
    ],
)
def test_what_was_not_recorded_gets_a_sentence_and_no_output(tier, first, code, said, folder, shell, capsys) -> None:
    assert run(shell, tier, first, code).success
    text = capsys.readouterr().out
    assert said in text and "42" not in text


def test_a_recording_that_was_edited_is_refused(folder, shell, capsys) -> None:
    path = folder / "sums.json"
    path.write_text(path.read_text().replace("42, as recorded", "43, as wished"))
    run(shell, "bundled", "%%real sums")
    text = capsys.readouterr().out
    assert "sums.json was changed after it was recorded; `course record sums`" in text
    assert "43" not in text


def test_reading_gives_what_was_written(folder) -> None:
    recording = recordings.read("sums")
    assert recording.cell(LINES + "\n").outputs == [STREAM, BAR, TABLE]
    assert recording.cell("print(1)") is None
    assert json.loads((folder / "sums.json").read_text())["sha256"] == recordings.checksum(content())


def test_plain_python_has_no_magic_and_no_complaint() -> None:
    recordings.register(session("bundled"))
