"""What counts, and the points for it.

What counts is what somebody handed in: an exercise without a cell in any submission, and a quiz that nobody answered,
were not asked for. What could not be judged, and the course's own solution in the place of a student's, counts neither
for nor against a student: a person decides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from course_utils.classroom.grading.results import POINTS, Result, Verdict
from course_utils.exercises import registry

UNDECIDED = ("not judged", "own solution")


@dataclass(frozen=True)
class Task:
    """An exercise or a quiz that counts. `most` is what it gives at best."""

    kind: str  # "exercise" or "quiz"
    name: str
    most: int

    @property
    def unit(self) -> str:
        """The unit it belongs to: "7.1"."""
        return registry.unit_of(self.name)

    @property
    def heading(self) -> str:
        """What its column is called; an exercise and a quiz may share a name."""
        return self.name if self.kind == "exercise" else f"quiz {self.name}"


def tasks(results: Sequence[Result]) -> list[Task]:
    """What counts, in the order of the course: first exercises, then quizzes."""
    handed_in: set[str] = set()
    answered: set[str] = set()
    for result in results:
        handed_in |= {name for name, verdict in result.verdicts.items() if verdict.status != "missing"}
        answered |= {name for name, answer in result.quizzes.items() if answer.letter}
    exercises = [task for task in registry.exercises().values() if task.name in handed_in]
    quizzes = [name for name in registry.quizzes() if name in answered]
    counted = [Task("exercise", task.name, POINTS[task.difficulty]) for task in exercises]
    return counted + [Task("quiz", name, 1) for name in quizzes]


def by_unit(counted: Iterable[Task]) -> dict[str, list[Task]]:
    """The tasks of each unit."""
    units: dict[str, list[Task]] = {}
    for task in counted:
        units.setdefault(task.unit, []).append(task)
    return units


def verdict_on(result: Result, task: Task) -> Verdict:
    """How a student did in an exercise; "missing" where nothing is known of it."""
    return result.verdicts.get(task.name, Verdict(task.name, "missing"))


def answer_to(result: Result, task: Task) -> str:
    """The letter that a student chose in a quiz; empty for none."""
    answer = result.quizzes.get(task.name)
    return answer.letter if answer else ""


def points(result: Result, task: Task) -> int | None:
    """What a student gets for a task; None if no program can decide it."""
    if task.kind == "quiz":
        if result.lost:
            return None
        answer = result.quizzes.get(task.name)
        return task.most if answer and answer.right else 0
    status = verdict_on(result, task).status
    if status in UNDECIDED:
        return None
    return task.most if status == "passed" else 0


def total(result: Result, counted: Iterable[Task]) -> tuple[int, int]:
    """Points reached, and points that could be had. What was not judged is in neither."""
    reached, possible = 0, 0
    for task in counted:
        got = points(result, task)
        if got is not None:
            reached += got
            possible += task.most
    return reached, possible


def whole(result: Result, counted: Iterable[Task]) -> int | None:
    """Points reached; None if a part could not be judged, because half a sum would look like a grade."""
    each = [points(result, task) for task in counted]
    return None if None in each else sum(each)
