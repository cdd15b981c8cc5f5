"""What is handed out holds no output and no solution, brings exactly one version, and is only ever added to."""

import inspect
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from course_utils import __version__, cli, settings
from course_utils.classroom import release, updating, versions
from course_utils.exercises import registry, solution
from course_utils.workshop import links, notebooks

UNITS = ("7.1", "7.2", "7.3", "7.4", "7.5")
PINNED = release.Pin("0123456789abcdef0123456789abcdef01234567")


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All units, released into one folder."""
    folder = tmp_path_factory.mktemp("class ü")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "find_pin", lambda: PINNED)
        for unit in UNITS:
            release.release(unit, folder)
    return folder


@pytest.fixture(scope="module")
def opened(handed_out: Path) -> dict[str, nbformat.NotebookNode]:
    """The released notebooks by path, read as Jupyter reads them."""
    found = {}
    for path in sorted(handed_out.rglob("*.ipynb")):
        found[path.relative_to(handed_out).as_posix()] = nbformat.v4.reads(path.read_text("utf-8"))
    return found


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_of_every_unit_is_there_and_sound(opened) -> None:
    wanted = [path.relative_to(settings.NOTEBOOKS).as_posix() for path in notebooks.built() if notebooks.unit_of(path)]
    assert sorted(opened) == sorted(wanted)
    for notebook in opened.values():
        nbformat.validate(notebook)


def test_no_output_and_no_count(opened) -> None:
    for name, notebook in opened.items():
        for cell in code(notebook):
            assert cell.outputs == [] and cell.execution_count is None, name


def test_no_solution_by_structure_or_by_lines(opened) -> None:
    """Neither a function that does the same, nor three lines of a solution one after the other."""
    answers = {}
    for task in registry.exercises().values():
        stub = {line.strip() for line in task.stub_source.splitlines()}
        lines = [line.strip() for line in task.reference_source.splitlines()]
        lines = [line for line in lines if line not in stub and len(line) > 20 and not line.startswith("#")]
        answers[task.name] = ["\n".join(lines[at : at + 3]) for at in range(len(lines) - 2)]
    for name, notebook in opened.items():
        assert release.solutions_in(notebook) == [], name
        text = "\n".join(line.strip() for cell in code(notebook) for line in cell.source.splitlines())
        for exercise, parts in answers.items():
            assert not [part for part in parts if part in text], f"{name} shows {exercise}"
        assert "\nsolution(" not in text, f"{name} prints a solution"


def test_the_stubs_are_still_there(opened) -> None:
    everything = "\n".join(cell.source for notebook in opened.values() for cell in code(notebook))
    missing = [task.name for task in registry.exercises().values() if task.stub_source.strip() not in everything]
    assert missing == []


def test_the_version_is_pinned(opened) -> None:
    for name, notebook in opened.items():
        assert notebook.metadata["course"] == {"notebook": name, "version": __version__, "commit": PINNED.name}
        first = code(notebook)[0].source
        assert PINNED.name in first and "COURSE_SOLUTIONS_FROM" not in first
        assert settings.BRANCH not in first.split()
        compile(first, name, "exec")
        assert first.count("\n") < 25


def test_links_lead_to_what_is_handed_out_or_to_the_repository(opened) -> None:
    seen = 0
    for name, notebook in opened.items():
        for cell in notebook.cells:
            assert "colab.research" not in cell.source, f"{name}: the badge opens the newest notebook, with outputs"
            for link in release.LINK.findall(cell.source) if cell.cell_type == "markdown" else ():
                seen += 1
                inside = (Path(name).parent / link[0]).as_posix() in opened
                assert inside or PINNED.name in link[0], f"{name} leads to {link[0]}"
    assert seen


def test_the_manifest_lists_every_file(handed_out: Path, opened) -> None:
    manifest = versions.read_manifest((handed_out / versions.MANIFEST).read_bytes())
    assert sorted(manifest["files"]) == sorted(opened)
    for path, entry in manifest["files"].items():
        assert entry["sha256"] == versions.sha256((handed_out / path).read_bytes())
    assert manifest["commit"] == PINNED.name and manifest["course"] == __version__


def test_a_solution_in_a_cell_is_refused() -> None:
    source = inspect.getsource(registry.exercise("7.1.late_fusion").reference)
    renamed = source.replace("def late_fusion", "def mine")
    cell = nbformat.v4.new_code_cell(f"import torch\n\n{renamed}")
    assert release.solutions_in(nbformat.v4.new_notebook(cells=[cell])) == ["7.1.late_fusion"]


def test_a_notebook_with_a_solution_is_not_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "NOTEBOOKS", tmp_path)
    source = registry.exercise("7.1.late_fusion").reference_source
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "7.1_x.ipynb")
    with pytest.raises(ValueError, match="7.1_x.ipynb shows the solution of 7.1.late_fusion"):
        release.release("7.1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("unit", "day", "said"), [("7.9", "", "there are 7.1"), ("", "", "7.5"), ("7.1", "May", "day")]
)
def test_bad_input(tmp_path: Path, unit: str, day: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        release.release(unit, tmp_path / "out", day)
    done = CliRunner().invoke(cli.app, ["release", str(tmp_path / "out"), "--unit", unit, "--solutions-from", day])
    assert done.exit_code == 2 and said in done.output and not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the folder and the zip


@pytest.fixture
def one_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course of one small notebook."""
    place = tmp_path / "notebooks"
    place.mkdir()
    monkeypatch.setattr(settings, "NOTEBOOKS", place)
    monkeypatch.setattr(release, "find_pin", lambda: PINNED)
    save_small(place, "x = 1")
    return place


def save_small(place: Path, source: str) -> None:
    first = nbformat.v4.new_code_cell("first", id="first", metadata={"tags": ["bootstrap"]})
    cells = [first, nbformat.v4.new_code_cell(source, id="second")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), place / "7.1_small.ipynb")


def test_a_folder_is_added_to_and_what_was_changed_there_is_left_alone(one_unit: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "syllabus.md").write_text("mine")
    release.release("7.1", out)
    (one_unit / "7.1_small.ipynb").rename(one_unit / "7.1_other.ipynb")
    release.release("7.1", out)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["7.1_other.ipynb", "7.1_small.ipynb", versions.MANIFEST, "syllabus.md"]
    assert sorted(versions.read_manifest((out / versions.MANIFEST).read_bytes())["files"]) == names[:2]
    (out / "7.1_other.ipynb").write_text("changed by the instructor")
    with pytest.raises(ValueError, match="7.1_other.ipynb is not as it was released"):
        release.release("7.1", out)
    assert (out / "7.1_other.ipynb").read_text() == "changed by the instructor"


def test_a_zip_replaces_an_older_release_and_nothing_else(one_unit: Path, tmp_path: Path) -> None:
    place = tmp_path / "a.zip"
    release.release("7.1", place)
    before = place.read_bytes()
    save_small(one_unit, "x = 2")
    release.release("7.1", place)
    assert place.read_bytes() != before
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("photo.png", b"mine")
    with pytest.raises(ValueError, match="a.zip is in the way and no release"):
        release.release("7.1", place)
    assert zipfile.ZipFile(place).namelist() == ["photo.png"]


def test_a_zip_is_the_same_every_time_and_updates_a_student(one_unit: Path, tmp_path: Path) -> None:
    first, again, second = (tmp_path / f"{name}.zip" for name in ("first", "again", "second"))
    release.release("7.1", first)
    release.release("7.1", again)
    assert first.read_bytes() == again.read_bytes()
    student = tmp_path / "student"
    zipfile.ZipFile(first).extractall(student)
    mine = (student / "7.1_small.ipynb").read_text("utf-8").replace("x = 1", "x = 'mine'")
    (student / "7.1_small.ipynb").write_text(mine, "utf-8")
    save_small(one_unit, "x = 2")
    release.release("7.1", second)
    (change,) = updating.update(student, second).changes
    assert change.kind == "kept" and (student / "7.1_small.ipynb").read_text("utf-8") == mine
    assert "x = 2" in (student / change.other).read_text("utf-8")


def test_a_day_is_written_as_it_is_compared(one_unit: Path, tmp_path: Path) -> None:
    release.release("7.1", tmp_path / "out", "20270301")
    assert 'COURSE_SOLUTIONS_FROM\\"] = \\"2027-03-01' in (tmp_path / "out" / "7.1_small.ipynb").read_text("utf-8")


# ---------------------------------------------------------------- the version


def git(folder: Path, *words: str) -> str:
    person = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *person, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A small repository with a course in it."""
    origin = tmp_path / "origin"
    (origin / "course_utils").mkdir(parents=True)
    (origin / "course_utils" / "__init__.py").write_text('__version__ = "1.0.0"\n')
    (origin / "course_utils" / "colab.py").write_text("def prepare(): print('first')\n")
    git(origin, "init", "-q", "-b", "main")
    git(origin, "add", ".")
    git(origin, "commit", "-q", "-m", "1")
    return origin


def run_cell(source: str, folder: Path) -> subprocess.CompletedProcess:
    """A first cell in plain Python, in `folder`, where the course is not installed."""
    hidden = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", hidden + source]
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)


def test_the_first_cell_brings_the_pinned_commit_and_no_later_one(course: Path, tmp_path: Path, monkeypatch) -> None:
    pinned = git(course, "rev-parse", "HEAD")
    (course / "course_utils" / "colab.py").write_text("def prepare(): print('second')\n")
    git(course, "commit", "-q", "-a", "-m", "2")
    monkeypatch.setattr(links, "address", course.as_uri)
    content = tmp_path / "content"
    content.mkdir()
    first = run_cell(links.pinned_source(pinned, "1.0.0"), content)
    assert "Fetching version 1.0.0" in first.stdout and "first" in first.stdout, first.stderr
    again = run_cell(links.pinned_source(pinned, "2.0.0", "2099-01-01"), content)
    assert "Fetching" not in again.stdout and "This notebook is of version 2.0.0" in again.stdout, again.stderr


def test_the_first_cell_says_what_it_could_not_fetch(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(links, "address", (tmp_path / "nobody").as_uri)
    done = run_cell(links.pinned_source("0" * 40, "1.0.0"), tmp_path)
    assert done.returncode and "ConnectionError" in done.stderr.strip().splitlines()[-1]


def test_the_pin_is_the_commit_with_its_doubts(course: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(settings, "ROOT", course)
    pin = release.find_pin()
    assert pin.name == git(course, "rev-parse", "HEAD")
    assert len(pin.notes) == 1 and "Push it" in pin.notes[0]
    (course / "course_utils" / "colab.py").write_text("changed")
    assert any("Commit them" in note for note in release.find_pin().notes)
    git(tmp_path, "clone", "-q", str(course), "clone")
    monkeypatch.setattr(settings, "ROOT", tmp_path / "clone")
    assert release.find_pin() == release.Pin(pin.name)
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    assert release.find_pin().name == f"v{__version__}" and "see that it exists" in release.find_pin().notes[0]


def test_a_class_can_wait_for_the_solutions(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COURSE_SOLUTIONS_FROM", "2099-01-01")
    solution("7.1.late_fusion")
    assert "opens the solutions on 2099-01-01" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_SOLUTIONS_FROM", "2020-01-01")
    solution("7.1.late_fusion")
    assert "def late_fusion" in capsys.readouterr().out


def test_the_command_says_what_it_wrote(one_unit: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["release", str(tmp_path / "a.zip"), "--unit", "7.1"])
    assert done.exit_code == 0, done.output
    assert "7.1_small.ipynb" in done.output and PINNED.name in done.output
    refused = CliRunner().invoke(cli.app, ["release", str(one_unit / "7.1_small.ipynb"), "--unit", "7.1"])
    assert refused.exit_code == 1 and "can't be written to" in refused.output
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert json.loads(archive.read(versions.MANIFEST))["course"] == __version__
