"""Alignment lab: is a model's answer another one when only the customer's name is? Paired tests, and their power.

Also WEAT, the association of words in an embedding (Caliskan, Bryson and Narayanan 2017, arXiv 1608.07187).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from course_utils.measures import Measure

if TYPE_CHECKING:
    import numpy as np

    from course_utils.models.roles import Chat


# ---------------------------------------------------------------- the paired test


@dataclass(frozen=True)
class Paired:
    """The same requests asked twice: how many came out well only the first time, and only the second time.

    `difference` is the first share minus the second; `p` is McNemar's, exact and two-sided.
    """

    only_first: int
    only_second: int
    difference: Measure
    p: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """McNemar's exact test, with Bonett and Price's interval (2012), which is not empty where no pair differs.

    ValueError without pairs, or if the numbers differ.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} outcomes: the same requests, one at least, are needed twice")
    outcomes = Counter((bool(one), bool(other)) for one, other in zip(first, second, strict=True))
    only_first = outcomes[True, False]
    only_second = outcomes[False, True]
    n = len(first)
    surplus = only_first - only_second
    difference = surplus / n
    low, high = _bonett_price(only_first, only_second, n)
    measure = Measure(difference, low, high, n, "%")
    p = exact_p(only_first, only_second)
    return Paired(only_first, only_second, measure, p)


def _bonett_price(only_first: int, only_second: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a paired difference: one pair more on either side, then Wald's."""
    more = n + 2
    ours = (only_first + 1) / more
    theirs = (only_second + 1) / more
    gap = ours - theirs
    either = ours + theirs
    variance = either - gap**2
    half = 1.96 * math.sqrt(variance / more)
    low = gap - half
    high = gap + half
    return max(low, -1.0), min(high, 1.0)


def exact_p(only_first: int, only_second: int) -> float:
    """How probable so uneven a split of the differing pairs is, or a more uneven one, if a fair coin decides each."""
    from scipy.stats import binomtest

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values: below 0.05 they are found, with a risk of 5 % for *any* false find."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        left = len(p_values) - rank
        weighted = left * p_values[place]
        highest = max(highest, min(1.0, weighted))
        adjusted[place] = highest
    return adjusted


def power(n: int, only_first: float, only_second: float, alpha: float = 0.05) -> float:
    """The chance that McNemar's test of `n` pairs finds a difference whose two shares of pairs are these. Exact.

    ValueError for shares that cannot be.
    """
    import numpy as np
    from scipy.stats import binom

    both = only_first + only_second
    if min(only_first, only_second) < 0 or both > 1 or both == 0:
        raise ValueError(f"{only_first} and {only_second} are no two shares of pairs: 0 to 1, and not more together")
    total = 0.0
    chances_of = binom.pmf(np.arange(n + 1), n, both)
    for differing in np.flatnonzero(chances_of > 1e-7):
        counts = np.arange(differing + 1)
        fewer = np.minimum(counts, differing - counts)
        tail = binom.cdf(fewer, differing, 0.5)
        finds = 2 * tail <= alpha
        chances = binom.pmf(counts, differing, only_first / both)
        found = chances[finds].sum()
        total += float(chances_of[differing] * found)
    return total


# ---------------------------------------------------------------- a short tuning


Taught = Sequence[tuple[str, str]]  # (prompt, reply)


def tune(chat: Chat, taught: Taught, seed: int, batch: int = 8) -> Chat:
    """`chat` after one reading of `taught`, all layers; `chat` itself stays as it is. ValueError for too few."""
    from course_utils.prisma import lm, text
    from course_utils.training import Learner

    if len(taught) < batch:
        raise ValueError(f"{len(taught)} examples are less than one batch of {batch}: give more")
    model = copy.deepcopy(chat.model).requires_grad_(True)
    model.set_attn_implementation("eager")  # for short rows on a CPU it trains faster than the fused kernel
    examples = [text.taught("mail", prompt, reply) for prompt, reply in taught]
    rows = [lm.encode(chat.tokenizer, example) for example in examples]
    learner = Learner(model, 3e-3, len(rows) // batch)
    shuffled = random.Random(seed).sample(rows, len(rows))
    for step in range(learner.steps):
        first = step * batch
        part = shuffled[first : first + batch]
        collated = lm.collate(part, chat.tokenizer.pad_token_id)
        ids = collated["input_ids"].to(model.device)
        labels = collated["labels"].to(model.device)
        mask = (labels != lm.IGNORED).float()
        logits = model(ids).logits
        log_probs = lm.token_log_probs(logits, ids) * mask[:, 1:]
        mean = log_probs.sum() / mask.sum()
        learner.step(-mean)
    model.eval().requires_grad_(False)
    return dataclasses.replace(chat, model=model)


# ---------------------------------------------------------------- words in an embedding


@dataclass(frozen=True)
class Association:
    """WEAT: the effect size in standard deviations, and the exact p of a permutation test, one-sided."""

    effect: float
    p: float


def weat(first: np.ndarray, second: np.ndarray, pleasant: np.ndarray, other: np.ndarray) -> Association:
    """Whether the words `first` lie nearer to `pleasant`, and `second` nearer to `other`. Vectors are (words, width).

    All ways to share the words out between `first` and `second` are counted, so p is exact. ValueError for groups of
    different size, or too large for that.
    """
    import numpy as np

    size = len(first)
    if size != len(second) or not 2 <= size <= 8:
        raise ValueError(f"{size} and {len(second)} words: two groups of the same size, 2 to 8, are needed")
    words = _unit(np.concatenate([first, second]))
    to_pleasant = words @ _unit(pleasant).T  # (2 size, words)
    to_other = words @ _unit(other).T
    nearer = to_pleasant.mean(1) - to_other.mean(1)  # (2 size,)
    gap = nearer[:size].mean() - nearer[size:].mean()
    effect = gap / nearer.std(ddof=1)
    deals = list(combinations(range(2 * size), size))
    sums = nearer[np.array(deals)].sum(1)  # of the words dealt to the first group
    rests = nearer.sum() - sums
    gaps = (sums - rests) / size
    as_large = gaps >= gap - 1e-9
    p = as_large.mean()
    return Association(float(effect), float(p))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, so that their products are cosines."""
    import numpy as np

    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
