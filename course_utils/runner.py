"""Executes notebooks one after the other, measures them, and leaves nothing behind.

Every notebook gets a fresh kernel of *this* interpreter (no installed kernel spec is used), a throw-away
folder for everything that Jupyter, IPython, Matplotlib and the Hub want to write, and a time limit. nbclient
works in a thread; the main thread samples memory, watches the clock and receives Ctrl-C, so that whatever
happens the kernel and all of its descendants are stopped here.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from course_utils.catalogue import TIERS
from course_utils.formulas import draw_formulas
from course_utils.settings import BUILD, NOTEBOOKS, cache_dir, writable

SECONDS_PER_NOTEBOOK = 900
SAMPLE_EVERY = 0.1  # seconds between two looks at the memory
MARK = "COURSE_RUN_MARK"  # in the environment of a kernel, so that its descendants can be recognised
LAB = "_lab_"  # in the name of a notebook that is not part of the core

_log = logging.getLogger("course_utils.runner")
_log.addHandler(logging.NullHandler())
_log.propagate = False  # what matters of nbclient's log lines is in the failure's cause


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped. `cell` is the number in the brackets `[n]`, 0 before the first."""

    cell: int
    first_line: str
    cause: str


@dataclass
class Result:
    """What one notebook did: code cells run, wall time in seconds, peak resident memory in bytes."""

    notebook: str
    tier: str
    cells: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    failure: Failure | None = None
    html: str | None = None
    left_running: list[str] = field(default_factory=list)


def resolve(units: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks meant by `units` ("7.1", a notebook's name, or a path); all but the labs for none.

    Labs run when they are asked for: "7.1_lab" means all labs of a unit, "labs" all there are. An .ipynb is
    preferred over the text source of the same name. Raises ValueError for an unknown unit.
    """
    known = {path.stem: path for suffix in (".py", ".ipynb") for path in sorted(folder.glob(f"*{suffix}"))}
    if not units:
        return [known[name] for name in sorted(known) if LAB not in name]
    found: list[Path] = []
    for unit in units:
        path = Path(unit)
        if path.suffix in (".py", ".ipynb") and path.exists():
            found.append(path.resolve())
            continue
        plain = unit.removesuffix(".ipynb").removesuffix(".py")
        names = [name for name in sorted(known) if _meant(plain, name)]
        if not names:
            raise ValueError(f"no notebook for {unit!r}; there are: {', '.join(sorted(known)) or 'none yet'}")
        found += [known[name] for name in names]
    return list(dict.fromkeys(found))


def _meant(plain: str, name: str) -> bool:
    """Whether `plain` ("7.1", "7.1_lab", "labs" or a whole name) means the notebook `name`."""
    if plain == "labs":
        return LAB in name
    return name == plain or (name.startswith(f"{plain}_") and (LAB in name) == (LAB in f"{plain}_"))


def read(path: Path) -> Any:
    """The notebook in `path`, an .ipynb or a py:percent text source, as an nbformat node without outputs."""
    if path.suffix == ".py":
        import jupytext

        return jupytext.read(path, fmt="py:percent")
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder for a whole run, removed at the end whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="course-run-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def kernel_environment(folder: Path, tier: str, mark: str) -> dict[str, str]:
    """The environment of a kernel: nothing is written outside `folder`, and bundled means offline."""
    places = {
        "TMPDIR": "tmp",
        "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
        "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
        "JUPYTER_CONFIG_DIR": "jupyter/config",
        "JUPYTER_DATA_DIR": "jupyter/data",
    }
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    if tier == "bundled" or not writable(hub):
        places["HF_HOME"] = "huggingface"
    environment = dict(os.environ)
    for name, place in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        environment[name] = str(folder / place)
    environment |= {"TEMP": environment["TMPDIR"], "TMP": environment["TMPDIR"], MARK: mark}
    environment |= {"COURSE_TIER": tier, "COURSE_QUIET": "1", "COURSE_PROGRESS": "off", "TQDM_DISABLE": "1"}
    for name in ("COURSE_OFFLINE", "MPLBACKEND"):  # a backend that is set keeps figures out of notebooks
        environment.pop(name, None)
    if tier == "bundled":
        environment["COURSE_OFFLINE"] = "1"
    return environment


def _kernel_manager(folder: Path) -> Any:
    """A kernel manager that starts this very interpreter, whatever kernel specs a machine has installed."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    class ThisInterpreter(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    specs = ThisInterpreter(log=_log)
    connection = str(folder / f"kernel-{uuid.uuid4().hex}.json")
    return AsyncKernelManager(kernel_spec_manager=specs, connection_file=connection, log=_log)


class _Watch:
    """Follows a kernel's family of processes: peak memory while it runs, and the end of all of them."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.peak = 0
        self.family: dict[int, Any] = {}

    def sample(self, pid: int | None) -> None:
        """Adds up the resident memory of the kernel `pid` and of every descendant that was ever seen."""
        import psutil

        with contextlib.suppress(psutil.Error):
            kernel = self.family.get(pid) if pid else None
            kernel = kernel or (psutil.Process(pid) if pid else None)
            for process in [kernel, *kernel.children(recursive=True)] if kernel else []:
                self.family.setdefault(process.pid, process)
        total = 0
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss if process.is_running() else 0
        self.peak = max(self.peak, total)

    def alive(self) -> list[Any]:
        """Every living process of the family, also those that changed parent or started a session."""
        import psutil

        for process in psutil.process_iter():
            # Not ours to read, gone by now, or (macOS) protected by the system: then it is none of ours.
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self.mark:
                    self.family.setdefault(process.pid, process)
        return [p for p in self.family.values() if _lives(p)]

    def stop(self, grace: float = 2.0) -> list[str]:
        """Waits `grace` seconds, then kills what is left; returns the command lines of what it killed."""
        import psutil

        psutil.wait_procs(self.alive(), timeout=grace)
        killed = []
        for _ in range(5):  # a process may start another one while we look
            living = self.alive()
            if not living:
                break
            for process in living:
                with contextlib.suppress(psutil.Error):
                    killed.append(" ".join(process.cmdline())[:100])
                    process.kill()
            psutil.wait_procs(living, timeout=3)
        return killed


def _lives(process: Any) -> bool:
    """Whether a process is still running; a zombie, which only waits to be read, is not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def first_line(source: str) -> str:
    """The first line of a cell that isn't blank, to recognise the cell by."""
    return next((line.strip() for line in source.splitlines() if line.strip()), "")


def _plain(text: str, limit: int = 400) -> str:
    """`text` without terminal colours, cut after `limit` characters."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
    return text if len(text) <= limit else text[:limit] + " ..."


def _cause(error: BaseException, kernel_log: Path) -> str:
    """One plain sentence or two about why the notebook stopped."""
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    if isinstance(error, CellExecutionError):
        return _plain(f"{error.ename}: {error.evalue}")
    if isinstance(error, DeadKernelError) or "Kernel died" in str(error):
        lines = kernel_log.read_text(errors="replace").splitlines() if kernel_log.exists() else []
        said = [line.strip() for line in lines if line.strip() and "IPKernelApp" not in line][-3:]
        why = "the kernel died, usually for want of memory (`course doctor` shows how much is free)"
        return _plain("; ".join([why, *said]))
    return _plain(f"{type(error).__name__}: {error}")


def execute(
    notebook: Any,
    name: str,
    folder: Path,
    space: Path,
    tier: str = "bundled",
    limit: float = SECONDS_PER_NOTEBOOK,
    on_cell: Callable[[int], None] | None = None,
) -> Result:
    """Runs every code cell of `notebook` (an nbformat node, filled in place) in a kernel started in `folder`.

    `space` is the scratch folder of the run, `limit` the seconds the whole notebook may take, `on_cell` is
    told the number of each code cell as it starts. Failures are in the result and never raised; Ctrl-C is
    passed on after the kernel and its children have been stopped.
    """
    from nbclient import NotebookClient

    mark = uuid.uuid4().hex
    own = space / mark[:8]
    environment = kernel_environment(own, tier, mark)
    # The font cache takes Matplotlib seconds to build, so the kernels of one run share it.
    environment["MPLCONFIGDIR"] = str(space / "matplotlib")
    manager, kernel_log = _kernel_manager(own), own / "kernel.log"
    at = {"cell": 0, "source": ""}

    def started(cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code" and cell.source.strip():
            at.update(cell=at["cell"] + 1, source=cell.source)
            if on_cell:
                on_cell(at["cell"])

    client = NotebookClient(
        notebook,
        km=manager,
        timeout=None,
        startup_timeout=120,
        iopub_timeout=30,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        on_cell_start=started,
        resources={"metadata": {"path": str(folder)}},
        log=_log,
    )
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with kernel_log.open("wb") as log:
                run = client.async_execute(cleanup_kc=True, env=environment, stdout=log, stderr=log)
                asyncio.run(run)
        except BaseException as error:  # handed to the main thread, which turns it into a Failure
            errors.append(error)

    watch, start, timed_out = _Watch(mark), time.monotonic(), False
    worker = threading.Thread(target=work, name=f"run {name}", daemon=True)
    try:
        worker.start()
        while worker.is_alive():
            watch.sample(getattr(manager.provisioner, "pid", None))
            if not timed_out and time.monotonic() - start > limit:
                timed_out = True
                watch.stop(grace=0)  # nbclient then notices that its kernel is dead
            worker.join(SAMPLE_EVERY)
    except BaseException:
        watch.stop(grace=0)
        worker.join(10)
        raise
    seconds = time.monotonic() - start
    left = watch.stop()
    failure = None
    if timed_out:
        cause = f"took longer than the limit of {limit:g} s for a notebook"
        failure = Failure(at["cell"], first_line(at["source"]), cause)
    elif errors:
        failure = Failure(at["cell"], first_line(at["source"]), _cause(errors[0], kernel_log))
    shutil.rmtree(own, ignore_errors=True)
    return Result(name, tier, at["cell"], seconds, watch.peak, failure, None, [] if timed_out else left)


def code_cells(notebook: Any) -> int:
    """How many cells of `notebook` will be executed."""
    return sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)


def to_html(notebook: Any, title: str) -> str:
    """The executed notebook as one HTML page: pictures and formulas are inside, no script and no network is needed."""
    from nbconvert import HTMLExporter

    page = copy.deepcopy(notebook)
    for cell in page.cells:
        if cell.cell_type == "markdown":
            cell.source = draw_formulas(cell.source)
    exporter = HTMLExporter(embed_images=True, require_js_url="", jquery_url="", widget_renderer_url="")
    text = exporter.from_notebook_node(page, {"metadata": {"name": title}})[0]
    # The template's scripts fetch what draws formulas and diagrams; no formula is left to draw.
    return re.sub(r"(?s)<script\b.*?</script>", "", text)


def check_tier(tier: str) -> None:
    """Raises ValueError for a tier that doesn't exist."""
    if tier not in TIERS:
        raise ValueError(f"unknown tier {tier!r}; choose from {', '.join(TIERS)}")


def output_folder(out: Path | None) -> Path:
    """`out`, or build/run of the checkout, or of the user's cache where the checkout is read-only.

    Raises ValueError if `out` was asked for and can't be written.
    """
    if out is not None:
        if not writable(out):
            raise ValueError(f"can't write into {out}; choose another folder with --out")
        return out
    return BUILD / "run" if writable(BUILD / "run") else cache_dir() / "run"


def run(
    paths: list[Path],
    tier: str = "bundled",
    out: Path | None = None,
    limit: float = SECONDS_PER_NOTEBOOK,
    console: Any = None,
) -> list[Result]:
    """Runs the notebooks `paths` one after the other, with a progress bar, HTML pages and results.json.

    A notebook that fails doesn't keep the others from running; look at `Result.failure`.
    """
    from rich.console import Console

    check_tier(tier)
    console = console or Console()
    out = output_folder(out)
    results: list[Result] = []
    with scratch() as space, _progress(console) as progress:
        for path in paths:
            result = _run_one(path, tier, out, limit, space, progress)
            results.append(result)
            progress.console.print(_line(result), highlight=False, soft_wrap=True)
    (out / "results.json").write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    return results


def _run_one(path: Path, tier: str, out: Path, limit: float, space: Path, progress: Any) -> Result:
    """Reads, executes and renders one notebook; a notebook that can't be read is a failure like others."""
    try:
        notebook = read(path)
    except Exception as error:  # broken JSON, an unknown format, no permission: all named in the result
        return Result(path.stem, tier, failure=Failure(0, "", _plain(f"{type(error).__name__}: {error}")))
    task = progress.add_task(path.stem, total=code_cells(notebook))

    def moved(cell: int) -> None:
        progress.update(task, completed=cell - 1)

    result = execute(notebook, path.stem, path.resolve().parent, space, tier, limit, moved)
    progress.update(task, completed=result.cells)
    page = out / f"{path.stem}.html"
    page.write_text(to_html(notebook, path.stem), encoding="utf-8")
    result.html = str(page)
    return result


def _progress(console: Any) -> Any:
    """A progress bar on a terminal; nothing where the output is a file, or where COURSE_QUIET is set."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    quiet = bool(os.environ.get("COURSE_QUIET")) or not console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=quiet)


def _line(result: Result) -> str:
    """One line about a notebook that has just ended."""
    if result.failure is None:
        return f"{result.notebook}: {result.cells} cells in {result.seconds:.1f} s"
    return describe(result)


def describe(result: Result) -> str:
    """A failure in words: notebook, cell, its first line, cause."""
    failure = result.failure
    assert failure is not None
    where = f"cell [{failure.cell}] `{failure.first_line}`" if failure.cell else "before the first cell"
    return f"{result.notebook} failed in {where}: {failure.cause}".replace("[", r"\[")


def table(results: list[Result]) -> Any:
    """The results as a rich table: notebook, cells, wall time, peak memory, tier, and how it ended."""
    from rich.table import Table

    view = Table(title="Notebooks")
    view.add_column("notebook", no_wrap=True)
    for heading in ("cells", "wall time", "peak memory"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("tier")
    view.add_column("result")
    for r in results:
        end = "passed" if r.failure is None else f"failed in cell \\[{r.failure.cell}]"
        end += f", left {len(r.left_running)} process(es), now stopped" if r.left_running else ""
        size = f"{r.peak_bytes / 2**30:.2f} GiB"
        view.add_row(r.notebook, str(r.cells), f"{r.seconds:.1f} s", size, r.tier, end)
    return view
