"""What a student wrote for an exercise, kept beside the progress where `colab.keep()` was called.

Each answer is a file of its own, 7.1.late_fusion.1.py and so on; none is ever overwritten. Before `colab.keep()` the
answers of this session are remembered, so that a late call keeps them, too.
"""

import datetime
import inspect
import re
from collections.abc import Callable
from pathlib import Path

from course_utils import keeping
from course_utils.exercises import renames

FOLDER = "answers"  # in the kept folder

_PASSED = re.compile(r"# [\w.]+: passed")

_remembered: dict[str, tuple[str, str]] = {}  # exercise -> how its last answer did, and its source


def note(name: str, function: Callable, passed: bool) -> None:
    """Remember what was checked for the exercise `name`, and keep it if things are kept."""
    if not inspect.isfunction(function):
        return
    try:
        source = inspect.getsource(function)
    except Exception:  # made by a program, or wrapped in odd ways: there is nothing to paste
        return
    status = "passed" if passed else "not yet"
    _remembered[name] = status, source
    keep(name)


def keep_all() -> None:
    """Keep what this session remembers: to be called when things begin to be kept."""
    for name in _remembered:
        keep(name)


def keep(name: str) -> None:
    """Write the last answer to `name` into the kept folder, unless it is there."""
    status, source = _remembered[name]
    today = datetime.date.today().isoformat()
    text = f"# {name}: {status} ({today})\n{source}"
    keeping.attempt(lambda kept: _write(kept / FOLDER, name, text))


def _write(place: Path, name: str, text: str) -> None:
    place.mkdir(exist_ok=True)
    known = _files(place, name)
    if any(_says_the_same(path, text) for path in known):
        return
    number = len(known) + 1
    while (path := place / f"{name}.{number}.py").exists():
        number += 1
    with path.open("x", encoding="utf-8") as stream:
        stream.write(text)


def _says_the_same(path: Path, text: str) -> bool:
    """Whether a kept answer has this status and this source, of whatever day."""
    return _without_day(path.read_text("utf-8", errors="replace")) == _without_day(text)


def _without_day(text: str) -> str:
    head, _, source = text.partition("\n")
    status = head.partition(" (")[0]
    return f"{status}\n{source}"


def newest(name: str) -> Path | None:
    """The newest kept answer to `name` that passed, or else the newest of all; None if there is none."""
    found: list[Path] = []
    passed: list[Path] = []

    def look(kept: Path) -> None:
        for known in renames.all_of(name):
            found.extend(_files(kept / FOLDER, known))
        for path in found:
            head = path.read_text("utf-8", errors="replace").partition("\n")[0]
            if _PASSED.match(head):
                passed.append(path)

    if not keeping.attempt(look):
        return None
    return (passed or found or [None])[-1]


def _files(place: Path, name: str) -> list[Path]:
    """The kept answers to `name`, in the order in which they came."""
    numbers = {}
    for path in place.glob(f"{name}.*.py"):
        number = path.name.removeprefix(f"{name}.").removesuffix(".py")
        if number.isdecimal():
            numbers[path] = int(number)
    return sorted(numbers, key=lambda path: numbers[path])
