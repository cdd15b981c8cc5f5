"""A student's work in one file, NAME.course.json: what `course bundle` writes and `course grade` reads.

It holds the code of the notebooks that were worked on (no outputs), kept answers, quiz answers, progress and versions.
The checksum finds a file that was damaged on its way. It proves nothing of who wrote it: whoever wants to can make one.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from course_utils import __version__
from course_utils.classroom import outputs, texts
from course_utils.classroom.grading import extraction
from course_utils.classroom.safe_files import BEFORE
from course_utils.exercises import answers, progress, registry, renames

FORMAT = "course bundle 1"
SUFFIX = ".course.json"
BIGGEST = 5_000_000  # bytes of a bundle
BIGGEST_NOTEBOOK = 100_000_000  # bytes of a student's notebook, with its outputs
MOST = 10_000  # entries of a table, cells of a notebook
LONGEST_NAME = 200  # characters
LEFT_OUT = (BEFORE, "node_modules", "site-packages")  # folders without a student's notebooks

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Bundle:
    """What a student handed in. `progress` is what the student's machine says of itself, and no proof.

    notebooks: the code cells of each, in order. answers: the newest kept answer to each exercise. quizzes: the letter
    of the last answer. progress: by kind, name and field. made: the day, 2026-01-31.
    """

    student: str
    made: str
    versions: dict[str, str]
    notebooks: dict[str, Cells] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    quizzes: dict[str, str] = field(default_factory=dict)
    progress: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __str__(self) -> str:
        done = [name for name, record in self.progress.get("exercises", {}).items() if record.get("status") == "done"]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [
            f"name          {self.student}",
            f"notebooks     {_listed(self.notebooks)} (the code of their cells, no outputs)",
            f"kept answers  {_listed(self.answers)}",
            f"quiz answers  {_listed(self.quizzes)}",
            f"progress      {len(done)} exercises done: {_listed(done)}",
            f"versions      {versions}",
            f"day           {self.made}",
        ]
        return "\n".join(lines)


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"


# ---------------------------------------------------------------- collecting


def collect(student: str, folder: Path) -> tuple[Bundle, list[str]]:
    """What the student's work in `folder` is, and a sentence for each notebook that can't be read.

    ValueError for a name that is none, and where there is nothing to hand in.
    """
    student = _plain_name(student)
    notebooks, notes = _worked_on(folder)
    kept = _kept_answers()
    if not notebooks and not kept:
        told = " ".join(notes)
        raise ValueError(f"no notebook in {folder.resolve()} has an answer of yours; go to your notebooks. {told}")
    quizzes: dict[str, str] = {}
    for cells in notebooks.values():
        quizzes |= extraction.quiz_letters(cells)
    today = datetime.date.today().isoformat()
    return Bundle(student, today, _versions(), notebooks, kept, quizzes, _progress()), notes


def _plain_name(student: str) -> str:
    """A name in one spelling; ValueError for an empty or endless one, and for signs that nobody sees."""
    name = unicodedata.normalize("NFC", student).strip()
    letters = [letter for letter in name if letter not in texts.JOINERS]
    hidden = any(unicodedata.category(letter).startswith("C") for letter in letters)
    if not name or hidden or len(name) > LONGEST_NAME:
        raise ValueError(f"{student!r} is no name; give yours, as your instructor knows it")
    return name


def _versions() -> dict[str, str]:
    """What may explain a result that differs elsewhere."""
    found = {"course": __version__, "python": platform.python_version()}
    try:
        found["torch"] = metadata.version("torch")
    except metadata.PackageNotFoundError:
        found["torch"] = "not installed"
    return found


def _progress() -> dict[str, dict[str, dict[str, Any]]]:
    """The records of all that was begun."""
    untouched = progress.Record()
    found: dict[str, dict[str, dict[str, Any]]] = {"exercises": {}, "quizzes": {}}
    for kind, known in (("exercises", registry.exercises()), ("quizzes", registry.quizzes())):
        for name in known:
            record = progress.get(kind, name)
            if record != untouched:
                found[kind][name] = asdict(record)
    return found


def _kept_answers() -> dict[str, str]:
    """The newest kept answer to each exercise; there are some only where `colab.keep()` was called."""
    found = {}
    for name in registry.exercises():
        if path := answers.newest(name):
            found[name] = path.read_text("utf-8", errors="replace")
    return found


def _worked_on(folder: Path) -> tuple[dict[str, Cells], list[str]]:
    """The code cells of the notebooks below `folder` with an answer in them, and what can't be read."""
    found, notes = {}, []
    for path in _notebooks(folder):
        name = path.relative_to(folder).as_posix()
        try:
            cells = code_cells(path)
        except (OSError, ValueError) as error:
            notes.append(f"{name} is left out: {error}.")
            continue
        if _has_answers(cells):
            found[name] = cells
    return found, notes


def _notebooks(folder: Path) -> Iterator[Path]:
    """Every .ipynb below `folder`, but for hidden folders, environments and copies from before an update."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_OUT)
        for name in sorted(files):
            if name.endswith(".ipynb"):
                yield Path(place) / name


def code_cells(path: Path) -> Cells:
    """The sources of a notebook's code cells; ValueError if the file is no notebook."""
    if path.stat().st_size > BIGGEST_NOTEBOOK:
        raise ValueError(f"it has more than {BIGGEST_NOTEBOOK // 1_000_000} MB; clear its outputs")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        return tuple("".join(cell["source"]) for cell in cells)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError("it can't be read as a notebook") from error


CHECKED = re.compile(r"""\bcheck\(\s*["']([\w.]+)["']""")


def _has_answers(cells: Cells) -> bool:
    """Whether a quiz is answered, or an exercise that is checked is no longer the stub."""
    if extraction.quiz_letters(cells):
        return True
    known = registry.exercises()
    for cell in cells:
        for name in map(renames.current, CHECKED.findall(cell)):
            if name in known and not _is_stub(known[name], cells):
                return True
    return False


def _is_stub(task: registry.Exercise, cells: Cells) -> bool:
    """Whether the stub is what counts: it is there, and no later cell defines the function anew."""
    begin = re.compile(rf"(?m)^def {task.stub.__name__}\(")
    defining = [cell.strip() for cell in cells if begin.search(cell)]
    return bool(defining) and defining[-1] == task.stub_source.strip()


# ---------------------------------------------------------------- writing


def write(bundle: Bundle, folder: Path) -> Path:
    """Write `bundle` into `folder`, in one step, and return its path; an older bundle of this name is replaced.

    ValueError if it is too big, or if a file that is no bundle has its name.
    """
    content = {"format": FORMAT} | asdict(bundle)
    content["checksum"] = _checksum(content)
    raw = json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    if len(raw) > BIGGEST:
        raise ValueError(f"the bundle would have {len(raw):,} bytes, {BIGGEST:,} are allowed: hand in fewer notebooks")
    path = folder / f"{file_name(bundle.student)}{SUFFIX}"
    if path.exists():
        _insist_on_a_bundle(path)
    outputs.write(path, raw)
    return path


def _insist_on_a_bundle(path: Path) -> None:
    try:
        read(path)
    except ValueError as error:
        raise ValueError(f"{path} is in the way and no bundle; move it away") from error


def file_name(student: str) -> str:
    """A student's name as a file name that every system takes."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", student).strip(". ")[:100]
    return f"{name}_" if outputs.DEVICES.fullmatch(name) or not name else name


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a bundle's content, its own checksum left out."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- reading


def read(path: Path) -> Bundle:
    """The bundle in a file that anybody may have written; ValueError with a plain sentence if it is none."""
    try:
        return parse(_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path.name} {error}") from error
    except OSError as error:
        raise ValueError(f"{path.name} can't be read: {error.strerror}") from error


def parse(raw: bytes) -> Bundle:
    """The bundle in a file's content; ValueError, whose words go on after the file's name, if it is none."""
    if len(raw) > BIGGEST:
        raise ValueError(f"is no bundle: it has more than {BIGGEST:,} bytes")
    try:
        content = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no bundle: {_reason(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("is no bundle of this course; `course bundle` writes one")
    try:
        if content.get("checksum") != _checksum(content):
            raise ValueError("it was changed or damaged since it was written")
        return _bundle(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not a sound bundle: {_reason(error)}; ask for a new one") from error


def _reason(error: Exception) -> str:
    """Why, in words for a reader; what the JSON reader says names no line of ours."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "it is no JSON text" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)


def _bytes(path: Path) -> bytes:
    """A file's content, of a large one only the beginning; ValueError for a device or a link."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("is no bundle: it is no ordinary file")
    with path.open("rb") as stream:
        return stream.read(BIGGEST + 1)


def _bundle(content: dict[str, Any]) -> Bundle:
    """What a file's content says, every type looked at."""
    cells = {name: _cells(name, value) for name, value in _table(content, "notebooks").items()}
    return Bundle(
        student=_plain_name(_text(content, "student")),
        made=_text(content, "made"),
        versions=_texts(content, "versions"),
        notebooks=cells,
        answers=_texts(content, "answers"),
        quizzes=_texts(content, "quizzes"),
        progress=_records(content),
    )


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is no text")
    return value


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if not isinstance(value, dict) or len(value) > MOST:
        raise ValueError(f"{name!r} is no table of at most {MOST:,} entries")
    return value


def _texts(content: dict[str, Any], name: str) -> dict[str, str]:
    table = _table(content, name)
    for key in table:
        _text(table, key)
    return table


def _cells(name: str, value: Any) -> Cells:
    """The code cells of a notebook."""
    if not isinstance(value, list) or len(value) > MOST:
        raise ValueError(f"{name!r} is no list of at most {MOST:,} cells")
    if not all(isinstance(cell, str) for cell in value):
        raise ValueError(f"{name!r} holds a cell that is no text")
    return tuple(value)


def _records(content: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Progress: plain values by kind, name and field."""
    found = _table(content, "progress")
    for kind in found:
        table = _table(found, kind)
        for name in table:
            for value in _table(table, name).values():
                if not isinstance(value, str | int):
                    raise ValueError(f"the progress of {name!r} is no record")
    return found
