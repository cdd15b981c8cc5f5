"""Two notebooks at once: they run beside each other, those that measure time do not, and no child is left."""

import json
import re
from pathlib import Path

import nbformat
from rich.console import Console

from course_utils import settings
from course_utils.workshop import runner, together

# Notes when it ran. It ends when `wanted` notebooks have begun: one after the other, the first would wait in vain.
CELL = """
import json, pathlib, time
folder, wanted = pathlib.Path({folder!r}), {wanted}
began = time.time()
(folder / "{name}.began").touch()
while len(list(folder.glob("*.began"))) < wanted:
    assert time.time() - began < 100, "nobody came"
    time.sleep(0.05)
(folder / "{name}.times").write_text(json.dumps([began, time.time()]))
"""


def write(folder: Path, name: str, cell: str) -> Path:
    """A notebook with this code cell."""
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), path)
    return path


def run(paths: list[Path], out: Path) -> list[runner.Result]:
    return runner.run(paths, out=out, console=Console(quiet=True), jobs=2)


def test_two_run_at_once_and_what_measures_time_runs_alone(tmp_path: Path) -> None:
    names = ["7.4_self_hosting", "9.1_a", "9.2_b"]
    wanted = {"7.4_self_hosting": 1, "9.1_a": 2, "9.2_b": 2}
    cells = [CELL.format(folder=str(tmp_path), name=name, wanted=wanted[name]) for name in names]
    paths = [write(tmp_path, name, cell) for name, cell in zip(names, cells, strict=True)]
    results = run(paths, tmp_path / "out")
    assert [(result.notebook, result.cells, result.failure) for result in results] == [
        (name, 1, None) for name in names
    ]
    assert all(Path(result.html).is_file() and result.peak_bytes > 0 for result in results)
    saved = json.loads((tmp_path / "out" / runner.RESULTS).read_text())
    assert [row["notebook"] for row in saved] == names
    alone, *others = [json.loads((tmp_path / f"{name}.times").read_text()) for name in names]
    assert max(began for began, _ in others) < min(ended for _, ended in others)
    assert all(alone[1] < began or ended < alone[0] for began, ended in others)


def test_a_child_that_dies_is_a_failure_of_its_notebook(tmp_path: Path) -> None:
    dies = write(tmp_path, "9.1_dies", "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(1)")
    wrong = write(tmp_path, "9.2_wrong", "print('so far')\n1 / 0")
    first, second = run([dies, wrong], tmp_path / "out")
    assert "ended without a result (exit code -9)" in first.failure.cause
    assert second.failure == runner.Failure(1, "print('so far')", "ZeroDivisionError: division by zero")


def test_notebooks_that_measure_time_are_known() -> None:
    """What looks at a clock, or shows seconds that the package has measured."""
    clock = re.compile(r"perf_counter\(|process_time\(|milliseconds\(|\.seconds\b|\bSeconds\(|next_token_times\(")
    sources = {path.stem: path.read_text("utf-8") for path in settings.TEXT.rglob("*.py")}
    measuring = {name for name, source in sources.items() if clock.search(source)}
    assert measuring == together.MEASURE_TIME, "together.MEASURE_TIME must name exactly these"
