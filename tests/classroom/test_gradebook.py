"""Points, tables and CSV files: what counts, what is blank, what an LMS reads, and what to teach tomorrow."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from course_utils.classroom.grading import gradebook, lms, points
from course_utils.classroom.grading.results import POINTS, STATUSES, QuizResult, Result, Verdict

EASY, MEDIUM, OTHER_UNIT = "7.1.zero_shot", "7.1.word_error_rate", "7.2.act"  # 1, 2 and 2 points
QUIZ = "7.1.fusion"
HEARD = "You divide by the words heard. Divide by the 3 words said."


def student(name: str, answer: str = "", notes: tuple[str, ...] = (), **statuses: str) -> Result:
    """A student with a status for the exercises `easy`, `medium` and `other`, and an answer to the quiz."""
    names = {"easy": EASY, "medium": MEDIUM, "other": OTHER_UNIT}
    verdicts = {}
    for key, status in statuses.items():
        words = HEARD if status == "not yet" else ""
        verdicts[names[key]] = Verdict(names[key], status, words)
    quizzes = {QUIZ: QuizResult(QUIZ, answer, answer == "c")} if answer else {}
    return Result(name, (f"{name}.ipynb",), verdicts, quizzes, notes, 1.26)


ANNA = student("Anna Müller", "c", easy="passed", medium="passed", other="passed")
BEN = student("Ben", "a", easy="passed", medium="not yet", other="not judged")
EVE = student(
    "=cmd()", notes=("7.1.ipynb: cell 3 can't be read.",), easy="open", medium="not yet", other="own solution"
)
CLASS = [ANNA, BEN, EVE]


def read(path: Path, encoding: str = "utf-8") -> list[dict[str, str]]:
    text = path.read_bytes().decode(encoding)
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("Noten für alle") / "new"
    gradebook.write(CLASS, folder, True)
    return folder


def test_what_somebody_handed_in_counts_for_all() -> None:
    names = [task.name for task in points.tasks([ANNA, student("Kim", medium="missing")])]
    assert names == [EASY, MEDIUM, OTHER_UNIT, QUIZ]


def test_what_nobody_handed_in_does_not_count() -> None:
    assert points.tasks([student("Kim", easy="open", medium="missing")]) == [points.Task("exercise", EASY, 1)]


@pytest.mark.parametrize("status", STATUSES)
def test_points_are_for_what_passed_and_blank_for_what_was_not_judged(status: str) -> None:
    task = points.Task("exercise", MEDIUM, POINTS["medium"])
    wanted = {"passed": 2, "not judged": None, "own solution": None}.get(status, 0)
    assert points.points(student("Kim", medium=status), task) == wanted


def test_the_total_leaves_out_what_was_not_judged() -> None:
    counted = points.tasks(CLASS)
    totals = [points.total(result, counted) for result in CLASS]
    assert totals == [(6, 6), (1, 4), (0, 4)]


def test_a_lost_students_quizzes_are_blank_too() -> None:
    lost = replace(student("Kim", easy="not judged"), lost=True)
    counted = points.tasks([ANNA, lost])
    assert points.total(lost, counted) == (0, 4)  # missing: its name is nowhere in the code
    _, _, _, canvas = lms.canvas([ANNA, lost])
    _, _, moodle = lms.moodle([ANNA, lost])
    assert canvas[-1] is None and moodle[-2:] == ["-", f"{QUIZ}: not judged."]


def test_a_student_who_handed_in_nothing_gets_no_points() -> None:
    nobody = Result("Kim", ())
    assert points.total(nobody, points.tasks([ANNA, nobody])) == (0, 6)


def test_the_table_of_grades(out: Path) -> None:
    possible, anna, ben, eve = read(out / "grades.csv", "utf-8-sig")
    assert possible["student"] == "Points Possible" and possible["of"] == "6" and possible[MEDIUM] == "2"
    assert (anna["student"], anna["points"], anna["of"], anna["seconds"]) == ("Anna Müller", "6", "6", "1.3")
    assert (ben[OTHER_UNIT], ben[f"{OTHER_UNIT}: status"]) == ("", "not judged")
    assert (ben[f"quiz {QUIZ}"], ben[f"quiz {QUIZ}: answer"]) == ("0", "a")
    assert (eve["student"], eve["notes"]) == ("'=cmd()", "7.1.ipynb: cell 3 can't be read.")


def test_excel_sees_that_it_is_utf_8(out: Path) -> None:
    assert (out / "grades.csv").read_bytes().startswith(b"\xef\xbb\xbfstudent,")


def test_canvas_knows_the_columns(out: Path) -> None:
    """The conditions are those of Canvas's lib/gradebook_importer.rb."""
    header, possible, anna, ben, _ = csv.reader((out / "canvas.csv").open(encoding="utf-8", newline=""))
    assert header[:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert header[5:] == ["Unit 7.1: exercises", "Unit 7.2: exercises", "Unit 7.1: quizzes"]
    assert "Points Possible" in possible[0] and possible[5:] == ["3", "2", "1"]
    assert anna == ["Anna Müller", "", "", "Anna Müller", "", "3", "2", "1"]
    assert ben[5:] == ["1", "", "0"]  # blank: Canvas counts it as not graded


def test_moodle_gets_a_grade_and_feedback(out: Path) -> None:
    """A dash is Moodle's "no grade": grade/import/csv/classes/load_data.php."""
    anna, ben, eve = read(out / "moodle.csv")
    assert list(anna)[:3] == ["Username", "Unit 7.1: exercises", "Unit 7.1: exercises (feedback)"]
    assert (anna["Username"], anna["Unit 7.1: exercises"], anna["Unit 7.2: exercises"]) == ("Anna Müller", "3", "2")
    assert ben["Unit 7.2: exercises"] == "-"
    assert ben["Unit 7.1: exercises (feedback)"] == f"{EASY}: passed. {MEDIUM}: not yet. {HEARD}"
    assert eve["Unit 7.1: quizzes (feedback)"] == f"{QUIZ}: no answer."


def test_what_moodle_shows_as_html_is_escaped() -> None:
    words = "It returns <class 'int'> & more."
    odd = Result("Kim", (), {EASY: Verdict(EASY, "not yet", words)})
    assert "<class" not in gradebook.as_csv(lms.moodle([odd]))


def test_nbgraders_columns(out: Path) -> None:
    rows = read(out / "nbgrader.csv")
    names = "assignment duedate timestamp student_id last_name first_name email raw_score late_submission_penalty score"
    assert list(rows[0]) == [*names.split(), "max_score"]
    scores = {(row["assignment"], row["student_id"]): (row["score"], row["max_score"]) for row in rows}
    assert scores["7.1", "Anna Müller"] == ("4", "4")
    assert scores["7.2", "Ben"] == ("", "2")


def test_only_the_table_without_an_lms(tmp_path: Path) -> None:
    written = gradebook.write(CLASS, tmp_path)
    assert (
        {path.name for path in written} == {"grades.csv", "summary.txt"} == {path.name for path in tmp_path.iterdir()}
    )


def test_the_summary_says_what_to_teach(out: Path) -> None:
    said = (out / "summary.txt").read_text("utf-8")
    assert f"{MEDIUM} (The word error rate): 1 of 3 passed\n    2 of 3: You divide by the words heard.\n" in said
    assert f"quiz {QUIZ}: 1 of 3 right; 1 chose a\n" in said
    assert said.startswith(
        f"3 submissions\n\nWhat to teach tomorrow:\n    2 of 3, {MEDIUM}: You divide by the words heard.\n"
    )


def test_a_single_students_mistake_is_not_the_classes() -> None:
    said = gradebook.summary([ANNA, BEN])
    assert "No mistake is shared by several students." in said
    assert "tomorrow" not in said and "    1 of 2: You divide by the words heard.\n" in said


def test_the_summary_says_who_is_to_be_judged_again_and_who_copied(out: Path) -> None:
    said = (out / "summary.txt").read_text("utf-8")
    assert f"Not judged, so blank in the tables; judge these again:\n    Ben: {OTHER_UNIT}\n" in said
    assert f"talk with them:\n    =cmd(): {OTHER_UNIT}\n" in said


@pytest.mark.parametrize(
    ("words", "begin"),
    [
        (HEARD, "You divide by the words heard."),
        ("The result is not right yet. For\n    x = 0.5", "The result is not right yet."),
        ("Your function stopped with ValueError: no\n    line 3: x", "Your function stopped with ValueError: no"),
        ("It took 0.5 s! Why?", "It took 0.5 s!"),
        ("", "no diagnosis"),
    ],
)
def test_a_diagnosis_is_told_by_its_first_sentence(words: str, begin: str) -> None:
    assert gradebook.gist(words) == begin


def test_diagnoses_that_differ_in_numbers_count_as_one() -> None:
    words = [
        "It has the shape (2, 3).",
        "It has the shape (2, -1.5e-3).",
        "It should add up to 1.",
        "It should add up to 1.",
    ]
    some = [Result(str(i), (), {EASY: Verdict(EASY, "not yet", said)}) for i, said in enumerate(words)]
    said = gradebook.summary(some)
    assert f"2 of 4, {EASY}: It has the shape (…, …).\n" in said
    assert f"2 of 4, {EASY}: It should add up to 1.\n" in said


def shown(results: list[Result]) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(gradebook.table(results))
    return console.file.getvalue()


def test_the_terminal_shows_points_by_unit() -> None:
    lines = shown(CLASS).splitlines()
    (ben,) = [line for line in lines if "Ben" in line]
    assert ben.replace("│", "").split() == "Ben 1 of 4 0 of 0* 1 of 4*".split()
    assert "* without what could not be judged" in lines[-1]


def test_the_terminal_does_nothing_that_a_name_says() -> None:
    said = shown([student("[red]x[/red]\x1b[2J", easy="passed")])
    assert "[red]x[/red]�[2J" in said and "\x1b" not in said


def test_a_class_of_nobody_is_an_empty_table(tmp_path: Path) -> None:
    gradebook.write([], tmp_path, True)
    assert read(tmp_path / "grades.csv", "utf-8-sig")[0]["of"] == "0"
