"""`course update`: the newest version comes, nothing that a student wrote is lost, wherever the update is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from course_utils import cli
from course_utils.classroom import updating, versions
from course_utils.classroom.safe_files import BEFORE, OURS
from course_utils.settings import ROOT

MARKERS = (b"<<<<<<<", b">>>>>>>")


def notebook(*cells: str, output: str = "") -> bytes:
    listed = []
    for cell in cells:
        outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
        listed.append({"cell_type": "code", "source": cell, "outputs": outputs, "metadata": {}})
    return json.dumps({"cells": listed, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}).encode()


def put(folder: Path, files: dict[str, bytes]) -> None:
    for path, raw in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(raw)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a student's folder, but for git's and ours."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name.split("/")[0] not in (".git", OURS) and path.name != ".gitignore":
            found[name] = path.read_bytes()
    found.pop(versions.MANIFEST, None)
    return found


FIRST = {
    "course_utils/__init__.py": b"1\n",
    "course_utils/shop.py": b"price = 1\n",
    "course_utils/gone.py": b"old\n",
    "7.1_run.ipynb": notebook("a = 1"),
    "7.1_edited.ipynb": notebook("b = 1"),
    "7.1_untouched.ipynb": notebook("c = 1"),
    "7.1_same.ipynb": notebook("same"),
    "labs/7.1_lab \u00fc.ipynb": notebook("d = 1"),
    "labs/7.1_deleted.ipynb": notebook("e = 1"),
}
SECOND = FIRST | {
    "course_utils/__init__.py": b"2\n",
    "course_utils/shop.py": b"price = 2\n",
    "7.1_run.ipynb": notebook("a = 2"),
    "7.1_edited.ipynb": notebook("b = 2"),
    "7.1_untouched.ipynb": notebook("c = 2"),
    "labs/7.1_lab \u00fc.ipynb": notebook("d = 2"),
    "notes.md": b"the course's notes\n",
    "extra/new.md": b"new\n",
}
del SECOND["course_utils/gone.py"]
MINE = {
    "7.1_run.ipynb": notebook("a = 1", output="my output"),
    "7.1_edited.ipynb": notebook("b = 'mine'"),
    "7.1_same.ipynb": notebook("same", "and more"),
    "course_utils/shop.py": b"price = 1  # I think 3\n",
    "notes.md": b"my notes\n",
    "own \u00e4/own.txt": b"nobody else's\n",
    "extra": b"a file where a folder will be\n",
}


class Upstream:
    """What hands out versions: "git", a clone's origin, or "release", a folder with a manifest."""

    def __init__(self, kind: str, place: Path) -> None:
        self.kind, self.place, self.number = kind, place, 0
        self.origin, self.student = place / "origin", place / "student \u00e4"
        self.origin.mkdir(parents=True)
        if kind == "git":
            self.git("init", "-q", "-b", "main")

    def git(self, *words: str, folder: Path | None = None) -> str:
        person = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(folder or self.origin), *person, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def publish(self, files: dict[str, bytes]) -> None:
        """The next version."""
        self.number += 1
        for path in contents(self.origin):
            (self.origin / path).unlink()
        put(self.origin, files)
        if self.kind == "git":
            self.git("add", "-A")
            self.git("commit", "-q", "--allow-empty", "-m", str(self.number))
        else:
            manifest = versions.manifest_of(f"0.{self.number}.0", files)
            (self.origin / versions.MANIFEST).write_bytes(versions.text_of(manifest))

    def hand_out(self) -> Path:
        """A student's folder with the newest version."""
        if self.kind == "git":
            self.git("clone", "-q", str(self.origin), str(self.student))
        else:
            put(self.student, contents(self.origin))
            put(self.student, {versions.MANIFEST: (self.origin / versions.MANIFEST).read_bytes()})
        return self.student

    def update(self) -> updating.Report:
        source = None if self.kind == "git" else self.origin
        return updating.update(self.student, source, say=lambda words: None)


@pytest.fixture(params=["git", "release"])
def upstream(request: pytest.FixtureRequest, tmp_path: Path) -> Upstream:
    made = Upstream(request.param, tmp_path)
    made.publish(FIRST)
    made.hand_out()
    return made


def work(folder: Path) -> None:
    """What a student has done between two versions."""
    put(folder, MINE)
    (folder / "labs" / "7.1_deleted.ipynb").unlink()


def lost(folder: Path, written: dict[str, bytes]) -> list[str]:
    """What was written and is nowhere any more."""
    here = set(contents(folder).values())
    return [path for path, raw in written.items() if raw not in here]


def test_every_rule(upstream: Upstream) -> None:
    work(upstream.student)
    upstream.publish(SECOND)
    report = upstream.update()
    kinds = {change.path: change.kind for change in report.changes}
    here = contents(upstream.student)
    assert lost(upstream.student, MINE) == []
    assert here["7.1_edited.ipynb"] == MINE["7.1_edited.ipynb"] and kinds["7.1_edited.ipynb"] == "kept"
    beside = next(change.other for change in report.changes if change.kind == "kept")
    assert beside.startswith("7.1_edited.new-") and here[beside] == SECOND["7.1_edited.ipynb"]
    assert here["7.1_same.ipynb"] == MINE["7.1_same.ipynb"] and "7.1_same.ipynb" not in kinds
    assert kinds["7.1_run.ipynb"] == "run" and kinds["course_utils/shop.py"] == "aside"
    assert kinds["notes.md"] == "renamed" and kinds["extra"] == "renamed"
    for path in sorted(set(SECOND) - {"7.1_edited.ipynb", "7.1_same.ipynb"}):
        assert here[path] == SECOND[path], path
    assert here["own \u00e4/own.txt"] == MINE["own \u00e4/own.txt"] and "own.txt" not in str(report)
    # A release may be of another unit, so what is not in it stays.
    assert ("course_utils/gone.py" in here) == (upstream.kind == "release")
    aside = [path for path in here if path.startswith(BEFORE)]
    assert {here[path] for path in aside} == {MINE["7.1_run.ipynb"], MINE["course_utils/shop.py"]}
    for change in report.changes:
        assert change.other in str(report) or change.kind == "renewed"
    assert upstream.update().changes == []


def test_an_untouched_course_becomes_the_new_one(upstream: Upstream) -> None:
    upstream.publish(SECOND)
    report = upstream.update()
    wanted = SECOND if upstream.kind == "git" else FIRST | SECOND
    assert contents(upstream.student) == wanted
    assert "you had not touched them" in str(report)
    assert "Nothing had to be changed" in str(upstream.update())


def test_the_new_one_that_a_student_takes_over_is_renewed_next_time(upstream: Upstream) -> None:
    work(upstream.student)
    upstream.publish(SECOND)
    upstream.update()
    put(upstream.student, {"7.1_edited.ipynb": SECOND["7.1_edited.ipynb"]})
    third = SECOND | {"7.1_edited.ipynb": notebook("b = 3")}
    upstream.publish(third)
    kinds = {change.path: change.kind for change in upstream.update().changes}
    assert kinds == {"7.1_edited.ipynb": "renewed"}


def test_a_second_new_notebook_does_not_replace_the_first(upstream: Upstream) -> None:
    """The student may have begun to work in the one that was put beside."""
    work(upstream.student)
    upstream.publish(SECOND)
    (first,) = [change.other for change in upstream.update().changes if change.kind == "kept"]
    begun = notebook("b = 2", "begun in the new one")
    put(upstream.student, {first: begun})
    upstream.publish(SECOND | {"7.1_edited.ipynb": notebook("b = 3")})
    (second,) = [change.other for change in upstream.update().changes if change.kind == "kept"]
    here = contents(upstream.student)
    assert here[first] == begun and here[second] == notebook("b = 3")
    assert here["7.1_edited.ipynb"] == MINE["7.1_edited.ipynb"]


# ---------------------------------------------------------------- killed


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing that would change the disk works after it."""


class Fuse:
    """Lets a number of changes to the disk, and of git's commands, pass; then all fail as if the process were dead."""

    NAMES = ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "write", "fsync", "open")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left, self.used, self.failure = 10**9, 0, Killed()
        for name in self.NAMES:
            action = getattr(os, name)
            patch.setattr(os, name, self._guarded(name, self._pass if name == "fsync" else action))
        patch.setattr(versions.subprocess, "run", self._guarded("run", subprocess.run))

    def _guarded(self, name: str, action: Callable) -> Callable:
        def guarded(*args, **options):
            reads = name == "open" and not args[1] & os.O_CREAT
            if reads or not self.is_set:
                return action(*args, **options)
            self.used += 1
            if self.used > self.left:
                if name == "write" and self.used == self.left + 1:
                    action(args[0], args[1][: len(args[1]) // 2])  # half of it has arrived
                raise self.failure
            return action(*args, **options)

        return guarded

    is_set = False

    @staticmethod
    def _pass(handle: int) -> None:
        """A test needs no disk that is quick."""

    def burn(self, left: int, action: Callable[[], object]) -> bool:
        """Whether `action` was killed after `left` changes."""
        self.left, self.used, self.is_set = left, 0, True
        try:
            action()
        except Killed:
            return True
        finally:
            self.is_set = False
        return False


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    return Fuse(monkeypatch)


def assert_complete(upstream: Upstream, written: dict[str, bytes]) -> None:
    """All that was written is there, and so is the new version."""
    folder = upstream.student
    here = contents(folder)
    assert lost(folder, written) == []
    assert not any(marker in raw for raw in here.values() for marker in MARKERS)
    for path, raw in contents(upstream.origin).items():
        assert here.get(path) == raw or here.get(path) in written.values(), f"{path} did not come"
    assert not list((folder / OURS).glob("draft-*")) and not (folder / updating.UNDER_WAY).exists()
    if upstream.kind == "git":
        newest = upstream.git("rev-parse", "HEAD")
        assert upstream.git("merge-base", "HEAD", newest, folder=folder) == newest
        assert upstream.git("diff", "--cached", "--name-only", folder=folder) == ""


def test_killed_after_every_single_step(tmp_path: Path, fuse: Fuse) -> None:
    """Releases: at each of the steps that change the disk, and every fourth time the second run, too."""
    step, ended = 0, False
    while not ended:
        upstream = Upstream("release", tmp_path / str(step))
        upstream.publish(FIRST)
        work(upstream.hand_out())
        upstream.publish(SECOND)
        ended = not fuse.burn(step, upstream.update)
        assert lost(upstream.student, MINE) == [], step
        if step % 4 == 0:
            fuse.burn(step // 3, upstream.update)
            assert lost(upstream.student, MINE) == [], step
        upstream.update()
        assert_complete(upstream, MINE)
        assert contents(upstream.student)["7.1_edited.ipynb"] == MINE["7.1_edited.ipynb"]
        step += 1
    assert step > 80


def test_a_clone_killed_after_every_few_steps(tmp_path: Path, fuse: Fuse) -> None:
    step, ended = 0, False
    while not ended:
        upstream = Upstream("git", tmp_path / str(step))
        upstream.publish(FIRST)
        work(upstream.hand_out())
        upstream.publish(SECOND)
        ended = not fuse.burn(step, upstream.update)
        assert lost(upstream.student, MINE) == [], step
        upstream.update()
        assert_complete(upstream, MINE)
        assert upstream.update().changes == []
        step += 29
    assert step > 80


def test_a_full_disk_ends_it_with_a_sentence(upstream: Upstream, fuse: Fuse) -> None:
    work(upstream.student)
    upstream.publish(SECOND)
    fuse.failure = OSError(28, "No space left on device")
    fuse.left, fuse.used, fuse.is_set = 40, 0, True
    with pytest.raises(updating.StoppedError, match="No space left .*Nothing is lost; then run it again"):
        upstream.update()
    fuse.is_set = False
    assert lost(upstream.student, MINE) == []
    upstream.update()
    assert_complete(upstream, MINE)


# ---------------------------------------------------------------- many edits, many versions


class Student:
    """Writes, runs, deletes and renames at random. `written` is what must never be lost."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw, self.count = folder, draw, 0
        self.written: dict[str, bytes] = {}

    def edit(self) -> None:
        """One edit."""
        deeds = (self.write_cell, self.run, self.write_code, self.own_file, self.delete, self.move)
        self.draw.choices(deeds, weights=(4, 2, 1, 2, 1, 1))[0]()

    def _some(self, ending: str) -> str | None:
        names = [path for path in contents(self.folder) if path.endswith(ending) and not path.startswith(BEFORE)]
        return self.draw.choice(sorted(names)) if names else None

    def _save(self, path: str, raw: bytes) -> None:
        """What the student overwrites is the student's own loss."""
        place = self.folder / path
        if place.is_file():
            self._forget(place.read_bytes())
        if not place.is_dir() and not any(parent.is_file() for parent in place.parents):
            put(self.folder, {path: raw})
            self.written[str(self.count)] = raw

    def _forget(self, raw: bytes) -> None:
        for key in [key for key, value in self.written.items() if value == raw]:
            del self.written[key]

    def write_cell(self) -> None:
        self.count += 1
        if path := self._some(".ipynb"):
            self._save(path, notebook(f"mine = {self.count}"))

    def run(self) -> None:
        self.count += 1
        if path := self._some(".ipynb"):
            content = json.loads((self.folder / path).read_bytes())
            for cell in content["cells"]:
                cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": f"run {self.count}"}]
            self._save(path, json.dumps(content).encode())

    def write_code(self) -> None:
        self.count += 1
        if path := self._some(".py"):
            self._save(path, f"mine = {self.count}\n".encode())

    def own_file(self) -> None:
        """Perhaps under a name that the course will use."""
        self.count += 1
        name = self.draw.choice(["own.txt", "labs/own.ipynb", "later_3.md", "later_9.ipynb", "folder_7", "x/y/z.md"])
        self._save(name, notebook(f"own {self.count}") if name.endswith(".ipynb") else f"own {self.count}".encode())

    def delete(self) -> None:
        if path := self._some(""):
            self._forget((self.folder / path).read_bytes())
            (self.folder / path).unlink()

    def move(self) -> None:
        if path := self._some(".ipynb"):
            target = self.folder / f"moved_{self.draw.randrange(5)}.ipynb"
            if not target.exists():
                (self.folder / path).rename(target)


def next_version(files: dict[str, bytes], number: int, draw: random.Random) -> dict[str, bytes]:
    """Some files changed, one new, one gone."""
    files = dict(files)
    for path in draw.sample(sorted(files), 4):
        is_notebook = path.endswith(".ipynb")
        files[path] = notebook(f"version {number}") if is_notebook else f"version = {number}\n".encode()
    ending = draw.choice([".md", ".ipynb"])
    files[f"later_{number}{ending}"] = notebook(f"new in {number}") if ending == ".ipynb" else b"new %d" % number
    files[f"folder_{number}/inner.md"] = b"inner %d" % number
    gone = draw.choice(sorted(set(files) - {"course_utils/__init__.py"}))
    del files[gone]
    return files


def test_200_edits_against_20_versions_killed_at_random(upstream: Upstream, fuse: Fuse) -> None:
    """Clones, for which git starts forty processes an update, get eight versions."""
    draw = random.Random(19)
    student = Student(upstream.student, draw)
    rounds = 20 if upstream.kind == "release" else 8
    files, kills = FIRST, 0
    for number in range(1, rounds + 1):
        files = next_version(files, number, draw)
        upstream.publish(files)
        for _ in range(5):
            student.edit()
        for _ in range(draw.randrange(3)):
            kills += fuse.burn(draw.randrange(1, 120), upstream.update)
            assert lost(upstream.student, student.written) == [], f"killed in version {number}"
        for _ in range(5):
            student.edit()
        upstream.update()
        assert_complete(upstream, student.written)
    assert student.count > 7 * rounds and kills >= rounds / 4


def test_a_process_that_is_really_killed(tmp_path: Path) -> None:
    """SIGKILL to the update and to the git that it has started, at some moment of its work."""
    upstream = Upstream("git", tmp_path)
    upstream.publish(FIRST)
    work(upstream.hand_out())
    program = (
        "import sys; from pathlib import Path; from course_utils.classroom import updating; import filelock\n"
        "print('go', flush=True); updating.update(Path(sys.argv[1]))"
    )
    for delay in (0.02, 0.1, 0.25):
        upstream.publish(SECOND | {"7.1_untouched.ipynb": notebook(f"after {delay}")})
        command = [sys.executable, "-c", program, str(upstream.student)]
        surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, env=surroundings) as process:
            assert process.stdout.readline().strip() == b"go"
            time.sleep(delay)
            with_children = getattr(os, "killpg", None)
            with_children(process.pid, signal.SIGKILL) if with_children else process.kill()
        assert lost(upstream.student, MINE) == []
    upstream.update()
    assert_complete(upstream, MINE)


# ---------------------------------------------------------------- clones


@pytest.fixture
def clone(tmp_path: Path) -> Upstream:
    made = Upstream("git", tmp_path)
    made.publish(FIRST)
    made.hand_out()
    return made


def test_a_students_commits_and_what_was_staged_are_kept(clone: Upstream) -> None:
    student = clone.student
    put(student, {"7.1_edited.ipynb": MINE["7.1_edited.ipynb"], "own.txt": b"committed"})
    clone.git("add", "-A", folder=student)
    clone.git("commit", "-q", "-m", "my work", folder=student)
    mine = clone.git("rev-parse", "HEAD", folder=student)
    put(student, {"own.txt": b"staged"})
    clone.git("add", "-A", folder=student)
    put(student, {"own.txt": b"on disk"})
    clone.publish(SECOND)
    report = clone.update()
    assert_complete(clone, {"edited": MINE["7.1_edited.ipynb"], "own": b"on disk"})
    assert clone.git("merge-base", "HEAD", mine, folder=student) == mine
    assert clone.git("show", f"{report.before}:own.txt", folder=student) == "staged"
    clone.publish(SECOND | {"7.1_edited.ipynb": notebook("b = 3")})
    kinds = {change.path: change.kind for change in clone.update().changes}
    assert kinds == {"7.1_edited.ipynb": "kept"}


def test_another_clone_can_stand_in_for_the_remote(clone: Upstream, tmp_path: Path) -> None:
    clone.git("remote", "remove", "origin", folder=clone.student)
    with pytest.raises(ValueError, match="has no remote origin"):
        clone.update()
    for number in (2, 3):
        clone.publish(SECOND | {"7.1_untouched.ipynb": notebook(f"version {number}")})
        kinds = {change.kind for change in updating.update(clone.student, clone.origin).changes}
        assert kinds <= {"new", "renewed", "gone"}
    assert contents(clone.student) == contents(clone.origin)


def test_a_shallow_clone(clone: Upstream) -> None:
    """As the first cell makes it on a hosted machine."""
    shallow = clone.place / "shallow"
    clone.git("clone", "-q", "--depth", "1", clone.origin.as_uri(), str(shallow))
    clone.student = shallow
    put(shallow, {"7.1_edited.ipynb": MINE["7.1_edited.ipynb"]})
    clone.publish(SECOND | {"pyproject.toml": b"[project]"})
    report = clone.update()
    assert_complete(clone, {"edited": MINE["7.1_edited.ipynb"]})
    assert {change.kind for change in report.changes} == {"new", "renewed", "kept", "gone"}
    assert "What the course needs has changed" in str(report)


def test_a_history_that_was_written_anew_upstream(clone: Upstream) -> None:
    put(clone.student, {"7.1_edited.ipynb": MINE["7.1_edited.ipynb"]})
    clone.git("checkout", "-q", "--orphan", "other")
    clone.git("branch", "-D", "main")
    clone.git("branch", "-m", "main")
    clone.publish(SECOND)
    clone.update()
    assert_complete(clone, {"edited": MINE["7.1_edited.ipynb"]})


def test_locks_that_a_killed_update_left_are_removed_and_others_are_not(clone: Upstream, fuse: Fuse) -> None:
    clone.publish(SECOND)
    own = clone.student / ".git"
    (own / "index.lock").touch()
    with pytest.raises(ValueError, match="another git is at work"):
        clone.update()
    (own / "index.lock").unlink()
    assert fuse.burn(40, clone.update)
    (own / "HEAD.lock").touch()
    (own / "refs" / "heads" / "main.lock").touch()
    clone.update()
    assert_complete(clone, {})


def test_a_half_done_merge_and_a_pinned_copy_are_refused(clone: Upstream) -> None:
    clone.git("checkout", "-q", "--detach", folder=clone.student)
    with pytest.raises(ValueError, match="pinned to one version"):
        clone.update()
    (clone.student / ".git" / "MERGE_HEAD").write_text("x")
    with pytest.raises(ValueError, match="half done here .MERGE_HEAD"):
        clone.update()


def test_conflicts_that_git_has_left_are_named(clone: Upstream) -> None:
    put(clone.student, {"course_utils/shop.py": b"stashed\n"})
    clone.git("stash", folder=clone.student)
    put(clone.student, {"course_utils/shop.py": b"committed\n"})
    clone.git("commit", "-qam", "mine", folder=clone.student)
    with pytest.raises(subprocess.CalledProcessError):
        clone.git("stash", "pop", folder=clone.student)
    with pytest.raises(ValueError, match="git has left conflicts here"):
        clone.update()


def test_a_release_in_a_repository_is_updated_with_its_manifest(tmp_path: Path) -> None:
    """As `course release` proposes for nbgitpuller."""
    made = Upstream("git", tmp_path)
    for number in (1, 2):
        files = {"7.1_a.ipynb": notebook(f"a = {number}")}
        made.publish(files | {versions.MANIFEST: versions.text_of(versions.manifest_of(f"0.{number}.0", files))})
        if number == 1:
            made.hand_out()
    assert {change.kind for change in made.update().changes} == {"renewed"}
    name = versions.MANIFEST
    assert (made.student / name).read_bytes() == (made.origin / name).read_bytes()


def test_no_network_is_said_and_changes_nothing(clone: Upstream) -> None:
    before = contents(clone.student)
    clone.origin.rename(clone.place / "gone")
    with pytest.raises(ValueError, match="git fetch failed"):
        clone.update()
    assert contents(clone.student) == before


def test_a_zip_is_no_source_for_a_clone(clone: Upstream, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a clone, and .* is none"):
        updating.update(clone.student, tmp_path)


# ---------------------------------------------------------------- folders and zips


@pytest.fixture
def unpacked(tmp_path: Path) -> Upstream:
    made = Upstream("release", tmp_path)
    made.publish(FIRST)
    made.hand_out()
    return made


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    return path


def test_without_a_manifest_all_that_differs_counts_as_the_students(unpacked: Upstream, tmp_path: Path) -> None:
    """A zip of a git host: one folder holds all of it, and nothing says what was handed out."""
    work(unpacked.student)
    (unpacked.student / versions.MANIFEST).write_text("{")
    archive = zipped(tmp_path / "course-main.zip", {f"course-main/{path}": raw for path, raw in SECOND.items()})
    said: list[str] = []
    updating.update(unpacked.student, archive, said.append)
    assert "nobody knows what was handed out" in said[0]
    before = MINE | {path: FIRST[path] for path in ("7.1_untouched.ipynb", "course_utils/__init__.py")}
    assert lost(unpacked.student, before) == []
    here = contents(unpacked.student)
    assert here["course_utils/shop.py"] == SECOND["course_utils/shop.py"]
    assert here["7.1_edited.ipynb"] == MINE["7.1_edited.ipynb"]
    assert updating.update(unpacked.student, archive, said.append).changes == []
    assert len(said) == 1, "now it is known"


def test_a_release_of_another_unit_is_added(unpacked: Upstream) -> None:
    unpacked.publish({"7.2_new.ipynb": notebook("new")})
    unpacked.update()
    assert contents(unpacked.student) == FIRST | {"7.2_new.ipynb": notebook("new")}
    unpacked.publish({"7.1_untouched.ipynb": notebook("c = 9")})
    (change,) = unpacked.update().changes
    assert change.kind == "renewed"


def test_what_macos_adds_to_a_zip_is_passed_over(unpacked: Upstream, tmp_path: Path) -> None:
    files = {f"course/{path}": raw for path, raw in SECOND.items()}
    updating.update(unpacked.student, zipped(tmp_path / "m.zip", files | {"__MACOSX/course/._a.ipynb": b"x"}))
    assert contents(unpacked.student) == FIRST | SECOND


HOSTILE = [
    "../out.ipynb",
    "/etc/x.ipynb",
    "a/../../x.ipynb",
    ".git/config",
    "C:/x.ipynb",
    "a\\b.ipynb",
    f"{OURS}/lock",
    "a\nb.ipynb",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_that_lead_out_are_refused(unpacked: Upstream, tmp_path: Path, name: str) -> None:
    before = contents(unpacked.student)
    archive = zipped(tmp_path / "bad.zip", {"a.ipynb": notebook("a"), name: notebook("b")})
    with pytest.raises(ValueError, match="can't be handed out|not a path that can be handed out"):
        updating.update(unpacked.student, archive)
    assert contents(unpacked.student) == before


def test_a_damaged_or_huge_source_is_refused(unpacked: Upstream, tmp_path: Path, monkeypatch) -> None:
    before = contents(unpacked.student)
    unpacked.publish(SECOND)
    (unpacked.origin / "7.1_untouched.ipynb").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="7.1_untouched.ipynb is damaged"):
        unpacked.update()
    assert lost(unpacked.student, before) == []
    bomb = zipped(tmp_path / "bomb.zip", {"a.ipynb": b"0" * 2_000_000})
    monkeypatch.setattr(versions, "BIGGEST", 1_000_000)
    with pytest.raises(ValueError, match="too much for a course"):
        updating.update(unpacked.student, bomb)
    (tmp_path / "text.zip").write_text("no zip")
    sound = zipped(tmp_path / "sound.zip", {"a.ipynb": notebook("a")}).read_bytes()
    (tmp_path / "broken.zip").write_bytes(sound.replace(b"PK\x01\x02", b"PK\x00\x00"))
    with zipfile.ZipFile(tmp_path / "flipped.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.ipynb", notebook(*map(str, range(100))))
    raw = (tmp_path / "flipped.zip").read_bytes()
    (tmp_path / "flipped.zip").write_bytes(raw[:50] + b"\xff" * 100 + raw[150:])
    refused = {"text.zip": "no zip file", "nothing": "neither", "broken.zip": "damaged", "flipped.zip": "damaged"}
    for name, said in refused.items():
        source = tmp_path / name
        with pytest.raises(ValueError, match=said):
            updating.update(unpacked.student, source)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_nothing_is_written_through_a_link(unpacked: Upstream, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (unpacked.student / "labs").rename(elsewhere)
    (unpacked.student / "labs").symlink_to(elsewhere)
    unpacked.publish(SECOND)
    before = contents(elsewhere)
    with pytest.raises(ValueError, match="labs is a link"):
        unpacked.update()
    assert contents(elsewhere) == before


def test_a_file_that_is_saved_while_it_is_replaced_is_named(unpacked: Upstream, monkeypatch) -> None:
    """Jupyter saves by itself; what it wrote in the last moment is set aside, and said."""
    unpacked.publish(SECOND)
    path = "7.1_untouched.ipynb"
    rename = os.rename

    def saved_meanwhile(source, target) -> None:
        if Path(source).name == path:
            Path(source).write_bytes(b"saved in the last moment")
        rename(source, target)

    monkeypatch.setattr(os, "rename", saved_meanwhile)
    report = unpacked.update()
    assert lost(unpacked.student, {path: b"saved in the last moment"}) == []
    assert f"{path}: replaced; what you had changed is {BEFORE}" in str(report)


def test_two_updates_at_once(unpacked: Upstream) -> None:
    import filelock

    unpacked.publish(SECOND)
    (unpacked.student / OURS).mkdir()
    with (
        filelock.FileLock(unpacked.student / OURS / "lock"),
        pytest.raises(ValueError, match="another update .* is at work"),
    ):
        unpacked.update()


def test_the_command(unpacked: Upstream, tmp_path: Path) -> None:
    work(unpacked.student)
    unpacked.publish(SECOND)
    words = ["update", str(unpacked.student), "--from", str(unpacked.origin)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0 and "7.1_edited.ipynb: is yours and stays" in done.output
    for folder, said in ((tmp_path / "nothing", "no folder"), (tmp_path, "neither the course nor a release")):
        refused = CliRunner().invoke(cli.app, ["update", str(folder), "--from", str(unpacked.origin)])
        assert refused.exit_code == 2 and said in refused.output.replace("\n", " ")
    refused = CliRunner().invoke(cli.app, ["update", str(unpacked.student)])
    assert refused.exit_code == 2 and "say where the new version is" in refused.output
