"""Executes notebooks, measures them, and leaves nothing behind.

Every notebook gets a fresh kernel of *this* interpreter (no installed kernel spec is used), a throw-away
folder for everything that Jupyter, IPython, Matplotlib and the Hub want to write, and a time limit. nbclient
works in a thread; the main thread samples memory, watches the clock and receives Ctrl-C, so that whatever
happens the kernel and all of its descendants are stopped here.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.models import hardware
from course_utils.models.catalogue import TIERS
from course_utils.settings import BUILD, cache_dir, home, use_writable_caches, writable
from course_utils.workshop import cell_outputs, processes
from course_utils.workshop.tex import draw_formulas

SECONDS_PER_NOTEBOOK = 1800
FILES_NEEDED = 100  # open at once: libzmq ends the whole program when it gets no file handle
SAMPLE_EVERY = 0.1  # seconds between two looks at the memory
RESULTS = "results.json"
LAB = "_lab_"  # in the name of a notebook that is not part of the core

_log = logging.getLogger("course_utils.workshop.runner")
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


def resolve(units: list[str], folder: Path | None = None) -> list[Path]:
    """The notebooks meant by `units` ("7.1", a notebook's name, or a path); all but the labs for none.

    Labs run when they are asked for: "7.1_lab" means all labs of a unit, "labs" all there are. An .ipynb is
    preferred over the text source of the same name. Raises ValueError for an unknown unit.
    """
    patterns = ("text/*.py", "text/labs/*.py", "*.ipynb", "labs/*.ipynb")
    place = folder or settings.NOTEBOOKS
    known: dict[str, Path] = {}
    for pattern in patterns:
        known |= {path.stem: path for path in sorted(place.glob(pattern))}
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
    if tier == "bundled" or not writable(hardware.hub_home()):
        places["HF_HOME"] = "huggingface"
    if home() is None:
        places["HOME"] = "home"
    environment = dict(os.environ)
    for name, place in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        environment[name] = str(folder / place)
    environment |= {"TEMP": environment["TMPDIR"], "TMP": environment["TMPDIR"], processes.MARK: mark}
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


def client(notebook: Any, folder: Path, own: Path, on_cell_start: Callable | None = None) -> cell_outputs.Client:
    """What executes `notebook` in a kernel of this interpreter, started in `folder`; it keeps its files in `own`."""
    return cell_outputs.Client(
        notebook,
        km=_kernel_manager(own),
        timeout=None,
        startup_timeout=120,
        iopub_timeout=30,
        record_timing=False,
        coalesce_streams=False,
        store_widget_state=False,
        on_cell_start=on_cell_start,
        resources={"metadata": {"path": str(folder)}},
        log=_log,
    )


def first_line(source: str) -> str:
    """The first line of a cell that isn't blank, to recognise the cell by."""
    return next((_plain(line, 120) for line in source.splitlines() if line.strip()), "")


def _plain(text: str, limit: int = 400) -> str:
    """`text` without terminal colours, cut after `limit` characters."""
    text = text.strip()[: 10 * limit]  # colours take room, too
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return text if len(text) <= limit else text[:limit] + " ..."


def in_words(error: BaseException) -> str:
    """What is wrong, in a sentence that says what to do where that is known."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some room, choose another folder with --out, or another TMPDIR"
    if number in (errno.EMFILE, errno.ENFILE):
        return "too few files may be open at once; raise the limit (`ulimit -n 4096`) or close other programs"
    return _plain(f"{type(error).__name__}: {error}")


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
    return in_words(error)


def execute(
    notebook: Any,
    name: str,
    folder: Path,
    space: Path,
    *,
    tier: str = "bundled",
    limit: float = SECONDS_PER_NOTEBOOK,
    on_cell: Callable[[int], None] | None = None,
) -> Result:
    """Runs every code cell of `notebook` (an nbformat node, filled in place) in a kernel started in `folder`.

    `space` is the scratch folder of the run, `limit` the seconds the whole notebook may take, `on_cell` is
    told the number of each code cell as it starts. Failures are in the result and never raised; Ctrl-C is
    passed on after the kernel and its children have been stopped.
    """
    mark = uuid.uuid4().hex
    own = space / mark[:8]
    result = Result(name, tier)
    try:
        environment = kernel_environment(own, tier, mark)
        # The font cache takes Matplotlib seconds to build, so the kernels of one run share it.
        environment["MPLCONFIGDIR"] = str(space / "matplotlib")
        with processes.adopting():
            _execute(_Work(notebook, folder, own, environment, on_cell), processes.Family(mark), limit, result)
    except Exception as error:  # no room for its folders, no file handle or thread left
        result.failure = Failure(0, "", in_words(error))
    finally:
        for cell in notebook.cells:
            cell_outputs.join(cell)
        shutil.rmtree(own, ignore_errors=True)
    return result


def _execute(work: _Work, family: processes.Family, limit: float, result: Result) -> None:
    """Starts `work`, watches it until it ends or `limit` seconds are over, and fills `result`."""
    start = time.monotonic()
    timed_out = False
    try:
        work.start()
        while work.is_alive() and not timed_out:
            family.sample(work.kernel_pid())
            work.join(SAMPLE_EVERY)
            timed_out = time.monotonic() - start > limit
    finally:
        # Also after Ctrl-C; a second one may not come between the kernel and its end.
        with deaf_to_interrupts():
            left = family.stop(grace=0 if work.is_alive() else 2)
            work.end()
            left += family.stop(grace=0)  # a kernel that was just being started
    result.cells = work.cell
    result.seconds = time.monotonic() - start
    result.peak_bytes = family.peak
    if timed_out:
        cause = f"took longer than the limit of {limit:g} s for a notebook"
        result.failure = Failure(work.cell, first_line(work.source), cause)
        return
    result.left_running = left
    if work.error:
        result.failure = Failure(work.cell, first_line(work.source), _cause(work.error, work.kernel_log))


class _Work(threading.Thread):
    """nbclient at work in a thread of its own, so that the main thread can watch the clock and hear Ctrl-C."""

    def __init__(
        self, notebook: Any, folder: Path, own: Path, environment: dict[str, str], on_cell: Callable | None
    ) -> None:
        super().__init__(name="notebook", daemon=True)
        self.kernel_log = own / "kernel.log"
        self.cell, self.source = 0, ""  # the cell that runs: its number, from 1
        self.error: BaseException | None = None
        self._environment = environment
        self._on_cell = on_cell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task | None = None
        self._client = client(notebook, folder, own, self._cell_begins)
        self._manager = self._client.km

    def kernel_pid(self) -> int | None:
        """The number of the kernel's process; None before it has started."""
        return getattr(self._manager.provisioner, "pid", None)

    def run(self) -> None:
        """What the thread does; the main thread turns `error` into a Failure."""
        try:
            asyncio.run(self._execute())
        except BaseException as error:
            self.error = error

    async def _execute(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        with self.kernel_log.open("wb") as log:
            await self._client.async_execute(cleanup_kc=True, env=self._environment, stdout=log, stderr=log)

    def _cell_begins(self, cell: Any, cell_index: int) -> None:
        if cell.cell_type == "code" and cell.source.strip():
            self.cell += 1
            self.source = cell.source
            if self._on_cell:
                self._on_cell(self.cell)

    def end(self) -> None:
        """Waits for the thread, whose kernel is dead; takes its work away if it does not notice in time."""
        if self.ident:
            self.join(10)
        if self.is_alive() and self._loop and self._task:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._task.cancel)
            self.join(5)
        # nbclient would look for the kernel once more when Python ends, and fail if it never started.
        atexit.unregister(self._client._cleanup_kernel)


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C does nothing for the few seconds that cleaning up takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _probe_files() -> None:
    """Raises OSError where fewer than FILES_NEEDED more files can be opened."""
    with contextlib.ExitStack() as stack:
        for _ in range(FILES_NEEDED):
            stack.enter_context(open(os.devnull, "rb"))


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
    jobs: int = 1,
) -> list[Result]:
    """Runs the notebooks `paths`, with a progress bar, HTML pages and results.json; results in the order of `paths`.

    A notebook that fails doesn't keep the others from running; look at `Result.failure`. results.json is
    written after each of them, so that a run that is interrupted leaves the results it had. `jobs` notebooks run at
    once, but those that measure time alone (`together.MEASURE_TIME`).
    """
    from rich.console import Console
    from rich.text import Text

    check_tier(tier)
    use_writable_caches()  # nbconvert looks for the home folder
    console = console or Console()
    out = output_folder(out)
    names = [path.stem for path in paths]
    results: list[Result] = []
    unsaved = _save(results, out)  # those of an earlier run go first
    try:
        with contextlib.ExitStack() as stack:
            space, progress = stack.enter_context(_room()), stack.enter_context(_progress(console))
            coming = _results(paths, jobs, (tier, out, limit, space), progress)
            stack.callback(coming.close)  # first of all: what runs must have ended before its scratch folder goes
            for result in coming:
                results.append(result)
                results.sort(key=lambda one: names.index(one.notebook))
                unsaved = _save(results, out)
                progress.console.print(Text(_line(result)), soft_wrap=True)
    except KeyboardInterrupt:
        console.print(Text(f"Stopped. The results until then are in {out / RESULTS}."), soft_wrap=True)
        raise
    if unsaved:
        console.print(Text(f"{out / RESULTS} could not be written: {unsaved}"), soft_wrap=True)
    return results


def _results(paths: list[Path], jobs: int, place: tuple, progress: Any) -> Iterator[Result]:
    """The result of each notebook as it comes; `place` is what `run_one` takes between the path and `told`."""
    if jobs == 1 or isinstance(place[-1], OSError):
        for path in paths:
            yield run_one(path, *place, _bar(progress, path.stem))
        return
    from course_utils.workshop import together

    for part, number in together.rounds(paths, jobs):
        yield from together.run(part, number, place, lambda path: _bar(progress, path.stem))


def _bar(progress: Any, name: str) -> Callable[[int, int], None]:
    """Moves the bar of a notebook, which appears with its first cell."""
    task = None

    def told(begun: int, cells: int) -> None:
        nonlocal task
        if task is None:
            task = progress.add_task(name, total=cells)
        progress.update(task, completed=begun)

    return told


@contextlib.contextmanager
def _room() -> Iterator[Path | OSError]:
    """The scratch folder of a run, or why there is none: then each notebook's result says so."""
    with contextlib.ExitStack() as stack:
        try:
            space: Path | OSError = stack.enter_context(scratch())
        except OSError as error:
            space = error
        yield space


def _save(results: list[Result], out: Path) -> str:
    """Writes results.json in one step; returns why that failed, "" if it did not."""
    content = json.dumps([asdict(result) for result in results], indent=1, allow_nan=False)
    draft = out / f".{RESULTS}.new"
    try:
        draft.write_text(content + "\n", encoding="utf-8")
        draft.replace(out / RESULTS)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        return in_words(error)
    return ""


def run_one(
    path: Path, tier: str, out: Path, limit: float, space: Path | OSError, told: Callable[[int, int], None]
) -> Result:
    """Reads, executes and renders one notebook; a notebook that can't be read is a failure like others.

    `told(n, cells)` hears that `n` of so many cells are done.
    """
    try:
        if isinstance(space, OSError):
            raise space
        _probe_files()
        notebook = read(path)
    except Exception as error:  # broken JSON, an unknown format, no permission: all named in the result
        return Result(path.stem, tier, failure=Failure(0, "", in_words(error)))
    cells = code_cells(notebook)

    def moved(cell: int) -> None:
        told(cell - 1, cells)

    told(0, cells)
    result = execute(notebook, path.stem, path.resolve().parent, space, tier=tier, limit=limit, on_cell=moved)
    told(result.cells, cells)
    page = out / f"{path.stem}.html"
    try:
        page.write_text(to_html(notebook, path.stem), encoding="utf-8")
        result.html = str(page)
    except Exception as error:  # a full disk, an output that nbconvert can't show: the result stands without a page
        with contextlib.suppress(OSError):
            page.unlink()
        cause = f"its page could not be written: {in_words(error)}"
        result.failure = result.failure or Failure(0, "", cause)
    return result


def _progress(console: Any) -> Any:
    """A progress bar on a terminal; nothing where the output is a file, or where COURSE_QUIET is set."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    quiet = bool(os.environ.get("COURSE_QUIET")) or not console.is_terminal
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=quiet)


def _line(result: Result) -> str:
    """One line about a notebook that has just ended."""
    if result.failure is None:
        return f"{result.notebook}: {result.cells} cells in {result.seconds:.1f} s"
    return describe(result)


def describe(result: Result) -> str:
    """A failure in words: notebook, cell, its first line, cause. Plain text, no markup."""
    failure = result.failure
    assert failure is not None
    if failure.cell:
        where = f"in cell [{failure.cell}] `{failure.first_line}`"
    else:
        where = "after the last cell" if result.cells else "before the first cell"
    return f"{result.notebook} failed {where}: {failure.cause}"


def table(results: list[Result]) -> Any:
    """The results as a rich table: notebook, cells, wall time, peak memory, tier, and how it ended."""
    from rich.table import Table
    from rich.text import Text

    view = Table(title="Notebooks")
    view.add_column("notebook", no_wrap=True)
    for heading in ("cells", "wall time", "peak memory"):
        view.add_column(heading, justify="right", no_wrap=True)
    view.add_column("tier")
    view.add_column("result")
    for result in results:
        size = f"{result.peak_bytes / 2**30:.2f} GiB"
        row = (result.notebook, str(result.cells), f"{result.seconds:.1f} s", size, result.tier, _end(result))
        view.add_row(*map(Text, row))  # a name with brackets is no markup
    return view


def _end(result: Result) -> str:
    """How a notebook ended, in a few words."""
    end = "passed"
    if result.failure:
        end = f"failed in cell [{result.failure.cell}]" if result.failure.cell else "failed"
    if result.left_running:
        end += f", left {len(result.left_running)} process(es), now stopped"
    return end
