"""Makes recordings: runs the plain cells of a section in an empty folder, and keeps what they gave.

What a recording is, and how a notebook shows it, is in `course_utils/recordings.py`.
"""

from __future__ import annotations

import ast
import datetime
import platform
import shutil
import subprocess
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from course_utils import recordings, settings
from course_utils.models import bundled, hardware
from course_utils.workshop import cell_outputs, notebooks, runner

LIMIT = 400_000  # bytes that all recordings together may take
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
SOURCE = "SOURCE.txt"  # beside weights or files that do not come from where their name says: one line


class RecordingError(RuntimeError):
    """A section that can't be recorded; the message says in which cell and why."""


# ---------------------------------------------------------------- the plain cells


def sections() -> dict[str, tuple[Path, list[str]]]:
    """Each name after `%%real`: the text source that holds its cells, and their lines without the first."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for source in notebooks.sources():
        for cell in runner.read(source).cells:
            first, _, code = cell.source.partition("\n")
            if cell.cell_type == "code" and first.startswith(recordings.MAGIC):
                name = first.removeprefix(recordings.MAGIC).strip()
                place, codes = found.setdefault(name, (source, []))
                if place != source:
                    raise ValueError(f"{name} stands in two notebooks, {place.stem} and {source.stem}; rename one")
                codes.append(code)
    return found


def literals(codes: list[str]) -> set[str]:
    """Every string that is written out in some code: the names of models are among them."""
    found = set()
    for code in codes:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def packages(codes: list[str]) -> dict[str, str]:
    """Package -> version of what some code imports, and of torch, which does the work."""
    modules = {"torch"}
    for code in codes:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    owners = metadata.packages_distributions()
    named = {owners[module][0] for module in modules if module in owners}
    return {name: metadata.version(name) for name in sorted(named, key=str.lower)}


# ---------------------------------------------------------------- what they were given


def described(path: Path, name: str, otherwise: str) -> dict[str, Any]:
    """A file of weights or an input: name, size, sha256, and its source as SOURCE.txt beside it tells."""
    told = path.parent / SOURCE
    source = told.read_text("utf-8").strip() if told.exists() else otherwise
    digest = bundled.sha256(path)
    return {"name": name, "size": path.stat().st_size, "sha256": digest, "source": source}


def hub_models(names: set[str], home: Path) -> list[dict[str, Any]]:
    """The weights in the hub's cache whose model is among `names`."""
    found = []
    for place in sorted((home / "hub").glob("models--*")):
        name = place.name.removeprefix("models--").replace("--", "/")
        if name not in names or not (place / "refs" / "main").is_file():
            continue
        revision = (place / "refs" / "main").read_text("utf-8").strip()
        for path in sorted((place / "snapshots" / revision).iterdir()):
            if path.suffix in WEIGHTS:
                label = f"{name}, revision {revision}, {path.name}"
                found.append(described(path, label, "from the Hugging Face hub"))
    return found


def clip_names(names: set[str]) -> set[str]:
    """The hub's names of open_clip's models of which `names` holds both architecture and training."""
    import open_clip

    pairs = [pair for pair in open_clip.list_pretrained() if names.issuperset(pair)]
    configs = [open_clip.get_pretrained_cfg(*pair) for pair in pairs]
    return {config["hf_hub"].strip("/") for config in configs if config.get("hf_hub")}


def whisper_models(names: set[str], folder: Path) -> list[dict[str, Any]]:
    """Whisper's checkpoints in its cache that are among `names`."""
    paths = [path for path in sorted(folder.glob("*.pt")) if path.stem in names]
    return [described(path, f"Whisper {path.name}", "from OpenAI") for path in paths]


def models(codes: list[str], home: Path, whisper_folder: Path) -> list[dict[str, Any]]:
    """The files of weights that some code names and that lie in the caches."""
    names = literals(codes)
    uses = packages(codes)
    if "open_clip_torch" in uses:
        names |= clip_names(names)
    found = hub_models(names, home)
    if "openai-whisper" in uses:
        found += whisper_models(names, whisper_folder)
    return found


def whisper_accepts(folder: Path, codes: list[str]) -> str:
    """Code that makes `whisper.load_model` take the checkpoints in `folder`; "" where nothing is needed.

    openai-whisper compares a checkpoint's SHA-256 with the one in its address. Weights that came another way hold
    the same numbers in another file, so their own sum is put there.
    """
    lines = []
    for model in whisper_models(literals(codes), folder):
        name = model["name"].removeprefix("Whisper ").removesuffix(".pt")
        lines.append(f'whisper._MODELS["{name}"] = "file:///{model["sha256"]}/{name}.pt"')
    return "\n".join(["import whisper", *lines]) if lines else ""


# ---------------------------------------------------------------- record


def machine() -> str:
    """This machine, in a few words that hold no name of its owner."""
    here = hardware.detect("bundled")
    return f"{here.cores} cores ({platform.machine()}), {here.ram_total_gb:.0f} GiB RAM, {here.gpu or 'no GPU'}"


def record(name: str, weights: Path | None = None) -> Path:
    """Runs the cells of section `name` in a fresh kernel, in an empty folder, and writes their recording.

    `weights` is a folder for machines that reach no hub: huggingface/ and whisper/ as those libraries' caches, files/
    with what the cells would fetch; a SOURCE.txt beside each says where it comes from. ValueError for an unknown
    name, RecordingError for a cell that fails or a recording that is too large.
    """
    known = sections()
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise ValueError(f"no plain cells are called {name!r}; there are {names}")
    source, codes = known[name]
    home, whisper_folder = caches(weights)
    prepared = whisper_accepts(whisper_folder, codes) if weights else ""
    given = given_files(weights, codes)
    with tempfile.TemporaryDirectory(prefix="course-record-") as folder:
        for path in given:
            shutil.copy(path, folder)
        cells = run(codes, Path(folder), prepared, weights)
    today = datetime.date.today()
    content = {"name": name, "notebook": source.stem, "date": today.isoformat(), "machine": machine()}
    content["packages"] = packages(codes)
    content["models"] = models(codes, home, whisper_folder)
    content["files"] = [described(path, path.name, "laid into the folder") for path in given]
    content |= {"prepared": prepared, "cells": cells}
    path = recordings.write(content)
    _check_size(name)
    return path


def given_files(weights: Path | None, codes: list[str]) -> list[Path]:
    """The inputs below `weights` that some code names, and would fetch."""
    if not weights:
        return []
    named = literals(codes)
    return [path for path in sorted((weights / "files").glob("*")) if path.name in named]


def _check_size(name: str) -> None:
    sizes = [path.stat().st_size for path in recordings.FOLDER.glob("*.json")]
    if sum(sizes) > LIMIT:
        raise RecordingError(f"all recordings take {sum(sizes):,} bytes, at most {LIMIT:,}; let {name} show less")


def caches(weights: Path | None) -> tuple[Path, Path]:
    """Where the hub's and Whisper's weights lie."""
    if weights:
        return weights / "huggingface", weights / "whisper"
    return hardware.hub_home(), settings.user_cache() / "whisper"


def environment(weights: Path | None) -> dict[str, str]:
    """What the kernel's environment has besides: no progress bars, and the caches in `weights` as the libraries'."""
    more = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    more["TRANSFORMERS_VERBOSITY"] = "error"
    if weights:
        home = weights.resolve()
        more |= {"HF_HOME": str(home / "huggingface"), "XDG_CACHE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    return more


def run(codes: list[str], folder: Path, prepared: str = "", weights: Path | None = None) -> list[dict[str, Any]]:
    """What each piece of code gives in one fresh kernel in `folder`, as the fields of `recordings.Cell`.

    RecordingError if one fails.
    """
    import nbformat

    pieces = [prepared, *codes]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(piece) for piece in pieces])
    spent: list[tuple[float, float]] = []
    with runner.scratch() as space:
        client = runner.client(notebook, folder, space)
        variables = runner.kernel_environment(space / "kernel", "small", "recording") | environment(weights)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with client.setup_kernel(env=variables, cleanup_kc=True, **silent):
            for index, cell in enumerate(notebook.cells):
                before = _clocks(client)
                _execute(client, cell, index)
                after = _clocks(client)
                spent.append((after[0] - before[0], after[1] - before[1]))
    made = [recorded(cell, *times) for cell, times in zip(notebook.cells, spent, strict=True)]
    return made[1:]  # without what prepared them


def recorded(cell: Any, seconds: float, processor: float) -> dict[str, Any]:
    """An executed cell as the fields of `recordings.Cell`."""
    cell_outputs.join(cell)
    outputs = [kept(output) for output in cell.outputs if output.get("name") != "stderr"]
    times = {"seconds": round(seconds, 1), "processor": round(processor, 1)}
    return {"code": cell.source, "outputs": outputs, **times}


def _execute(client: Any, cell: Any, index: int) -> None:
    """Runs one cell; what goes wrong becomes a sentence with the cell's first line."""
    from nbclient.exceptions import CellExecutionError

    try:
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        first = runner.first_line(cell.source)
        raise RecordingError(f"cell {index} `{first}` failed: {error.ename}: {error.evalue}") from error


def _clocks(client: Any) -> tuple[float, float]:
    """The clock, and the seconds of processor time that the kernel has used."""
    import psutil

    used = psutil.Process(client.km.provisioner.pid).cpu_times()
    return time.monotonic(), used.user + used.system


def kept(output: Any) -> dict[str, Any]:
    """An output as a recording keeps it: a text, or a picture, a table and their text."""
    if output.output_type == "stream":
        return {"output_type": "stream", "name": "stdout", "text": output.text}
    data = {kind: output.data[kind] for kind in recordings.SHOWN if kind in output.data}
    return {"output_type": "display_data", "data": data, "metadata": {}}
