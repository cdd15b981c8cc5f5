"""Rankings: two made one, and how often the right document is near the top."""

from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar

from course_utils.measures import Measure, bootstrap, share

Id = TypeVar("Id", bound=Hashable)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Id]], k: int = 60) -> list[Id]:
    """One ranking of several (Cormack et al. 2009): each gives a document 1 / (k + rank), the sums decide.

    Only ranks count, so scores of different scales need no conversion. Ties keep the order of first mention.
    """
    if k < 0:
        raise ValueError(f"k is {k}; give 0 or more (60 in the paper)")
    scores: dict[Id, float] = {}
    for ranking in rankings:
        if len(set(ranking)) < len(ranking):
            raise ValueError("a ranking names a document twice: its ranks would count double")
        for rank, document in enumerate(ranking, 1):
            scores[document] = scores.get(document, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda document: -scores[document])


def hits(rankings: Sequence[Sequence[Id]], wanted: Sequence[Collection[Id]], k: int) -> list[bool]:
    """For each question, whether one of the documents that answer it is among the first `k` of its ranking."""
    if len(rankings) != len(wanted):
        raise ValueError(f"{len(rankings)} rankings for {len(wanted)} questions: one each is needed")
    if k < 1:
        raise ValueError(f"k is {k}; count at least the first of a ranking")
    return [bool(set(ranking[:k]) & set(right)) for ranking, right in zip(rankings, wanted, strict=True)]


def recall(rankings: Sequence[Sequence[Id]], wanted: Sequence[Collection[Id]], k: int) -> Measure:
    """Recall@k: the share of questions with an answering document among the first `k`, with Wilson's interval."""
    return share(hits(rankings, wanted, k))


def gain(better: Sequence[bool], other: Sequence[bool], seed: int = 0) -> Measure:
    """How many points `better` lies above `other` on the same questions, with a paired bootstrap's interval.

    Pairing counts only the questions on which the two differ. It is outside chance where the interval is above 0.
    """
    if len(better) != len(other):
        raise ValueError(f"{len(better)} and {len(other)} results: both need the same questions")
    points = [100 * (int(one) - int(two)) for one, two in zip(better, other, strict=True)]
    return bootstrap(points, "points", seed)
