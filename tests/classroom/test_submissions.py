"""What students hand in is read, whatever it is called and however it was saved; what can't be is said, and no more."""

import io
import json
import os
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import handed_in
import pytest

from course_utils.classroom import bundles
from course_utils.classroom.grading import formats, students, submissions, unpacking

CELLS = ("one = 1", "two = 2")


def cells_of(folder: Path) -> dict[str, Sequence[str]]:
    """All cells of each student, in the order in which they count."""
    return {found.student: sum((work.cells for work in found.works), ()) for found in submissions.read(folder)}


def notes_of(folder: Path) -> str:
    """The notes of the only student."""
    (found,) = submissions.read(folder)
    return " ".join(found.notes)


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    """A zip file with these entries."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def text_of(*cells: str) -> str:
    return json.dumps(handed_in.notebook(cells))


# --- whose


@pytest.mark.parametrize(
    ("place", "name", "number"),
    [
        ("Anna Schmidt_12345_assignsubmission_file_/7.1.ipynb", "Anna Schmidt", "12345"),
        ("Anna Schmidt_12345_assignsubmission_file/7.1.ipynb", "Anna Schmidt", "12345"),
        ("Zoë O'Neil_7_assignsubmission_file_7.1_multimodal_ai.ipynb", "Zoë O'Neil", "7"),
        ("schmidtanna_LATE_123_456_7.1.ipynb", "schmidtanna", "123"),
        ("schmidtanna_123_456_7.1-2.ipynb", "schmidtanna", "123"),
        ("mueller_7_1_lab.ipynb", "mueller_7_1_lab", ""),
        ("anna_7.1_multimodal_ai.new-2027-01-31.ipynb", "anna", ""),
        ("Homework 1_aschmidt_attempt_2026-01-31-10-00-00_7.1.ipynb", "aschmidt", ""),
        ("submitted/aschmidt/7.1/7.1_multimodal_ai.ipynb", "aschmidt", ""),
        ("7.1/anna.ipynb", "anna", ""),
        ("anna/week 1/7.1.ipynb", "anna", ""),
        ("anna_7.1.ipynb", "anna", ""),
        ("7.1_multimodal_ai_anna.ipynb", "anna", ""),
        ("Copy of 7.1_multimodal_ai - Anna Schmidt.ipynb", "Anna Schmidt", ""),
        ("Kopie von anna_7.2_lab_capstone (2).ipynb", "anna", ""),
        ("anna-7.3_reasoning-Copy1.ipynb", "anna", ""),
        ("Anna Schmidt.course.json", "Anna Schmidt", ""),
        ("anna.zip/7.1.ipynb", "anna", ""),
    ],
)
def test_a_name_is_found_where_it_stands(place: str, name: str, number: str) -> None:
    parts = place.replace(".zip/", "/").split("/")
    assert students.owner(parts) == students.Owner(name, number)


@pytest.mark.parametrize("file", ["7.1.ipynb", "7.1 (2).ipynb", "Copy of 7.1_multimodal_ai.ipynb"])
def test_a_name_that_says_nothing_is_a_guess(file: str) -> None:
    assert students.owner([file]).is_guess


def test_two_students_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    handed_in.save(tmp_path / "Anna Schmidt_1_assignsubmission_file_" / "7.1.ipynb", ["a"])
    handed_in.save(tmp_path / "Anna Schmidt_2_assignsubmission_file_" / "7.1.ipynb", ["b"])
    assert cells_of(tmp_path) == {"Anna Schmidt (1)": ("a",), "Anna Schmidt (2)": ("b",)}
    first = submissions.read(tmp_path)[0]
    assert first.number == "1" and "Another student is called Anna Schmidt, too." in first.notes


def test_files_without_a_name_are_one_students_or_several(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    handed_in.save(folder / "7.1_multimodal_ai.ipynb", ["a"])
    handed_in.save(folder / "7.2.ipynb", ["b"])
    assert sorted(cells_of(folder)["anna"]) == ["a", "b"]
    handed_in.save(folder / "7.2 (1).ipynb", ["c"])
    assert len(cells_of(folder)) == 3
    assert "No folder and no file says whose this is" in submissions.read(folder)[0].notes[0]


def test_what_an_update_leaves_is_no_other_student(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    for name in (
        "7.1_multimodal_ai.ipynb",
        "7.1_multimodal_ai.new-2027-01-31.ipynb",
        "before-update/2027-01-31/7.1_multimodal_ai.ipynb",
    ):
        handed_in.save(folder / name, [name])
    wanted = {"7.1_multimodal_ai.ipynb", "7.1_multimodal_ai.new-2027-01-31.ipynb"}  # what was replaced does not count
    assert set(cells_of(folder)["anna"]) == wanted == set(cells_of(tmp_path)["anna"])


def test_a_folder_of_pictures_is_no_other_student(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    for name in ("7.1_multimodal_ai.ipynb", "7.2.ipynb"):
        handed_in.save(folder / name, [name])
    for name in ("images", "data"):
        (folder / name).mkdir()
        (folder / name / "x.png").touch()
    assert list(cells_of(folder)) == ["anna"] == list(cells_of(tmp_path))


def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch) -> None:
    handed_in.save(tmp_path / "anna" / "7.1.ipynb", CELLS)
    handed_in.save(tmp_path / "ben" / "7.1.ipynb", CELLS)
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("ben"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match=r"ben can't be opened \(Permission denied\)"):
        submissions.read(tmp_path)


def test_the_newest_file_comes_last(tmp_path: Path) -> None:
    names = ["anna_7.1 (1).ipynb", "anna_7.1.ipynb", "anna_7.1 (2).ipynb", "anna_7.2.ipynb"]
    for name, changed in zip(names, (2e9, 2e9, 2e9, 1e9), strict=True):
        path = handed_in.save(tmp_path / name, [name])
        os.utime(path, (changed, changed))
    assert cells_of(tmp_path) == {"anna": (names[3], names[1], names[0], names[2])}


# --- folders and zip files


def test_a_zip_for_each_student_and_one_for_all(tmp_path: Path) -> None:
    class_, all_ = tmp_path / "class", tmp_path / "all"
    class_.mkdir(), all_.mkdir()
    for name in ("anna", "Bülent Öz"):
        (class_ / f"{name}.zip").write_bytes(zipped({"week 1/7.1.ipynb": text_of(name), "__MACOSX/x.ipynb": "?"}))
    of_class = {path.name: path.read_bytes() for path in class_.iterdir()}
    wanted = {"anna": ("anna",), "Bülent Öz": ("Bülent Öz",)}
    assert cells_of(class_) == wanted
    (all_ / "CS101-7.1-99.zip").write_bytes(zipped(of_class))
    assert cells_of(all_) == wanted  # zip files in a zip file
    assert cells_of(all_ / "CS101-7.1-99.zip") == wanted
    moodle = {f"{name}_{i}_assignsubmission_file_/7.1.ipynb": text_of(name) for i, name in enumerate(wanted)}
    (all_ / "CS101-7.1-99.zip").write_bytes(zipped(moodle))
    assert cells_of(all_) == wanted


def test_a_zip_file_of_macos_keeps_its_letters(tmp_path: Path) -> None:
    name = "Zoë/Aufgabe: 7.1.ipynb"
    misread = name.encode().decode("cp437")  # as zipfile reads UTF-8 that is not said to be
    content = zipped({name: text_of("zoe")})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (entry,) = archive.infolist()
    entry.flag_bits, entry.filename = 0, misread
    assert unpacking.entry_name(entry) == name
    (tmp_path / "class.zip").write_bytes(content)
    assert cells_of(tmp_path / "class.zip") == {"Zoë": ("zoe",)}


def test_who_handed_in_something_else_is_in_the_list(tmp_path: Path) -> None:
    handed_in.save(tmp_path / "anna" / "7.1.ipynb", ["a"])
    (tmp_path / "ben").mkdir()
    (tmp_path / "ben" / "essay.pdf").write_bytes(b"%PDF")
    (tmp_path / "grades.csv").write_text("x")
    (tmp_path / ".hidden.ipynb").write_text("x")
    anna, ben = submissions.read(tmp_path)
    assert (anna.student, ben.student) == ("anna", "ben")
    assert ben.works == () and ben.notes == ("Nothing that could be read was handed in.",)


def test_nothing_to_grade_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no notebook"):
        submissions.read(tmp_path)
    with pytest.raises(ValueError, match="there is no"):
        submissions.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folder and no zip file"):
        submissions.read(tmp_path / "notes.txt")


# --- formats


def as_version_3(cells: Sequence[str]) -> dict:
    old = [{"cell_type": "code", "language": "python", "input": cell.splitlines(True), "outputs": []} for cell in cells]
    text = {"cell_type": "markdown", "source": "# Title"}
    return {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": [text, *old]}]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("7.1.ipynb", text_of(*CELLS).encode()),
        ("7.1.ipynb", b"\xef\xbb\xbf" + text_of(*CELLS).replace(", ", ",\r\n").encode()),
        ("7.1.ipynb", text_of(*CELLS).encode("utf-16")),
        ("7.1.IPYNB", json.dumps(as_version_3(CELLS)).encode()),
        ("7.1.py", b"# ---\n# jupyter: {}\n# ---\n\n# %%\none = 1\n\n# %% [markdown]\n# Text\n\n# %%\ntwo = 2\n"),
        ("7.1.py", b"#!/usr/bin/env python\n\n# In[ ]:\n\none = 1\n\n# In[2]:\n\ntwo = 2\n"),
    ],
)
def test_a_notebook_is_read_as_any_program_saves_it(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / name).write_bytes(content)
    (found,) = submissions.read(tmp_path)
    lines = [line for cell in found.works[0].cells for line in cell.splitlines()]
    assert [line for line in lines if line and not line.startswith("#")] == list(CELLS)
    assert found.notes == ()


def test_outputs_of_megabytes_are_no_obstacle(tmp_path: Path) -> None:
    notebook = handed_in.notebook(CELLS)
    picture = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "A" * 9_000_000}}
    notebook["cells"][0]["outputs"] = [picture]
    (tmp_path / "anna_7.1.ipynb").write_text(json.dumps(notebook))
    assert cells_of(tmp_path) == {"anna": CELLS}


def test_a_module_of_a_student_is_no_notebook(tmp_path: Path) -> None:
    handed_in.save(tmp_path / "anna" / "7.1.ipynb", CELLS)
    (tmp_path / "anna" / "helpers.py").write_text("def merge(a, b):\n    return a\n")
    assert cells_of(tmp_path) == {"anna": CELLS}


def test_a_bundle_holds_notebooks_kept_answers_and_quizzes(tmp_path: Path) -> None:
    answers = {"7.1.late_fusion": "# 7.1.late_fusion: passed (2026-01-31)\ndef mine(p, w):\n    return p\n"}
    bundle = bundles.Bundle("Anna", "2026-01-31", {}, {"7.1.ipynb": CELLS}, answers, {"7.1.fusion": "b"})
    bundles.write(bundle, tmp_path)
    (found,) = submissions.read(tmp_path)
    kept, notebook = found.works
    assert found.student == "Anna" and notebook.cells == CELLS
    assert kept.cells[-2:] == ("check('7.1.late_fusion', mine)", "quiz('7.1.fusion', 'b')")
    assert found.notes == ("Anna.course.json says that it is the work of Anna, of 2026-01-31.",)


# --- hostile files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no notebook that can be read"),
        (text_of(*CELLS).encode()[:-9], "it is cut off"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"[" * 600_000, "holds too many values"),
        (b"[1" + b"," * 6_000_000, "holds too many values"),
        (b"[]", "is no notebook"),
        (b"{}", "it has no list of cells"),
        (b'{"cells": {}}', "it has no list of cells"),
        (b'{"cells": []}', "has no cells"),
        (b'{"worksheets": [3, {"cells": 3}]}', "has no cells"),
        (b'{"cells": 1' + b"0" * 5000 + b"}", "is no notebook that can be read"),
        (b'{"cells": [3, {"cell_type": []}, {"cell_type": "code", "source": [1]}]}', "holds 3 cells in a form"),
        (text_of(*["1"] * 5_001).encode(), "more than 5,000 code cells"),
        (text_of("1" * 500_001).encode(), "more than 500,000 characters of code"),
        (text_of("é").replace("\\u00e9", "é").encode("latin-1"), "is not in UTF-8"),
        (b"\xff\xfe\x00", "is not in UTF-8"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_broken_notebook_is_a_sentence_in_its_students_notes(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "anna_7.1.ipynb").write_bytes(content)
    handed_in.save(tmp_path / "ben_7.1.ipynb", CELLS)
    anna, ben = submissions.read(tmp_path)
    assert words in " ".join(anna.notes) and anna.notes[0].startswith("anna_7.1.ipynb ")
    assert ben.works[0].cells == CELLS and ben.notes == ()


def test_a_large_file_and_a_large_number_of_files_are_not_read(tmp_path: Path, monkeypatch) -> None:
    with (tmp_path / "anna_7.1.ipynb").open("wb") as stream:
        stream.truncate(10**9)  # takes no room on the disk
    assert "has more than 50 MB" in notes_of(tmp_path)
    monkeypatch.setattr(submissions, "MOST_BYTES", 1000)
    monkeypatch.setattr(submissions, "MOST_FILES", 5)
    (tmp_path / "anna_7.1.ipynb").unlink()
    for number in range(8):
        handed_in.save(tmp_path / f"anna_7.1 ({number}).ipynb", ["x" * 300])
    assert "MB are read of a student" in notes_of(tmp_path)
    monkeypatch.setattr(submissions, "MOST_BYTES", 10**6)
    assert "5 files are read of a student" in notes_of(tmp_path)
    monkeypatch.setattr(submissions, "MOST_CODE", 1000)
    assert "1,000 characters of code are read of a student" in notes_of(tmp_path)


def test_a_bundle_that_was_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "anna.course.json").write_text('{"format": "course bundle 1", "quizzes": 3}')
    assert "it was changed or damaged" in notes_of(tmp_path)


def test_half_characters_in_a_bundle_end_nothing(tmp_path: Path) -> None:
    """No file can hold them, the one with the result included."""
    bundle = bundles.Bundle("Anna", "\ud800" * 999, {}, {"7.1\ud800.ipynb": CELLS, "kept answers": CELLS}, {}, {})
    bundles.write(bundle, tmp_path)
    (found,) = submissions.read(tmp_path)
    assert [work.cells for work in found.works[1:]] == [CELLS, CELLS]
    texts = [*found.notes, *(work.file for work in found.works)]
    assert max(map(len, "".join(texts).encode().splitlines())) < 500


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "anna.zip").write_bytes(zipped({"7.1.ipynb": b" " * 60_000_000, "ok.ipynb": text_of("ok")}))
    (found,) = submissions.read(tmp_path)
    assert found.works[0].cells == ("ok",) and "7.1.ipynb has more than 50 MB" in found.notes[0]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 broken", zipped({"a.ipynb": "x"})[:-30]], ids=["empty", "no zip", "cut"]
)
def test_a_broken_zip_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "anna.zip").write_bytes(content)
    assert "anna.zip is no zip file that can be read" in notes_of(tmp_path)


def test_a_zip_with_too_many_files_or_too_many_levels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "anna.zip"
    path.write_bytes(unpacking.ENTRY * 20_001)
    assert "holds more than 20,000 files" in notes_of(tmp_path)
    content = zipped({"7.1.ipynb": text_of("deep")})
    for _ in range(4):
        content = zipped({"inner.zip": content})
    path.write_bytes(content)
    assert "is a zip file too deep inside others" in notes_of(tmp_path)


def test_paths_and_links_lead_nowhere_else(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("../ben/7.1.ipynb", "/etc/7.1.ipynb", "..\\7.2.ipynb", "C:/7.3.ipynb"):
            archive.writestr(name, text_of("stolen"))
        link = zipfile.ZipInfo("link.ipynb")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "anna.zip").write_bytes(content.getvalue())
    handed_in.save(tmp_path / "ben" / "7.1.ipynb", CELLS)
    found, ben = submissions.read(tmp_path)
    assert found.student == "anna" and found.works == () and ben.works[0].cells == CELLS
    assert sum("leads out of its zip file" in note for note in found.notes) == 4
    assert "link.ipynb is a link, which is not followed." in found.notes


@pytest.mark.skipif(os.name == "nt", reason="links need rights, and there are no pipes among files")
def test_links_and_pipes_in_a_folder_are_not_read(tmp_path: Path) -> None:
    secret = handed_in.save(tmp_path / "teacher" / "7.1.ipynb", ["secret"])
    folder = tmp_path / "class" / "anna"
    folder.mkdir(parents=True)
    (folder / "7.1.ipynb").symlink_to(secret)
    (folder / "7.2.zip").symlink_to(secret)
    os.mkfifo(folder / "7.3.ipynb")
    os.mkfifo(folder / "7.4.zip")
    (tmp_path / "class" / "ben").symlink_to(tmp_path / "teacher")
    notes = notes_of(tmp_path / "class")
    assert notes.count("is a link, which is not followed") == 2 and notes.count("is no ordinary file") == 2


@pytest.mark.skipif(os.name == "nt", reason="such names can't be made")
def test_a_name_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    handed_in.save(tmp_path / "an\x1b[2Jna\u202e" / "7.1.ipynb", CELLS)
    handed_in.save(tmp_path / os.fsdecode(b"ben\xff") / "7.1.ipynb", CELLS)
    assert list(cells_of(tmp_path)) == ["an[2Jna", "ben?"]


def test_notes_come_to_an_end(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"anna_7.1 ({number}).ipynb").write_text("?")
    (found,) = submissions.read(tmp_path)
    assert len(found.notes) < 25 and "More of this kind is not shown." in found.notes


def test_formats_are_told_by_the_end_of_a_name() -> None:
    assert formats.works("7.1.txt.py", b"x = 1", print) == []
