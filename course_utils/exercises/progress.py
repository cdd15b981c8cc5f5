"""What a student has done, kept in one JSON file on this machine. It is never sent anywhere.

The file is ~/.local/share/genai-course/progress.json (below XDG_DATA_HOME, where that is set), so it survives
a `git pull`, a `git clean` and a new copy of the course. COURSE_PROGRESS_FILE names another file.
COURSE_PROGRESS=off keeps everything in memory until Python ends; tests and builds of notebooks run like that.
"""

import datetime
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from course_utils.settings import writable

KINDS = ("exercises", "quizzes")


@dataclass(frozen=True)
class Record:
    """What is known of one exercise or quiz. `status` is open, tried or done and never goes back.

    `attempts` counts until it is done; `done_on` is the day (2026-01-31), empty before.
    """

    status: str = "open"
    attempts: int = 0
    hints: int = 0
    solution_shown: bool = False
    done_on: str = ""


_memory: dict[str, Any] = {}  # what is known where no file is read or written
_in_memory = False  # set when the file can't be used
_said: set[str] = set()


def recording() -> bool:
    """Whether progress goes to the file."""
    off = os.environ.get("COURSE_PROGRESS", "").strip().lower() in {"off", "0", "no", "false"}
    return not off and not _in_memory


def file() -> Path:
    """Where progress is kept; in a temporary folder, said aloud, where the user's own can't be written."""
    if chosen := os.environ.get("COURSE_PROGRESS_FILE"):
        return Path(chosen).expanduser()
    folder = _data_home() / "genai-course"
    if not writable(folder):
        folder = Path(tempfile.gettempdir()) / "genai-course"
        _say_once(f"Your home folder can't be written to. Progress is kept in {folder}; it may not last.")
    return folder / "progress.json"


def _data_home() -> Path:
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError:  # a user without a home
        return Path(os.devnull)


def get(kind: str, name: str) -> Record:
    """What is known of `name`, which is one of the "exercises" or "quizzes"."""
    entry = _read().get(kind, {}).get(name, {})
    return Record(**{field.name: entry[field.name] for field in fields(Record) if field.name in entry})


def put(kind: str, name: str, record: Record) -> None:
    """Keep `record`. A file that can't be written is reported once and never an error."""
    content = _read()  # again, because another notebook may have written in between
    content.setdefault(kind, {}).setdefault(name, {}).update(asdict(record))
    if recording():
        try:
            return _write(file(), json.dumps({"version": 1} | content, indent=1))
        except OSError as error:
            _forget_file(error)
    _memory.update(content)


def tried(record: Record) -> Record:
    """`record` after a try that did not pass."""
    return record if record.status == "done" else replace(record, status="tried", attempts=record.attempts + 1)


def done(record: Record) -> Record:
    """`record` after a try that passed: with today's date, unless it was done before."""
    today = datetime.date.today().isoformat()
    return record if record.status == "done" else replace(tried(record), status="done", done_on=today)


def _read() -> dict[str, Any]:
    """The file's content, or what is in memory. A damaged file is put aside and reported."""
    if not recording():
        return _memory
    path = file()
    try:
        return _sound(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except OSError as error:
        _forget_file(error)
    except ValueError:
        _put_aside(path)
    return _memory if _in_memory else {}


def _sound(content: Any) -> dict[str, Any]:
    """`content`, if records of the right types are in it; ValueError if not. What is unknown is left alone."""
    kinds = [content.get(kind, {}) for kind in KINDS] if isinstance(content, dict) else [None]
    if not all(isinstance(kind, dict) for kind in kinds):
        raise ValueError("no tables of exercises and quizzes")
    for entry in (entry for kind in kinds for entry in kind.values()):
        for field in fields(Record):
            if not isinstance(entry, dict) or type(entry.get(field.name, field.default)) is not field.type:
                raise ValueError(f"no record: {entry!r}")
    return content


def _put_aside(path: Path) -> None:
    """Rename a damaged file to .broken, .broken2 and so on: someone may still repair it."""
    names = (path.with_name(f"{path.name}.broken{i or ''}") for i in (0, *range(2, 1000)))
    aside = next(name for name in names if not name.exists())
    try:
        os.replace(path, aside)
    except OSError as error:
        return _forget_file(error)
    _say_once(f"The file with your progress was damaged. It is kept as {aside}, and a new one is begun.")


def _write(path: Path, text: str) -> None:
    """Write in one step, so that a kill leaves the old file or the new one, never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


def _forget_file(error: OSError) -> None:
    global _in_memory
    _in_memory = True
    _say_once(f"Progress can't be kept in a file ({error.strerror}); it is forgotten when Python ends.")


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        print(text)
