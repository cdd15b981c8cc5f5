"""`course grade`: right answers pass, mistakes get their diagnosis, and neither a lost judge nor a stop loses work."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import handed_in
import pytest
from typer.testing import CliRunner

from course_utils import cli
from course_utils.classroom.grading import extraction, formats, grading
from course_utils.classroom.grading.results import Result, Verdict
from course_utils.classroom.grading.submissions import Submission
from course_utils.exercises import registry, sandbox

FUSION, VOTE = "7.1.late_fusion", "7.3.majority_vote"
RIGHT = registry.exercise(FUSION).reference_source.replace("total", "everything")


# --- real judges


def sample(answers: list, number: int) -> list:
    """Every n-th, so that every exercise is there."""
    return answers[:: len(answers) // number]


@pytest.fixture(scope="module")
def judged():
    """Some right answers and some mistakes, with the verdicts on them; all in one process."""
    from course_utils.classroom.grading import jail, judging

    right = [(name, cells, "") for name, cells in sample(handed_in.right_answers(), 40)]
    cases = right + sample(handed_in.planted_mistakes(), 60)
    verdicts = []
    for name, cells, words in cases:
        piece = extraction.extract(cells).pieces[name]
        verdicts.append((judging.judge({name: piece}, 5)[name], words))
    jail.shared().close()
    return verdicts


def test_no_right_answer_is_refused(judged) -> None:
    verdicts = [verdict for verdict, words in judged if not words]
    assert [verdict for verdict in verdicts if verdict.status != "passed"] == []
    assert len(verdicts) >= 40


def test_no_mistake_passes_and_nearly_all_get_their_diagnosis(judged) -> None:
    wrong = [(verdict, words) for verdict, words in judged if words]
    assert {verdict.status for verdict, _ in wrong} == {"not yet"} and len(wrong) >= 60
    diagnosed = [words in " ".join(verdict.words.split()) for verdict, words in wrong]
    assert sum(diagnosed) >= 0.9 * len(wrong)


def test_the_command_grades_a_class(tmp_path: Path) -> None:
    quiz = next(iter(registry.quizzes()))
    folder = tmp_path / "Übung 1"
    handed_in.save(folder / "anna" / "7.1.ipynb", [formats.IMPORTS, RIGHT, f'quiz("{quiz}", "a")'])
    handed_in.save(folder / "ben" / "7.1.ipynb", ["def late_fusion(p, w):\n    return 1"])
    handed_in.save(folder / "cem" / "7.1.ipynb", [registry.exercise(FUSION).stub_source, "def broken("])
    arguments = ["grade", str(folder), "--seed", "4", "--csv", "--jobs", "1"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "--seed 4" in result.output
    out = tmp_path / "Übung 1-graded"
    kept = {path.stem: json.loads(path.read_text("utf-8"))["result"] for path in (out / "results").iterdir()}
    statuses = {name: fields["verdicts"][FUSION]["status"] for name, fields in kept.items()}
    assert statuses == {"anna": "passed", "ben": "not yet", "cem": "open"}
    assert kept["anna"]["quizzes"][quiz]["letter"] == "a"
    assert kept["cem"]["notes"] == ["7.1.ipynb: Code cell 2 is no Python that can be read, and left out."]
    assert (out / "grades.csv").exists() and (out / "moodle.csv").exists()
    assert len(list((out / "feedback").glob("*.html"))) == 3


# --- which file counts


def extracts(**cells: list[str]) -> list[tuple[str, extraction.Extract]]:
    return [(file, extraction.extract(code)) for file, code in cells.items()]


def test_the_newest_attempt_counts_and_a_stub_is_none() -> None:
    stub = registry.exercise(FUSION).stub_source
    old, new = "def late_fusion(p, w):\n    return 1", "def late_fusion(p, w):\n    return 2"
    found, notes = grading.joined(extracts(a=[old], b=[new], c=[stub]))
    assert "return 2" in found.pieces[FUSION] and not found.open
    assert notes == [f"Several files answer {FUSION}; b counts, the newest."]
    copied = extraction.Extract(copied=frozenset([FUSION]))
    found, _ = grading.joined([*extracts(a=[old]), ("b", copied)])
    assert found.copied == {FUSION} and not found.pieces
    found, _ = grading.joined([("a", copied), *extracts(b=[old])])
    assert not found.copied and FUSION in found.pieces


def test_files_of_one_name_are_both_read() -> None:
    files = [*extracts(a=["def late_fusion(p, w):\n    return 1"]), *extracts(a=["def act(p, r, t):\n    return 1"])]
    assert grading.joined(files)[0].pieces.keys() == {FUSION, "7.2.act"}


def test_files_of_a_student_do_not_mix() -> None:
    found, notes = grading.joined(extracts(a=["n = 1\ndef late_fusion(p, w):\n    return n"], b=["n = 2"]))
    assert "n = 1" in found.pieces[FUSION] and "n = 2" not in found.pieces[FUSION] and notes == []


# --- judges that are lost, runs that stop


class Ended:
    """A judge that fails at one student, and counts what it is asked."""

    asked: list[str] = []  # noqa: RUF012  (the test empties it)
    fails: type[Exception] | None = EOFError

    def walls(self) -> list[str]:
        return ["A student's code can use the network."]

    def ask(self, submission: Submission, seed: int) -> Result:
        self.asked.append(submission.student)
        if submission.student == "ben" and self.fails:
            raise self.fails
        return Result(submission.student, (), {VOTE: Verdict(VOTE, "passed")}, {}, submission.notes, 1.0)

    def close(self) -> None:
        """Nothing was started."""


@pytest.fixture
def class_of_three(tmp_path: Path, monkeypatch) -> Path:
    """A folder, and judges that fail at one of its students."""
    monkeypatch.setattr(grading, "Judge", Ended)
    monkeypatch.setattr(Ended, "asked", [])
    for student in ("anna", "ben", "cem"):
        cell = f"def majority_vote(answers):\n    return '{student}'"
        handed_in.save(tmp_path / "class" / f"{student}_7.3.ipynb", [cell])
    return tmp_path / "class"


@pytest.mark.parametrize(("error", "words"), [(EOFError, "ended its process"), (TimeoutError, "took more than 600 s")])
def test_a_lost_judge_is_told_and_harms_nobody_else(error, words, class_of_three, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Ended, "fails", error)
    anna, ben, cem = grading.grade(class_of_three, tmp_path / "out", 1, 1, lambda _: None)
    assert anna.verdicts[VOTE].status == cem.verdicts[VOTE].status == "passed"
    assert ben.verdicts[VOTE].status == "not judged" and words in ben.notes[-1]
    assert ben.verdicts[FUSION].status == "missing"
    monkeypatch.setattr(Ended, "fails", None)
    again = grading.grade(class_of_three, tmp_path / "out", 1, None, lambda _: None)
    assert Ended.asked == ["anna", "ben", "cem", "ben"]  # what was judged is not judged again
    assert json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["results"] == ["anna", "ben", "cem"]
    assert again[0] == anna and again[1].verdicts[VOTE].status == "passed"


def test_a_stopped_run_goes_on_where_it_stopped(class_of_three, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Ended, "fails", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        grading.grade(class_of_three, tmp_path / "out", 1, 1, lambda _: None)
    monkeypatch.setattr(Ended, "fails", None)
    lines: list[str] = []
    assert len(grading.grade(class_of_three, tmp_path / "out", 1, None, lines.append)) == 3
    assert Ended.asked.count("anna") == 1 and lines[-1] == "3 of 3 graded: cem"


def test_what_changed_is_judged_again(class_of_three, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Ended, "fails", None)
    out = tmp_path / "out"
    grading.grade(class_of_three, out, 1, None, lambda _: None)
    seed = grading.kept_seed(out)
    handed_in.save(class_of_three / "cem_7.3.ipynb", ["x = 1"])
    (out / "results" / "anna.json").write_text('{"checksum": [')
    grading.grade(class_of_three, out, 2, None, lambda _: None)
    assert sorted(Ended.asked[3:]) == ["anna", "cem"] and grading.kept_seed(out) == seed
    grading.grade(class_of_three, out, 1, seed + 1, lambda _: None)
    assert len(Ended.asked) == 8 and grading.kept_seed(out) == seed + 1


def test_missing_walls_are_told_once(class_of_three, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Ended, "fails", None)
    warned: list[str] = []
    grading.grade(class_of_three, tmp_path / "out", 2, 1, lambda _: None, warned.append)
    assert warned == ["A student's code can use the network."]


def test_two_students_whose_files_would_have_one_name(class_of_three, tmp_path) -> None:
    handed_in.save(class_of_three / "CEM_7.3.ipynb", ["x = 1"])
    grading.grade(class_of_three, tmp_path / "out", 1, 1, lambda _: None)
    assert len(list((tmp_path / "out" / "results").glob("*.json"))) == 4


def test_a_judge_that_dies_or_hangs_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(grading, "LONGEST", 0.2)
    judge = grading.Judge()
    judge.process.kill()
    with pytest.raises(EOFError):
        judge.ask(Submission("anna"), 1)
    judge.close()
    if hasattr(signal, "SIGSTOP"):
        judge = grading.Judge()
        os.kill(judge.process.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            judge.ask(Submission("anna"), 1)
        judge.close()
        assert not judge.process.is_alive()


def test_a_machine_that_can_run_no_code_is_told(monkeypatch) -> None:
    from course_utils.classroom.grading import jail

    def broken() -> None:
        raise sandbox.CannotStart("no memory")

    monkeypatch.setattr(jail, "protections", broken)
    [told] = grading.missing_walls()
    assert told.endswith("so nothing is judged: no memory.")


# --- bad input


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    handed_in.save(tmp_path / "anna.ipynb", ["x"])
    for arguments, words in [
        ([str(tmp_path / "nowhere")], "there is no"),
        ([str(tmp_path), "--out", str(tmp_path / "out")], "is inside"),
        ([str(tmp_path / "anna.ipynb")], "is no folder and no zip file"),
    ]:
        result = CliRunner().invoke(cli.app, ["grade", *arguments])
        assert result.exit_code == 2 and words in result.output


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    submission = replace(Submission("anna", "7"), notes=("ü",))
    result = grading.lost(submission, "ended")
    assert result.lost
    path = tmp_path / "anna.json"
    path.write_text(json.dumps({"checksum": "c", "result": grading.asdict(result)}), encoding="utf-8")
    assert grading.kept(path, "c") == result and result.number == "7"
    assert grading.kept(path, "d") is None
