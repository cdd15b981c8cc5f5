"""Each student's page: what the notebook would say, nothing of others, and nothing that a student's text could do."""

from html.parser import HTMLParser

import pytest

from course_utils.classroom.grading import feedback
from course_utils.classroom.grading.points import tasks
from course_utils.classroom.grading.results import STATUSES, QuizResult, Result, Verdict
from course_utils.exercises import registry

EXERCISE, QUIZ = "7.1.word_error_rate", "7.1.fusion"  # the quiz's right answer is c
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e {{ 7 * 7 }} & </p>"


class Page(HTMLParser):
    """A page as a browser would take it apart: its tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def student(name: str, status: str = "passed", words: str = "", printed: str = "", letter: str = "", **more) -> Result:
    """A student with one exercise and one quiz."""
    verdicts = {EXERCISE: Verdict(EXERCISE, status, words, printed=printed)}
    right = registry.quiz(QUIZ).letters.get(letter)
    quizzes = {QUIZ: QuizResult(QUIZ, letter, right is not None and right.right)}
    return Result(name, more.pop("files", (f"{name}.ipynb",)), verdicts, quizzes, **more)


def page(result: Result, others: tuple[str, ...] = ()) -> Page:
    """The page of a student in a class where everything was handed in and answered by somebody."""
    counted = tasks([student("Somebody", letter="c")])
    return Page(feedback.as_page(result, counted, others))


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_says_what_comes_next(status: str) -> None:
    said = page(student("Anna", status)).text
    following = {"passed": "What to notice: ", "not judged": "that is not your fault"}
    assert following.get(status, f'hint("{EXERCISE}") gives the next step.') in said
    assert f"{status} · {EXERCISE}" in said


def test_a_diagnosis_keeps_its_lines_and_its_code() -> None:
    made = page(student("Anna", "not yet", "Use `len(said)`. For\n    said = []"))
    assert "Use len(said). For\n    said = []" in made.text
    assert "code" in made.tags


def test_points_are_told_by_unit_and_in_all() -> None:
    said = page(student("Anna", letter="c")).text
    assert said.count("3 of 3 points") == 2 and "2 of 2 points" in said
    assert "0 of 1 point." in page(student("Anna", "not judged", letter="a")).text


@pytest.mark.parametrize("letter", "abc")
def test_a_quiz_explains_the_answer_that_was_chosen_and_no_other(letter: str) -> None:
    said = page(student("Anna", letter=letter)).text
    for other, answer in registry.quiz(QUIZ).letters.items():
        assert (answer.text in said, answer.explanation in said) == (other == letter,) * 2
    assert ("not right" in said) == (letter != "c")


@pytest.mark.parametrize("letter", ["", "z"])
def test_a_quiz_without_an_answer_asks_again(letter: str) -> None:
    said = page(student("Anna", letter=letter)).text
    assert f"no answer · quiz {QUIZ}" in said and f'quiz("{QUIZ}") asks the question.' in said


def test_what_a_student_wrote_is_text_wherever_it_stands() -> None:
    harmless = page(student("Anna", "not yet", "x", "y"))
    evil = page(student(EVIL, "not yet", EVIL, EVIL, files=(EVIL,), notes=(EVIL,)))
    assert set(evil.tags) == set(harmless.tags)
    assert evil.attributes == harmless.attributes
    assert evil.text.count("<img src=x onerror=alert(2)>�[31m� {{ 7 * 7 }} & </p>") >= 5
    assert not {"\x1b", "\u202e"} & set(evil.text)


def test_a_page_needs_nothing_from_elsewhere() -> None:
    made = page(student("Anna", "not yet", "x", "y"))
    assert not {"script", "link", "img", "iframe", "form", "a"} & set(made.tags)
    assert not {"src", "href", "style"} & {name for name, _ in made.attributes}
    assert "url(" not in made.text and "@import" not in made.text


def test_a_page_is_for_phones_dark_rooms_and_paper() -> None:
    made = page(student("Anna"))
    assert ("content", "width=device-width, initial-scale=1") in made.attributes
    assert "prefers-color-scheme: dark" in made.text and "@media print" in made.text


def test_long_prints_are_cut() -> None:
    said = page(student("Anna", printed="x" * 50_000)).text
    assert "x" * feedback.PRINTED in said and "x" * (feedback.PRINTED + 1) not in said


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, str]:
    """The files of a class, with what is in them."""
    notes = ("The same code as Ben.", "7.1.ipynb: cell 3 can't be read.")
    anna = student("Anna", "not yet", "Anna's mistake", "Anna's print", "a", notes=notes, files=("in/Anna/7.1.ipynb",))
    ben = student("Ben", "not yet", "Ben's mistake", "Ben's print", "b")
    kim = Result("aux", (), notes=("bomb.zip would unpack to 40 GB.",))
    written = feedback.write([anna, ben, kim], tmp_path_factory.mktemp("Rückmeldung an alle"))
    return {path.name: path.read_text("utf-8") for path in written}


def test_every_student_gets_a_file_that_windows_can_hold(pages: dict[str, str]) -> None:
    assert list(pages) == ["Anna.html", "Ben.html", "_aux.html"]


def test_a_page_holds_nothing_of_other_students(pages: dict[str, str]) -> None:
    anna = Page(pages["Anna.html"]).text
    assert "Anna's mistake" in anna and "Anna's print" in anna
    assert "Ben" not in anna  # not even in the note, which is for the instructor
    assert "Anna" not in pages["Ben.html"] and "Anna" not in pages["_aux.html"]


def test_a_page_says_what_was_read(pages: dict[str, str]) -> None:
    anna = pages["Anna.html"]
    assert "<li><bdi>7.1.ipynb</bdi></li>" in anna and "in/Anna" not in anna  # folders are the instructor's
    assert "cell 3 can&#39;t be read." in anna
    assert "No file could be read." in pages["_aux.html"] and "would unpack to 40 GB" in pages["_aux.html"]


@pytest.mark.parametrize("note", ["As Ann did.", "Like ann_7.1.ipynb.", "ANN's code"])
def test_a_note_that_names_another_is_left_out(note: str) -> None:
    assert note not in page(student("Kim", notes=(note,)), ("Ann", "")).text


@pytest.mark.parametrize("note", ["Another cell.", "Ann_2.ipynb: cell 3.", "Annotated."])
def test_other_notes_stay(note: str) -> None:
    assert note in page(student("Ann_2", notes=(note,)), ("Ann", "")).text
