"""A language model translates, an exact solver calculates: worked steps as equations for sympy (Unit 7.3)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

STEP = re.compile(r"(\d+) ([*+-]) (\d+) = (\d+)")


@dataclass(frozen=True)
class Step:
    """A worked step: two numbers, what is done with them, and the result that the model wrote."""

    left: int
    sign: str
    right: int
    written: int


def steps(reply: str) -> list[Step]:
    """The steps of a reply such as "3 * 12 = 36. 36 + 8 = 44."; words around them are left out."""
    worked = []
    for left, sign, right, written in STEP.findall(reply):
        worked.append(Step(int(left), sign, int(right), int(written)))
    return worked


def equations(worked: Sequence[Step]) -> list:
    """The steps as sympy equations: each result is an unknown, and what was written for it is not
    believed.

    A number that an earlier step wrote as its result stands for that result.
    """
    import sympy

    results: dict[int, sympy.Symbol] = {}
    made = []
    for place, step in enumerate(worked, 1):
        left = results.get(step.left, sympy.Integer(step.left))
        right = results.get(step.right, sympy.Integer(step.right))
        value = {"*": left * right, "+": left + right, "-": left - right}[step.sign]
        unknown = sympy.Symbol(f"x{place}")
        made.append(sympy.Eq(unknown, value))
        results[step.written] = unknown
    return made


def solve(worked: Sequence[Step]) -> int | None:
    """The exact value of the last step, or None without steps or where the equations name no
    number.
    """
    import sympy

    system = equations(worked)
    if not system:
        return None
    found = sympy.solve(system, [equation.lhs for equation in system], dict=True)
    value = found[0].get(system[-1].lhs) if found else None
    return int(value) if value is not None and value.is_Integer else None


def slips(worked: Sequence[Step]) -> list[Step]:
    """The steps whose written result is not what their own left side makes."""
    calculate = {"*": int.__mul__, "+": int.__add__, "-": int.__sub__}
    return [step for step in worked if calculate[step.sign](step.left, step.right) != step.written]


def complete(question: str, worked: Sequence[Step]) -> bool:
    """Whether the steps use every number of the question, and each as often as it stands there.

    A cheap check of a translation: it needs no answer, and it can't prove that the translation is
    right.
    """
    given = sorted(map(int, re.findall(r"\d+", question)))
    written = [step.written for step in worked]
    used = []
    for place, step in enumerate(worked):
        earlier = written[:place]
        used += [operand for operand in (step.left, step.right) if operand not in earlier]
    return sorted(used) == given
