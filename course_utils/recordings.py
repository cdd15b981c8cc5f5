"""Recordings: what a notebook's plain cells gave where the real model was at hand.

A cell that begins with `%%real NAME` holds plain lines in a library's own words. At the small and the full tier they
run as if that line were not there. At the bundled tier the recording of these very lines is shown, and says that it
is one. `course record` makes recordings (`workshop/recorder.py`); they are never written by hand.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils import settings

if TYPE_CHECKING:
    from course_utils.unit import Unit

FOLDER = settings.DATA / "recordings"
MAGIC = "%%real"
WIDTH = 96  # columns of the lines above a recording
SHOWN = ("text/html", "image/png", "text/plain")  # the kinds of output that a recording keeps
STEPS_DOWN = (OSError, MemoryError)  # no network, a hub that refuses, no room: nothing is wrong with the lines


@dataclass(frozen=True)
class Cell:
    """One recorded cell: its lines, what they gave (nbformat's outputs), and the seconds that they took.

    `seconds` are those of the clock, `processor` those of all processor cores together.
    """

    code: str
    outputs: list[dict[str, Any]]
    seconds: float
    processor: float


@dataclass(frozen=True)
class Recording:
    """The recorded cells of one section, and what a reader needs to judge them.

    `models` and `files` hold a dict for each file of weights and for each input: name, size in bytes, sha256, source.
    `prepared` is code that ran before the first cell, "" for none.
    """

    name: str
    notebook: str
    date: str
    machine: str
    packages: dict[str, str]
    models: list[dict[str, Any]]
    files: list[dict[str, Any]]
    prepared: str
    cells: list[Cell]

    def cell(self, code: str) -> Cell | None:
        """The cell with these lines; None if no such lines were recorded."""
        wanted = code.strip()
        return next((cell for cell in self.cells if cell.code.strip() == wanted), None)


# ---------------------------------------------------------------- files


def names() -> list[str]:
    """The names of all recordings."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def checksum(content: dict[str, Any]) -> str:
    """The SHA-256 of everything in a recording's file but the checksum itself."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read(name: str) -> Recording:
    """The recording `name`. ValueError, saying what to do, if there is none or if somebody has edited it."""
    path = FOLDER / f"{name}.json"
    if name not in names():
        known = ", ".join(names()) or "none"
        raise ValueError(f"No recording {name!r} was made yet (there are: {known}), so nothing can be shown.")
    content = json.loads(path.read_text("utf-8"))
    if content.pop("sha256", "") != checksum(content):
        raise ValueError(f"{path.name} was changed after it was recorded; `course record {name}` makes it anew.")
    cells = [Cell(**cell) for cell in content.pop("cells")]
    return Recording(**content, cells=cells)


def write(content: dict[str, Any]) -> Path:
    """Writes a recording (the fields of `Recording`, as plain values) with its checksum; returns its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{content['name']}.json"
    whole = content | {"sha256": checksum(content)}
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
    return path


# ---------------------------------------------------------------- what the reader sees


def about(recording: Recording, cell: Cell) -> str:
    """Where a recorded cell ran and how long, and at a section's first cell with which model."""
    took = f"{cell.seconds:.0f} s by the clock, {cell.processor:.0f} s of the processor"
    lines = [f"RECORDING of these very lines, made on {recording.date} on {recording.machine}; {took}."]
    first = cell == recording.cells[0]
    for model in recording.models if first else []:
        lines.append(f"Model: {model['name']}, sha256 {model['sha256'][:12]}; {model['source']}.")
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)


def show(cell: Cell) -> None:
    """Puts out what the cell gave, as the kernel had put it out; a progress bar tells nothing once it is over."""
    from IPython.display import display

    for output in cell.outputs:
        if output["output_type"] == "stream":
            print(output["text"], end="")
        elif not _is_progress_bar(output["data"]):
            display(output["data"], raw=True)


def _is_progress_bar(data: dict[str, str]) -> bool:
    """Whether an output is tqdm's bar alone, such as "Map: 100%|####| 336/336"."""
    return list(data) == ["text/plain"] and bool(re.search(r"\d%\|.*\| \d+/\d+ ", data["text/plain"]))


def begins(name: str, code: str) -> bool:
    """Whether these lines are the first cell of the recording `name`; also where there is no recording."""
    try:
        first = read(name).cells[0]
    except ValueError:
        return True
    return first.code.strip() == code.strip()


def show_or_say(name: str, code: str) -> None:
    """The recording of these lines; a sentence if there is none."""
    try:
        recording = read(name)
    except ValueError as error:
        print(error)
        return
    cell = recording.cell(code)
    if cell is None:
        print(f"You have changed these lines, and the recording {name!r} is of the lines as they were.")
        return
    print(about(recording, cell))
    print("-" * WIDTH)
    show(cell)


# ---------------------------------------------------------------- the first line of a plain cell


def run_here(shell: Any, code: str) -> None:
    """Runs the lines in the notebook's own names, as the cell would without its first line; errors are passed on."""
    source = shell.transform_cell(code)
    name = shell.compile.cache(source)  # so that a traceback shows the lines
    body = ast.parse(source, name).body
    shown = 1 if body and isinstance(body[-1], ast.Expr) else 0  # the value of a last expression
    end = len(body) - shown
    before = ast.Module(body[:end], type_ignores=[])
    last = ast.Interactive(body[end:])
    # Not with this module's own `from __future__`.
    exec(compile(before, name, "exec", dont_inherit=True), shell.user_ns)
    exec(compile(last, name, "single", dont_inherit=True), shell.user_ns)


def why_not_here(unit: Unit) -> str:
    """Why plain cells do not run in this session; "" if they do: where no role is at the bundled tier."""
    for role, choice in unit.choices.items():
        if choice.tier == "bundled":
            return f"{role} is at the bundled tier ({choice.reason})"
    return ""


def _in_a_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}"


def _lacks_network_or_room(error: Exception) -> bool:
    """Whether nothing is wrong with the lines. By names, because torch and httpx need not be imported here."""
    kinds = type(error).__mro__
    full = any(kind.__name__ == "OutOfMemoryError" for kind in kinds)  # of torch, a RuntimeError
    cut_off = any(kind.__module__.startswith("httpx") for kind in kinds)  # of the hub's library
    return isinstance(error, STEPS_DOWN) or full or cut_off


def magic(unit: Unit, shell: Any) -> Callable[[str, str], None]:
    """What `%%real NAME` does in the session of `unit`."""

    cut_short: set[str] = set()  # sections of which a cell did not get to its end here

    def real(line: str, cell: str) -> None:
        """Runs these plain lines at the small or full tier; shows what they gave elsewhere at the bundled one."""
        section = line.strip()
        reason = why_not_here(unit)
        if reason:
            way = f'open_unit("{unit.name}", tier="small") runs these lines.'
            asked = reason.endswith("(asked for)")
            print(f"Not run here: {reason}. {way if asked else f'With a network, {way}'}")
            show_or_say(section, cell)
            return
        if section in cut_short and not begins(section, cell):
            print("These lines need what an earlier cell of this section did not get done here. Instead:")
            show_or_say(section, cell)
            return
        cut_short.discard(section)
        try:
            run_here(shell, cell)
        except Exception as error:
            if not _lacks_network_or_room(error):
                raise
            print(f"These lines did not get to their end here ({_in_a_line(error)}). Instead:")
            show_or_say(section, cell)
            cut_short.add(section)

    return real


def register(unit: Unit) -> None:
    """From now on `%%real` works in this notebook; nothing happens in plain Python."""
    ipython = sys.modules.get("IPython")  # a notebook's kernel has imported it
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        shell.register_magic_function(magic(unit, shell), "cell", MAGIC.strip("%"))
