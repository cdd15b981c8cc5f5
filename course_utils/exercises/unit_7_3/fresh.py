"""Unit 7.3: fresh examples for grading. Who learned the notebook's by heart fails here.

Each function draws a few inputs and compares a student's results with those of the course's solution. What is drawn
keeps to the stub's promises, and no result hangs on rounding or on a tie that nobody has decided.
"""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from course_utils.exercises import drawing
from course_utils.exercises.diagnosis import Attempt
from course_utils.exercises.unit_7_3 import solutions
from course_utils.exercises.unit_7_3.inputs import Tree

# --- rotary ---------------------------------------------------------------------------------------------


def fresh_rotary(yours: Attempt, draw: Random) -> None:
    """Tokens from somewhere in a text, without and with heads, with several bases."""
    n, d = draw.randint(3, 5), draw.choice([4, 6, 8])
    start = draw.randint(1, 9)
    row = torch.arange(start, start + n)
    mixed = draw.sample(range(12), n)
    bases = draw.sample([50.0, 100.0, 1000.0, 500000.0], 2)
    for shape, *rest in (
        ((), row, bases[0]),
        ((2, 3), row, bases[1]),
        ((3,), torch.tensor(mixed)),
    ):
        x = drawing.fractions(draw, *shape, n, d)
        inputs = (x, *rest)
        wanted = solutions.rotary(*inputs)
        yours.compare(inputs, wanted)


# --- alibi ----------------------------------------------------------------------------------------------


def fresh_alibi(yours: Attempt, draw: Random) -> None:
    """Several numbers of heads and of tokens, one of each among them."""
    few, more, many = draw.sample(range(2, 13), 3)
    for inputs in ((1, few), (few, more), (many, few), (more, 1)):
        wanted = solutions.alibi(*inputs)
        yours.compare(inputs, wanted)


# --- kv_cache_step --------------------------------------------------------------------------------------


def fresh_kv_cache_step(yours: Attempt, draw: Random) -> None:
    """Caches of several lengths, an empty one among them."""
    short, long = draw.sample(range(2, 8), 2)
    for t in (short, long, 0):
        heads, e = draw.sample([2, 3, 4], 2)
        d = draw.choice([5, 6, 7])
        shapes = ((heads, d), (heads, d), (heads, e), (heads, t, d), (heads, t, e))
        inputs = tuple(drawing.fractions(draw, *shape) for shape in shapes)
        wanted = solutions.kv_cache_step(*inputs)
        yours.compare(inputs, wanted)


# --- induction ------------------------------------------------------------------------------------------


def fresh_induction(yours: Attempt, draw: Random) -> None:
    """Random maps, with rows of several lengths."""
    for period in draw.sample(range(3, 9), 3):
        layers, heads = draw.sample(range(2, 5), 2)
        n = 2 * period
        everywhere = torch.ones(n, n, dtype=torch.bool)
        future = everywhere.triu(1)
        scores = drawing.normal(draw, layers, heads, n, n)
        maps = scores.masked_fill(future, solutions.NOTHING).softmax(-1)
        wanted = solutions.induction(maps, period)
        yours.compare((maps, period), wanted)


# --- majority_vote --------------------------------------------------------------------------------------


def fresh_majority_vote(yours: Attempt, draw: Random) -> None:
    """A winner without a majority; more silence than votes; draws; nobody."""
    numbers = draw.sample(range(2, 99), 4)
    a, b, c, d = map(str, numbers)
    clear = [a, a, b, b, b, c, d]
    silent = ["", "", "", "", a, a, b]
    even = [b, b, c, c, d, d, ""]
    for answers in (clear, silent, even):
        draw.shuffle(answers)
    nobody = draw.randint(0, 3)
    for answers in ([c, *clear], ["", *silent], [a, *even, a], [a, b, c, c, b, a], [""] * nobody):
        wanted = solutions.majority_vote(answers)
        yours.compare((answers,), wanted)


# --- beam_over_thoughts ---------------------------------------------------------------------------------


def fresh_beam_over_thoughts(yours: Attempt, draw: Random) -> None:
    """Trees in which some states are complete, some are reached in two ways, and some look equally good."""
    sizes = ((2, 3), (3, draw.randint(2, 4)), (1, 2), (2, 0), (draw.randint(4, 9), 5))
    for width, depth in sizes:
        start, tree = _tree(draw)
        inputs = (start, tree.propose, tree.value, width, depth)
        wanted = solutions.beam_over_thoughts(*inputs)
        yours.compare(inputs, wanted)


def _tree(draw: Random) -> tuple[str, Tree]:
    """The first state, and six levels: it leads to all states of the next, the others to some or none."""
    levels = [_level(draw) for _ in range(6)]
    start = levels[0][0]
    steps = {state: [] for state in levels[-1]}
    for states, following in pairwise(levels):
        for state in states:
            count = draw.choice([0, 2, 3, 3])
            steps[state] = draw.sample(following, count)
    steps[start] = levels[1]
    worth = {state: draw.randint(0, 8) / 8 for state in steps}
    return start, Tree(steps, worth)


def _level(draw: Random) -> list[str]:
    """Five states in no order; hardly any other tree has them, as a student may remember their values."""
    numbers = draw.sample(range(2**32), 5)
    return [f"{number:08x}" for number in numbers]


# --- distillation_loss ----------------------------------------------------------------------------------


def fresh_distillation_loss(yours: Attempt, draw: Random) -> None:
    """Batches of several sizes, one of a single example; and where the gradient goes."""
    for n in (1, draw.randint(2, 5)):
        inputs = _lesson(draw, n)
        wanted = solutions.distillation_loss(*inputs)
        yours.compare(inputs, wanted)
    solutions.examine_gradients(yours, _lesson(draw, 6))


def _lesson(draw: Random, n: int) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Logits of both, labels, a temperature and alpha."""
    classes = draw.randint(3, 5)
    student = drawing.fractions(draw, n, classes)
    teacher = drawing.fractions(draw, n, classes)
    labels = drawing.integers(draw, classes, n)
    temperature = draw.choice([1.5, 2.0, 3.0, 4.0])
    alpha = draw.choice([0.25, 0.375, 0.625, 0.75])
    return student, teacher, labels, temperature, alpha


# --- blockwise_softmax ----------------------------------------------------------------------------------


def fresh_blockwise_softmax(yours: Attempt, draw: Random) -> None:
    """Blocks of several sizes one after the other; the first may be hidden, and some scores would overflow."""
    n, e = draw.randint(2, 4), draw.randint(2, 3)
    state = (torch.full((n,), solutions.NOTHING), torch.zeros(n), torch.zeros(n, e))
    for scores in _blocks(draw, n):
        block = scores.shape[1]
        values = drawing.fractions(draw, block, e)
        inputs = (*state, scores, values)
        state = solutions.blockwise_softmax(*inputs)
        yours.compare(inputs, state)


def _blocks(draw: Random, n: int) -> Iterator[Tensor]:
    """Scores (n, block): with a row or single tokens hidden, plain, far larger, and far smaller."""
    row = draw.randrange(n)
    sizes = draw.sample(range(2, 7), 5)
    start, plain, hidden, large, small = (drawing.fractions(draw, n, size) for size in sizes)
    start[row] = solutions.NOTHING
    hidden[:, 0] = solutions.NOTHING
    hidden[row] = solutions.NOTHING
    large += draw.choice([300, 500, 800])
    yield from (start, plain, hidden, large, small)


# --- nucleus --------------------------------------------------------------------------------------------


def fresh_nucleus(yours: Attempt, draw: Random) -> None:
    """Nuclei of several sizes, one of a single token; none so that rounding could decide."""
    few, many = draw.randint(5, 9), draw.randint(4, 10)
    for vocabulary, kept in ((few, 3), (30, many), (few - 1, 1)):
        inputs = _tokens(draw, vocabulary, kept)
        wanted = solutions.nucleus(*inputs)
        yours.compare(inputs, wanted)


def _tokens(draw: Random, vocabulary: int, kept: int) -> tuple[Tensor, float]:
    """Different logits, and a p that the likeliest `kept` tokens reach, and fewer don't."""
    whole = draw.sample(range(-64, 65), vocabulary)
    logits = torch.tensor(whole) / 32
    shares = logits.softmax(-1).tolist()
    *before, last = sorted(shares, reverse=True)[:kept]
    p = sum(before) + last / 2  # in the middle of what the last of them adds
    return logits, p


# --- speculative_accept ---------------------------------------------------------------------------------


def fresh_speculative_accept(yours: Attempt, draw: Random) -> None:
    """Drafts that end somewhere, one that stays whole, and an empty one."""
    several = [_draft(draw, k) for k in draw.sample(range(3, 9), 4)]
    draft, target, drafted, _ = _draft(draw, 3)
    whole = (draft, target, drafted, torch.full((3,), 2.0**-10))
    nothing = (draft[:0], target[:1], drafted[:0], torch.zeros(0))
    for inputs in (*several, whole, nothing):
        wanted = solutions.speculative_accept(*inputs)
        yours.compare(inputs, wanted)


def _draft(draw: Random, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities in sixteenths, tokens, and odd 32nds as chances: so none is equal to target / draft."""
    vocabulary = draw.randint(3, 5)
    draft, target = _rows(draw, k, vocabulary), _rows(draw, k + 1, vocabulary)
    drafted = drawing.integers(draw, vocabulary, k)
    chances = draw.choices([1, 3, 5, 7, 9, 11, 15, 19, 25], k=k)
    return draft, target, drafted, torch.tensor(chances) / 32


def _rows(draw: Random, rows: int, vocabulary: int) -> Tensor:
    """Probabilities (rows, vocabulary) in sixteenths; none is 0."""
    table = []
    for _ in range(rows):
        cuts = draw.sample(range(1, 16), vocabulary - 1)
        ends = [0, *sorted(cuts), 16]
        table.append([high - low for low, high in pairwise(ends)])
    return torch.tensor(table) / 16
