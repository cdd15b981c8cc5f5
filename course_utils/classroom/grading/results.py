"""What grading finds out: a verdict for each exercise and each quiz of each student."""

from dataclasses import dataclass, field
from typing import Any

STATUSES = ("passed", "not yet", "open", "missing", "own solution", "not judged")
RESULTS, RUN = "results", "run.json"  # in the output folder: a file for each student, and what the last run was
POINTS = {"easy": 1, "medium": 2, "hard": 3}  # for an exercise; a quiz that was answered right gives 1


@dataclass(frozen=True)
class Verdict:
    """How a student's function did.

    status: "passed"; "not yet" with the diagnosis in `words`; "open", the stub was left as it is; "missing", no cell
    defines it; "own solution", the course's own was called or copied in; "not judged", not the student's fault.
    seconds: wall-clock time. printed: the beginning of what the function printed.
    """

    exercise: str
    status: str
    words: str = ""
    seconds: float = 0.0
    printed: str = ""


@dataclass(frozen=True)
class QuizResult:
    """A student's last answer to a quiz: the letter, "" if none; whether it is right."""

    quiz: str
    letter: str
    right: bool


@dataclass(frozen=True)
class Result:
    """One student. `files` are the files that were read, `notes` what the instructor should know of them.

    number: what the LMS calls the student, "" if no name of a file says it.
    lost: judging broke off, so nothing is known of it.
    """

    student: str
    files: tuple[str, ...]
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # by exercise
    quizzes: dict[str, QuizResult] = field(default_factory=dict)  # by quiz
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    number: str = ""
    lost: bool = False


def from_json(fields: dict[str, Any]) -> Result:
    """The result that `asdict` made `fields` of. ValueError if they are something else."""
    try:
        verdicts = {name: Verdict(**verdict) for name, verdict in fields["verdicts"].items()}
        quizzes = {name: QuizResult(**quiz) for name, quiz in fields["quizzes"].items()}
        student, number = str(fields["student"]), str(fields["number"])
        files, notes = tuple(fields["files"]), tuple(fields["notes"])
        return Result(student, files, verdicts, quizzes, notes, fields["seconds"], number, bool(fields["lost"]))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("these are no results of a student") from error
