"""One submission judged: the examples of the notebook with their diagnoses, then fresh ones drawn from a seed."""

import random
import time
from collections.abc import Callable, Mapping

from course_utils.classroom.grading import jail
from course_utils.classroom.grading.jail import Limits
from course_utils.classroom.grading.results import Verdict
from course_utils.exercises import diagnosis, registry

LONGEST = 4000  # characters of a diagnosis: results that it shows may be long
ONLY_PUBLIC = "It passes the examples of the notebook and fails on others."


def judge(pieces: Mapping[str, str], seed: int, limits: Limits = Limits()) -> dict[str, Verdict]:  # noqa: B008  (frozen)
    """The verdict for each exercise in `pieces`, which maps names to the source that defines the function asked for.

    The function has the stub's name there. ValueError for an exercise that does not exist.
    """
    tasks = [registry.exercise(name) for name in pieces]
    ends = time.monotonic() + limits.seconds_of_submission
    verdicts = {}
    try:
        for task in tasks:
            if time.monotonic() > ends:
                verdicts[task.name] = _no_time_left(task, limits)
            else:
                verdicts[task.name] = judge_one(task, pieces[task.name], seed, limits)
    finally:
        jail.shared().empty()
    return verdicts


def judge_one(task: registry.Exercise, source: str, seed: int, limits: Limits) -> Verdict:
    """The verdict for one exercise."""
    start = time.monotonic()
    run = jail.Run(jail.shared(), task, source, limits)
    attempt = diagnosis.Attempt(run, task.stub)
    try:
        status, words = _tested(task, attempt, seed)
    finally:
        run.end()
    seconds = time.monotonic() - start
    return Verdict(task.name, status, _plain(words), round(seconds, 3), _plain(run.printed))


def _tested(task: registry.Exercise, attempt: diagnosis.Attempt, seed: int) -> tuple[str, str]:
    """Status and words."""
    status, words = _outcome(task.examine, attempt)
    if status != "passed":
        return status, words
    draw = random.Random(f"{seed} {task.name}")
    status, words = _outcome(task.examine_fresh, attempt, draw)
    if status == "open":  # it stops being a function only here
        status, words = "not yet", "It raises NotImplementedError."
    return status, f"{ONLY_PUBLIC} {words}" if status == "not yet" else words


def _outcome(test: Callable, attempt: diagnosis.Attempt, *more: random.Random) -> tuple[str, str]:
    try:
        diagnosis.put_to(test, attempt, *more)
    except jail.Missing:
        return "missing", ""
    except diagnosis.NotAttempted:
        return "open", ""
    except diagnosis.OwnSolution as own:
        return "own solution", str(own)
    except diagnosis.Wrong as wrong:
        return "not yet", str(wrong)
    except diagnosis.NotJudged as reason:
        return "not judged", str(reason)
    return "passed", ""


def _no_time_left(task: registry.Exercise, limits: Limits) -> Verdict:
    words = (
        f"The functions before this one took {limits.seconds_of_submission} s together, which is all that a submission "
        "gets. Mend those that ran too long, and this one is judged."
    )
    return Verdict(task.name, "not judged", words)


def _plain(text: str) -> str:
    """Text that can be written to a file, not too long: what came from a student's process may hold anything."""
    return text[:LONGEST].encode("utf-8", errors="replace").decode("utf-8")
