"""Notebooks from their text sources: build, compare, and list the topics they cover.

The py:percent files in `notebooks/text/` are what people edit; each .ipynb is made here, executed on the bundled
tier without network, and kept free of everything that would change from machine to machine.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.settings import DATA, ROOT, home
from course_utils.workshop import runner

TOPICS = DATA / "topics.toml"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}
CELL_METADATA = ("tags",)  # everything else in a cell's metadata belongs to one machine or one session
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class BuildError(RuntimeError):
    """A notebook that can't be built; the message says in which cell and why."""


@dataclass(frozen=True)
class Topic:
    """One line of data/topics.toml: what a unit has to cover and how (`run`, `tool` or `explain`)."""

    unit: str
    id: str
    need: str
    core: bool
    title: str


def sources(folder: Path | None = None) -> list[Path]:
    """The text sources of the notebooks in `folder`: the core notebooks, then the labs."""
    text = (folder or settings.NOTEBOOKS) / "text"
    return [*sorted(text.glob("*.py")), *sorted(text.glob("labs/*.py"))]


def built(folder: Path | None = None) -> list[Path]:
    """The notebooks in `folder`: the core ones, then the labs."""
    place = folder or settings.NOTEBOOKS
    return [*sorted(place.glob("*.ipynb")), *sorted(place.glob("labs/*.ipynb"))]


def executed(names: list[str]) -> list[Path]:
    """The .ipynb files that `names` mean (see `runner.resolve`). ValueError where there is only the text of one."""
    paths = runner.resolve(names)
    for path in paths:
        if path.suffix == ".py":
            raise ValueError(f"{path.name} was not built yet; `course notebooks {path.stem}` does that.")
    return paths


def target(source: Path) -> Path:
    """Where the .ipynb of a text source is: notebooks/labs/x.ipynb for notebooks/text/labs/x.py."""
    in_labs = source.parent.name == "labs"
    text = source.parent.parent if in_labs else source.parent
    folder = text.parent / "labs" if in_labs else text.parent
    return folder / f"{source.stem}.ipynb"


def build(source: Path) -> Path:
    """Makes the .ipynb of the py:percent file `source`, executed on the bundled tier; returns its path.

    Raises BuildError if a cell fails, or if an output holds a path of this machine, a memory address or
    something written to stderr: none of these belongs into a committed notebook.
    """
    if settings.is_quick():
        raise BuildError("COURSE_PACE=quick cuts trainings short, so outputs would show no result: unset it")
    notebook, place = convert(source), target(source)
    with runner.scratch() as space:
        result = runner.execute(notebook, source.stem, place.parent, space)
    if result.failure:
        raise BuildError(runner.describe(result))
    clean(notebook)
    if faults := output_faults(notebook):
        raise BuildError(f"{source.stem}: " + "; ".join(faults))
    _write(notebook, place)
    return place


def retag(source: Path) -> Path:
    """Carries the tags of the text file `source` into its .ipynb, whose outputs stay; returns the .ipynb's path.

    Tags decide what slides show and which topic a cell covers, and no cell reads them: nothing has to run again.
    Raises BuildError where there is no .ipynb, or where more than tags differs.
    """
    import nbformat

    text, place = convert(source), target(source)
    if not place.exists():
        raise BuildError(f"{place.name} is missing; `course notebooks {source.stem}` makes it")
    notebook = nbformat.read(place, as_version=4)
    if cell_ids(text) != cell_ids(notebook):
        raise BuildError(f"{place.name} differs in more than tags; `course notebooks {source.stem}` builds it")
    for ours, theirs in zip(text.cells, notebook.cells, strict=True):
        theirs.metadata = ours.metadata
    _write(notebook, place)
    return place


def convert(source: Path) -> Any:
    """The notebook in the text file `source`, not executed, with fixed metadata and reproducible cell ids."""
    notebook = runner.read(source)
    for cell, name in zip(notebook.cells, cell_ids(notebook), strict=True):
        cell.id = name
    return clean(notebook)


def clean(notebook: Any) -> Any:
    """Removes from `notebook`, in place, what changes from run to run: widgets, timings, kernel names."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = type(notebook.metadata)(kernelspec=dict(KERNEL), language_info=dict(LANGUAGE))
    for cell in notebook.cells:
        cell.metadata = type(cell.metadata)({k: v for k, v in cell.metadata.items() if k in CELL_METADATA})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_widget(output)]
    return notebook


def _is_widget(output: Any) -> bool:
    """Whether `output` is a live widget: on a page without its kernel there is nothing to see."""
    return WIDGET_VIEW in output.get("data", {})


def cell_ids(notebook: Any) -> list[str]:
    """An id per cell from its type, its source and how often that occurred before: stable over builds."""
    seen: dict[str, int] = {}
    names = []
    for cell in notebook.cells:
        content = f"{cell.cell_type}\n{cell.source}"
        seen[content] = seen.get(content, 0) + 1
        names.append(hashlib.sha256(f"{content}\n{seen[content]}".encode()).hexdigest()[:12])
    return names


def _write(notebook: Any, target: Path) -> None:
    """Writes in one step, so that an interrupted build never leaves half a notebook."""
    import nbformat

    text = nbformat.writes(notebook)
    draft = target.with_name(f".{target.name}.new")
    draft.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8", newline="\n")
    draft.replace(target)


# What may not be in a committed output


def _texts(output: Any) -> list[str]:
    """Everything readable in an output; pictures and other encoded data are left out."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return ["\n".join(output.traceback)]
    data = output.get("data", {})
    shown = [str(v) for k, v in data.items() if k.startswith("text/") or k.endswith(("json", "svg+xml"))]
    return [re.sub(r"base64,[A-Za-z0-9+/=\s]+", "base64,", text) for text in shown]


def machine_paths() -> list[str]:
    """The folders of this machine whose names may not appear in an output."""
    places = [ROOT, Path(tempfile.gettempdir()), Path(sys.prefix), Path(sys.base_prefix)]
    places += [place for place in [home()] if place]
    names = set()
    for place in places:
        names |= {str(place), str(place.resolve())}
    # A system-wide Python has the prefix /usr; "/" and "/usr" say nothing about a machine.
    return sorted(name for name in names if len(Path(name).parts) > 1 and name not in ("/usr", "/usr/local"))


_FOREIGN_PATH = re.compile(r"(?<![\w/.:])(/home/[\w.-]+/|/Users/[\w.-]+/|/tmp/\w)|[A-Z]:\\\\?Users\\")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")


def output_faults(notebook: Any) -> list[str]:
    """What is wrong with the outputs, in words that name the cell: errors, stderr, paths, addresses."""
    paths = [re.compile(rf"(?<![\w/.]){re.escape(path)}(?![\w-])") for path in machine_paths()]
    faults = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        expected = "raises-exception" in cell.metadata.get("tags", [])
        for output in cell.outputs:
            faults += [f"cell [{number}] {fault}" for fault in _faults(output, expected, paths)]
    return faults


def _faults(output: Any, expected: bool, paths: list[re.Pattern[str]]) -> list[str]:
    """The faults of one output; `expected` says that its cell is tagged raises-exception."""
    faults = []
    if output.output_type == "error" and not expected:
        faults.append(f"shows an error: {output.ename}: {output.evalue}"[:200])
    if output.get("name") == "stderr":
        faults.append(f"wrote to stderr, silence its cause or print it: {output.text.strip()[:160]!r}")
    for text in _texts(output):
        found = next((hit for path in [*paths, _FOREIGN_PATH] if (hit := path.search(text))), None)
        if found:
            around = text[max(0, found.start() - 40) : found.end() + 40]
            faults.append(f"shows a path of this machine, print a relative one: {around!r}")
        if address := _ADDRESS.search(text):
            faults.append(f"shows a memory address ({address.group()}), which changes on every run")
    return faults


# Are text and notebook the same?


def agree(source: Path) -> list[str]:
    """Where the text file `source` and its .ipynb differ, one line each; empty if they agree.

    Cells are compared by type, source and tags; the .ipynb must also be as `build` leaves it: executed in
    order, without volatile metadata and with clean outputs.
    """
    import nbformat

    place = target(source)
    if not place.exists():
        return [f"{place.name} is missing; `course notebooks {source.stem}` makes it"]
    text, notebook = convert(source), nbformat.read(place, as_version=4)
    faults = _differences(text, notebook) or _blemishes(text, notebook)
    return [f"{place.name}: {fault}" for fault in faults]


def _differences(text: Any, notebook: Any) -> list[str]:
    """The cells that differ between source and .ipynb, counted from 1 over all cells."""
    found = []
    if len(text.cells) != len(notebook.cells):
        found.append(f"{len(notebook.cells)} cells where its source has {len(text.cells)}")
    for number, (ours, theirs) in enumerate(zip(text.cells, notebook.cells, strict=False), start=1):
        for what, a, b in (
            ("type", ours.cell_type, theirs.cell_type),
            ("source", ours.source, theirs.source),
            ("tags", ours.metadata.get("tags", []), theirs.metadata.get("tags", [])),
        ):
            if a != b:
                found.append(f"cell {number} differs in its {what}: `{runner.first_line(ours.source)[:60]}`")
                break
    return found


def _blemishes(text: Any, notebook: Any) -> list[str]:
    """What `build` would not have left: foreign metadata, ids, cells not executed in order, bad outputs."""
    found = []
    if [cell.get("id") for cell in notebook.cells] != [cell.id for cell in text.cells]:
        found.append("the cell ids are not those of a build; `course notebooks` makes them")
    if notebook.metadata != text.metadata:
        found.append("holds metadata of one machine or session (kernel, widgets)")
    for number, cell in enumerate(notebook.cells, start=1):
        if extra := sorted(set(cell.metadata) - set(CELL_METADATA)):
            found.append(f"cell {number} holds metadata: {', '.join(extra)}")
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        found.append("was not executed from top to bottom; `course notebooks` does that")
    return found + output_faults(notebook)


# Topics


def curriculum(path: Path = TOPICS) -> list[Topic]:
    """Every topic that the course has to cover."""
    units = tomllib.loads(path.read_text(encoding="utf-8"))["unit"]
    listed: list[Topic] = []
    for unit, content in units.items():
        for topic in content["topics"]:
            listed.append(Topic(unit, topic["id"], topic["need"], topic["core"], topic["title"]))
    return listed


def unit_of(path: Path) -> str:
    """The unit that a notebook belongs to, "7.1" for 7.1_multimodal_ai.py; "" for one without a number."""
    found = re.match(r"\d+\.\d+", path.name)
    return found.group() if found else ""


def topics(path: Path) -> list[str]:
    """The topic ids that the cells of a notebook (.py or .ipynb) carry as tags, in order, each once."""
    ids: list[str] = []
    for cell in load(path).cells:
        ids += topic_tags(cell)
    return list(dict.fromkeys(ids))


def load(path: Path) -> Any:
    """A notebook with its outputs, if it has any."""
    import nbformat

    return runner.read(path) if path.suffix == ".py" else nbformat.read(path, as_version=4)


def topic_tags(cell: Any) -> list[str]:
    return [t.removeprefix("topic:") for t in cell.metadata.get("tags", []) if t.startswith("topic:")]


def topic_faults(path: Path, known: list[Topic] | None = None) -> list[str]:
    """Tags that name no topic of the notebook's unit, and topics that run on no executed code cell.

    Works on an .ipynb; a topic with need "run" must sit on at least one code cell with an output.
    """
    need = {t.id: t.need for t in known or curriculum() if t.unit == unit_of(path)}
    shown: dict[str, bool] = {}
    for cell in load(path).cells:
        ran = cell.cell_type == "code" and bool(cell.get("outputs"))
        for name in topic_tags(cell):
            shown[name] = shown.get(name, False) or ran
    unknown = [f"{path.name}: topic:{n} is no topic of unit {unit_of(path)}" for n in shown if n not in need]
    idle = [n for n, ran in shown.items() if need.get(n) == "run" and not ran]
    return unknown + [f"{path.name}: topic:{n} has to run, but no code cell with it has output" for n in idle]


def check(folder: Path | None = None) -> list[str]:
    """Everything that is wrong with a folder of notebooks (the course's): text against .ipynb, strays, topic tags."""
    faults = []
    for source in sources(folder):
        faults += agree(source)
        if target(source).exists():
            faults += topic_faults(target(source))
    known = [target(source) for source in sources(folder)]
    stray = [path for path in built(folder) if path not in known]
    return faults + [f"{path.name} has no text source; `jupytext --to py:percent` makes one" for path in stray]
