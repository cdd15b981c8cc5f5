"""The process in which a student's function runs: `python -m course_utils.exercises.worker`, started by sandbox.py.

Requests come in through the standard input as pickles, from the notebook. Answers go out through the standard
output as plain data (wire.py), because what a student's function has touched is not to be trusted. The process ends
with the notebook's kernel, however that ends, and when nothing was asked for ten minutes.
"""

import builtins
import faulthandler
import importlib
import io
import os
import pickle
import queue
import random
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import torch

from course_utils.exercises import actions, registry, wire

IDLE = 600  # seconds without a request, after which the memory is given back
PRINTED = 2000  # bytes of what a function prints that are passed on
GRACE = 10  # seconds after which a call ends itself, if nobody is left who would end it
LONGEST = 2000  # letters of an exception's text
# What else in the course computes what an exercise asks for; whole modules are replaced, as some are slow to import.
ELSEWHERE = {
    "course_utils.agents.retrieval.ranking": "reciprocal_rank_fusion",
    "course_utils.finetuning.preferences": "dpo_loss",
    "course_utils.research.decoding": "nucleus",
    "course_utils.research.distillation": "distillation_loss",
    "course_utils.research.graph_of_thoughts": "best_value",
    "course_utils.research.speculative": "decide",
    "course_utils.serving.metrics": "quantile",
    "course_utils.serving.quantising": "gptq",
}
# The same in modules that are quick to import and of which a function may use the rest: only these are closed.
INSIDE = {
    "course_utils.measures": "majority",
    "course_utils.research.inside": "induction_scores",
    "course_utils.research.kv_cache": "attend",
    "course_utils.research.positions": "rotary",
}


def main() -> None:
    """Answer requests until the process that asks has gone."""
    requests, replies = take_channels()
    inbox: queue.Queue = queue.Queue()
    for job in ((_listen, requests, inbox), (_end_with, os.getppid())):
        threading.Thread(target=job[0], args=job[1:], daemon=True).start()
    _close_ways_round()
    Bench(replies).work(_arriving(inbox))


def take_channels() -> tuple[BinaryIO, BinaryIO]:
    """Requests and replies; a function that reads, prints to or closes the usual streams does not meet them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    return requests, replies


def _listen(requests: BinaryIO, inbox: queue.Queue) -> None:
    try:
        while True:
            inbox.put(pickle.loads(wire.receive(requests, largest=sys.maxsize)))
    except (EOFError, OSError):
        os._exit(0)


def _arriving(inbox: queue.Queue) -> Iterator[tuple]:
    """One request after the other; the end of the process if none comes."""
    while True:
        try:
            yield inbox.get(timeout=IDLE)
        except queue.Empty:
            os._exit(0)


def _end_with(parent: int) -> None:
    """End when the kernel is gone: its own child processes may hold the other end of our input open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


# --- what a function may not use -------------------------------------------------------------------------


def refuse(*inputs: Any, **named: Any) -> None:
    # Imported here, because this code runs in the place of other functions.
    from course_utils.exercises.diagnosis import OwnSolution

    words = "Your function calls the course's own solution, or `check`. That does not count: write the steps."
    raise OwnSolution(words)


def _no_input(prompt: object = "") -> str:
    raise EOFError("nobody can answer `input()` during a check. Work with the inputs of the function")


def _close_ways_round() -> None:
    """Make the course's own solutions useless here, by whatever name a function reaches them."""
    for task in registry.exercises().values():
        for part in task.reference_parts:
            part.__code__ = refuse.__code__
    close_elsewhere()


def close_elsewhere() -> None:
    """The same for `check`, and for what else in the course computes what is asked."""
    actions.check.__code__ = refuse.__code__
    for module_name, function_name in ELSEWHERE.items():
        module = types.ModuleType(module_name)
        setattr(module, function_name, refuse)
        sys.modules[module_name] = module
    for module_name, function_name in INSIDE.items():
        module = importlib.import_module(module_name)
        getattr(module, function_name).__code__ = refuse.__code__
    builtins.input = _no_input
    builtins.display = print  # a notebook has it everywhere


# --- one function after the other ------------------------------------------------------------------------


class Bench:
    """Holds one student's function at a time, and calls it."""

    largest = wire.LARGEST  # bytes of a reply

    def __init__(self, replies: BinaryIO) -> None:
        self.replies, self.sending = replies, threading.Lock()
        self.function: Callable = refuse
        self.printed = Printed(self.send)
        self.jobs = {"load": self.load, "call": self.call, "end": self.end}

    def send(self, *reply: Any) -> None:
        """Send a reply of plain data."""
        self.send_packed(wire.pack(reply))

    def send_packed(self, reply: bytes) -> None:
        """Send a reply in one piece; threads of a student's function may print at the same time."""
        with self.sending:
            wire.send(self.replies, reply)

    def work(self, requests: Iterator[tuple]) -> None:
        """Answer one request after the other: its kind, bytes that belong to it, and the seconds that it may take."""
        self.threads = threading.active_count()
        self.send("ready")
        for kind, payload, seconds in requests:
            # Python can't be asked while compiled code runs, so a watch without Python ends what nobody ends.
            faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=2)
            reply = self.jobs[kind](payload)
            faulthandler.cancel_dump_traceback_later()
            self.send_packed(reply)

    def load(self, payload: bytes) -> bytes:
        """Take a function, and begin as a fresh notebook does."""
        self.begin()
        try:
            self.function = pickle.loads(payload)
        except BaseException as error:
            return wire.pack(("unloadable", _summary(error)))
        return wire.pack(("loaded",))

    def begin(self) -> None:
        """Forget what was printed, and what an earlier function may have set."""
        self.printed = Printed(self.send)
        random.seed(0)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)

    def pass_on_prints(self) -> None:
        """From here on what is printed goes to whoever asks."""
        sys.stdout = sys.stderr = io.TextIOWrapper(self.printed, "utf-8", errors="replace", write_through=True)

    def call(self, payload: bytes) -> bytes:
        """What the function does with the inputs, and the inputs afterwards."""
        inputs = pickle.loads(payload)
        self.pass_on_prints()
        try:
            result = self.function(*inputs)
        except BaseException as error:
            return wire.pack(told(error))
        try:
            reply = wire.pack(("returned", result, list(inputs)))
        except BaseException as error:
            return wire.pack(("unfit", _summary(error)))
        if len(reply) > self.largest:
            return wire.pack(("unfit", f"it has {len(reply):,} bytes"))
        return reply

    def end(self, _: bytes) -> bytes:
        """Let go of the function; say how many bytes of output were left out, and whether threads still run."""
        self.function = refuse
        threads_left = threading.active_count() > self.threads
        return wire.pack(("ended", self.printed.left_out, threads_left))


class Printed(io.RawIOBase):
    """Passes on the beginning of what is printed and counts the rest. It can't be closed."""

    def __init__(self, send: Callable) -> None:
        self.send, self.room, self.left_out = send, PRINTED, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        shown = content[: self.room]
        self.room -= len(shown)
        self.left_out += len(content) - len(shown)
        if shown:
            self.send("printed", shown.decode("utf-8", errors="replace"))
        return len(content)

    def close(self) -> None:
        """Stay open: a function that closes its output is no reason to lose the rest."""


def told(error: BaseException) -> tuple:
    """An exception as plain data: its name, built-in types, text, whether it is bare, and the student's line."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    frames = list(traceback.walk_tb(error.__traceback__))[1:]  # the first is our own call
    places = [(frame.f_code.co_filename, line) for frame, line in frames]
    theirs = [place for place in places if place[0] == places[0][0]]
    return ("raised", type(error).__name__, kinds, _text(error), not error.args, theirs[-1:])


def _text(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST]
    except BaseException:  # their own __str__ may fail, too
        return ""


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text(error)}".removesuffix(": ")


if __name__ == "__main__":
    main()
