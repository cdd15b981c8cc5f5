"""The runner says what failed and why, measures, and leaves no process, port or file behind."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from rich.console import Console

from course_utils.workshop import cell_outputs, runner

MIB = 2**20


def write(folder: Path, name: str, *cells: str) -> Path:
    """A notebook with these code cells, after a title."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [nbformat.v4.new_markdown_cell("# A title"), *map(nbformat.v4.new_code_cell, cells)]
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def run(path: Path, out: Path, **options) -> runner.Result:
    (result,) = runner.run([path], out=out, console=Console(quiet=True), **options)
    return result


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process `pid` has ended, or ends within some seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_all_run_although_one_fails_and_the_failure_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = tmp_path / "a folder with spaces"
    bad = write(folder, "9.1_bad", "a = 1", "# a comment\nb = a / 0\nprint(b)", "print('never')")
    good = write(folder, "9.2_good", "print('hel' + 'lo')", "import os; os.path.basename(os.getcwd())")
    first, second = runner.run([bad, good], out=tmp_path / "out", console=Console(quiet=True))
    assert first.failure == runner.Failure(2, "# a comment", "ZeroDivisionError: division by zero")
    words = runner.describe(first)
    assert all(part in words for part in ("9.1_bad", "[2]", "# a comment", "ZeroDivisionError"))
    assert (second.failure, second.cells, second.tier, second.left_running) == (None, 2, "bundled", [])
    assert 0 < second.seconds < 60 and second.peak_bytes > 20 * MIB
    page = Path(second.html).read_text()
    assert "hello" in page and "a folder with spaces" in page
    assert "ZeroDivisionError" in Path(first.html).read_text()
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [r["notebook"] for r in saved] == ["9.1_bad", "9.2_good"] and saved[0]["failure"]["cell"] == 2
    assert list((tmp_path / "temporary").iterdir()) == []


def test_memory_counts_the_kernel_and_its_children(tmp_path: Path) -> None:
    child = "import time; data = bytearray(200 << 20); time.sleep(1.5)"
    cells = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    result = run(write(tmp_path, "9.3_memory", "own = bytearray(150 << 20)", cells), tmp_path / "out")
    assert result.failure is None
    assert 350 * MIB < result.peak_bytes < 900 * MIB


# A process that has cut all ties: parent, session and environment.
HERMIT = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print(os.getpid(), file=open(PIDS, "a"), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere such a process is nobody's")
def test_a_process_that_has_cut_all_ties_is_stopped(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    before = set(psutil.Process().children())  # other tests of this worker may have left a child unread
    code = HERMIT.replace("PIDS", repr(str(pids)))
    start = "import subprocess as s, sys, time\n"
    start += f"s.run([sys.executable, '-S', '-E', '-c', {code!r}], env={{}}, stdout=s.DEVNULL); time.sleep(0.5)"
    result = run(write(tmp_path, "9.4_hermit", start), tmp_path / "out")
    assert result.failure is None and len(result.left_running) == 1
    assert gone(int(pids.read_text()))
    ours = set(psutil.Process().children()) - before
    assert not any(child.status() == psutil.STATUS_ZOMBIE for child in ours)


def test_children_left_behind_are_stopped_and_reported(tmp_path: Path) -> None:
    """One child in a session of its own, and one whose parent is gone."""
    pids = tmp_path / "pids"
    start = "import subprocess as s, sys; p = s.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
    start += f"start_new_session=True, stdout=s.DEVNULL); print(p.pid, file=open({str(pids)!r}, 'a'))"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {start!r}], check=True)"
    result = run(write(tmp_path, "9.4_child", start, parent), tmp_path / "out")
    assert result.failure is None and len(result.left_running) == 2
    left = [int(pid) for pid in pids.read_text().split()]
    assert len(left) == 2 and all(gone(pid) for pid in left)


def test_a_notebook_over_its_time_limit_is_stopped(tmp_path: Path) -> None:
    start = time.monotonic()
    result = run(write(tmp_path, "9.5_slow", "1", "import time\ntime.sleep(300)"), tmp_path / "out", limit=4)
    assert time.monotonic() - start < 60
    assert result.failure.cell == 2 and "limit of 4 s" in result.failure.cause


def test_a_line_without_end_is_cut_and_brackets_are_no_markup(tmp_path: Path) -> None:
    """nbclient's own way of joining streams takes an hour for such a line, and holds the interpreter meanwhile."""
    path = write(tmp_path, "9.6_[b]line", "print('x' * 3_000_000)", "raise ValueError('[/x] [red] :smile:')")
    screen = Console(file=io.StringIO(), width=200)
    start = time.monotonic()
    (result,) = runner.run([path], out=tmp_path / "out", console=screen)
    screen.print(runner.table([result]))
    assert time.monotonic() - start < 60
    assert "9.6_[b]line failed in cell [2]" in screen.file.getvalue()
    assert "ValueError: [/x] [red] :smile:" in screen.file.getvalue()
    page = Path(result.html).read_text()
    assert "x" * 100_000 in page and "The rest of this cell" in page and len(page) < 2_500_000


def test_the_limit_holds_while_a_line_never_ends(tmp_path: Path) -> None:
    endless = "while True:\n    print('x' * 100_000, end='', flush=True)"
    start = time.monotonic()
    result = run(write(tmp_path, "9.6_endless", endless), tmp_path / "out", limit=4)
    assert time.monotonic() - start < 60
    assert result.failure.cell == 1 and "limit of 4 s" in result.failure.cause
    assert Path(result.html).stat().st_size < 3_000_000


def test_streams_are_joined_as_a_terminal_shows_them() -> None:
    def stream(name: str, text: str):
        return nbformat.v4.new_output("stream", name=name, text=text)

    picture = nbformat.v4.new_output("display_data", data={"text/plain": "picture"})
    cell = nbformat.v4.new_code_cell("1")
    cell.outputs = [stream("stderr", "oh"), stream("stdout", "1 %\r"), picture, stream("stdout", "99 %\rdone\nend\r\n")]
    cell_outputs.join(cell)
    assert [output.get("text") for output in cell.outputs] == ["done\nend\r\n", "oh", None]
    million = "y" * 10**6
    assert cell_outputs.overwritten(f"{million}\r{million}\r\n") == f"{million}\r\n"


def test_a_page_and_results_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    (tmp_path / "out" / "9.6_page.html").mkdir(parents=True)
    (tmp_path / "out" / "results.json").mkdir()
    screen = Console(file=io.StringIO(), width=200)
    (result,) = runner.run([write(tmp_path, "9.6_page", "1")], out=tmp_path / "out", console=screen)
    assert result.cells == 1 and "its page could not be written" in result.failure.cause
    assert "failed after the last cell" in runner.describe(result)
    assert f"{tmp_path / 'out' / 'results.json'} could not be written" in screen.file.getvalue()


def test_without_room_every_notebook_has_a_result(tmp_path: Path, monkeypatch) -> None:
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    paths = [write(tmp_path, name, "1") for name in ("9.6_one", "9.6_two")]
    results = runner.run(paths, out=tmp_path / "out", console=Console(quiet=True))
    assert all("the disk is full; free some room" in result.failure.cause for result in results)
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_too_few_files_are_said_before_the_kernel_starts(tmp_path: Path) -> None:
    code = "import resource, sys; from pathlib import Path; from course_utils.workshop import runner\n"
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
    code += "(result,) = runner.run([Path(sys.argv[1])], out=Path(sys.argv[2])); print(result.failure.cause)"
    command = [sys.executable, "-c", code, str(write(tmp_path, "9.6_few", "1")), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "too few files may be open at once; raise the limit" in done.stdout and done.stderr == ""


def test_a_kernel_that_dies_is_a_failure_with_a_cure(tmp_path: Path) -> None:
    dies = "import os, sys\nos.write(2, b'last words\\n')\nos._exit(3)"
    result = run(write(tmp_path, "9.6_dies", dies), tmp_path / "out")
    assert result.failure.cell == 1
    assert "kernel died" in result.failure.cause and "course doctor" in result.failure.cause


def test_a_broken_file_is_a_failure_of_that_notebook(tmp_path: Path) -> None:
    path = tmp_path / "9.7_broken.ipynb"
    path.write_text("{ this is not JSON")
    result = run(path, tmp_path / "out")
    assert result.failure.cell == 0 and "before the first cell" in runner.describe(result)


def test_kernels_are_offline_and_write_only_into_scratch(tmp_path: Path) -> None:
    env = runner.kernel_environment(tmp_path, "bundled", "mark")
    assert (env["COURSE_TIER"], env["COURSE_OFFLINE"], env["COURSE_QUIET"]) == ("bundled", "1", "1")
    for name in ("TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR", "JUPYTER_RUNTIME_DIR", "HF_HOME"):
        assert Path(env[name]).is_dir() and Path(env[name]).is_relative_to(tmp_path)
    assert "COURSE_OFFLINE" not in runner.kernel_environment(tmp_path, "small", "mark")


def test_it_runs_without_a_writable_home(tmp_path: Path) -> None:
    path = write(tmp_path, "9.8_home", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    code = "import sys; from pathlib import Path; from course_utils.workshop import runner\n"
    code += "r, = runner.run([Path(sys.argv[1])], out=Path(sys.argv[2])); sys.exit(r.failure is not None)"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG", "IPYTHON", "HF_"))}
    env["HOME"] = "/dev/null/nobody"
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "out")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9.8_home: 1 cells" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_stops_the_kernels_and_removes_the_scratch_folder(tmp_path: Path, jobs: int) -> None:
    pids = [tmp_path / f"pid{number}" for number in range(jobs)]
    paths = [write(tmp_path, "9.8_quick", "print('done')")]
    for pid in pids:
        cell = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)"
        paths.append(write(tmp_path, f"9.9_long_{pid.name}", cell))
    code = "import signal, sys; from pathlib import Path; from course_utils.workshop import runner\n"
    # A shell that starts the tests in the background makes its children deaf to Ctrl-C.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"runner.run([Path(path) for path in sys.argv[2:]], out=Path(sys.argv[1]), jobs={jobs})"
    (tmp_path / "temporary").mkdir()
    env = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", code, str(tmp_path / "out"), *map(str, paths)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 240  # two kernels start, on a busy machine
        while not all(pid.exists() and pid.read_text() for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0 and b"KeyboardInterrupt" in said
    assert all(gone(int(pid.read_text())) for pid in pids)
    assert list((tmp_path / "temporary").iterdir()) == []
    (kept,) = json.loads((tmp_path / "out" / "results.json").read_text())  # what was done before is not lost
    assert (kept["notebook"], kept["cells"], kept["failure"]) == ("9.8_quick", 1, None)


def test_units_are_found_by_number_name_and_path(tmp_path: Path) -> None:
    one, two = write(tmp_path, "7.1_one", "1"), write(tmp_path, "7.2_two", "1")
    text = tmp_path / "text"
    (text / "labs").mkdir(parents=True)
    (text / "7.3_three.py").write_text("# %%\n1\n")
    (text / "7.1_one.py").write_text("# %%\n1\n")
    assert runner.resolve(["7.2", "7.1_one"], tmp_path) == [two, one]
    assert runner.resolve(["7.2_two.ipynb"], tmp_path) == [two]
    assert runner.resolve([str(two)], tmp_path) == [two.resolve()]
    assert runner.resolve([], tmp_path) == [one, two, text / "7.3_three.py"]
    (lab := text / "labs" / "7.1_lab_four.py").touch()
    assert runner.resolve([], tmp_path) == [one, two, text / "7.3_three.py"]
    assert runner.resolve(["7.1"], tmp_path) == [one]
    assert runner.resolve(["7.1_lab"], tmp_path) == runner.resolve(["labs"], tmp_path) == [lab]
    assert runner.resolve(["7.1_lab_four"], tmp_path) == [lab]
    with pytest.raises(ValueError, match="no notebook for '8.8'; there are: 7.1_lab_four, 7.1_one"):
        runner.resolve(["8.8"], tmp_path)


def test_bad_tier_and_unwritable_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from bundled, small, full"):
        runner.run([], tier="huge", out=tmp_path)
    with pytest.raises(ValueError, match="choose another folder"):
        runner.run([], out=Path("/dev/null/out"))


def test_the_table_names_everything(tmp_path: Path) -> None:
    failure = runner.Failure(3, "x = 1", "NameError: x")
    results = [
        runner.Result("7.1_one", "bundled", 12, 34.5, 700 * MIB),
        runner.Result("7.2_two", "small", 3, 1.0, 2048 * MIB, failure),
    ]
    console = Console(width=120, file=io.StringIO())
    console.print(runner.table(results))
    text = console.file.getvalue()
    for part in (
        "7.1_one",
        "12",
        "34.5 s",
        "0.68 GiB",
        "bundled",
        "passed",
        "2.00 GiB",
        "failed in cell [3]",
    ):
        assert part in text
