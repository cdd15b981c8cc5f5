"""A page of feedback for each student, to be sent or put where only they can read it.

It says what `check`, `hint` and `quiz` would say in the notebook, and nothing more: of a wrong answer to a quiz the
page explains why it is wrong, and does not tell the right one, because the student is to try again, and pages are
passed on. It needs no script and nothing from elsewhere. What students wrote is escaped.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from course_utils.classroom.grading.points import Task, answer_to, by_unit, points, tasks, total, verdict_on
from course_utils.classroom.grading.results import Result
from course_utils.classroom.outputs import file_names, save, template
from course_utils.exercises import registry

FOLDER = "feedback"
PRINTED = 2_000  # characters that a page shows of what a function printed
HINT = '`hint("{name}")` gives the next step.'
NEXT = {
    "passed": "What to notice: {notice}",
    "not yet": HINT,
    "open": f"You left the stub as it was. {HINT}",
    "missing": f"No cell of what you handed in defines `{{function}}`. {HINT}",
    "own solution": "This is the course's own solution, and points are for code of your own. Close it, and write the "
    f"function once more from memory. {HINT}",
    "not judged": "This could not be judged, and that is not your fault. It counts neither for nor against you.",
}


def write(results: Sequence[Result], out: Path) -> list[Path]:
    """Write a page for each student into the folder `out`/feedback; the pages in the order of `results`.

    ValueError if a page can't be written.
    """
    counted = tasks(results)
    students = [result.student for result in results]
    pages = []
    for name, result in zip(file_names(students), results, strict=True):
        others = [student for student in students if student != result.student]
        page = as_page(result, counted, others)
        pages.append(save(out / FOLDER / f"{name}.html", page.encode()))
    return pages


def as_page(result: Result, counted: Sequence[Task], others: Sequence[str] = ()) -> str:
    """One student's page. A note that names one of the `others` is left out: it is for the instructor."""
    files = [PurePath(name).name for name in result.files]  # the folders are the instructor's
    notes = [note for note in result.notes if not _names_another(note, result.student, others)]
    units = [_unit(result, unit, group) for unit, group in by_unit(counted).items()]
    reached = _in_words(*total(result, counted))
    page = template("feedback.html")
    return page.render(student=result.student, points=reached, units=units, files=files, notes=notes)


def _names_another(note: str, student: str, others: Sequence[str]) -> bool:
    """Whether a note names another student, as a word or as a part of a file's name such as Ben_7.1.ipynb."""
    rest = note.replace(student, "")  # Anna_2 names no Anna
    names = [re.escape(name) for name in others if name]
    if not names:
        return False
    pattern = rf"(?<![^\W_])({'|'.join(names)})(?![^\W_])"
    return re.search(pattern, rest, re.IGNORECASE) is not None


def _in_words(reached: int, possible: int) -> str:
    return f"{reached} of {possible} point{'' if possible == 1 else 's'}"


def _unit(result: Result, unit: str, group: Sequence[Task]) -> dict[str, Any]:
    """What the page shows of a unit."""
    exercises = [_exercise(result, task) for task in group if task.kind == "exercise"]
    quizzes = [_quiz(result, task) for task in group if task.kind == "quiz" and not result.lost]
    reached = _in_words(*total(result, group))
    return {"name": unit, "points": reached, "exercises": exercises, "quizzes": quizzes}


def _exercise(result: Result, task: Task) -> dict[str, Any]:
    """What the page shows of an exercise."""
    asked = registry.exercise(task.name)
    verdict = verdict_on(result, task)
    reached = points(result, task)
    in_words = "no points yet" if reached is None else _in_words(reached, task.most)
    function = asked.stub.__name__
    following = NEXT[verdict.status].format(name=task.name, function=function, notice=asked.notice)
    printed = verdict.printed[:PRINTED]
    return {"asked": asked, "verdict": verdict, "points": in_words, "next": following, "printed": printed}


def _quiz(result: Result, task: Task) -> dict[str, Any]:
    """What the page shows of a quiz: the question, and the answer that was chosen, if there is one."""
    asked = registry.quiz(task.name)
    letter = answer_to(result, task)
    return {"asked": asked, "chosen": asked.letters.get(letter)}
