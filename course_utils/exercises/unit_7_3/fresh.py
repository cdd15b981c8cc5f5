"""Unit 7.3: fresh examples for grading. Who learned the notebook's by heart fails here.

Each function draws a few inputs and compares a student's results with those of the course's solution. What is drawn
keeps to the stub's promises, and no result hangs on rounding or on a tie that nobody has decided.
"""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from course_utils.exercises.diagnosis import NO_GRADIENT, Attempt, Wrong
from course_utils.exercises.drawing import fractions, generator, normal
from course_utils.exercises.unit_7_3 import solutions
from course_utils.exercises.unit_7_3.inputs import Tree

# --- rotary ---------------------------------------------------------------------------------------------


def fresh_rotary(yours: Attempt, draw: Random) -> None:
    """Tokens from somewhere in a text, without and with heads, with several bases."""
    for shape in ((), (draw.randint(2, 3),), (2, 3)):
        n, d = draw.randint(2, 5), draw.choice([4, 6, 8])
        x = fractions(draw, *shape, n, d)
        start = draw.randint(1, 9)
        base = draw.choice([50.0, 100.0, 1000.0, 500000.0])
        inputs = (x, torch.arange(start, start + n), base)
        yours.compare(inputs, solutions.rotary(*inputs))
    inputs = (x, torch.tensor(draw.sample(range(12), n)))
    yours.compare(inputs, solutions.rotary(*inputs))


# --- alibi ----------------------------------------------------------------------------------------------


def fresh_alibi(yours: Attempt, draw: Random) -> None:
    """Several numbers of heads and of tokens, one of each among them."""
    tokens = draw.sample(range(2, 9), 3)
    for heads, n in zip((1, draw.randint(3, 7), draw.randint(8, 12)), tokens, strict=True):
        yours.compare((heads, n), solutions.alibi(heads, n))
    heads = draw.randint(2, 6)
    yours.compare((heads, 1), solutions.alibi(heads, 1))


# --- kv_cache_step --------------------------------------------------------------------------------------


def fresh_kv_cache_step(yours: Attempt, draw: Random) -> None:
    """Caches of several lengths, an empty one among them."""
    for t in (draw.randint(2, 4), draw.randint(5, 7), 0):
        heads, d, e = draw.randint(2, 4), draw.choice([4, 5, 6]), draw.choice([2, 3])
        shapes = ((heads, d), (heads, d), (heads, e), (heads, t, d), (heads, t, e))
        inputs = tuple(fractions(draw, *shape) for shape in shapes)
        yours.compare(inputs, solutions.kv_cache_step(*inputs))


# --- induction ------------------------------------------------------------------------------------------


def fresh_induction(yours: Attempt, draw: Random) -> None:
    """Random maps, with rows of several lengths."""
    for period in draw.sample(range(3, 9), 3):
        layers, heads = draw.sample(range(2, 5), 2)
        n = 2 * period
        future = torch.ones(n, n).triu(1).bool()
        scores = normal(draw, layers, heads, n, n).masked_fill(future, float("-inf"))
        maps = scores.softmax(-1)
        yours.compare((maps, period), solutions.induction(maps, period))


# --- majority_vote --------------------------------------------------------------------------------------


def fresh_majority_vote(yours: Attempt, draw: Random) -> None:
    """A winner without a majority; more silence than votes; draws; nobody."""
    a, b, c, d = (str(number) for number in draw.sample(range(2, 99), 4))
    clear = [a, a, b, b, b, c, d]
    silent = [a, a, b, *[""] * 4]
    for answers in (clear, silent):
        draw.shuffle(answers)
    for answers in (
        [c, *clear],
        ["", *silent],
        [a, b, c, c, b, a],
        [*draw.sample([a, b], 2), c, d, d, c, *draw.sample([a, b], 2), ""],
        [""] * draw.randint(0, 3),
    ):
        yours.compare((answers,), solutions.majority_vote(answers))


# --- beam_over_thoughts ---------------------------------------------------------------------------------


def fresh_beam_over_thoughts(yours: Attempt, draw: Random) -> None:
    """Trees in which some states are complete, some are reached in two ways, and some look equally good."""
    sizes = ((2, 3), (3, draw.randint(2, 4)), (1, 2), (2, 0), (draw.randint(4, 9), 5))
    for width, depth in sizes:
        levels = [_level(draw) for _ in range(6)]
        tree = _tree(draw, levels)
        inputs = (levels[0][0], tree.propose, tree.value, width, depth)
        yours.compare(inputs, solutions.beam_over_thoughts(*inputs))


def _level(draw: Random) -> list[str]:
    """Five states in no order; hardly any other tree has them, as a student may remember their values."""
    return [f"{number:08x}" for number in draw.sample(range(2**32), 5)]


def _tree(draw: Random, levels: list[list[str]]) -> Tree:
    """A state leads to some of the next level, or to none; the first state of all to each."""
    steps = {}
    worth = {}
    for states, following in pairwise([*levels, []]):
        for state in states:
            count = draw.choice([0, 2, 3, 3])
            steps[state] = draw.sample(following, count) if following else []
            worth[state] = draw.randint(0, 8) / 8
    start = levels[0][0]
    steps[start] = levels[1]
    return Tree(steps, worth)


# --- distillation_loss ----------------------------------------------------------------------------------


def fresh_distillation_loss(yours: Attempt, draw: Random) -> None:
    """Batches of several sizes, one of a single example; and where the gradient goes."""
    for n in (1, draw.randint(2, 5)):
        inputs = _lesson(draw, n)
        yours.compare(inputs, solutions.distillation_loss(*inputs))
    student, teacher, *rest = _lesson(draw, 6)
    wanted = solutions.distillation_loss(student, teacher, *rest)
    came = yours.compare((student.clone().requires_grad_(), teacher, *rest), wanted)
    if not came.requires_grad:
        raise Wrong(NO_GRADIENT.format("the student"))
    came = yours.compare((student, teacher.clone().requires_grad_(), *rest), wanted)
    if came.requires_grad:
        raise Wrong("From your loss a gradient flows into the teacher. It is not trained: use `teacher.detach()`.")


def _lesson(draw: Random, n: int) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Logits of both, labels, a temperature and alpha."""
    classes = draw.randint(3, 5)
    labels = torch.randint(classes, (n,), generator=generator(draw))
    temperature = draw.choice([1.5, 2.0, 3.0, 4.0])
    alpha = draw.choice([0.25, 0.375, 0.625, 0.75])
    return fractions(draw, n, classes), fractions(draw, n, classes), labels, temperature, alpha


# --- blockwise_softmax ----------------------------------------------------------------------------------


def fresh_blockwise_softmax(yours: Attempt, draw: Random) -> None:
    """Blocks of several sizes one after the other; the first may be hidden, and some scores would overflow."""
    n, e = draw.randint(2, 4), draw.randint(2, 3)
    state = (torch.full((n,), float("-inf")), torch.zeros(n), torch.zeros(n, e))
    for scores in _blocks(draw, n):
        inputs = (*state, scores, fractions(draw, scores.shape[1], e))
        state = solutions.blockwise_softmax(*inputs)
        yours.compare(inputs, state)


def _blocks(draw: Random, n: int) -> Iterator[Tensor]:
    """Scores (n, block): plain, with a row or single tokens hidden, far larger, and far smaller."""
    start = fractions(draw, n, draw.randint(2, 4))
    row = draw.randrange(n)
    start[row] = float("-inf")
    yield start
    yield fractions(draw, n, draw.randint(2, 4))
    hidden = fractions(draw, n, draw.randint(3, 5)) + draw.choice([0.5, 1.0])
    hidden[:, 0] = float("-inf")
    hidden[row] = float("-inf")
    yield hidden
    yield fractions(draw, n, 2) + draw.choice([300, 500, 800])
    yield fractions(draw, n, 3)


# --- nucleus --------------------------------------------------------------------------------------------


def fresh_nucleus(yours: Attempt, draw: Random) -> None:
    """Nuclei of several sizes, one of a single token; none so that rounding could decide."""
    for vocabulary, kept in ((draw.randint(5, 9), 3), (30, draw.randint(4, 10)), (draw.randint(4, 6), 1)):
        inputs = _tokens(draw, vocabulary, kept)
        yours.compare(inputs, solutions.nucleus(*inputs))


def _tokens(draw: Random, vocabulary: int, kept: int) -> tuple[Tensor, float]:
    """Different logits, and a p that the likeliest `kept` tokens reach, and fewer don't."""
    whole = draw.sample(range(-64, 65), vocabulary)
    logits = torch.tensor(whole) / 32
    ranked = logits.softmax(-1).sort(descending=True).values
    sums = ranked.cumsum(-1)
    p = sums[kept - 1] - ranked[kept - 1] / 2  # in the middle of what the last of them adds
    return logits, p.item()


# --- speculative_accept ---------------------------------------------------------------------------------


def fresh_speculative_accept(yours: Attempt, draw: Random) -> None:
    """Drafts that end somewhere, one that stays whole, and an empty one."""
    for k in (draw.randint(2, 4), draw.randint(4, 6), draw.randint(5, 8)):
        inputs = _draft(draw, k)
        yours.compare(inputs, solutions.speculative_accept(*inputs))
    draft, target, drafted, _ = _draft(draw, 3)
    whole = (draft, target, drafted, torch.full((3,), 2.0**-10))
    refused = (draft, target, target[:3].argmin(-1), torch.full((3,), 1 - 2.0**-10))
    nothing = (draft[:0], target[:1], drafted[:0], torch.zeros(0))
    for inputs in (whole, refused, nothing):
        yours.compare(inputs, solutions.speculative_accept(*inputs))


def _draft(draw: Random, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities in sixteenths, tokens, and odd 32nds as chances: so none is equal to target / draft."""
    vocabulary = draw.randint(3, 5)
    draft, target = _rows(draw, k, vocabulary), _rows(draw, k + 1, vocabulary)
    drafted = torch.randint(vocabulary, (k,), generator=generator(draw))
    chances = torch.tensor([draw.choice([1, 3, 5, 7, 9, 11, 15, 19, 25]) for _ in range(k)]) / 32
    return draft, target, drafted, chances


def _rows(draw: Random, rows: int, vocabulary: int) -> Tensor:
    """Probabilities (rows, vocabulary) in sixteenths; none is 0."""
    table = []
    for _ in range(rows):
        cuts = [0, *sorted(draw.sample(range(1, 16), vocabulary - 1)), 16]
        table.append([high - low for low, high in pairwise(cuts)])
    return torch.tensor(table) / 16
