"""Retrieval over the shop's policies: the section that answers a question, cited, or none.

Each section is scored by the words that it shares with the question; a rare word weighs more (BM25 without the length,
as all sections are one sentence long).
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

EVERYDAY = frozenset(
    "a an and are at be can could do does for from get have how i in is it long many me my of on or shop the there to"
    " toy what when where which will with would you your goods order orders within hello hi please thank thanks".split()
)
LEAST = 1.0  # the score below which a section is not about the question


@dataclass(frozen=True)
class Passage:
    """One section of the policies: its title and its text."""

    title: str
    text: str

    @property
    def cited(self) -> str:
        """The text with its source, as an answer quotes it."""
        return f"{self.text} [policies, {self.title}]"


def sections(page: str) -> list[Passage]:
    """The sections of a Markdown page, each below its heading of the second level. ValueError if there are none."""
    found = re.findall(r"^## (.+)\n+(.+)", page, re.M)
    if not found:
        raise ValueError("The page has no heading that begins with '## ', so there is nothing to search.")
    return [Passage(title.strip(), text.strip()) for title, text in found]


def terms(words: str) -> set[str]:
    """The words that say what a text is about, without their endings: "returned" and "returns" become "return"."""
    found = re.findall(r"[a-z]+", words.lower())
    return {_stem(word) for word in found if word not in EVERYDAY}


def _stem(word: str) -> str:
    for ending in ("ping", "ing", "ed", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending)
    return word


class Policies:
    """The passages of a page and how rare each of their words is."""

    def __init__(self, passages: list[Passage]) -> None:
        self.passages = passages
        self._terms = [terms(f"{passage.title} {passage.text}") for passage in passages]
        self._known_in = Counter(term for known in self._terms for term in known)

    def search(self, question: str) -> Passage | None:
        """The passage that fits the question best; None if no passage does."""
        asked = terms(question)
        scores = [self._score(asked & known) for known in self._terms]
        best = max(scores)
        return self.passages[scores.index(best)] if best >= LEAST else None

    def _score(self, shared: set[str]) -> float:
        """The sum of the words' rarity; a word of one section alone weighs most."""
        return sum(math.log(1 + len(self.passages) / self._known_in[term]) for term in shared)
