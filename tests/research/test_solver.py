"""Worked steps become equations; what the model calculated is not believed, and what it left out is noticed."""

import pytest

from course_utils.prisma import text
from course_utils.research import reasoning, solver

QUESTION = "Ada buys 3 cubes for 95 euros each and 2 balls for 85 euros each. What is the total?"
SLIPPED = "3 * 95 = 135. 2 * 85 = 130. 135 + 130 = 265. Answer: 265"


def test_slips_do_not_matter_to_the_solver() -> None:
    worked = solver.steps(SLIPPED)
    assert solver.solve(worked) == 3 * 95 + 2 * 85
    assert [step.written for step in solver.slips(worked)] == [135, 130]
    assert solver.complete(QUESTION, worked)


def test_right_steps_give_the_right_answer() -> None:
    for problem in reasoning.sums(40, seed=2):
        worked = solver.steps(problem.steps)
        assert solver.slips(worked) == []
        assert str(solver.solve(worked)) == problem.answer


def test_results_are_unknowns_of_later_steps() -> None:
    equations = solver.equations(solver.steps("2 * 3 = 6. 6 + 4 = 10. 10 - 6 = 4."))
    assert [str(equation.rhs) for equation in equations] == ["6", "x1 + 4", "-x1 + x2"]
    assert solver.solve(solver.steps("2 * 3 = 6. 6 + 4 = 10. 10 - 6 = 4.")) == 4


def test_no_steps_no_answer() -> None:
    assert solver.steps("Answer: 12") == [] and solver.solve([]) is None


@pytest.mark.parametrize(
    "reply",
    [
        "3 * 95 = 285. Answer: 285",  # leaves the balls out
        "3 * 95 = 285. 3 * 85 = 255. 285 + 255 = 540.",  # uses 3 twice and 2 never
        "",
    ],
)
def test_an_incomplete_translation_is_noticed(reply: str) -> None:
    assert not solver.complete(QUESTION, solver.steps(reply))


def test_the_shops_own_steps_are_complete_unless_a_result_equals_a_number() -> None:
    problems = reasoning.sums(100, seed=3)
    complete = [solver.complete(problem.question, solver.steps(problem.steps)) for problem in problems]
    assert sum(complete) >= 90  # a result that equals a number of the question hides it
    assert text.SYSTEM["steps"] == "Think step by step."
