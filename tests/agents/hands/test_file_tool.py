"""Files confined to a folder: forty attempts to get out, none does; what is inside works."""

import os
import threading

import pytest

from course_utils.agents.hands import file_tool, file_traps
from course_utils.agents.hands.file_tool import Folder, Refused
from course_utils.prisma.tools import Result


@pytest.fixture
def places(tmp_path):
    root, outside = tmp_path / "inside", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    return root, outside


def try_out(folder, attempt):
    """What an attempt gives; the refusal's words if it is refused."""
    try:
        return folder.write(attempt.path, attempt.text) if attempt.text else folder.read(attempt.path)
    except Refused as error:
        return error


@pytest.mark.parametrize("safe", [True, False])
def test_no_attempt_gets_out(places, monkeypatch, safe):
    """Both ways to open a file: from folder to folder, and the one for systems that cannot."""
    monkeypatch.setattr(file_tool, "SAFE", safe and file_tool.SAFE)
    root, outside = places
    folder = Folder(root)
    with file_traps.laid(root, outside) as attempts:
        results = {attempt.what: try_out(folder, attempt) for attempt in attempts if safe or attempt.path != "pipe"}
    assert len(attempts) >= 30
    assert {what: said for what, said in results.items() if not isinstance(said, Refused)} == {}
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == file_traps.SECRET
    assert folder.read("notes.txt") == "a note"


def test_each_trap_is_really_there(places):
    """Without the tool's checks the links do lead outside: the attempts are no empty threat."""
    root, outside = places
    with file_traps.laid(root, outside) as attempts:
        paths = {attempt.what: root / attempt.path for attempt in attempts if "\0" not in attempt.path}
        for what in (
            "up",
            "absolute",
            "a link to a file",
            "a link to a link",
            "below a link to a folder",
            "a hard link",
        ):
            assert paths[what].read_text() == file_traps.SECRET


def test_what_is_inside_is_read_written_and_listed(places):
    root, _ = places
    folder = Folder(root)
    folder.write("a/b/letter.txt", "long text")
    folder.write("a/b/letter.txt", "short")
    assert folder.read("a/b/letter.txt") == "short"
    assert folder.files() == ["a/b/letter.txt"]
    assert folder("read_file", "a/b/letter.txt") == Result("short")
    assert folder("list_files", "").text == "a/b/letter.txt"
    assert folder("read_file", "no.txt").text == "error: no file no.txt"
    assert not folder("delete_file", "a").ok


def test_the_folder_has_room_for_so_much(places):
    root, _ = places
    folder = Folder(root)
    full = file_tool.ROOM // file_tool.LARGEST
    for number in range(full):
        folder.write(f"{number}.txt", "x" * file_tool.LARGEST)
    with pytest.raises(Refused, match="all files together"):
        folder.write("more.txt", "x")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError):
        Folder(tmp_path / "nowhere")


@pytest.mark.skipif(not file_tool.SAFE, reason="opening inside a folder is not offered by this system")
def test_a_folder_that_becomes_a_link_in_between_leads_nowhere(places):
    root, outside = places
    (outside / "a.txt").write_text(file_traps.SECRET)
    (root / "good").mkdir()
    (root / "good" / "a.txt").write_text("a note")
    (root / "bad").symlink_to(outside, target_is_directory=True)
    folder, stop, seen = Folder(root), threading.Event(), set()

    def exchange():
        while not stop.is_set():
            os.rename(root / "good", root / "kept")
            os.rename(root / "bad", root / "good")
            os.rename(root / "good", root / "bad")
            os.rename(root / "kept", root / "good")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(500):
            said = folder("read_file", "good/a.txt")
            seen.add(said.text if said.ok else "refused")
    finally:
        stop.set()
        thread.join()
    assert file_traps.SECRET not in seen
