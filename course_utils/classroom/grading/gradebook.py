"""What came out as a table, as CSV files, and as a list of what to teach tomorrow.

    grades.csv    a row for each student; below the headings a row with the points that can be had
    summary.txt   what went wrong most often, how many passed each exercise, who is to be judged again
    canvas.csv, moodle.csv, nbgrader.csv   for other programs (lms.py)

Points that could not be judged are blank, not 0; so are those for the course's own solution.
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from csv import writer as csv_writer
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from course_utils.classroom.grading import lms
from course_utils.classroom.grading.points import Task, answer_to, by_unit, points, tasks, total, verdict_on, whole
from course_utils.classroom.grading.results import Result
from course_utils.classroom.outputs import save
from course_utils.classroom.texts import cell, plain
from course_utils.exercises import registry

NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
FREQUENT = 3  # diagnoses that the summary tells of an exercise
MOST_FREQUENT = 5  # those that it begins with
SEVERAL = 2  # students, from whom on a mistake is one of the class


def write(results: Sequence[Result], out: Path, csv: bool = False) -> list[Path]:
    """Write grades.csv and summary.txt into the folder `out`, with `csv` also what other programs read; the paths.

    ValueError if a file can't be written.
    """
    tables = {"grades.csv": rows(results)}
    if csv:
        tables["canvas.csv"] = lms.canvas(results)
        tables["moodle.csv"] = lms.moodle(results)
        tables["nbgrader.csv"] = lms.nbgrader(results)
    paths = []
    for name, table_rows in tables.items():
        # Excel needs the mark at the beginning to know UTF-8; others might take it for a part of the heading.
        encoding = "utf-8-sig" if name == "grades.csv" else "utf-8"
        content = as_csv(table_rows).encode(encoding)
        paths.append(save(out / name, content))
    paths.append(save(out / "summary.txt", summary(results).encode()))
    return paths


def as_csv(table_rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV. None is blank, and no text can act as a formula in a spreadsheet."""
    stream = io.StringIO()
    writer = csv_writer(stream)
    for row in table_rows:
        writer.writerow(map(cell, row))
    return stream.getvalue()


def rows(results: Sequence[Result]) -> list[list]:
    """grades.csv: points by task, then the word on each exercise and the answer to each quiz."""
    counted = tasks(results)
    headings = [task.heading for task in counted]
    most = [task.most for task in counted]
    possible = sum(most)
    details = [f"{task.heading}: {'status' if task.kind == 'exercise' else 'answer'}" for task in counted]
    table_rows = [["student", "points", "of", "seconds", *headings, *details, "notes"]]
    table_rows.append([lms.POSSIBLE, possible, possible, None, *most, *[None] * len(details), None])
    for result in results:
        each = [points(result, task) for task in counted]
        words = [_detail(result, task) for task in counted]
        seconds = round(result.seconds, 1)
        notes = "; ".join(result.notes)
        table_rows.append([result.student, *total(result, counted), seconds, *each, *words, notes])
    return table_rows


def _detail(result: Result, task: Task) -> str:
    return verdict_on(result, task).status if task.kind == "exercise" else answer_to(result, task)


def table(results: Sequence[Result]) -> Table:
    """For the terminal, a row for each student: points by unit, in all, and notes."""
    counted = tasks(results)
    units = by_unit(counted)
    shown = Table(title="Points")
    shown.add_column("student")
    for heading in (*units, "in all"):
        shown.add_column(heading, justify="right")
    shown.add_column("notes")
    for result in results:
        cells = [_out_of(result, group) for group in (*units.values(), counted)]
        if "*" in cells[-1]:
            shown.caption = "* without what could not be judged"
        notes = "\n".join(map(plain, result.notes))
        row = plain(result.student), *cells, notes
        shown.add_row(*map(Text, row))  # Text: brackets in a name are no markup
    return shown


def _out_of(result: Result, counted: Iterable[Task]) -> str:
    """The points for some tasks in words, with a star if one of them could not be judged."""
    reached, possible = total(result, counted)
    star = "*" if whole(result, counted) is None else ""
    return f"{reached} of {possible}{star}"


def summary(results: Sequence[Result]) -> str:
    """What the class got wrong most often, then each exercise and quiz, then what is to be judged again, and copies."""
    counted = tasks(results)
    size = len(results)
    lines = [f"{size} submissions", "", *teach(results), ""]
    for task in counted:
        lines += _exercise(results, task) if task.kind == "exercise" else [_quiz(results, task)]
    lines += _who(results, "not judged", "Not judged, so blank in the tables; judge these again")
    lines += _who(results, "own solution", "The course's own solution, so blank in the tables; talk with them")
    return "\n".join(lines) + "\n"


def teach(results: Sequence[Result]) -> list[str]:
    """Lines with the mistakes that most students share."""
    mistakes: Counter[tuple[str, str]] = Counter()
    for task in tasks(results):
        for words, count in _diagnoses(results, task).items():
            mistakes[task.name, words] = count
    shared = [(pair, count) for pair, count in mistakes.most_common(MOST_FREQUENT) if count >= SEVERAL]
    if not shared:
        return ["No mistake is shared by several students."]
    lines = [f"    {count} of {len(results)}, {name}: {words}" for (name, words), count in shared]
    return ["What to teach tomorrow:", *lines]


def _exercise(results: Sequence[Result], task: Task) -> list[str]:
    """How many passed, and the most frequent diagnoses."""
    title = registry.exercise(task.name).title
    size = len(results)
    passed = sum(verdict_on(result, task).status == "passed" for result in results)
    lines = [f"{task.name} ({title}): {passed} of {size} passed"]
    for words, count in _diagnoses(results, task).most_common(FREQUENT):
        lines.append(f"    {count} of {size}: {words}")
    return lines


def _diagnoses(results: Sequence[Result], task: Task) -> Counter[str]:
    """The diagnoses of a task, and how often each came. Those that differ in numbers count as one."""
    groups: dict[str, list[str]] = {}
    for result in results:
        verdict = verdict_on(result, task)
        if verdict.status == "not yet":
            sentence = gist(verdict.words)
            shared = NUMBER.sub("…", sentence)
            groups.setdefault(shared, []).append(sentence)
    counts: Counter[str] = Counter()
    for shared, sentences in groups.items():
        alike = len(set(sentences)) == 1
        counts[sentences[0] if alike else shared] = len(sentences)
    return counts


def gist(words: str) -> str:
    """What a diagnosis begins with: the first sentence of its first line."""
    first, *_ = words.strip().split("\n")
    sentence, *_ = re.split(r"(?<=[.!?])\s", first)
    return plain(sentence) or "no diagnosis"


def _quiz(results: Sequence[Result], task: Task) -> str:
    """How many were right, and which wrong answer was chosen most often."""
    right = sum(points(result, task) == task.most for result in results)
    line = f"{task.heading}: {right} of {len(results)} right"
    wrong = Counter(answer_to(result, task) for result in results if not points(result, task))
    del wrong[""]  # who gave no answer
    for letter, count in wrong.most_common(1):
        line += f"; {count} chose {letter}"
    return line


def _who(results: Sequence[Result], status: str, heading: str) -> list[str]:
    """The students with this status, and where; nothing if nobody has it."""
    lines = []
    for result in results:
        names = [name for name, verdict in result.verdicts.items() if verdict.status == status]
        if names:
            lines.append(f"    {plain(result.student)}: {', '.join(names)}")
    return ["", f"{heading}:", *lines] if lines else []
