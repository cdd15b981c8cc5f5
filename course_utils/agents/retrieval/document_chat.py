"""A chatbot over documents: search, follow-up questions, a second look at what was found, quotes with their source."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from course_utils.agents.retrieval.documents import Piece, sentences
from course_utils.agents.retrieval.faithful import MISSING
from course_utils.agents.retrieval.keyword_search import BM25
from course_utils.agents.retrieval.ranking import reciprocal_rank_fusion
from course_utils.agents.retrieval.vectors import Encoder, unit_length

if TYPE_CHECKING:
    from course_utils.models.roles import Embedder

Search = Callable[[str], list[int]]  # from a question to the places of pieces, the best first
LONGEST = 256  # tokens that MiniLM was trained to read

# What makes a question lean on the one before it: how it begins, or a word that points back.
BEGINS = re.compile(r"(and|but|so|also|or|what about|how about|not even)\b", re.I)
POINTS_BACK = re.compile(r"\b(it|its|they|them|their|he|him|his|she|her|that|those|these|other|then)\b", re.I)


def is_follow_up(question: str) -> bool:
    """Whether a question leans on the one before it, by its words: "How long does it take?"."""
    return bool(BEGINS.match(question.strip()) or POINTS_BACK.search(question))


def rewritten(question: str, before: str) -> str:
    """What to search for: a follow-up with the question `before` it, any other as it is."""
    return f"{before} {question}" if before and is_follow_up(question) else question


def search_text(piece: Piece) -> str:
    """What a search sees of a piece: the headings above it help, a page number does not."""
    return piece.text if piece.place.startswith("page ") else f"{piece.place}: {piece.text}"


class Library:
    """The pieces of some documents, and the ways to rank them for a question. ValueError without a piece."""

    def __init__(self, pieces: Sequence[Piece], encoder: Encoder) -> None:
        if not pieces:
            raise ValueError("There is nothing to search: give at least one piece of a document.")
        self.pieces = list(pieces)
        self.encoder = encoder
        self.texts = [search_text(piece) for piece in pieces]
        self.keywords = BM25(self.texts)
        self.vectors = encoder.encode(self.texts)  # (pieces, d)
        self.asked: dict[str, np.ndarray] = {}

    def by_words(self, question: str) -> list[int]:
        """Pieces that share a word with the question, by BM25."""
        return [place for place, _ in self.keywords.search(question, len(self.pieces))]

    def by_meaning(self, question: str) -> list[int]:
        """All pieces, by the cosine of their vector with the question's."""
        return np.argsort(-self.cosines(question), kind="stable").tolist()

    def hybrid(self, question: str) -> list[int]:
        """Both rankings made one."""
        return reciprocal_rank_fusion([self.by_words(question), self.by_meaning(question)])

    def cosines(self, question: str) -> np.ndarray:
        """How near each piece is to the question, (pieces,)."""
        if question not in self.asked:
            self.asked[question] = self.encoder.encode([question])[0]
        return self.vectors @ self.asked[question]

    def confidence(self, question: str) -> float:
        """The cosine of the nearest piece: low where the documents say nothing about the question."""
        return float(self.cosines(question).max())

    def places(self, text: str, source: str) -> set[int]:
        """Which pieces of a document hold `text`: where the answer to a test question stands."""
        pairs = enumerate(self.pieces)
        return {place for place, piece in pairs if piece.source == source and text in piece.text}


class LateInteraction:
    """MiniLM with the states of its tokens kept: sentence vectors, and a second look at the first few pieces.

    A sentence vector squeezes a piece into one point. For the second look each token keeps its own state; each token
    of the question looks for its nearest in the piece, and the mean of these cosines, rare tokens counting more, is
    the score (ColBERT's MaxSim: Khattab and Zaharia 2020, arXiv 2004.12832; there the model is trained for it). A
    cross-encoder would read both together and judge better; it is a model of its own, and none comes with this course.
    """

    name = "contextual (MiniLM)"

    def __init__(self, reader: "Embedder", texts: Sequence[str]) -> None:
        self.reader = reader
        self.texts = list(texts)
        self.kept: dict[str, tuple[list[int], np.ndarray]] = {}
        self.having = Counter(token for text in texts for token in set(self.states(text)[0]))

    def states(self, text: str) -> tuple[list[int], np.ndarray]:
        """The tokens of a text with the markers at both ends, and their last states, (tokens, d). Read once."""
        import torch

        if text not in self.kept:
            device = next(self.reader.model.parameters()).device
            row = self.reader.tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt").to(device)
            with torch.inference_mode():
                states = self.reader.model(**row).last_hidden_state[0]  # (tokens, d)
            self.kept[text] = row["input_ids"][0].tolist(), states.float().cpu().numpy()
        return self.kept[text]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Sentence vectors: the mean of the states, at length 1, (n, d)."""
        means = [self.states(text)[1].mean(0) for text in texts]
        return unit_length(np.array(means))

    def rarity(self, token: int) -> float:
        return math.log((1 + len(self.texts)) / (1 + self.having[token])) + 0.1

    def score(self, question: str, place: int) -> float:
        """The weighted mean, over the question's tokens, of the best cosine with one of a piece."""
        tokens, asked = self.states(question)
        _, there = self.states(self.texts[place])
        inner = slice(1, -1)  # without the markers
        # (question tokens, piece tokens)
        cosines = unit_length(asked[inner]) @ unit_length(there[inner]).T
        weights = np.array([self.rarity(token) for token in tokens[inner]])
        return float(weights @ cosines.max(1) / weights.sum())

    def rerank(self, question: str, ranking: Sequence[int], among: int = 20) -> list[int]:
        """The ranking with its first `among` pieces in the order of their score."""
        first = sorted(ranking[:among], key=lambda place: -self.score(question, place))
        return first + list(ranking[among:])


def second_search(library: Library, search: Search, question: str, first: int = 2, most: int = 4) -> list[int]:
    """Search, then search again for the question together with the best piece found: for questions in two steps.

    The `first` best of the first search, then those of the second, `most` in all.
    """
    found = search(question)[:first]
    if not found:
        return []
    again = search(f"{question} {library.texts[found[0]]}")
    return list(dict.fromkeys([*found, *again]))[:most]


def quote(encoder: Encoder, question: str, piece: Piece) -> str:
    """The sentence of a piece that is nearest to the question: the document's own words."""
    said = sentences(piece.text)
    cosines = encoder.encode(said) @ encoder.encode([question])[0]  # (sentences,)
    return said[int(cosines.argmax())]


@dataclass(frozen=True)
class Reply:
    """What the chatbot says. `query` is what it searched for, `piece` what it quotes: None where it refused."""

    text: str
    query: str
    confidence: float
    piece: Piece | None = None

    def __str__(self) -> str:
        return f"{self.text} [{self.piece.citation}]" if self.piece else self.text


@dataclass
class DocumentChat:
    """A conversation about documents. Below `threshold` it says that it found nothing."""

    library: Library
    search: Search
    threshold: float
    topic: str = ""  # what the conversation is about: the last question that stands on its own
    replies: list[Reply] = field(default_factory=list)

    def ask(self, question: str) -> Reply:
        """The sentence that fits best, with its source. ValueError for an empty question."""
        if not question.strip():
            raise ValueError("The question is empty.")
        query = rewritten(question, self.topic)
        if query == question:
            self.topic = question
        reply = self._answer(query)
        self.replies.append(reply)
        return reply

    def _answer(self, query: str) -> Reply:
        confidence = self.library.confidence(query)
        found = self.search(query) if confidence >= self.threshold else []
        if not found:
            return Reply(MISSING, query, confidence)
        piece = self.library.pieces[found[0]]
        return Reply(quote(self.library.encoder, query, piece), query, confidence, piece)


def best_threshold(present: Sequence[float], absent: Sequence[float]) -> float:
    """The confidence that parts questions with an answer from those without, with the fewest errors.

    An error on either side counts by its share, so that the numbers of questions do not matter. The middle between two
    neighbouring scores is taken. ValueError where a side is empty.
    """
    if not present or not absent:
        raise ValueError("Choosing a threshold takes questions with an answer, and some without.")
    scores = np.unique([*present, *absent])
    cuts = [scores[0] - 1e-6, *(scores[1:] + scores[:-1]) / 2, scores[-1] + 1e-6]
    errors = [np.mean(np.array(present) < cut) + np.mean(np.array(absent) >= cut) for cut in cuts]
    return float(cuts[int(np.argmin(errors))])


def questions(kind: str, part: str = "") -> list[dict[str, Any]]:
    """The test questions of a kind on the sample documents: "single", "exact", "follow-up", "two hops" or "absent".

    `part` is "tune" (to choose a threshold on) or "test"; both without one. `passages` are the words that an answering
    piece holds; for two hops, one for each.
    """
    import json

    from course_utils.agents.retrieval.documents import SAMPLES

    lines = (SAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kinds = {row["kind"] for row in rows}
    if kind not in kinds:
        raise ValueError(f"There are no questions of the kind {kind!r}; take one of {', '.join(sorted(kinds))}.")
    return [row for row in rows if row["kind"] == kind and part in ("", row["part"])]
