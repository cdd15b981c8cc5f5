"""What came out as a table, as CSV files, and as a list of what to teach tomorrow.

    grades.csv     a row for each student; below the headings a row with the points that can be had
    summary.txt    how many passed each exercise, and the most frequent diagnoses
    canvas.csv     Canvas: Grades > Import; a column for the exercises and one for the quizzes of each unit
    moodle.csv     Moodle: Grades > Import > CSV file; the same columns, each with its feedback
    nbgrader.csv   the columns of `nbgrader export`, a row for each student and unit

What counts is what somebody handed in: an exercise without a cell in any submission, and a quiz that nobody answered,
was not handed out. What could not be judged is blank, not 0.
"""

import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from csv import writer as csv_writer
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from course_utils.classroom.grading.results import POINTS, Result, Verdict
from course_utils.classroom.texts import cell, plain
from course_utils.exercises import registry

POSSIBLE = "Points Possible"  # how Canvas knows the row; Otter has one like it
NUMBER = re.compile(r"-?\d[\d.,]*(?:e[-+]?\d+)?")
FREQUENT = 3  # diagnoses that the summary tells of an exercise


@dataclass(frozen=True)
class Task:
    """An exercise or a quiz that counts. `most` is what it gives at best."""

    kind: str  # "exercise" or "quiz"
    name: str
    most: int

    @property
    def heading(self) -> str:
        """What its column is called; an exercise and a quiz may share a name."""
        return self.name if self.kind == "exercise" else f"quiz {self.name}"

    @property
    def group(self) -> str:
        """The column of an LMS that it counts in."""
        plural = "exercises" if self.kind == "exercise" else "quizzes"
        return f"Unit {registry.unit_of(self.name)}: {plural}"


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


def verdict_on(result: Result, task: Task) -> Verdict:
    """How a student did in an exercise; "missing" where nothing is known of it."""
    return result.verdicts.get(task.name, Verdict(task.name, "missing"))


def answer_to(result: Result, task: Task) -> str:
    """The letter that a student chose in a quiz; empty for none."""
    answer = result.quizzes.get(task.name)
    return answer.letter if answer else ""


def points(result: Result, task: Task) -> int | None:
    """What a student gets for a task; None if it could not be judged."""
    if task.kind == "quiz":
        answer = result.quizzes.get(task.name)
        return task.most if answer and answer.right else 0
    status = verdict_on(result, task).status
    if status == "not judged":
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


def table(results: Sequence[Result]) -> Table:
    """A row for each student: points by unit, in all, and notes."""
    counted = tasks(results)
    units = dict.fromkeys(registry.unit_of(task.name) for task in counted)
    shown = Table(title="Points")
    shown.add_column("student")
    for heading in (*units, "in all"):
        shown.add_column(heading, justify="right")
    shown.add_column("notes")
    for result in results:
        cells = [_out_of(result, counted, unit) for unit in units]
        notes = "\n".join(map(plain, result.notes))
        row = plain(result.student), *cells, _out_of(result, counted), notes
        shown.add_row(*map(Text, row))  # Text: brackets in a name are no markup
    if any(points(result, task) is None for result in results for task in counted):
        shown.caption = "* without what could not be judged"
    return shown


def _out_of(result: Result, counted: Iterable[Task], unit: str = "") -> str:
    """The points of a unit, or of all, in words; a star where something could not be judged."""
    chosen = [task for task in counted if unit in ("", registry.unit_of(task.name))]
    reached, possible = total(result, chosen)
    unknown = any(points(result, task) is None for task in chosen)
    return f"{reached} of {possible}{'*' if unknown else ''}"


def summary(results: Sequence[Result]) -> str:
    """For each exercise, how many passed and what went wrong most often; then what could not be judged, and copies."""
    lines = [f"{len(results)} submissions. How many passed, and the most frequent diagnoses:", ""]
    for task in tasks(results):
        if task.kind == "exercise":
            lines += _told_of_exercise(results, task)
        else:
            right = sum(points(result, task) == 1 for result in results)
            lines.append(f"{task.heading}: {right} of {len(results)} right")
    lines += _told_apart(results, "not judged", "Not judged, so blank in the tables; judge these again")
    lines += _told_apart(results, "own solution", "The course's own solution, so 0 points; talk with them first")
    return "\n".join(lines) + "\n"


def _told_of_exercise(results: Sequence[Result], task: Task) -> list[str]:
    title = registry.exercise(task.name).title
    verdicts = [verdict_on(result, task) for result in results]
    passed = sum(verdict.status == "passed" for verdict in verdicts)
    lines = [f"{task.name} ({title}): {passed} of {len(results)} passed"]
    diagnoses = Counter(gist(verdict.words) for verdict in verdicts if verdict.status == "not yet")
    for words, count in diagnoses.most_common(FREQUENT):
        lines.append(f"    {count} of {len(results)}: {words}")
    return lines


def gist(words: str) -> str:
    """What the diagnoses of several students share: the first sentence of the first line, without its numbers."""
    first, *_ = words.strip().split("\n")
    sentence, *_ = re.split(r"(?<=[.!?])\s", first)
    return NUMBER.sub("…", plain(sentence)) or "no diagnosis"


def _told_apart(results: Sequence[Result], status: str, heading: str) -> list[str]:
    """Who has this status where; nothing if nobody has."""
    lines = []
    for result in results:
        names = [name for name, verdict in result.verdicts.items() if verdict.status == status]
        if names:
            lines.append(f"    {plain(result.student)}: {', '.join(names)}")
    return ["", f"{heading}:", *lines] if lines else []


def write(results: Sequence[Result], out: Path, csv: bool = False) -> list[Path]:
    """Write grades.csv and summary.txt into the folder `out`, with `csv` also the files for an LMS; all of them."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"grades.csv": _rows(results)}
    if csv:
        files["canvas.csv"] = _canvas(results)
        files["moodle.csv"] = _moodle(results)
        files["nbgrader.csv"] = _nbgrader(results)
    for name, rows in files.items():
        # Excel needs the mark at the beginning to know UTF-8; an LMS might take it for a part of the heading.
        encoding = "utf-8-sig" if name == "grades.csv" else "utf-8"
        (out / name).write_text(as_csv(rows), encoding=encoding, newline="")
    (out / "summary.txt").write_text(summary(results), encoding="utf-8")
    return [out / name for name in (*files, "summary.txt")]


def as_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV. None is blank, and no text can act as a formula in a spreadsheet."""
    stream = io.StringIO()
    writer = csv_writer(stream)
    for row in rows:
        writer.writerow(map(cell, row))
    return stream.getvalue()


def _rows(results: Sequence[Result]) -> list[list]:
    """grades.csv: points by task, then the words on each exercise and the answer to each quiz."""
    counted = tasks(results)
    headings = [task.heading for task in counted]
    details = [f"{task.heading}: {'status' if task.kind == 'exercise' else 'answer'}" for task in counted]
    most = [task.most for task in counted]
    rows = [["student", "points", "of", "seconds", *headings, *details, "notes"]]
    rows.append([POSSIBLE, sum(most), sum(most), None, *most, *[None] * len(details), None])
    for result in results:
        each = [points(result, task) for task in counted]
        words = [_detail(result, task) for task in counted]
        notes = "; ".join(result.notes)
        seconds = round(result.seconds, 1)
        rows.append([result.student, *total(result, counted), seconds, *each, *words, notes])
    return rows


def _detail(result: Result, task: Task) -> str:
    return verdict_on(result, task).status if task.kind == "exercise" else answer_to(result, task)


def _groups(counted: Iterable[Task]) -> dict[str, list[Task]]:
    """What counts, by the column of an LMS."""
    groups: dict[str, list[Task]] = {}
    for task in counted:
        groups.setdefault(task.group, []).append(task)
    return groups


def _sum(result: Result, group: Iterable[Task]) -> int | None:
    """The points of a column; None if a part of it could not be judged: half a sum would look like a grade."""
    each = [points(result, task) for task in group]
    return None if None in each else sum(each)


def _canvas(results: Sequence[Result]) -> list[list]:
    """Canvas looks for the login, then for the name. It asks about students and columns that it doesn't know."""
    groups = _groups(tasks(results))
    most = [sum(task.most for task in group) for group in groups.values()]
    rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *groups]]
    rows.append([POSSIBLE, *[None] * 4, *most])
    for result in results:
        sums = [_sum(result, group) for group in groups.values()]
        rows.append([result.student, None, None, result.student, None, *sums])
    return rows


def _moodle(results: Sequence[Result]) -> list[list]:
    """Moodle asks which column names the user, and what: username, e-mail address, or ID number."""
    groups = _groups(tasks(results))
    headings = ["Username"]
    for name in groups:
        headings += [name, f"{name} (feedback)"]
    rows: list[list] = [headings]
    for result in results:
        row: list = [result.student]
        for group in groups.values():
            reached = _sum(result, group)
            words = [_in_words(result, task) for task in group]
            row += ["-" if reached is None else reached, " ".join(words)]
        rows.append(row)
    return rows


def _in_words(result: Result, task: Task) -> str:
    """A sentence of feedback. Moodle takes it for HTML."""
    if task.kind == "quiz":
        chosen = answer_to(result, task)
        status = "right" if points(result, task) else "not right"
        return f"{task.name}: {status if chosen else 'no answer'}."
    verdict = verdict_on(result, task)
    words = f"{task.name}: {verdict.status}. {verdict.words}"
    return html.escape(words.strip(), quote=False)


def _nbgrader(results: Sequence[Result]) -> list[list]:
    """A unit is an assignment. Late days are nobody's business here."""
    counted = tasks(results)
    names = "assignment duedate timestamp student_id last_name first_name email raw_score late_submission_penalty"
    rows: list[list] = [[*names.split(), "score", "max_score"]]
    for unit in dict.fromkeys(registry.unit_of(task.name) for task in counted):
        group = [task for task in counted if registry.unit_of(task.name) == unit]
        most = sum(task.most for task in group)
        for result in results:
            reached = _sum(result, group)
            rows.append([unit, None, None, result.student, None, None, None, reached, 0, reached, most])
    return rows
