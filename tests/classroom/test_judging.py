"""`judge`: every status, fresh examples, limits of a whole submission, and machines without walls."""

import random
from pathlib import Path

import psutil
import pytest
import torch

from course_utils.classroom.grading import jail, judging
from course_utils.classroom.grading.jail import Limits
from course_utils.exercises import registry, sandbox
from course_utils.exercises.diagnosis import Attempt, show

VOTE, RATE = "7.3.majority_vote", "7.1.word_error_rate"
SMALL = Limits(seconds=1, seconds_to_load=3, seconds_in_all=2, memory=2**28)
IMPORTS = """
import copy, json, math, random, re, unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, chain, zip_longest
from typing import Any
import torch
from torch import Tensor
from torch.nn import functional as F
"""
VOTES = """
def majority_vote(answers):
    counts = {}
    for answer in filter(None, answers):
        counts[answer] = counts.get(answer, 0) + 1
    return max(counts, key=counts.get, default="")
"""


def judged(source: str, name: str = VOTE, limits: Limits = SMALL) -> judging.Verdict:
    return judging.judge({name: source}, 1, limits)[name]


def test_right_solutions_of_all_exercises_pass() -> None:
    """The course's own text, as a student's who found the same: it is data here, and runs behind the walls."""
    pieces = {name: IMPORTS + task.reference_source for name, task in registry.exercises().items()}
    verdicts = judging.judge(pieces, 1)
    assert list(verdicts) == list(pieces)
    assert {verdict.status for verdict in verdicts.values()} == {"passed"}
    assert all(verdict.seconds > 0 and verdict.words == "" for verdict in verdicts.values())


def test_other_styles_pass() -> None:
    """One of each unit's, with its whole file around it."""
    path = Path(__file__).parents[1] / "exercises"
    for name in ("7.1.zero_shot", "7.2.approval_gate", "7.3.beam_over_thoughts", "7.4.backoff", "7.5.merge"):
        unit = registry.unit_of(name).replace(".", "_")
        source = (path / f"styles_{unit}.py").read_text("utf-8")
        piece = f"{source}\n{registry.exercise(name).stub.__name__} = STYLES[{name!r}][0]\n"
        assert judged(piece, name, Limits()).status == "passed"


WRONG = [
    (IMPORTS + registry.exercise(VOTE).stub_source, "open", ""),
    ("def another(): pass", "missing", ""),
    ("", "missing", ""),
    ("majority_vote = 7", "not yet", "`majority_vote` should be a function."),
    ("def majority_vote(answers) return 1", "not yet", "SyntaxError"),
    ("def majority_vote(): return ''", "not yet", "can't be called with (answers)"),
    ("def majority_vote(answers):\n    x = 0\n    return 1 / x", "not yet", "line 3: return 1 / x"),
    ("def majority_vote(answers): return answers[0]", "not yet", ""),
    ("from course_utils.measures import majority as majority_vote", "own solution", "does not count"),
    ("def majority_vote(answers): raise ValueError('\\ud800')", "not yet", "ValueError: ?"),
]


@pytest.mark.parametrize(("source", "status", "words"), WRONG)
def test_a_wrong_source(source: str, status: str, words: str) -> None:
    verdict = judged(source)
    assert verdict.status == status and words in verdict.words
    assert (verdict.words == "") is (status in {"open", "missing"})


def test_what_is_printed_is_kept() -> None:
    assert judged(f"print('above')\n{VOTES}").printed == "above\n"


def test_torch_finds_its_folder() -> None:
    """As torch.optim asks for it; that import alone would take seconds here."""
    asked = "import os; os.makedirs(os.environ['TORCHINDUCTOR_CACHE_DIR'], exist_ok=True)"
    assert judged(f"{asked}\n{VOTES}").status == "passed"


def test_an_unknown_exercise_is_named() -> None:
    with pytest.raises(ValueError, match="There is no exercise '7.9.nothing'"):
        judging.judge({"7.9.nothing": ""}, 1)


class Recorded(Attempt):
    """Writes down the public examples, and what is wanted."""

    def __init__(self, task: registry.Exercise) -> None:
        super().__init__(None, task.stub)
        self.task, self.pairs = task, []

    def __call__(self, *inputs):
        self.pairs.append((inputs, self.task.reference(*inputs)))
        return self.pairs[-1][1]


def test_who_learned_the_examples_by_heart_fails() -> None:
    task = registry.exercise(VOTE)
    known = Recorded(task)
    task.examine(known)
    answers = {tuple(inputs[0]): wanted for inputs, wanted in known.pairs}
    verdict = judged(f"def majority_vote(answers): return {answers!r}.get(tuple(answers), '')")
    assert verdict.status == "not yet" and verdict.words.startswith(judging.ONLY_PUBLIC)


def test_fresh_examples_depend_on_the_seed_and_the_exercise(monkeypatch) -> None:
    drawn = []

    def fresh(yours: Attempt, draw: random.Random) -> None:
        drawn.append(draw.random())

    monkeypatch.setattr(registry.Exercise, "examine_fresh", property(lambda task: fresh))
    for seed in (1, 1, 2):
        judging.judge({VOTE: VOTES}, seed)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_run_goes_on_after_a_crash() -> None:
    """A test may look what a function raises, and go on."""
    task = registry.exercise(VOTE)
    source = f"{VOTES}\nright = majority_vote\ndef majority_vote(answers):\n    return right(answers or exit_now())\n"
    run = jail.Run(jail.shared(), task, f"{source}\ndef exit_now():\n    import os; os._exit(1)", SMALL)
    with pytest.raises(sandbox.Stopped, match="exit code 1"):
        run(([],))
    assert run((["a"],)) == ("returned", "a", [["a"]])
    run.end()


def test_a_submission_has_a_limit() -> None:
    limits = Limits(seconds=0.5, seconds_of_submission=0.2)
    verdicts = judging.judge({RATE: "def word_error_rate(a, b):\n    while True: pass", VOTE: VOTES}, 1, limits)
    assert verdicts[RATE].status == "not yet"
    assert verdicts[VOTE].status == "not judged" and "took 0.2 s together" in verdicts[VOTE].words


def test_a_mould_that_was_killed_is_replaced() -> None:
    assert judged(VOTES).status == "passed"
    mould = jail.shared().mould
    cell = jail.shared().cell(SMALL)
    mould.process.kill()
    mould.process.wait()
    cell.listener.join(10)
    assert not cell.listener.is_alive()  # its processes end with it
    jail.shared().give_back(cell)
    assert judged(VOTES).status == "passed"
    assert jail.shared().mould is not mould


def test_a_jail_that_does_not_start_is_nobodys_fault(monkeypatch) -> None:
    monkeypatch.setattr(jail, "JAILED", "no_such_module")
    own = jail.Jail()
    monkeypatch.setattr(jail, "shared", lambda: own)
    verdict = judged(VOTES)
    own.close()
    assert verdict.status == "not judged" and "can't be started" in verdict.words


def test_without_forks_and_walls(monkeypatch) -> None:
    """As on macOS and Windows: one process for a student's exercises, and the walls that are missing are told."""
    own = jail.Jail()
    monkeypatch.setattr(jail, "FORKS", False)
    monkeypatch.setattr(jail, "shared", lambda: own)
    before = psutil.Process().children(recursive=True)
    endless = "def word_error_rate(a, b):\n    while True: pass"
    rank = IMPORTS + registry.exercise("7.2.rank_fusion").reference_source
    stand = jail.protections(SMALL)
    verdicts = judging.judge({VOTE: VOTES, "7.2.rank_fusion": rank, RATE: endless}, 1, SMALL)
    assert [verdict.status for verdict in verdicts.values()] == ["passed", "passed", "not yet"]
    assert "ran longer than 1 s" in verdicts[RATE].words
    assert own.kept is None and own.folder is None
    assert psutil.Process().children(recursive=True) == before
    assert not stand["network"] and not stand["files"]
    assert "A student's code can use the network." in jail.missing_walls(stand)


def test_a_tensor_that_would_end_the_judge_is_not_written_out() -> None:
    """Its numbers are few, its lists are many or deep."""
    for shape in ((10**6, 0), [1] * 20_000):
        assert show(torch.zeros(shape)).startswith("a tensor of shape")
    assert show(torch.zeros(0)) == "[]"
    source = "import torch\ndef chunk(sentences, size, overlap):\n    return [torch.zeros(10**6, 0)]"
    verdict = judged(source, "7.2.chunk")
    assert verdict.status == "not yet" and "a tensor of shape (1000000, 0)" in verdict.words
