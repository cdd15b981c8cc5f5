"""Where a student's source runs when it is graded: a process of its own behind walls, for each exercise a new one.

The process that grades never runs or unpickles what a student wrote. It sends inputs, and gets back plain data
(exercises/wire.py), so what is known over there is the source, the inputs, and no answer. jailed.py is the other side.
"""

import atexit
import functools
import io
import json
import linecache
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from course_utils.exercises import diagnosis, registry, sandbox

JAILED = "course_utils.classroom.grading.jailed"
KILLED = 9  # SIGKILL, which Windows does not name
SECONDS_TO_HEAR = 5  # of what a process that was ended has left in its pipe
UNIT = f"{registry.PACKAGE}.unit_"
FORKS = sys.platform == "linux"
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP")  # of the environment; the rest is nobody's business
SETTINGS = {
    "HOME": os.devnull,
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",  # each arena takes 64 MiB of addresses, which are limited
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONSAFEPATH": "1",  # import nothing from the folder in which grading was started
    "PYTHONUTF8": "1",
    "TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir(),  # torch.optim wants it; a folder of its own can't be made
}
OPEN = {  # what a student's code can do where a wall is missing
    "files": "can read files of this user, such as other students' work and the course's solutions",
    "changes": "can make files, and empty or remove those of this user",
    "network": "can use the network",
    "programs": "can start programs and further processes, which are ended with it if they can be found",
    "signals": "can send signals to processes of this user, and so end them",
    "memory": "can take memory faster than we look (20 times a second)",
    "root": "runs as root, without the walls above root's rights",
}
ADVICE = "Run `course grade` on Linux 6.12 or newer, or in a container or virtual machine that holds nothing else."


@dataclass(frozen=True)
class Limits:
    """How much one exercise of a student may take: seconds, bytes, and numbers of threads and open files."""

    seconds: float = 5  # one call
    seconds_to_load: float = 20  # the source, before its function is called
    seconds_in_all: float = 20  # all calls
    seconds_of_submission: float = 200  # all exercises of a student
    memory: int = 2**29  # bytes more than a Python with torch has
    threads: int = 64
    files: int = 64


class Missing(diagnosis.NotAttempted):
    """The source defines no function of the name."""


class Run(sandbox.Run):
    """One exercise's source, run in `jail`; `diagnosis.Attempt` calls it with inputs."""

    def __init__(self, jail: "Jail", task: registry.Exercise, source: str, limits: Limits) -> None:
        super().__init__(task.stub)
        self.jail, self.task, self.source, self.limits = jail, task, source, limits
        self.seconds, self.seconds_in_all = limits.seconds, limits.seconds_in_all
        self.file = f"<{task.name}>"
        self.cell: Cell | None = None

    def __call__(self, inputs: tuple) -> tuple:
        reply = super().__call__(inputs)
        match reply:
            case ("raised", "MemoryError", *_):
                raise sandbox.Stopped(sandbox.too_much(self.limits.memory))
            case ("raised", *told, list(places)):
                return ("raised", *told, self.own(places))
        return reply

    def own(self, places: list) -> list:
        """The places in the student's source. A forged one could name any file, and its line would be shown."""
        return [place for place in places if isinstance(place, tuple) and place[:1] == (self.file,)]

    def worker(self) -> "Cell":
        """The process, holding the function."""
        if self.cell is None or not self.cell.alive():
            self.end()
            self.cell = self.jail.cell(self.limits)
            self.load(self.cell)
        return self.cell

    def packed(self, inputs: tuple) -> bytes:
        """Inputs as bytes, with the functions among them."""
        return packed(inputs)

    def load(self, cell: "Cell") -> None:
        """Let the process run the source. Raises Wrong, OwnSolution or Missing."""
        name, seconds = self.task.stub.__name__, self.limits.seconds_to_load
        linecache.cache[self.file] = (len(self.source), None, self.source.splitlines(keepends=True), self.file)
        try:
            reply = cell.ask(self, "load", pickle.dumps((name, self.file, self.source)), seconds)
        except TimeoutError:
            raise diagnosis.Wrong(f"Your code runs longer than {seconds} s before `{name}` can be called.") from None
        except sandbox.Stopped as stopped:
            words = f"{stopped} That was before `{name}` could be called."
            raise diagnosis.Wrong(words) from None
        match reply:
            case ("loaded", True):
                return
            case ("loaded", False):
                raise diagnosis.Wrong(f"`{name}` should be a function.")
            case ("missing",):
                raise Missing
            case ("raised", "OwnSolution", _, str(words), _, _):
                raise diagnosis.OwnSolution(words)
            case ("raised", str(kind), _, str(text), _, list(places)):
                raise diagnosis.Wrong(self.failure(f"{kind}: {text}", places))
        raise diagnosis.Wrong("Your code can't be examined: something else came in the place of an answer.")

    def failure(self, error: str, places: list) -> str:
        """What was raised before the function could be called, and where."""
        brief = error.split("\n")[0][:200].removesuffix(": ")
        words = f"Your code stopped with {brief} before `{self.task.stub.__name__}` could be called."
        match self.own(places):
            case [(_, int(number))]:
                line = linecache.getline(self.file, number).strip()
                return f"{words}\n    line {number}: {line}"
        return words

    def end(self) -> None:
        """End the process, and whatever the student's code has started in it."""
        if self.cell is not None:
            self.jail.give_back(self.cell)
        linecache.cache.pop(self.file, None)


# --- inputs as bytes -------------------------------------------------------------------------------------


@functools.cache
def _answers() -> dict[int, str]:
    """The functions that no student's process may be sent, by id."""
    return {id(part): part.__name__ for part in _reference_parts()}


def _reference_parts() -> list[Callable]:
    """The course's own solutions, with the functions that they call."""
    parts: list[Callable] = []
    for task in registry.exercises().values():
        parts += task.reference_parts
    return parts


@functools.cache
def _units() -> list[ModuleType]:
    """The packages that hold the units' exercises."""
    names = {task.stub.__module__.rpartition(".")[0] for task in registry.exercises().values()}
    return [sys.modules[name] for name in sorted(names)]


class _Pickler(cloudpickle.Pickler):
    """cloudpickle, but for answers."""

    def reducer_override(self, value: Any) -> Any:
        if id(value) in _answers():
            name = _answers()[id(value)]
            raise sandbox.CannotStart(f"an input would hold the answer {name}")
        return super().reducer_override(value)


def packed(value: Any) -> bytes:
    """`value` as bytes. Functions of a unit's exercises go by value: over there these modules can't be imported.

    Raises sandbox.CannotStart for a value that holds an answer.
    """
    content = io.BytesIO()
    with sandbox.taken_by_value(_units()):
        _Pickler(content).dump(value)
    return content.getvalue()


# --- processes -------------------------------------------------------------------------------------------


def plan(limits: Limits) -> str:
    """What jailed.py is told at its start: answers outside of the files of solutions, whether it forks, the limits."""
    outside = [part for part in _reference_parts() if not part.__module__.startswith(UNIT)]
    answers = [(part.__module__, part.__name__) for part in outside]
    return json.dumps({"answers": answers, "forks": FORKS, "limits": asdict(limits)})


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | SETTINGS


class Mould:
    """The process that forks the others (Linux), as the grading process sees it."""

    def __init__(self, limits: Limits) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            streams = {"stdin": theirs, "stdout": subprocess.DEVNULL}
            self.process = sandbox.started(JAILED, _environment(), plan(limits), cwd="/", **streams)
        self.control.settimeout(sandbox.SECONDS_TO_START)

    def ask(self, *message: Any, files: tuple[int, ...] = ()) -> Any:
        """The answer to a message. Raises sandbox.CannotStart if none comes."""
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], files)
            answer = self.control.recv(1000)
        except OSError as error:
            self.close()
            raise sandbox.CannotStart(f"the process that starts it does not answer ({error})") from error
        if not answer:
            self.close()
            raise sandbox.CannotStart("the process that starts it has ended")
        return json.loads(answer)

    def alive(self) -> bool:
        """Whether it runs and belongs to this process, not to the one that this one was forked from."""
        return self.owner == os.getpid() and self.process.poll() is None

    def close(self) -> None:
        """End it, and with it all that it has started."""
        self.control.close()
        if self.owner != os.getpid():
            return
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Forked:
    """A process of a mould, with what sandbox.Worker needs of a Popen."""

    def __init__(self, mould: Mould, limits: Limits) -> None:
        self.mould = mould
        self.returncode: int | None = None
        requests, their_requests = socket.socketpair()
        replies, their_replies = map(os.fdopen, os.pipe(), ("rb", "wb"))
        with requests, their_requests, their_replies:
            requests.settimeout(limits.seconds_to_load)  # who never reads must not hold us up
            self.stdin, self.stdout = requests.makefile("wb"), replies
            files = (their_requests.fileno(), their_replies.fileno())
            self.pid, self.childless = mould.ask("fork", asdict(limits), files=files)

    def poll(self) -> int | None:
        """As Popen's."""
        if self.returncode is None:
            self.returncode = self.mould.ask("wait", self.pid, 0)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        """As Popen's."""
        if self.returncode is None:
            self.returncode = self.mould.ask("wait", self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(JAILED, timeout)
        return self.returncode

    def kill(self) -> None:
        """As Popen's, and wait for its end. It ends with its mould, too."""
        if self.returncode is not None:
            return
        try:
            self.returncode = self.mould.ask("kill", self.pid)
        except sandbox.CannotStart:
            self.returncode = -KILLED


class Cell(sandbox.Worker):
    """One process behind walls."""

    largest = 2**20
    waiting = 10

    def __init__(self, start: Callable[[], Any], limits: Limits) -> None:
        self.start, self.limits = start, limits
        super().__init__()

    def most(self) -> int:
        """Bytes of memory that it may take in addition to what it has after the start."""
        return self.limits.memory

    def memory(self) -> int:
        """Bytes in use. Raises sandbox.Stopped for too many threads."""
        if not FORKS:
            return super().memory()
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:  # it has ended
            return 0
        numbers = {words[0]: int(words[1]) for words in map(str.split, lines) if words[0] in ("RssAnon:", "Threads:")}
        if numbers.get("Threads:", 0) > self.limits.threads:
            raise sandbox.Stopped(f"Your function started more than {self.limits.threads} threads, and was stopped.")
        return numbers.get("RssAnon:", 0) * 1024

    def family(self) -> list:
        """The process and its children; behind seccomp it can have none."""
        return [] if getattr(self.process, "childless", False) else super().family()

    def kill(self) -> None:
        """End it, and whatever it still says."""
        super().kill()
        deadline = time.monotonic() + SECONDS_TO_HEAR
        while self.listener.is_alive() and time.monotonic() < deadline:
            with suppress(Exception):
                self.replies.get_nowait()
            self.listener.join(0.001)


class Jail:
    """All processes for students' code that this process has."""

    def __init__(self) -> None:
        self.mould: Mould | None = None
        self.kept: Cell | None = None
        self.folder: tempfile.TemporaryDirectory | None = None

    def cell(self, limits: Limits) -> Cell:
        """A process behind walls. Raises sandbox.CannotStart."""
        try:
            return self._forked(limits) if FORKS else self._started(limits)
        except OSError as error:
            raise sandbox.CannotStart(f"{type(error).__name__}: {error.strerror}") from error

    def _forked(self, limits: Limits) -> Cell:
        if self.mould is None or not self.mould.alive():
            self.mould = Mould(limits)
        return Cell(lambda: Forked(self.mould, limits), limits)

    def _started(self, limits: Limits) -> Cell:
        """Starting takes seconds, so a student's exercises share a process, unless it had to be ended."""
        if self.kept is None or not self.kept.alive():
            self.empty()
            self.folder = tempfile.TemporaryDirectory(prefix="graded-", ignore_cleanup_errors=True)
            start = functools.partial(sandbox.started, JAILED, _environment(), plan(limits), cwd=self.folder.name)
            self.kept = Cell(start, limits)
        return self.kept

    def give_back(self, cell: Cell) -> None:
        """A process that is not needed any more."""
        if cell is not self.kept:
            cell.kill()

    def empty(self) -> None:
        """To be called between two students: nothing of the one stays for the other."""
        if self.kept is not None:
            self.kept.kill()
            self.kept = None
        if self.folder is not None:
            self.folder.cleanup()
            self.folder = None

    def close(self) -> None:
        """End all processes."""
        self.empty()
        if self.mould is not None:
            self.mould.close()
            self.mould = None


@functools.cache
def shared() -> Jail:
    """The jail of this process."""
    jail = Jail()
    atexit.register(jail.close)
    return jail


# --- which walls stand -----------------------------------------------------------------------------------


def protections(limits: Limits = Limits()) -> dict[str, bool]:  # noqa: B008  (frozen)
    """Which walls stand on this machine, by the names in OPEN: a process behind them has tried."""
    cell = shared().cell(limits)
    try:
        match cell.ask(sandbox.Run(print), "probe", b"", limits.seconds_to_load):
            case ("probed", dict(tried)):
                return {name: bool(tried.get(name)) for name in OPEN}
    finally:
        shared().give_back(cell)
    raise sandbox.CannotStart("it does not tell which walls stand")


def missing_walls(stand: dict[str, bool]) -> list[str]:
    """A sentence for each wall that is missing, and what to do about it; empty where all stand."""
    sentences = [f"A student's code {words}." for name, words in OPEN.items() if not stand[name]]
    return [*sentences, ADVICE] if sentences else []
