"""Runs a student's function in a process of its own (worker.py), so that whatever it does the notebook goes on.

The process starts with the first function that has to be run, stays for the next ones, and is replaced when it had to
be ended. A function may take 5 seconds for a call and 1 GiB more memory than the process has.
"""

import atexit
import functools
import inspect
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import psutil

from course_utils.exercises import wire

SECONDS = 5  # for one call
SECONDS_IN_ALL = 20  # for all calls of one check
SECONDS_TO_LOAD = 30  # the function may bring a library that takes long to import
SECONDS_TO_START = 120  # importing torch from a cold or a network disk
MEMORY = 2**30  # bytes
LARGEST_FUNCTION = 100 * 2**20  # bytes, with all that it uses from the notebook
LOOK_EVERY = 0.05  # seconds between two looks at clock and memory
STREAMS = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
PRINTED = 4000  # letters kept of what a function prints


class Stopped(Exception):
    """A function that could not be run, or not to its end: why, in words for the student."""


class CannotStart(Exception):
    """The process does not start, which is not the student's fault."""


class Run:
    """One function for one check. Call it with a tuple of inputs; the answer is that of worker.py.

    Raises Stopped or CannotStart. `printed` is the beginning of what the function has printed. After `end`, `left_out`
    is the number of bytes that followed (`complete`, if all could be counted), and `threads_left` says whether
    threads of the function are still running.
    """

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.printed, self.left_out = "", 0
        self.complete = self.threads_left = False
        self.seconds, self.seconds_in_all = SECONDS, SECONDS_IN_ALL
        self._ends = 0.0  # when all calls together have taken too long; set with the first

    def __call__(self, inputs: tuple) -> tuple:
        worker = self.worker()
        self._ends = self._ends or time.monotonic() + self.seconds_in_all
        if time.monotonic() > self._ends:
            raise Stopped(
                f"Your function has taken more than {self.seconds_in_all} s in this check. Is there a way to do less?"
            )
        try:
            return worker.ask(self, "call", self.packed(inputs), self.seconds)
        except TimeoutError:
            raise Stopped(f"Your function ran longer than {self.seconds} s. Is there a loop that never ends?") from None

    def worker(self) -> "Worker":
        """The process, holding the function."""
        return _worker_with(self)

    def packed(self, inputs: tuple) -> bytes:
        """Inputs as bytes for the process."""
        return pickle.dumps(inputs)

    def end(self) -> None:
        """Ask for what is known at the end, and let the process forget the function."""
        worker = _state.worker
        if worker is None or worker.holds is not self or not worker.alive():
            return
        worker.holds = None
        with suppress(TimeoutError, Stopped):
            match worker.ask(self, "end", b"", SECONDS):
                case ("ended", int(left_out), bool(threads_left)):
                    self.left_out, self.threads_left = left_out, threads_left
                    self.complete = True
        if self.threads_left or not self.complete:  # something of this function is still there, or in the pipe
            worker.kill()

    def hear(self, text: str) -> None:
        """Keep the beginning of what is printed."""
        self.printed = (self.printed + text)[:PRINTED]


# --- the process -----------------------------------------------------------------------------------------


class Worker:
    """The process, as the notebook sees it."""

    largest = wire.LARGEST  # bytes of a reply
    waiting = 100  # replies that may wait to be read

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.holds: Run | None = None
        self.replies: queue.Queue = queue.Queue(maxsize=self.waiting)
        self.process = self.start()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        self.before = sys.maxsize  # nothing is too much while it starts
        try:
            self.before = self._wait_until_ready()
        except BaseException:  # Ctrl-C, too
            self.kill()
            raise

    def start(self) -> subprocess.Popen:
        """Start the process."""
        return started("course_utils.exercises.worker", os.environ)

    def most(self) -> int:
        """Bytes of memory that it may take in addition to what it has after the start."""
        return MEMORY

    def _listen(self) -> None:
        with suppress(EOFError, ValueError, OSError):
            while True:
                self.replies.put(wire.receive(self.process.stdout, self.largest))
        self.process.stdout.close()
        self.replies.put(None)

    def _wait_until_ready(self) -> int:
        """Wait for the start; the bytes of memory in use after it."""
        try:
            self._answer(None, SECONDS_TO_START)
        except TimeoutError:
            raise CannotStart(f"it did not start within {SECONDS_TO_START} s") from None
        except EOFError:
            raise CannotStart(f"it ended at once, with exit code {self.process.wait()}") from None
        return self.memory()

    def alive(self) -> bool:
        """Whether it runs and belongs to this process, not to the one that this one was forked from."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, run: Run, kind: str, payload: bytes, seconds: float) -> tuple:
        """The reply. Raises TimeoutError or Stopped, and then, as with Ctrl-C, the process has been ended."""
        try:
            wire.send(self.process.stdin, pickle.dumps((kind, payload, seconds)))
            return self._answer(run, seconds)
        except TimeoutError:
            self.kill()
            raise
        except MemoryError:
            self.kill()
            raise Stopped(too_much(self.most())) from None
        except (EOFError, OSError):
            words = self._how_it_ended()
            self.kill()
            raise Stopped(words) from None
        except BaseException:  # Ctrl-C, above all
            self.kill()
            raise

    def _answer(self, run: Run | None, seconds: float) -> tuple:
        """The next message that is not about printing."""
        deadline = time.monotonic() + seconds
        while True:
            reply = self._next(deadline)
            match reply:
                case ("printed", str(text)) if run:
                    run.hear(text)
                case tuple():
                    return reply

    def _next(self, deadline: float) -> Any:
        while time.monotonic() < deadline:
            with suppress(queue.Empty):
                return _opened(self.replies.get(timeout=LOOK_EVERY))
            if self.memory() - self.before > self.most():
                raise MemoryError
        raise TimeoutError

    def memory(self) -> int:
        """Bytes in use, with those of its own children (on Windows an environment's Python is one)."""
        total = 0
        for process in self.family():
            with suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    def family(self) -> list[psutil.Process]:
        """The process and its children."""
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:  # only the connection has ended
            return "Nothing comes back from your function: does it close or write to files that are not its own?"
        if code >= 0:
            return f"Your function ended Python (exit code {code}): with `os._exit`, or by a crash in compiled code."
        name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
        return f"Your function ended Python by {name}: it sent itself this signal, or compiled code crashed."

    def kill(self) -> None:
        """End it and its children; harmless for one that has ended."""
        if self.owner != os.getpid():
            return
        for process in reversed(self.family()):
            with suppress(psutil.Error):
                process.kill()
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with suppress(OSError):
            self.process.stdin.close()


def started(module: str, environment: Mapping[str, str], *arguments: str, **more: Any) -> subprocess.Popen:
    """A Python that runs `module`, finds what this one finds, and talks through its standard streams.

    `more` goes to Popen.
    """
    paths = os.pathsep.join(str(path) for path in sys.path if path)
    settings = {"PYTHONPATH": paths, "PYTHONBREAKPOINT": "0", "OMP_NUM_THREADS": "1", "COURSE_PROGRESS": "off"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**environment, **settings},
        **STREAMS | _away_from_ctrl_c() | more,
    )


def too_much(memory: int) -> str:
    """What to say of a function that took more than so many bytes."""
    return f"Your function took more than {memory / 2**30:g} GiB of memory, and was stopped. Does a list grow?"


def _opened(data: bytes | None) -> Any:
    """A reply. EOFError at the end of the replies."""
    if data is None:
        raise EOFError
    try:
        return wire.unpack(data)
    except Exception:  # a function has written into our pipe
        return ("forged",)


def _away_from_ctrl_c() -> dict[str, Any]:
    """Jupyter and terminals interrupt a whole group of processes; the worker is not meant."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"process_group": 0}


# --- which process, which function -----------------------------------------------------------------------


class _State:
    """The process of this notebook."""

    worker: Worker | None = None
    lock = threading.RLock()


_state = _State()


@contextmanager
def alone() -> Iterator[None]:
    """One check at a time, where threads check at the same time."""
    with _state.lock:
        yield


def close() -> None:
    """End the process. The next function that is run starts another."""
    worker, _state.worker = _state.worker, None
    if worker is not None:
        worker.kill()


atexit.register(close)


def _worker_with(run: Run) -> Worker:
    """The process, holding the function of `run`."""
    worker = _state.worker
    if worker is not None and worker.alive() and worker.holds is run:
        return worker
    payload = _by_value(run.function)
    if worker is None or not worker.alive():
        close()
        worker = _state.worker = _new_worker()
    _load(worker, run, payload)
    worker.holds = run
    return worker


def _new_worker() -> Worker:
    try:
        return Worker()
    except OSError as error:
        raise CannotStart(f"{type(error).__name__}: {error.strerror}") from error


def _load(worker: Worker, run: Run, payload: bytes) -> None:
    try:
        reply = worker.ask(run, "load", payload, SECONDS_TO_LOAD)
    except TimeoutError:
        raise Stopped(
            f"{UNTESTABLE} what it uses from the notebook takes more than {SECONDS_TO_LOAD} s to load."
        ) from None
    match reply:
        case ("loaded",):
            return
        case ("unloadable", str(why)):
            raise Stopped(f"{UNTESTABLE} it can't be loaded in a fresh Python ({why}). {ALONE}")
    worker.kill()  # an earlier function has left something in the pipe
    raise Stopped(f"{UNTESTABLE} it can't be loaded in a fresh Python. {ALONE}")


# --- a function as bytes ---------------------------------------------------------------------------------

UNTESTABLE = "Your function can't be tested:"
ALONE = "Let it work with its inputs alone."
CACHED = type(functools.lru_cache(print))


class _TooLarge(Exception):
    """More bytes than a function should need."""


class _Bytes(io.BytesIO):
    """Bytes with an upper limit."""

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > LARGEST_FUNCTION:
            raise _TooLarge
        return super().write(data)


class _Pickler(cloudpickle.Pickler):
    """cloudpickle, which takes the notebook's functions by value, and cached functions, too."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, CACHED):
            settings = value.cache_parameters()
            return wire.cached_again, (value.__wrapped__, settings["maxsize"], settings["typed"])
        return super().reducer_override(value)


def _by_value(function: Callable) -> bytes:
    """A function with all that it uses from the notebook and from modules beside it. Raises Stopped."""
    try:
        return _pickled(function)
    except _TooLarge:
        size = f"{LARGEST_FUNCTION // 2**20} MiB"
        raise Stopped(f"{UNTESTABLE} {_culprit(function)} is larger than {size}. {ALONE}") from None
    except Exception as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise Stopped(f"{UNTESTABLE} {_culprit(function)} can't be copied to a fresh Python ({why}). {ALONE}") from None


def _pickled(value: Any) -> bytes:
    content = _Bytes()
    with taken_by_value(_beside_the_notebook()):
        _Pickler(content).dump(value)
    return content.getvalue()


@contextmanager
def taken_by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """What cloudpickle meets of these modules goes with its code, so it can be loaded where they are missing."""
    known = list(modules)
    for module in known:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in known:
            cloudpickle.unregister_pickle_by_value(module)


def _beside_the_notebook() -> Iterator[ModuleType]:
    """A student's own modules. They go by value, because they change while the process stays."""
    here, library = str(Path.cwd()), sysconfig.get_path("stdlib")
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if not file or not file.startswith(here) or name == "__main__":
            continue
        installed = file.startswith(library) or "site-packages" in file or "dist-packages" in file
        if not installed and not name.startswith("course_utils"):
            yield module


def _culprit(function: Callable) -> str:
    """What a function uses that can't be pickled, in words."""
    try:
        used = inspect.getclosurevars(function)
    except (TypeError, ValueError):  # no function with code of its own
        return "it"
    for name, value in (used.globals | used.nonlocals).items():
        try:
            _pickled(value)
        except Exception:
            return f"`{name}` from the notebook, which it uses,"
    return "it"
