"""What students handed in: notebooks of every kind, folders, zip files and bundles, as the code cells of each student.

The files are hostile input: each limit that one of them breaks is a sentence in its student's notes, and ends nothing.
"""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils.classroom.grading import students, unpacking
from course_utils.classroom.grading.students import Owner
from course_utils.classroom.grading.unpacking import File, Refused

MOST_CELLS = 5_000  # code cells of a notebook
MOST_CODE = 2_000_000  # characters of a notebook's code
MOST_BRACKETS, MOST_COMMAS = 500_000, 5_000_000  # of a file of JSON, which takes up to 200 bytes for each
MOST_BYTES = 400_000_000  # of all that is read of a student
MOST_FILES = 200  # of a student
MOST_NOTES = 20
NOTEBOOK, BUNDLE, SCRIPT = ".ipynb", ".course.json", ".py"
EXPORTED = re.compile(r"(?m)^# (?:%%|In\[[\d ]*\]).*$")  # what begins a cell in a notebook that became a .py file
# A kept answer is the function alone. These are the names that the course's notebooks give it.
IMPORTS = """import json, math, random, re, unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F"""


@dataclass(frozen=True)
class Work:
    """The code cells of a file, in order."""

    file: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """What a student handed in, the oldest file first. `notes` say what could not be read."""

    student: str
    number: str = ""  # what the LMS calls the student, if a file's name says it
    works: tuple[Work, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Pile:
    """What has been found of a student so far: works with the key that orders them."""

    works: list[tuple[tuple, Work]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    room: int = MOST_BYTES
    files: int = 0


def read(source: Path) -> list[Submission]:
    """The submissions in a folder or a zip file, by the students' names. ValueError if there is none."""
    if not source.exists():
        raise ValueError(f"there is no {source}; name the folder or the zip file with the students' notebooks")
    if not source.is_dir() and source.suffix.lower() != ".zip":
        raise ValueError(f"{source} is no folder and no zip file; put the students' notebooks into a folder")
    piles: dict[Owner, _Pile] = defaultdict(_Pile)
    for file in unpacking.files(source):
        _sort(file, piles)
    if not piles:
        raise ValueError(f"{source} holds no notebook (.ipynb) and no bundle (.course.json)")
    return _named(piles, source)


def _sort(file: File, piles: dict[Owner, _Pile]) -> None:
    """Put a file on the pile of its student."""
    owner = students.owner(file.place)
    if not _is_wanted(file) and (owner.is_guess or len(file.place) == 1):
        return
    try:
        works, notes = _works(file, piles[owner])
    ...
