"""Programs made from what a model writes, and checked by running them: tests, and pass@k (Unit 7.3).

`run` is a sandbox, such as `course_utils.agents.hands.code_sandbox.run`: it takes code and returns an outcome with
`ok` and `value`, the value of the last line.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from course_utils.research import solver


@dataclass(frozen=True)
class Case:
    """A test: what goes in, and what has to come out."""

    inputs: tuple[int, ...]
    output: int


def numbers(question: str) -> tuple[int, ...]:
    """The numbers of a question in the order in which they stand there: the inputs of its program."""
    return tuple(map(int, re.findall(r"\d+", question)))


def from_steps(question: str, reply: str) -> str:
    """Worked steps as a Python function of the question's numbers; "" where there are no steps.

    The steps say how *these* numbers are combined. The function says it for any: a number of the
    question becomes an input (the first of several equal ones that is not used yet), a result
    becomes a variable, and any other number stays as it is.
    """
    given = numbers(question)
    free = list(range(len(given)))
    results: dict[int, str] = {}

    def name(operand: int) -> str:
        if operand in results:
            return results[operand]
        for place in free:
            if given[place] == operand:
                free.remove(place)
                return f"n{place + 1}"
        return str(operand)

    lines = []
    for place, step in enumerate(solver.steps(reply), 1):
        lines.append(f"    x{place} = {name(step.left)} {step.sign} {name(step.right)}")
        results[step.written] = f"x{place}"
    if not lines:
        return ""
    inputs = ", ".join(f"n{place}" for place, _ in enumerate(given, 1))
    return "\n".join([f"def total({inputs}):", *lines, f"    return x{len(lines)}"])


def outputs(source: str, cases: Sequence[Case], run: Callable) -> list | None:
    """What the program gives for each case, or None where it does not run."""
    if not source:
        return None
    calls = ", ".join(f"total{case.inputs}" for case in cases)
    outcome = run(f"{source}\n[{calls}]")
    return list(outcome.value) if outcome.ok else None


def passes(source: str, cases: Sequence[Case], run: Callable) -> bool:
    """Whether the program gives what each case asks for."""
    return outputs(source, cases, run) == [case.output for case in cases]


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that at least one of `k` candidates is right, if `right` of `n` were: unbiased
    (arXiv 2107.03374).

    One minus the chance that k different ones, taken from the n, are all wrong. ValueError unless 0
    <= right <= n and 1 <= k <= n.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"{right} right of {n}, k = {k}: take at least k, right ones among them.")
    all_wrong = math.comb(n - right, k)
    any_at_all = math.comb(n, k)
    return 1 - all_wrong / any_at_all
