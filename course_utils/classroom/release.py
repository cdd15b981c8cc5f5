"""`course release`: notebooks to hand out, without outputs and without solutions, pinned to one version of the course.

A released notebook's first cell brings the very commit that it was released from, so a term is not changed by what is
written meanwhile. The folder is only ever added to, as nbgitpuller likes it, and its manifest lets `course update` tell
what a student has changed.

What this can't do: an open repository has no secrets. Who installs the course has its `exercises/*/solutions.py` on
disk, and `solution("7.1.late_fusion")` prints it, for those who learn alone. `--solutions-from` only asks `solution`
to wait. What protects grades is `course grade`: it reports copies, and uses fresh examples.
"""

from __future__ import annotations

import ast
import datetime
import functools
import inspect
import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import __version__, settings
from course_utils.classroom import outputs, versions
from course_utils.classroom.versions import MANIFEST
from course_utils.exercises import registry
from course_utils.workshop import links, notebooks

LINK = re.compile(r"\]\(([\w./-]+\.ipynb)((?:#[^)]*)?)\)")
COURSE = ("course_utils", "notebooks", "data", "pyproject.toml", "constraints.txt")  # what a pinned commit has to hold


@dataclass(frozen=True)
class Pin:
    """What a released notebook installs: a full commit, or a tag where the course is no clone. `notes` are doubts."""

    name: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """What was written. `files` are the paths in the folder or zip."""

    place: Path
    pin: Pin
    files: tuple[str, ...]


def release(unit: str, place: Path, solutions_from: str = "") -> Release:
    """Write the notebooks of `unit`, its core and its labs, into the folder `place`, or into a zip of that name.

    solutions_from: a day (2027-03-01) before which `solution` asks to wait. ValueError for an unknown unit, for a day
    that is none, and for a file in the folder that is not as it was released.
    """
    paths = [path for path in notebooks.built() if unit and notebooks.unit_of(path) == unit]
    if not paths:
        known = sorted({notebooks.unit_of(path) for path in notebooks.built()} - {""})
        raise ValueError(f"there is no unit {unit!r}; there are {', '.join(known)}")
    solutions_from = _day(solutions_from)
    pin = find_pin()
    names = [path.relative_to(settings.NOTEBOOKS).as_posix() for path in paths]
    files = {}
    for path, name in zip(paths, names, strict=True):
        files[name] = _released(path, name, names, pin, solutions_from)
    about = {"commit": pin.name, "repository": links.address()}
    manifest = versions.manifest_of(__version__, files, about)
    write = _write_zip if place.suffix == ".zip" else _write_folder
    write(place, files, manifest)
    return Release(place, pin, tuple(files))


def _day(text: str) -> str:
    """A day as `solution` compares it, however it was written (20270301); "" for none."""
    if not text:
        return ""
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f"{text!r} is no day; write it as 2027-03-01") from error


# ---------------------------------------------------------------- the version


def find_pin() -> Pin:
    """The commit that this course is at, with what may keep students from getting it; the version's tag without git."""
    try:
        clone = versions.Clone(settings.ROOT)
        commit = clone.ask("rev-parse", "HEAD")
    except ValueError:
        tag = f"v{__version__}"
        return Pin(tag, (f"This course is no clone, so the notebooks ask for its tag {tag}; see that it exists.",))
    notes = []
    if changed := clone.ask("status", "--porcelain", "--untracked-files=no", "--", *COURSE):
        files = len(changed.splitlines())
        notes.append(f"{files} files here are not as commit {commit[:9]} has them. Commit them, and release again.")
    if not clone.knows("branch", "-r", "--contains", commit):
        notes.append(f"No remote is known to have commit {commit[:9]}. Push it before students open a notebook.")
    return Pin(commit, tuple(notes))


# ---------------------------------------------------------------- a notebook


def _released(path: Path, name: str, names: list[str], pin: Pin, solutions_from: str) -> bytes:
    """A built notebook as students get it."""
    from nbformat import v4  # without a second validation: `course notebooks` wrote it, and it takes seconds

    notebook = v4.reads(path.read_text("utf-8"))
    if answers := solutions_in(notebook):
        raise ValueError(f"{name} shows the solution of {', '.join(answers)}; nobody would have to find it")
    for cell in notebook.cells:
        _prepare_cell(cell, name, names, pin, solutions_from)
    # Whoever collects notebooks knows this one by it, whatever its file is called then.
    notebook.metadata["course"] = {"notebook": name, "version": __version__, "commit": pin.name}
    return (v4.writes(notebook) + "\n").encode()


def _prepare_cell(cell: Any, name: str, names: list[str], pin: Pin, solutions_from: str) -> None:
    """Clear, pin or readdress one cell, in place."""
    tags = cell.metadata.get("tags", [])
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    if "bootstrap" in tags:
        cell.source = links.pinned_source(pin.name, __version__, solutions_from)
    if "badge" in tags:
        cell.source = _without_badge(cell.source)
    if cell.cell_type == "markdown":
        cell.source = LINK.sub(lambda found: _readdressed(found, name, names, pin), cell.source)


def _without_badge(source: str) -> str:
    """A title without the button, which opens the newest notebook, outputs and all."""
    lines = [line for line in source.splitlines() if not line.startswith("[![Open In Colab]")]
    return "\n".join(lines).rstrip()


def _readdressed(found: re.Match[str], name: str, names: list[str], pin: Pin) -> str:
    """A link to a notebook that is not handed out leads to the repository."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[1]))
    if target in names:
        return found[0]
    address = links.on_github(f"notebooks/{target}", pin.name)
    return f"]({address}{found[2]})"


# ---------------------------------------------------------------- solutions


def solutions_in(notebook: Any) -> list[str]:
    """The exercises whose solution, or a part of it, is defined in a cell, under whatever name."""
    wanted = _answers()
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found += [wanted[body] for body in map(_body, _functions(cell.source)) if body in wanted]
    return sorted(set(found))


@functools.cache
def _answers() -> dict[str, str]:
    """What the course's solutions do -> the exercise."""
    known = {}
    for task in registry.exercises().values():
        functions = _solutions_beside(inspect.getfile(task.stub))
        for name in (task.stub.__name__, *task.also):
            known[functions[name]] = task.name
    return known


@functools.cache
def _solutions_beside(asked: str) -> dict[str, str]:
    """What each function that a unit's solutions define or import does. They are read: importing them brings torch."""
    source = Path(asked).with_name("solutions.py").read_text("utf-8")
    found = {}
    for line in ast.parse(source).body:
        if isinstance(line, ast.ImportFrom) and str(line.module).startswith("course_utils."):
            module = settings.ROOT / f"{line.module.replace('.', '/')}.py"
            found |= _bodies(module.read_text("utf-8")) if module.exists() else {}
    return found | _bodies(source)


def _bodies(source: str) -> dict[str, str]:
    return {function.name: _body(function) for function in _functions(source)}


def _functions(source: str) -> Iterator[ast.FunctionDef]:
    """The functions in some code, also in each other; none where it is no plain Python (a magic, a recipe)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _body(function: ast.FunctionDef) -> str:
    """What a function does: without name, docstring, annotations of its arguments, and comments."""
    body = [line for line in function.body if not _is_text(line)]
    names = [argument.arg for argument in function.args.args]
    return "\n".join([*names, *map(ast.dump, body)])


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


# ---------------------------------------------------------------- writing


def _write_folder(place: Path, files: dict[str, bytes], manifest: dict[str, Any]) -> None:
    """Add to a folder. ValueError, and nothing is written, if it holds another file of one of these names."""
    known = _earlier(place)
    for path, raw in files.items():
        target = place / path
        released = (known.get(path, {}).get("sha256"), versions.sha256(raw))
        if target.exists() and versions.sha256(target.read_bytes()) not in released:
            raise ValueError(f"{target} is not as it was released; move it away, or release into another folder")
    for path, raw in files.items():
        outputs.write(place / path, raw)
    manifest["files"] = known | manifest["files"]
    outputs.write(place / MANIFEST, versions.text_of(manifest))


def _earlier(place: Path) -> dict[str, Any]:
    """What the manifest in a folder lists; nothing without one."""
    path = place / MANIFEST
    return versions.read_manifest(path.read_bytes())["files"] if path.exists() else {}


def _write_zip(place: Path, files: dict[str, bytes], manifest: dict[str, Any]) -> None:
    """Write a zip, the same bytes for the same content. ValueError if something else than a release has its name."""
    if place.exists() and not _is_release(place):
        raise ValueError(f"{place} is in the way and no release; move it away, or name another file")
    outputs.write(place, outputs.zipped(files | {MANIFEST: versions.text_of(manifest)}))


def _is_release(place: Path) -> bool:
    """Whether a file is a zip that `course release` has written."""
    try:
        with zipfile.ZipFile(place) as archive:
            return MANIFEST in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
