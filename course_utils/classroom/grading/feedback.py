"""A page of feedback for each student, to be sent or put where only they can read it.

It says what `check`, `hint` and `quiz` would say in the notebook, and nothing more: of a wrong answer to a quiz the
page explains why it is wrong, and does not tell the right one, because the student is to try again, and pages are
passed on. It needs no script and nothing from elsewhere. What students wrote is escaped.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from course_utils.classroom.grading import gradebook
from course_utils.classroom.grading.gradebook import Task
from course_utils.classroom.grading.results import Result
from course_utils.classroom.texts import file_names, plain, template, visible
from course_utils.exercises import registry

FOLDER = "feedback"
PRINTED = 2_000  # characters that a page shows of what a function printed
HINT = '`hint("{name}")` gives the next step.'
NEXT = {
    "not yet": HINT,
    "open": f"You left the stub as it was. {HINT}",
    "missing": f"No cell of what you handed in defines `{{function}}`. {HINT}",
    "own solution": "This is the course's own solution, and points are for code of your own. Close it, and write the "
    f"function once more from memory. {HINT}",
    "not judged": "This could not be judged, and that is not your fault. It counts neither for nor against you.",
}


def write(results: Sequence[Result], out: Path) -> list[Path]:
    """Write a page for each student into the folder `out`/feedback; the pages in the order of `results`."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    counted = gradebook.tasks(results)
    students = [result.student for result in results]
    pages = [folder / f"{name}.html" for name in file_names(students)]
    for page, result in zip(pages, results, strict=True):
        others = [name for name in students if name != result.student]
        page.write_text(as_page(result, counted, others), encoding="utf-8")
    return pages


def as_page(result: Result, counted: Sequence[Task], others: Sequence[str] = ()) -> str:
    """One student's page. A note that names one of the `others` is left out: it is for the instructor."""
    units = dict.fromkeys(registry.unit_of(task.name) for task in counted)
    return template("feedback.html").render(
        student=plain(result.student),
        points=_in_words(gradebook.total(result, counted)),
        units=[_unit(result, counted, unit) for unit in units],
        files=[plain(PurePath(name).name) for name in result.files],
        notes=[plain(note) for note in result.notes if not _names_one_of(others, note)],
    )


def _names_one_of(others: Sequence[str], note: str) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", note) for name in others if name)


def _in_words(total: tuple[int, int]) -> str:
    reached, possible = total
    return f"{reached} of {possible} point{'' if possible == 1 else 's'}"


def _unit(result: Result, counted: Sequence[Task], unit: str) -> dict[str, Any]:
    """What the page shows of a unit."""
    here = [task for task in counted if registry.unit_of(task.name) == unit]
    exercises = [_exercise(result, task) for task in here if task.kind == "exercise"]
    quizzes = [_quiz(result, task) for task in here if task.kind == "quiz"]
    points = _in_words(gradebook.total(result, here))
    return {"name": unit, "points": points, "exercises": exercises, "quizzes": quizzes}


def _exercise(result: Result, task: Task) -> dict[str, str]:
    asked = registry.exercise(task.name)
    verdict = gradebook.verdict_on(result, task)
    reached = gradebook.points(result, task)
    following = NEXT.get(verdict.status, "What to notice: {notice}")
    names = {"name": task.name, "function": asked.stub.__name__, "notice": asked.notice}
    return {
        "name": task.name,
        "title": asked.title,
        "status": verdict.status,
        "points": "no points yet" if reached is None else _in_words((reached, task.most)),
        "words": verdict.words.strip(),
        "next": following.format(**names),
        "printed": visible(verdict.printed[:PRINTED]).rstrip(),
    }


def _quiz(result: Result, task: Task) -> dict[str, str]:
    asked = registry.quiz(task.name)
    chosen = asked.letters.get(gradebook.answer_to(result, task))
    about = {"name": task.name, "question": asked.question}
    if chosen is None:
        question = f'No answer yet. `quiz("{task.name}")` asks the question.'
        return about | {"kind": "open", "status": "no answer", "answer": "", "explanation": question}
    kind, status = ("passed", "right") if chosen.right else ("not-yet", "not right")
    return about | {"kind": kind, "status": status, "answer": chosen.text, "explanation": chosen.explanation}
