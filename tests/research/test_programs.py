"""Steps become functions, functions are run on tests, and pass@k is the share that drawing would give."""

import itertools
import statistics

import pytest

from course_utils.agents.hands import code_sandbox
from course_utils.prisma import text
from course_utils.research import programs, reasoning


def cases(begins_with_one: bool) -> list[programs.Case]:
    alike = [one for one in reasoning.sums(40, seed=8) if one.question.startswith("One ") == begins_with_one]
    return [programs.Case(programs.numbers(one.question), int(one.answer)) for one in alike[:5]]


def example(begins_with_one: bool) -> text.Sum:
    """A sum of this form in which no number stands twice, so that its steps can be read in one way only."""
    for problem in reasoning.sums(60, seed=9):
        alone = len(set(programs.numbers(problem.question))) == 4
        if alone and problem.question.startswith("One ") == begins_with_one:
            return problem
    raise AssertionError("no such sum among 60")


@pytest.mark.parametrize("begins_with_one", [True, False])
def test_the_steps_of_one_bill_are_a_program_for_all(begins_with_one: bool) -> None:
    problem = example(begins_with_one)
    source = programs.from_steps(problem.question, problem.steps)
    assert programs.passes(source, cases(begins_with_one), code_sandbox.run)
    assert not programs.passes(source, cases(not begins_with_one), code_sandbox.run)


def test_equal_numbers_may_be_put_in_each_others_place() -> None:
    question = "One cube costs 8 euros and one star costs 5 euros. What do 5 cubes and 7 stars cost?"
    source = programs.from_steps(question, "5 * 8 = 40. 7 * 5 = 35. 40 + 35 = 75. ")
    assert "x1 = n2 * n1" in source and "x2 = n4 * n3" in source  # should be n3 * n1 and n4 * n2
    own = programs.Case(programs.numbers(question), 75)
    assert programs.passes(source, [own], code_sandbox.run)
    assert not programs.passes(source, cases(begins_with_one=True), code_sandbox.run)


def test_what_does_not_run_gives_nothing() -> None:
    case = programs.Case((1, 2), 3)
    assert programs.from_steps("1 and 2", "no steps") == ""
    assert programs.outputs("", [case], code_sandbox.run) is None
    assert programs.outputs("def total(n1, n2):\n    return n1 /", [case], code_sandbox.run) is None
    assert programs.outputs("def total(n1, n2):\n    return n1 + n2", [case], code_sandbox.run) == [3]


@pytest.mark.parametrize(("n", "right", "k"), [(6, 2, 1), (6, 2, 3), (6, 0, 2), (6, 6, 2), (6, 5, 3)])
def test_pass_at_k_is_the_share_of_all_draws(n: int, right: int, k: int) -> None:
    drawn = itertools.combinations([place < right for place in range(n)], k)
    assert programs.pass_at_k(n, right, k) == pytest.approx(statistics.mean(map(any, drawn)))


@pytest.mark.parametrize(("n", "right", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)])
def test_pass_at_k_refuses_what_makes_no_sense(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="at least k"):
        programs.pass_at_k(n, right, k)
