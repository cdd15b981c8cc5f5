"""`course grade`: read what was handed in, take out what counts, have it judged, several submissions at a time.

Each judge is a process that takes one submission after the other. One that dies or hangs is replaced, and the result
of its submission says so. Results are kept as they come, so that an interrupted run goes on where it stopped.
"""

import hashlib
import json
import multiprocessing
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, local
from typing import Any

import psutil

from course_utils import __version__
from course_utils.classroom import outputs
from course_utils.classroom.grading import extraction, formats, submissions
from course_utils.classroom.grading.extraction import Extract
from course_utils.classroom.grading.results import RESULTS, RUN, QuizResult, Result, Verdict, from_json
from course_utils.classroom.grading.submissions import Submission
from course_utils.exercises import registry

LONGEST = 600  # seconds for a submission; the judge's own limits end it much earlier
COPIED = "It is the course's own solution, word for word. That does not count: write the steps."
SETTINGS = {"COURSE_PROGRESS": "off", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

Tell = Callable[[str], None]


def grade(
    source: Path, out: Path, jobs: int, seed: int | None = None, tell: Tell = print, warn: Tell = print
) -> list[Result]:
    """Grade all submissions in `source`, `jobs` at a time, and keep the results in the folder `out`.

    Without `seed`, that of an earlier run with the same `out` is taken, or one is drawn. `tell` is given a line after
    each submission, `warn` a sentence for each wall that this machine lacks. ValueError for input that can't be graded.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out} is inside {source}, and would be taken for a submission; choose another --out")
    handed_in = submissions.read(source)
    known = kept_seed(out) if seed is None else seed
    seed = secrets.randbelow(10**6) if known is None else known
    run = {"course": __version__, "seed": seed}
    _write(out / RUN, run)
    tell(f"0 of {len(handed_in)} graded")
    names = outputs.file_names(submission.student for submission in handed_in)
    desk = Desk(out / RESULTS, seed, len(handed_in), tell, warn)
    with ThreadPoolExecutor(jobs) as threads:
        try:
            results = list(threads.map(desk.result, handed_in, names))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            desk.close()
    _write(out / RUN, run | {"results": names})  # files of students who are gone may lie beside them
    return results


def default_jobs() -> int:
    """One core is left to whoever uses the machine."""
    from course_utils.models import hardware

    return max(1, hardware.usable_cores() - 1)


def kept_seed(out: Path) -> int | None:
    """The seed of the last run with this output folder, so that grading again draws the same examples."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return int(json.loads((out / RUN).read_text("utf-8"))["seed"])
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    """ValueError if it can't be written."""
    text = json.dumps(content, indent=1)  # ASCII: no file could hold half characters
    outputs.save(path, text.encode())


# --- one submission ---------------------------------------------------------------------------------------


def result_of(submission: Submission, seed: int) -> Result:
    """The result of a submission, judged here and now. It takes torch, and a few seconds."""
    from course_utils.classroom.grading import judging

    start = time.monotonic()
    extracts = [(work.file, extraction.extract(work.cells)) for work in submission.works]
    extract, notes = joined(extracts)
    judged = judging.judge(extract.pieces, seed)
    verdicts = {name: judged.get(name) or _unjudged(name, extract) for name in registry.exercises()}
    quizzes = {name: _quiz_result(name, letter) for name, letter in extract.quizzes.items()}
    seconds = round(time.monotonic() - start, 2)
    return _result(submission, verdicts, quizzes, notes, seconds)


def _result(submission: Submission, verdicts: dict, quizzes: dict, notes: Sequence[str], seconds: float) -> Result:
    files = tuple(work.file for work in submission.works)
    told = (*submission.notes, *notes)
    return Result(submission.student, files, verdicts, quizzes, told, seconds, submission.number)


def joined(extracts: Sequence[tuple[str, Extract]]) -> tuple[Extract, list[str]]:
    """What counts of several files, the newest last, and a sentence where one takes the place of another."""
    pieces: dict[str, str] = {}
    copied: set[str] = set()
    untouched: set[str] = set()
    quizzes: dict[str, str] = {}
    notes: list[str] = []
    answered: dict[str, str] = {}  # exercise -> the file that counts
    replaced = defaultdict(list)  # a file that counts -> exercises that another one answers, too
    for file, extract in extracts:
        for name in [*extract.pieces, *extract.copied]:
            if name in answered and not answered[name].endswith(formats.KEPT):
                replaced[file].append(name)
            answered[name] = file
            pieces.pop(name, None)
            copied.discard(name)
        pieces |= extract.pieces
        copied |= extract.copied
        untouched |= extract.open
        quizzes |= extract.quizzes
        notes += [f"{file}: {note}" for note in extract.notes]
    for file, names in replaced.items():
        notes.append(f"Several files answer {', '.join(names)}; {file} counts, the newest.")
    untouched -= answered.keys()
    return Extract(pieces, frozenset(untouched), frozenset(copied), quizzes), notes


def _unjudged(name: str, extract: Extract) -> Verdict:
    """What is known of an exercise without running anything."""
    if name in extract.copied:
        return Verdict(name, "own solution", COPIED)
    return Verdict(name, "open" if name in extract.open else "missing")


def _quiz_result(name: str, letter: str) -> QuizResult:
    return QuizResult(name, letter, registry.quiz(name).letters[letter].right)


# --- several at a time ------------------------------------------------------------------------------------


class Judge:
    """A process that judges one submission after the other, as it is seen from here."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy our threads' locks
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_judge, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def walls(self) -> list[str]:
        """A sentence for each wall around students' code that this machine lacks. Raises as `ask`."""
        return self._answer(None)

    def ask(self, submission: Submission, seed: int) -> Result:
        """The result. Raises TimeoutError or EOFError, and then this judge is of no more use."""
        return self._answer((submission, seed))

    def _answer(self, order: tuple[Submission, int] | None) -> Any:
        try:
            self.connection.send(order)
            if self.connection.poll(LONGEST):
                return self.connection.recv()
        except OSError as error:
            raise EOFError from error
        raise TimeoutError

    def close(self) -> None:
        """End it, and all that it has started; harmless for one that has ended."""
        if not self.process.is_alive():  # its number may be another's by now
            return
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        self.process.kill()
        self.process.join()


def _judge(connection: Connection) -> None:
    """What a judge does until nobody asks any more."""
    os.environ |= SETTINGS
    with suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            order = connection.recv()
            connection.send(result_of(*order) if order else missing_walls())


def missing_walls() -> list[str]:
    """A sentence for each wall around students' code that this machine lacks."""
    from course_utils.classroom.grading import jail
    from course_utils.exercises import sandbox

    try:
        return jail.missing_walls(jail.protections())
    except (sandbox.CannotStart, sandbox.Stopped, TimeoutError) as error:
        return [f"The process for students' code can't be started, so nothing is judged: {error}."]


class Desk:
    """Hands submissions to judges, one for each thread, and keeps what they find."""

    def __init__(self, folder: Path, seed: int, total: int, tell: Tell, warn: Tell) -> None:
        self.folder, self.seed, self.total, self.tell, self.warn = folder, seed, total, tell, warn
        self.done = 0
        self.own = local()
        self.judges: list[Judge] = []
        self.adding = Lock()

    def result(self, submission: Submission, name: str) -> Result:
        """The kept result of this very submission, or else that of a judge."""
        path = self.folder / f"{name}.json"
        checksum = _checksum(submission, self.seed)
        result = kept(path, checksum)
        if result is None:
            result, final = self.judged(submission)
            _write(path, {"checksum": checksum if final else "", "result": asdict(result)})
        self.done += 1
        self.tell(f"{self.done} of {self.total} graded: {submission.student}")
        return result

    def judged(self, submission: Submission) -> tuple[Result, bool]:
        """A result, and whether it is one to keep: if the judge was lost, another run tries again."""
        try:
            return self.judge().ask(submission, self.seed), True
        except TimeoutError:
            why = f"took more than {LONGEST} s"
        except EOFError:
            why = "ended its process"
        self.own.judge.close()
        self.own.judge = None
        return lost(submission, why), False

    def judge(self) -> Judge:
        """The judge of this thread."""
        if getattr(self.own, "judge", None) is None:
            self.own.judge = Judge()
            with self.adding:
                first = not self.judges
                self.judges.append(self.own.judge)
            if first:
                self._tell_of_walls()
        return self.own.judge

    def _tell_of_walls(self) -> None:
        for sentence in self.own.judge.walls():
            self.warn(sentence)

    def close(self) -> None:
        """End all judges."""
        for judge in self.judges:
            judge.close()


def lost(submission: Submission, why: str) -> Result:
    """The result of a submission whose judge was lost."""
    code = "\n".join(cell for work in submission.works for cell in work.cells)
    words = f"Judging this submission {why}."
    verdicts = {}
    for name, task in registry.exercises().items():
        status = "not judged" if task.stub.__name__ in code else "missing"
        verdicts[name] = Verdict(name, status, words if status == "not judged" else "")
    note = f"{words} Nothing of it is judged. The same command tries again; if that fails, look at its files."
    return replace(_result(submission, verdicts, {}, [note], 0.0), lost=True)


def _checksum(submission: Submission, seed: int) -> str:
    """Of all that decides a result."""
    content = json.dumps([__version__, seed, asdict(submission)])
    return hashlib.sha256(content.encode()).hexdigest()


def kept(path: Path, checksum: str) -> Result | None:
    """The result in a file of an earlier run, if it is of the same submission."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        content = json.loads(path.read_text("utf-8"))
        if content["checksum"] == checksum:
            return from_json(content["result"])
    return None
