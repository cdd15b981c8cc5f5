"""Search by words: what a text is made of, and BM25 (Robertson and Zaragoza 2009)."""

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+(?:['’][a-z]+)?")


def words(text: str) -> list[str]:
    """The words of `text` in lower case, numbers included, punctuation left out."""
    return _WORD.findall(text.lower())


class BM25:
    """Scores of documents for a query by shared words.

    A rare word counts more than a common one, a second mention less than the first, and a mention in a long document
    less than in a short one. `k1` says how soon further mentions stop counting, `b` how much length matters.
    """

    def __init__(self, documents: Sequence[str], k1: float = 1.5, b: float = 0.75) -> None:
        if not documents:
            raise ValueError("there is nothing to search: give at least one document")
        self.k1, self.b = k1, b
        self.counts = [Counter(words(document)) for document in documents]
        self.lengths = [counted.total() for counted in self.counts]
        self.mean_length = max(sum(self.lengths) / len(self.lengths), 1)
        self.documents_with = Counter(word for counted in self.counts for word in counted)

    def rarity(self, word: str) -> float:
        """The inverse document frequency of a word: how much it tells."""
        n = len(self.counts)
        having = self.documents_with[word]
        return math.log(1 + (n - having + 0.5) / (having + 0.5))

    def score(self, query: str, place: int) -> float:
        """How well the document at `place` fits the query; 0 without a shared word."""
        counted = self.counts[place]
        length = self.lengths[place] / self.mean_length
        total = 0.0
        for word in words(query):
            n = counted[word]
            saturated = n * (self.k1 + 1) / (n + self.k1 * (1 - self.b + self.b * length))
            total += self.rarity(word) * saturated
        return total

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The places and scores of up to `k` documents that share a word with the query, the best first."""
        scores = [self.score(query, place) for place in range(len(self.counts))]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return [(place, scores[place]) for place in order[:k] if scores[place] > 0]
