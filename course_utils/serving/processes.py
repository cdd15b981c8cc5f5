"""Processes and folders of servers: whose they are, and ending what nobody needs any more."""

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from course_utils.serving.settings import FOLDERS, OWNER

PATIENCE = 3.0  # seconds in which a process may end by itself
SAME = 5.0  # seconds by which two readings of a process's start may differ when the clock was set
UNKNOWN = 3600.0  # seconds after which a folder without a note of its owner is nobody's


def find(pid: int, born: float) -> psutil.Process | None:
    """The process `pid`, if it is still the one that started at `born`."""
    try:
        process = psutil.Process(pid)
        apart = abs(process.create_time() - born)
    except psutil.Error:
        return None
    return process if apart < SAME and is_alive(process) else None


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs. One that ended and was not collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(processes: set[psutil.Process], patience: float = PATIENCE) -> None:
    """End processes: ask first, and make them after `patience` seconds."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=patience)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=patience)


def family_of(process: psutil.Process) -> set[psutil.Process]:
    """A process and all that it started, as far as it runs."""
    try:
        return {process, *process.children(recursive=True)}
    except psutil.Error:
        return {process}


def write_owner(folder: Path, notebook: psutil.Process, engine: psutil.Process) -> None:
    """Note whose server this is. A reader finds all of the note or none of it."""
    note = {"notebook": _mark(notebook), "engine": _mark(engine)}
    draft = folder / (OWNER + ".part")
    draft.write_text(json.dumps(note), encoding="utf-8")
    draft.replace(folder / OWNER)


def _mark(process: psutil.Process) -> list:
    return [process.pid, process.create_time()]


def read_owner(folder: Path) -> tuple[psutil.Process | None, psutil.Process | None]:
    """The notebook and the server that a folder belongs to, None for one that has ended.

    FileNotFoundError if nothing is noted yet, ValueError for a note that cannot be read.
    """
    note = json.loads((folder / OWNER).read_text("utf-8"))
    try:
        return find(*note["notebook"]), find(*note["engine"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no note of its owner") from error


def end_engine(folder: Path) -> None:
    """End the server that a folder belongs to, if its keeper was killed and left it running."""
    with suppress(OSError, ValueError):
        _, engine = read_owner(folder)
        if engine is not None:
            end(family_of(engine))


def sweep(place: Path | None = None) -> int:
    """Remove folders of servers whose notebook is gone, and end such a server; how many there were.

    They are left when this keeper is killed, too, or the machine stops. Other users' folders are not touched.
    """
    place = place or Path(tempfile.gettempdir())
    swept = 0
    for folder in place.glob(FOLDERS + "*"):
        if is_ours(folder) and is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)
            swept += 1
    return swept


def is_ours(folder: Path) -> bool:
    """Whether this is a real folder of this user: what another one wrote there is not believed."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    if not hasattr(os, "getuid"):  # Windows, where each user has a temporary folder
        return True
    return folder.lstat().st_uid == os.getuid()


def is_left(folder: Path) -> bool:
    """Whether nobody needs a server's folder any more. Ends the server if it still runs."""
    try:
        notebook, _ = read_owner(folder)
    except FileNotFoundError:  # perhaps a server that is just being started
        age = time.time() - folder.stat().st_mtime
        return age > UNKNOWN
    except (OSError, ValueError):
        return True
    if notebook is not None:
        return False
    end_engine(folder)
    return True
