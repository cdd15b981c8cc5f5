"""The process between a notebook and its server: it ends the server, and removes its folder, when the notebook is gone.

    python -m course_utils.serving.keeper FOLDER PID BORN PROGRAM [ARGUMENT ...]

PID and BORN (seconds since 1970) say which process to watch. A pipe would not do: a worker that the notebook forked
holds it open, and programs like llama-server do not look at theirs.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from course_utils.serving.processes import end, family_of, find, is_alive, write_owner

LOOK = 0.5  # seconds between two looks at the notebook


def keep(folder: Path, pid: int, born: float, line: list[str], told: Callable[[], bool]) -> int:
    """Run the program `line` until it ends, process `pid` has, or `told` says so. Its exit status.

    If it ends by itself while the notebook runs, its folder stays: the notebook reads there why.
    """
    notebook = find(pid, born)
    if notebook is None:
        shutil.rmtree(folder, ignore_errors=True)
        return 1
    server = subprocess.Popen(line, stdin=subprocess.DEVNULL, start_new_session=True)
    family, ended = set(), False
    try:
        engine = psutil.Process(server.pid)
        write_owner(folder, notebook, engine)
        while not ended and not told() and is_alive(notebook):
            # What a child leaves behind is nobody's child any more: remember everyone who was seen.
            family |= family_of(engine)
            ended = ends_within(server, LOOK)
        family |= family_of(engine)
    finally:
        end(family)
        server.kill()
    if not ended or not is_alive(notebook):
        shutil.rmtree(folder, ignore_errors=True)
    return server.wait()


def ends_within(server: subprocess.Popen, seconds: float) -> bool:
    """Wait for the end of a program, but no longer than that; whether it has ended."""
    try:
        server.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def main(arguments: list[str]) -> int:
    """The program."""
    folder, pid, born, *line = arguments
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return keep(Path(folder), int(pid), float(born), line, lambda: bool(told))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
