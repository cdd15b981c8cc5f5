"""Tasks for prisma-lm with the very text that answers them, so that one pass over it scores a model."""

import random

from course_utils.prisma import text
from course_utils.prisma.shop import make_shop, open_database
from course_utils.prisma.tools import Toolbox


def tool_tasks(n: int, seed: int) -> list[text.Example]:
    """`n` questions about a shop that no model was trained on, with the ReAct traces that answer them."""
    shop, rng = make_shop(seed), random.Random(seed)
    toolbox = Toolbox(open_database(shop))
    return [text.react(rng, toolbox, task, unreliable=0) for task in text.episodes(n, seed, shop)]


def sum_tasks(n: int, seed: int) -> list[text.Example]:
    """`n` shopping sums with their worked steps, to be scored like the tool tasks."""
    return [text.worked(random.Random(f"sum {seed} {i}")) for i in range(n)]


def copy_tasks(n: int, seed: int) -> list[text.Example]:
    """`n` rows of random words, to be written once more without one mistake: what prisma-lm finds hard."""
    rng = random.Random(f"copy {seed}")
    return [text.copying(rng) for _ in range(n)]
