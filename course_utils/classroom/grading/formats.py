"""The code cells of one file: a notebook of any age, a notebook that became a .py file, a bundle.

Who wrote the file may have meant harm: whatever it holds, the answer is cells, and sentences for `note`, or Refused.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from course_utils.classroom import bundles
from course_utils.classroom.grading.unpacking import Refused, plain

NOTEBOOK, SCRIPT, BUNDLE = ".ipynb", ".py", bundles.SUFFIX
KINDS = (NOTEBOOK, SCRIPT, BUNDLE)
KEPT = "kept answers"  # what the part of a bundle is called that comes from no notebook
MOST_CELLS = 5_000  # code cells of a file
MOST_CODE = 500_000  # characters of a file's code; a notebook of the course has up to 40,000
MOST_LISTS, MOST_VALUES = 500_000, 5_000_000  # in a file of JSON; Python needs up to 200 and 40 bytes for each
NEW_CELL = re.compile(r"(?m)^# (?:%%|In\[[\d ]*\]).*$")  # as jupytext, VS Code and nbconvert write it
OTHER_ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # Windows' old Notepad

# A kept answer is a function alone. These are names that the course's notebooks have given it.
IMPORTS = """import json, math, random, re, unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F"""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """The code cells of a file, in order."""

    file: str
    cells: tuple[str, ...]


def works(name: str, raw: bytes, note: Note) -> list[Work]:
    """What of a file's content is code. A bundle holds several works, a .py file that was no notebook holds none."""
    if name.lower().endswith(BUNDLE):
        return _of_bundle(name, raw, note)
    text = _decoded(name, raw, note)
    if name.lower().endswith(NOTEBOOK):
        cells = list(_of_notebook(name, text, note))
    else:
        cells = NEW_CELL.split(text) if NEW_CELL.search(text) else []
    return [Work(name, _limited(cells))] if cells else []


def _limited(cells: list[str]) -> tuple[str, ...]:
    if len(cells) > MOST_CELLS:
        raise Refused(f"has more than {MOST_CELLS:,} code cells, and is left out")
    if sum(map(len, cells)) > MOST_CODE:
        raise Refused(f"has more than {MOST_CODE:,} characters of code, and is left out")
    return tuple(cells)


def _decoded(name: str, raw: bytes, note: Note) -> str:
    encoding = OTHER_ENCODINGS.get(raw[:2], "utf-8-sig")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        note(f"{name} is not in UTF-8, so letters such as umlauts may be others.")
        return raw.decode("latin-1")


# --- notebooks --------------------------------------------------------------------------------------------


def _of_notebook(name: str, text: str, note: Note) -> Iterator[str]:
    """The sources of the code cells."""
    content = _json(text)
    odd = 0
    for cell in _cells(content):
        if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
            odd += 1
        elif cell["cell_type"] == "code":
            source = _source(cell)
            odd += source is None
            yield source or ""  # so that the cells after it keep their numbers
    if odd:
        note(f"{name} holds {odd} cells in a form that no notebook has; they are left out.")


def _json(text: str) -> Any:
    if text.count("[") + text.count("{") > MOST_LISTS or text.count(",") > MOST_VALUES:
        raise Refused("holds too many values to be read; clear its outputs")
    try:
        return json.loads(text)
    except RecursionError:
        raise Refused("is nested too deeply to be a notebook") from None
    except ValueError:
        raise Refused("is no notebook that can be read: it is not JSON, or it is cut off") from None


def _cells(content: Any) -> list:
    """All cells of a notebook in the format 4, or in the format 3, where they stand in worksheets."""
    if not isinstance(content, dict):
        raise Refused("is no notebook")
    cells = content.get("cells")
    if cells is None and isinstance(content.get("worksheets"), list):
        sheets = [sheet.get("cells") for sheet in content["worksheets"] if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets if isinstance(sheet, list) for cell in sheet]
    if not isinstance(cells, list):
        raise Refused("is no notebook: it has no list of cells")
    if not cells:
        raise Refused("has no cells")
    return cells


def _source(cell: dict) -> str | None:
    """A cell's text, which the format 3 calls "input"; None for another type."""
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    return source if isinstance(source, str) else None


# --- bundles ----------------------------------------------------------------------------------------------


def _of_bundle(name: str, raw: bytes, note: Note) -> list[Work]:
    """Kept answers and quiz answers first, because the notebooks say what counts in the end."""
    bundle = _bundle(raw)
    kept = [IMPORTS]
    for exercise, source in bundle.answers.items():
        functions = re.findall(r"(?m)^def (\w+)", source)
        kept += [source, f"check({exercise!r}, {functions[-1]})" if functions else ""]
    kept += [f"quiz({quiz!r}, {letter!r})" for quiz, letter in bundle.quizzes.items()]
    note(f"{name} says that it is the work of {plain(bundle.student)}, of {plain(bundle.made)}.")
    parts = [(KEPT, kept), *bundle.notebooks.items()]
    return [Work(f"{name}: {plain(part)}", _limited(list(cells))) for part, cells in parts]


def _bundle(raw: bytes) -> bundles.Bundle:
    try:
        return bundles.parse(raw)
    except ValueError as error:
        raise Refused(plain(str(error))) from error
