"""The process in which a student's source runs when it is graded: started by jail.py, built on the exercises' worker.

On Linux it is a mould: it imports once what takes long, and for each exercise forks a process that builds walls around
itself before it meets any student's code. Elsewhere it is that process itself, with the few walls that there are.
The course's solutions are never imported here, and their files can't be opened.
"""

import ctypes
import gc
import json
import linecache
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import time
import types
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import cloudpickle  # noqa: F401  (unpacks inputs that are functions; imported before the walls stand)
import numpy  # noqa: F401  (students use it)
import torch

from course_utils.classroom.grading import landlock, seccomp
from course_utils.exercises import diagnosis, wire, worker

COURSE = Path(__file__).resolve().parents[2]
EXERCISES = COURSE / "exercises"
LARGEST_PLAN = 10_000  # bytes of a message to the mould
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("/dev/urandom", "/dev/random", "/dev/zero", "/sys/devices/system/cpu")
NOBODY = 65534  # the user with the fewest rights
DIE_WITH_PARENT, DUMPABLE = 1, 4  # of prctl
RIGHTS_IN_64_BITS = 0x20080522  # capset's third version
LARGE_PAGE, COLLAPSE = 2**21, 25  # bytes; of madvise
LOOK_EVERY = 0.002  # seconds


def main() -> None:
    """Serve the process that grades until it has gone. The argument is a plan in JSON, see `jail.plan`."""
    plan = json.loads(sys.argv[1])
    close_answers(plan["answers"])
    if plan["forks"]:
        Mould(socket.socket(fileno=0), plan["answers"]).serve()
    else:
        requests, replies = worker.take_channels()
        limit(plan["limits"])
        work(requests, replies)


# --- what a function may not use -------------------------------------------------------------------------


def close_answers(answers: list[list[str]]) -> None:
    """Make useless what computes an answer. `answers` are modules and names outside of the files of solutions."""
    worker.close_elsewhere()
    for module_name, function_name in answers:
        getattr(import_module(module_name), function_name).__code__ = worker.refuse.__code__
    for folder in EXERCISES.glob("unit_*"):
        unit = import_module(f"course_utils.exercises.{folder.name}")
        for name in ("solutions", "fresh"):
            closed = Closed(f"{unit.__name__}.{name}")
            sys.modules[closed.__name__] = closed
            setattr(unit, name, closed)


class Closed(types.ModuleType):
    """Stands for a module with answers: whatever is taken from it refuses to work."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return worker.refuse


def closed_files(answers: list[list[str]]) -> set[Path]:
    """Files and folders of the course that a student's code can't read."""
    own_modules = {module for module, _ in answers}
    modules = worker.ELSEWHERE.keys() | worker.INSIDE.keys() | own_modules
    names = {Path(*module.split(".")[1:]) for module in modules}
    return {EXERCISES} | {COURSE / name.with_suffix(".py") for name in names}


def readable_roots() -> list[Path]:
    """What a Python needs to import modules, the course included; the files of nobody in particular."""
    own = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    shared = os.path.join(sys.base_prefix, "lib")
    places = {Path(path).resolve() for path in [*own, *packages, shared, *SYSTEM, *DEVICES]}
    return sorted(places | {COURSE})


# --- walls -----------------------------------------------------------------------------------------------


def limit(limits: dict[str, Any]) -> None:
    """Take away memory, open files, files that grow, and core dumps, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    amounts = {"RLIMIT_NOFILE": limits["files"], "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        amounts["RLIMIT_AS"] = pages * resource.getpagesize() + limits["memory"]
    for name, amount in amounts.items():
        kind = getattr(resource, name)
        _, highest = resource.getrlimit(kind)
        lower = amount if highest == resource.RLIM_INFINITY else min(amount, highest)
        resource.setrlimit(kind, (lower, lower))


def rules_for_files(answers: list[list[str]]) -> int:
    """Landlock's rules: what Python needs is readable, and no answer. -1 where the system has no Landlock."""
    if not landlock.version():
        return -1
    closed = closed_files(answers)
    roots = readable_roots()
    readable: list[Path] = []
    for root in roots:
        readable += landlock.without(root, closed)
    return landlock.rules(readable, roots)


def give_up_root() -> None:
    """Go on as nobody, if this is root and nobody can still read what Python imports; without root's rights anyway."""
    if os.geteuid() != 0:
        return
    needed = [os.__file__, torch.__file__, __file__]
    with suppress(OSError):  # some containers do not know nobody
        os.seteuid(NOBODY)
        enough = all(os.access(path, os.R_OK, effective_ids=True) for path in needed)
        os.seteuid(0)
        if enough:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    header, no_rights = struct.pack("=Ii", RIGHTS_IN_64_BITS, 0), bytes(24)
    ctypes.CDLL(None).capset(header, no_rights)


# --- the mould -------------------------------------------------------------------------------------------


class Mould:
    """Forks a process for each exercise, and waits for its end. It runs no code of students itself."""

    def __init__(self, control: socket.socket, answers: list[list[str]]) -> None:
        self.control = control
        self.children: set[int] = set()
        self.rules = rules_for_files(answers)
        self.filtered = seccomp.available() and seccomp.works()
        give_up_root()
        warm_up()

    def serve(self) -> None:
        """Answer until the other side has gone; then end what still runs."""
        jobs = {"fork": self.fork, "wait": self.wait, "kill": self.kill}
        while True:
            message, files, _, _ = socket.recv_fds(self.control, LARGEST_PLAN, 2)
            if not message:
                break
            kind, *values = json.loads(message)
            if kind == "fork":
                values.append(files)
            answer = jobs[kind](*values)
            self.control.send(json.dumps(answer).encode())
        for child in list(self.children):
            self.kill(child)

    def fork(self, limits: dict[str, Any], files: list[int]) -> tuple[int, bool]:
        """Start a process that reads requests from the first of `files` and replies to the second.

        Its id, and whether it can have no children.
        """
        mould = os.getpid()
        child = os.fork()
        if child == 0:
            try:
                enclosed(mould, self.rules, self.filtered, limits, files)
            finally:
                os._exit(1)
        self.children.add(child)
        for file in files:
            os.close(file)
        return child, self.filtered

    def wait(self, child: int, seconds: float) -> int | None:
        """How a process ended (as Popen.returncode), None if it still runs after some seconds."""
        deadline = time.monotonic() + seconds
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                self.children.discard(child)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= deadline:
                return None
            time.sleep(LOOK_EVERY)

    def kill(self, child: int) -> int | None:
        """End a process; how it ended."""
        os.kill(child, signal.SIGKILL)
        return self.wait(child, 60)


def warm_up() -> None:
    """Use what is slow the first time, so that no fork has to do it again."""
    torch.set_num_threads(1)
    x = torch.ones(4, 4, requires_grad=True)
    loss = torch.einsum("ij,jk->ik", x, x).softmax(-1).sum()
    wire.unpack(wire.pack(loss))
    diagnosis.near(loss, loss)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all of this memory
    use_large_pages()


def use_large_pages() -> None:
    """Move this memory into large pages where the system can (Linux 6.1): a fork is there in a third of the time."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, file, *_ = line.split()
        if rights == "rw-p" and file == "0":
            first, end = (int(place, 16) for place in span.split("-"))
            start = -(-first // LARGE_PAGE) * LARGE_PAGE
            if end > start:
                madvise(start, end - start, COLLAPSE)


def enclosed(mould: int, rules: int, filtered: bool, limits: dict[str, Any], files: list[int]) -> None:
    """What a forked process does: build the walls, then work until it is ended."""
    libc = ctypes.CDLL(None)
    libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != mould:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    limit(limits)
    if rules >= 0:
        landlock.restrict(rules)
    if filtered:
        seccomp.restrict(can_write=landlock.version() >= landlock.WHOLE)
    first, last = sorted(files)
    for start, end in ((3, first), (first + 1, last), (last + 1, limits["files"])):
        os.closerange(start, end)
    requests, replies = files
    work(os.fdopen(requests, "rb"), os.fdopen(replies, "wb"))


# --- the work --------------------------------------------------------------------------------------------


def work(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    bench = Bench(replies)
    with suppress(EOFError, OSError):
        bench.work(_arriving(requests))
    os._exit(0)


def _arriving(requests: BinaryIO) -> Iterator[tuple]:
    while True:
        yield pickle.loads(wire.receive(requests, largest=sys.maxsize))


class Bench(worker.Bench):
    """Takes a student's source, and calls the function in it."""

    largest = 2**20

    def __init__(self, replies: BinaryIO) -> None:
        super().__init__(replies)
        self.jobs["probe"] = self.probe

    def load(self, payload: bytes) -> bytes:
        """Run a source as a fresh notebook would, and take the function that is asked for."""
        function_name, file, source = pickle.loads(payload)
        self.begin()
        self.pass_on_prints()
        notebook = types.ModuleType("__main__")
        sys.modules["__main__"] = notebook
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        try:
            exec(compile(source, file, "exec", dont_inherit=True), vars(notebook))
        except BaseException as error:
            return wire.pack(worker.told(error))
        if function_name not in vars(notebook):
            return wire.pack(("missing",))
        self.function = vars(notebook)[function_name]
        return wire.pack(("loaded", callable(self.function)))

    def probe(self, _: bytes) -> bytes:
        """Which walls stand: what was tried, and whether it was refused."""
        tried = {name: _refused(attempt) for name, attempt in ATTEMPTS.items()}
        return wire.pack(("probed", tried))


def _refused(attempt: Any) -> bool:
    try:
        attempt()
    except Exception:
        return True
    return False


def _write() -> None:
    """Where everybody may, so that only a wall refuses it. Empty: the limit of size is no wall around other files."""
    path = Path(os.environ.get("TEMP", "/tmp"), f"written-by-a-probe-{os.getpid()}")
    path.touch()
    path.unlink()


def _signal() -> None:
    if sys.platform == "win32":  # where this would end the other process
        return
    os.kill(os.getppid(), 0)


def _take_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows, where nothing limits it
        return
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        raise MemoryError


ATTEMPTS = {
    "files": Path(diagnosis.__file__).read_bytes,
    "changes": _write,
    "network": socket.socket,
    "programs": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "signals": _signal,
    "memory": _take_memory,
    "root": lambda: os.setgroups([]),  # Windows has neither root nor this call
}


if __name__ == "__main__":
    main()
