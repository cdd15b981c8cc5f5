"""Rows of the CSV files that other programs read.

    canvas.csv     Canvas: Grades > Import
    moodle.csv     Moodle: Grades > Import > CSV file
    nbgrader.csv   what reads the files of `nbgrader export`

For an LMS the exercises of a unit are a column, and its quizzes another: a column for each of a hundred tasks would be
a hundred assignments.
"""

import html
from collections.abc import Iterable, Sequence

from course_utils.classroom.grading.points import Task, answer_to, by_unit, points, tasks, verdict_on, whole
from course_utils.classroom.grading.results import Result

POSSIBLE = "Points Possible"  # by these words Canvas knows the row
NO_GRADE = "-"  # Moodle's sign
BEFORE = "assignment duedate timestamp student_id last_name first_name email raw_score late_submission_penalty".split()


def columns(counted: Iterable[Task]) -> dict[str, list[Task]]:
    """What counts, by the column that it counts in."""
    plural = {"exercise": "exercises", "quiz": "quizzes"}
    groups: dict[str, list[Task]] = {}
    for task in counted:
        heading = f"Unit {task.unit}: {plural[task.kind]}"
        groups.setdefault(heading, []).append(task)
    return groups


def canvas(results: Sequence[Result]) -> list[list]:
    """Canvas looks for its own number, which a file's name may tell, for the login, then for the name.

    It asks about students and columns that it doesn't know.
    """
    groups = columns(tasks(results))
    most = [_possible(group) for group in groups.values()]
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *groups]]
    rows.append([POSSIBLE, None, None, None, None, *most])
    for result in results:
        reached = [whole(result, group) for group in groups.values()]
        rows.append([result.student, result.number, None, result.student, None, *reached])
    return rows


def _possible(group: Iterable[Task]) -> int:
    return sum(task.most for task in group)


def moodle(results: Sequence[Result]) -> list[list]:
    """Moodle asks which column names the user, and by what: username, e-mail address, ID number.

    It imports nothing at all if a user is unknown to it.
    """
    groups = columns(tasks(results))
    headings = ["Username"]
    for name in groups:
        headings += [name, f"{name} (feedback)"]
    rows: list[list] = [headings]
    for result in results:
        row: list = [result.student]
        for group in groups.values():
            reached = whole(result, group)
            words = [_in_words(result, task) for task in group]
            row += [NO_GRADE if reached is None else reached, " ".join(words)]
        rows.append(row)
    return rows


def _in_words(result: Result, task: Task) -> str:
    """A sentence of feedback, escaped: Moodle takes it for HTML."""
    if task.kind == "exercise":
        verdict = verdict_on(result, task)
        words = f"{task.name}: {verdict.status}. {verdict.words}"
        return html.escape(words.strip(), quote=False)
    if result.lost:
        return f"{task.name}: not judged."
    if not answer_to(result, task):
        return f"{task.name}: no answer."
    return f"{task.name}: {'right' if points(result, task) else 'not right'}."


def nbgrader(results: Sequence[Result]) -> list[list]:
    """A unit is an assignment. Who was late, only the LMS knows."""
    rows: list[list] = [[*BEFORE, "score", "max_score"]]
    for unit, group in by_unit(tasks(results)).items():
        most = _possible(group)
        for result in results:
            reached = whole(result, group)
            rows.append([unit, None, None, result.student, None, None, None, reached, 0, reached, most])
    return rows
