"""Code that a model wrote, run where it can do no harm (Unit 7.2).

`run` hands it to pydantic-monty: an interpreter of its own for a part of Python, in a process of its own. There is no
list of what is forbidden. Files, programs and the network do not exist in it; what exists is what the caller hands in.
`run_limited` runs the same code in Python with limits, for comparison only: it reads your files.
"""

import os
import re
import reprlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from course_utils.agents.loop import Tools, use
from course_utils.agents.rewoo import FIELD, PLANNED

LONGEST_OUTPUT = 20_000  # bytes that code may print
MOST_CALLS = 100  # of functions that were handed in
START = 1.0  # seconds that a new Python may take to start, on a busy machine
GRACE = 2.0  # seconds until a worker that ignores its limit is ended
LONGEST_ERROR = 200  # characters


@dataclass(frozen=True)
class Outcome:
    """What became of some code: the `value` of its last line, what it `printed`, or the `error` that ended it.

    `error` is a sentence for the model, "" where there is none. `seconds` is how long it took, the start included.
    """

    value: Any = field(default=None, repr=False)  # written out in full, ten lines of code can fill the memory
    printed: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def text(self) -> str:
        """What a model reads of it, kept short: a value can be larger than all that made it."""
        if self.error:
            return f"error: {self.error}"
        shown = "" if self.value is None else reprlib.repr(self.value)
        return (self.printed + shown).strip()[:LONGEST_OUTPUT] or "done, and nothing printed"


def run(
    code: str,
    inputs: Mapping[str, Any] | None = None,
    seconds: float = 1.0,
    megabytes: float = 32,
    functions: Mapping[str, Callable] | None = None,
) -> Outcome:
    """Run `code` in pydantic-monty. It sees `inputs`, may call `functions`, and no more.

    Whatever it does wrong comes back as `Outcome.error`. ValueError for limits of 0 or less.
    """
    from pydantic_monty import CollectString, Monty, MontyError

    if seconds <= 0 or megabytes <= 0:
        raise ValueError(f"seconds={seconds}, megabytes={megabytes}: both must be above 0.")
    limits = {
        "max_feed_duration_secs": seconds,
        "max_memory": int(megabytes * 2**20),
        "max_suspensions": MOST_CALLS,
    }
    printed = CollectString(LONGEST_OUTPUT)
    start = time.perf_counter()
    value, error = None, ""
    try:
        with (
            Monty(max_processes=1, request_timeout=seconds + GRACE) as pool,
            # The limit of time counts execution alone. A sleep is none, so here it takes no time.
            pool.checkout(limits=limits, os_policy={"sleep": "zero"}) as session,
        ):
            names = {"inputs": dict(inputs or {}), "external_lookup": dict(functions or {})}
            value = session.feed_run(code, print_callback=printed, **names)
    except MontyError as problem:
        error = sentence(str(problem))
    return Outcome(value, printed.output, error, time.perf_counter() - start)


def sentence(problem: str) -> str:
    """The last line of an error, which says what was wrong; the lines above it name places in the code."""
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    last = lines[-1] if lines else "ended without a word"
    if "feed time limit exceeded" in last:
        return "the code took longer than it may"
    if "memory limit exceeded" in last:
        return "the code needed more memory than it may"
    if "suspension limit" in last:
        return f"the code called its functions more than {MOST_CALLS} times"
    return last[:LONGEST_ERROR]


# ---------------------------------------------------------------- the tools as functions


def tool_functions(toolbox: Tools, *names: str) -> dict[str, Callable]:
    """The tools `names` as functions for `run`: they return a result's fields, with whole numbers as numbers.

    A result without success is raised in the code as a ValueError with the tool's words.
    """

    def function(name: str) -> Callable:
        def call(argument: object) -> dict[str, Any]:
            result = use(toolbox, name, str(argument))
            if not result.ok:
                raise ValueError(result.text)
            return {key: _number(value) for key, value in result.fields.items()}

        return call

    return {name: function(name) for name in names}


def _number(value: str) -> int | str:
    return int(value) if re.fullmatch(r"-?\d+", value) else value


def as_python(plan: str) -> str:
    """A ReWOO plan as Python: each line calls a function, and a calculator's sum becomes a sum. "" for no plan.

    The sum is taken over as the model wrote it. That is no danger: it is run in a sandbox, like all the rest.
    """
    lines = []
    for name, tool, argument in PLANNED.findall(plan):
        if tool == "calculator":
            total = FIELD.sub(r'\1["\2"]', argument)
            lines.append(f'{name} = {{"value": {total}}}')
        else:
            alone = FIELD.fullmatch(argument.strip())
            given = FIELD.sub(r'\1["\2"]', argument) if alone else repr(argument)
            lines.append(f"{name} = {tool}({given})")
        last = name
    return "\n".join([*lines, last]) if lines else ""


# ---------------------------------------------------------------- for comparison: Python with limits

# The limits are set inside the new process. Windows has no such module, and there only the time is limited.
_LIMITS = """
try:
    import resource
    for kind, most in (("AS", {memory}), ("FSIZE", 1_000_000), ("NOFILE", 64)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + kind), (most, most))
    del resource
except (ImportError, ValueError, OSError):
    pass
"""
_NEEDED = ("SYSTEMROOT", "LD_LIBRARY_PATH")  # without which Python does not start on some machines


def run_limited(code: str, seconds: float = 1.0, megabytes: float = 512) -> Outcome:
    """Run `code` in a new Python with a time limit, a memory limit, an empty environment and an empty folder.

    NO SANDBOX: the code reads every file that you can read, and reaches the network. Give it only code that you know.
    """
    limits = _LIMITS.format(memory=int(megabytes * 2**20))
    kept = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="course-limited-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", limits + code],
                env=kept,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + START,
            )
        except subprocess.TimeoutExpired:
            return Outcome(error="the code took longer than it may", seconds=time.perf_counter() - start)
    error = sentence(done.stderr) if done.returncode else ""
    return Outcome(None, done.stdout[:LONGEST_OUTPUT], error, time.perf_counter() - start)
