"""The family of processes that a kernel starts: measured while it runs, and ended with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil

MARK = "COURSE_RUN_MARK"  # in the environment of a kernel, so that its descendants can be recognised

# prctl's numbers for "orphans below me become my children" (linux/prctl.h).
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37


class Family:
    """A kernel and all that descends from it, also what changed its parent, its session or its environment.

    Three ways lead to a process: it was seen below the kernel; it has the mark in its environment; or (Linux)
    it lost its parent, became ours by `adopting`, and was not ours before.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.peak = 0  # bytes of resident memory
        self._members: dict[int, psutil.Process] = {}
        self._before = {child.pid for child in _children()}

    def sample(self, pid: int | None) -> None:
        """Adds up the resident memory of the kernel `pid` and of every descendant that was ever seen."""
        with contextlib.suppress(psutil.Error, OSError):
            self._see(pid)
        total = 0
        for process in self._members.values():
            with contextlib.suppress(psutil.Error, OSError):
                total += process.memory_info().rss if process.is_running() else 0
        self.peak = max(self.peak, total)

    def _see(self, pid: int | None) -> None:
        """Remembers the kernel `pid` and what is below it now."""
        if pid is None:
            return
        kernel = self._members.get(pid) or psutil.Process(pid)
        self._remember(kernel)
        for process in kernel.children(recursive=True):
            self._remember(process)

    def _remember(self, process: psutil.Process) -> None:
        """A number is used again when a process has ended, so a dead member makes room."""
        known = self._members.get(process.pid)
        if known is None or not known.is_running():
            self._members[process.pid] = process

    def alive(self) -> list[psutil.Process]:
        """Every living process of the family."""
        for process in _marked(self.mark):
            self._remember(process)
        if _adopts():
            for child in _children():
                self._remember_adopted(child)
        return [process for process in self._members.values() if _lives(process)]

    def _remember_adopted(self, child: psutil.Process) -> None:
        """Remembers a child that we have not had before, and what is below it."""
        if child.pid in self._before:
            return
        self._remember(child)
        with contextlib.suppress(psutil.Error, OSError):
            for process in child.children(recursive=True):
                self._remember(process)

    def stop(self, grace: float = 2.0) -> list[str]:
        """Waits `grace` seconds, then kills what is left; returns the command lines of what it killed."""
        psutil.wait_procs(self.alive(), timeout=grace)
        killed: list[str] = []
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:  # a process may start another one while we look
            living = self.alive()
            if not living:
                break
            killed += [_kill(process) for process in living]
            psutil.wait_procs(living, timeout=3)
        self._bury()
        return killed

    def _bury(self) -> None:
        """Asks for the exit code of adopted children that have ended; else they stay in the process table."""
        for child in _children():
            if child.pid in self._before:
                continue
            with contextlib.suppress(psutil.Error, OSError):
                if child.status() == psutil.STATUS_ZOMBIE:
                    child.wait(0)


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """On Linux, orphans below this process become its children instead of init's. Elsewhere nothing happens."""
    before = _adopts()
    _set_adopting(True)
    try:
        yield
    finally:
        _set_adopting(before)


def _libc() -> Any:
    """The C library; None where there is no prctl."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    return libc if hasattr(libc, "prctl") else None


def _adopts() -> bool:
    """Whether orphans become our children."""
    libc, answer = _libc(), ctypes.c_int(0)
    if libc is None:
        return False
    failed = libc.prctl(_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return not failed and bool(answer.value)


def _set_adopting(on: bool) -> None:
    """Where the system has no such call, what lost its parent is found by its mark alone."""
    libc = _libc()
    if libc is not None:
        libc.prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)


def _children() -> list[psutil.Process]:
    """Our own children; none where the system does not say (no file handles left, say)."""
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(os.getpid()).children()
    return []


def _marked(mark: str) -> list[psutil.Process]:
    """Every process with `mark` in its environment, as far as this user may read it."""
    found = []
    with contextlib.suppress(OSError):  # no file handles left to list them
        for process in psutil.process_iter():
            # Not ours to read, gone by now, or (macOS) protected by the system: then it is none of ours.
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == mark:
                    found.append(process)
    return found


def _kill(process: psutil.Process) -> str:
    """Ends a process at once; returns the start of its command line."""
    words: list[str] = []
    with contextlib.suppress(psutil.Error, OSError):
        words = process.cmdline()
    with contextlib.suppress(psutil.Error, OSError):
        process.kill()
    return " ".join(words)[:100] or f"process {process.pid}"


def _lives(process: psutil.Process) -> bool:
    """Whether a process is still running; a zombie, which only waits to be read, is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return process.is_running()
