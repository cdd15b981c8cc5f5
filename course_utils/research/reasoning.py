"""Tasks, answers and scores for fair comparisons of ways to reason."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from course_utils.prisma import lm, text
from course_utils.prisma.tasks import sum_tasks, tool_tasks

__all__ = [
    "Score",
    "dearer",
    "last_number",
    "score",
    "sum_tasks",
    "sums",
    "tool_tasks",
    "wrong_start",
]


def sums(n: int, seed: int) -> list[text.Sum]:
    """`n` different shopping sums."""
    rng, found = random.Random(seed), {}
    while len(found) < n:
        made = text.shopping_sum(rng)
        found.setdefault(made.question, made)
    return list(found.values())


def dearer(made: text.Sum) -> text.Sum:
    """The same sum with prices that are 50 euros higher: such prices never occur in prisma-lm's training."""
    numbers = [int(number) for number in re.findall(r"\d+", made.steps)]
    a, p, _, b, q = numbers[:5]
    question = made.question
    for price in {p, q}:
        question = question.replace(f" {price} euros", f" {price + 50} euros")
    first, second = a * (p + 50), b * (q + 50)
    total = first + second
    steps = f"{a} * {p + 50} = {first}. {b} * {q + 50} = {second}. {first} + {second} = {total}. "
    return text.Sum(question, steps, str(total))


@dataclass(frozen=True)
class Score:
    """Perplexity on what the model has to write, and for each example whether it would write exactly that:
    whether the right token is its first choice at every step.
    """

    perplexity: float
    exact: list[bool]


def score(model: nn.Module, tokenizer, examples: Sequence[text.Example], batch: int = 16) -> Score:
    """Read every example once and compare each token to be written with the model's guess for it."""
    rows = [lm.encode(tokenizer, example) for example in examples]
    found = lm.read(model, rows, tokenizer.pad_token_id, batch, use_cache=False)
    return Score(lm.perplexity(found), [one.right for one in found])


def wrong_start(made: text.Sum, rng: random.Random) -> tuple[str, str]:
    """The first worked step of a sum with a slip in it, and the answer for one who believes the slip."""
    first, *rest = made.steps.split(". ")
    left, value = first.split(" = ")
    wrong = int(value) + rng.choice((-1, 1)) * rng.randint(1, 9)
    second = int(rest[0].split(" = ")[1])
    return f"{left} = {wrong}. ", str(wrong + second)


def last_number(reply: str) -> str:
    """The number in the final answer of a reply, or the last one in it; "" if there is none."""
    numbers = re.findall(r"\d+", text.final_answer(reply)) or re.findall(r"\d+", reply)
    return numbers[-1] if numbers else ""
