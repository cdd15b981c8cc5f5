"""Whose a file is, told from its place: folders and file names as LMSs, nbgrader and students write them."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from course_utils import settings
from course_utils.exercises import registry

# Each as the LMS names what an instructor downloads: of a file, or of a folder for a student.
LMS = (
    re.compile(r"(?P<name>.+?)_(?P<number>\d+)_assignsubmission_\w+?(_(?P<file>.*))?"),  # Moodle
    re.compile(r"(?P<name>[^_]+)(_LATE)?_(?P<number>\d+)_\d{3,}_(?P<file>.+)"),  # Canvas; "anna_7_1_lab" is none
    re.compile(r".+_(?P<name>[^_]+)_attempt_(?P<number>)\d{4}(-\d\d){5}(_(?P<file>.*))?"),  # Blackboard
)
COPY = re.compile(
    r"^(copy of|kopie von|copie de|copia de|cópia de) +|"  # Colab
    r"[ _]*\(\d+\)$|-copy\d*$| - (copy|kopie|copie|copia|cópia)$",  # browsers, Jupyter, Windows
    re.IGNORECASE,
)
OF_NO_STUDENT = ("submitted", "submissions")  # nbgrader's folder for all
SIGNS = " _-.,+"


@dataclass(frozen=True)
class Owner:
    """A student's name, and the number that the LMS has for them, "" if it is not in the name.

    is_guess: nothing in the place says whose it is, and the name is the file's.
    """

    name: str
    number: str = ""
    is_guess: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.number})" if self.number else self.name


def owner(place: Sequence[str]) -> Owner:
    """Whose the file at `place` is: the first folder, or else the file, that is named after a student.

    What an LMS writes is looked for first, because a class's folder may stand above it.
    """
    for part in place:
        for pattern in LMS:
            if found := pattern.fullmatch(part):
                return Owner(_tidy(found["name"]), found["number"])
    *folders, file = place
    for part in (*folders, stem(file)):
        name = without_course(part)
        if name and name.lower() not in OF_NO_STUDENT:
            return Owner(name)
    return Owner(_tidy(stem(file)), is_guess=True)


def stem(file: str) -> str:
    """A file's name without what its kind adds, and what `course update` adds to the one that it puts beside."""
    name = re.sub(r"(?i)(\.course\.json|\.ipynb|\.py|\.json|\.zip)+$", "", file)
    return re.sub(r"\.(new|mine)-[\w.-]+$", "", name)


def without_course(name: str) -> str:
    """A name without the words that say which notebook it is and that it is a copy; "" if that is all."""
    before = ""
    while before != name:
        before = name
        rest = without_copy(name)
        rest = _of_the_course().sub(" ", rest)
        name = rest.strip(SIGNS)
    return _tidy(name)


def without_copy(name: str) -> str:
    """A name without the words that say that it is a copy."""
    before = ""
    while before != name:
        before = name
        rest = COPY.sub("", name)
        name = rest.strip(SIGNS)
    return name


def copy_number(file: str) -> int:
    """2 for "7.1 (2).ipynb" and for Canvas's "7.1-2.ipynb"; 0 for the first."""
    number = re.search(r"(?:\(|-|-copy)(\d{1,6})\)?$", stem(file), re.IGNORECASE)
    return int(number[1]) if number else 0


@functools.cache
def _of_the_course() -> re.Pattern:
    """The names of notebooks, long ones first, and of units. No digit or dot may stand beside."""
    notebooks = [path.stem for path in settings.NOTEBOOKS.rglob("*.ipynb")]
    units = {registry.unit_of(name) for name in registry.exercises()}
    notebooks.sort(key=len, reverse=True)
    words = "|".join(map(re.escape, [*notebooks, *sorted(units)]))
    return re.compile(rf"(?<![\d.])({words})(?![\d.])", re.IGNORECASE)


def _tidy(name: str) -> str:
    one_line = " ".join(name.split())
    composed = unicodedata.normalize("NFC", one_line)
    return composed.strip(SIGNS) or name
