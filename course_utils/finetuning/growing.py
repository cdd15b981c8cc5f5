"""Unit 7.5, lab on data: a language model writes new wordings of customers' messages, and controls choose among them.

Wordings hold placeholders (N, P, ...) where a message has an order number, a product and so on. What the model writes
is filled in afterwards by the program, so that the letter and what is filed always belong together.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from course_utils.finetuning import peft_methods
from course_utils.finetuning.data_quality import jaccard, shingles
from course_utils.models.inputs import as_texts
from course_utils.prisma import lm
from course_utils.prisma.conversations import INTENTS, wordings
from course_utils.prisma.letters import LETTERS
from course_utils.prisma.shop import COLOURS, NAMES, SHAPES, SIZES
from course_utils.prisma.text import exchange

if TYPE_CHECKING:
    from course_utils.models.roles import Chat

# One capital each: a token that the model copies, and that no sentence has by chance.
PLACEHOLDERS = {"n": "N", "p": "P", "q": "Q", "c": "C", "shape": "S", "name": "A"}


@dataclass(frozen=True)
class Wording:
    """How a customer may say something: the topic, and the text with placeholders."""

    topic: str
    text: str


@dataclass(frozen=True)
class Ticket:
    """A customer's message and what the mail room files it under: topic and order number."""

    message: str
    filed: str


def _wording(topic: str, text: str) -> Wording:
    return Wording(topic, text.format(**PLACEHOLDERS))


def by_hand(split: str = "train", each: int | None = None) -> list[Wording]:
    """The hand-written wordings of a split, all or `each` per topic, the seed's first."""
    spread = {topic: wordings(intent, split) for topic, intent in INTENTS.items()}
    fewest = min(map(len, spread.values()))
    if each is not None and not 0 < each <= fewest:
        raise ValueError(f"there are {fewest} wordings per topic in {split!r}, not {each}")
    chosen: list[Wording] = []
    for topic, texts in spread.items():
        if each is not None:
            places = [i * len(texts) // each for i in range(each)]  # evenly spread
            texts = [texts[place] for place in places]
        chosen += [_wording(topic, text) for text in texts]
    return chosen


def letters() -> list[Wording]:
    """A hundred letters in nobody's template: see `prisma/letters.py`."""
    all_letters: list[Wording] = []
    for topic, texts in LETTERS.items():
        all_letters += [_wording(topic, text) for text in texts]
    return all_letters


# ---------------------------------------------------------------- training a small model on short rows


def encode(tokenizer: Any, asked: str, answer: str) -> lm.Row:
    """Token ids and labels of one question and its answer; only the answer and its end are learned."""
    example = exchange("mail", asked, answer)
    return lm.encode(tokenizer, example)


def fit(chat: Chat, rows: Sequence[lm.Row], steps: int, seed: int, batch: int = 12) -> Chat:
    """A copy of `chat` after `steps` of full fine-tuning on `rows` (from `encode`), each batch drawn anew.

    At this size all weights fit, and training them takes fewer steps than an adapter.
    """
    model = copy.deepcopy(chat.model)
    model.set_attn_implementation("eager")  # for short rows on a CPU it trains faster than the fused kernel
    peft_methods.fit(model, rows, steps, 2e-3, seed, batch=batch)
    return dataclasses.replace(chat, model=model)


# ---------------------------------------------------------------- growth

ASKED = "Write as a customer."


def teach_writing(chat: Chat, archive: Sequence[Wording], steps: int, seed: int) -> Chat:
    """prisma-lm after it has read old letters, without their topics. A larger model has read enough: it is returned."""
    if chat.tier != "bundled":
        return chat
    rows = [encode(chat.tokenizer, ASKED, letter.text) for letter in archive]
    return fit(chat, rows, steps, seed, batch=16)


def write(chat: Chat, seeds: Sequence[Wording], n: int, temperature: float, seed: int) -> list[str]:
    """`n` new wordings, sampled at `temperature`. Nothing is checked yet, and nobody says what they are about.

    An instruct model varies the `seeds` in turn; prisma-lm writes what it likes (see `teach_writing`).
    """
    turns = [seeds[i % len(seeds)].text for i in range(n)]
    prompts = [_prompt(chat, text) for text in turns]
    texts = chat.complete_many(prompts, 40, temperature=temperature, seed=seed)
    return [text.strip().strip('"') for text in texts]


def _prompt(chat: Chat, text: str) -> str:
    if chat.tier == "bundled":
        return f"<|user|>{ASKED}<|end|><|assistant|>"
    rules = "Capitals stand for data: N an order number, P a product, Q another one, C a colour. Keep N, just once."
    asked = f"A customer of a toy shop writes:\n{text}\nWrite the same request in very different words. {rules}"
    return chat.prompt([{"role": "user", "content": f"{asked} Only the message."}])


class TopicGuess:
    """Which topic a text is about: the seed with the nearest words (cosine of TF-IDF vectors).

    What words mean comes from the seeds alone; the `background`, texts without topics, only says which are rare. It is
    not the model that writes, so it does not share its mistakes.
    """

    def __init__(self, seeds: Sequence[Wording], background: Sequence[str]) -> None:
        if len({seed.topic for seed in seeds}) < 2:
            raise ValueError("a topic is guessed by comparing: give seeds of at least two topics")
        texts = [*background, *(seed.text for seed in seeds)]
        counts: Counter[str] = Counter()
        for text in texts:
            words = shingles(text, 1)
            counts.update(word for word in words if len(word) > 1)  # no placeholders
        self.weight = {word: math.log((1 + len(texts)) / count) ** 2 for word, count in counts.items()}
        self.words: dict[str, set[str]] = {seed.topic: set() for seed in seeds}
        for seed in seeds:
            self.words[seed.topic] |= shingles(seed.text, 1)

    def _total(self, words: set[str]) -> float:
        return sum(self.weight.get(word, 0.0) for word in words)

    def __call__(self, text: str) -> tuple[str, float]:
        """The likeliest topic, and by how much its cosine leads the second."""
        said = shingles(text, 1)
        size = max(self._total(said), 1e-9) ** 0.5
        cosine = {}
        for topic, words in self.words.items():
            shared = self._total(words & said)
            cosine[topic] = shared / self._total(words) ** 0.5 / size
        first, second = sorted(cosine, key=cosine.__getitem__, reverse=True)[:2]
        return first, cosine[first] - cosine[second]


def malformed(text: str) -> bool:
    """Whether `text` is no message: no order number or two, no sentence, a word twice in a row."""
    words = text.split()
    twice = any(word == after for word, after in pairwise(words))
    numbers = re.findall(r"\bN\b", text)
    sentence = re.fullmatch(r"[A-Z][^<>\n]*[.?!]", text)
    return twice or len(numbers) != 1 or not sentence


def control(
    texts: Sequence[str], seeds: Sequence[Wording], lead: float = 0.1, limit: float = 0.8
) -> tuple[list[Wording], Counter]:
    """What may be used of `texts`, each under its topic, and how many were refused for what.

    Form: see `malformed`. Consistency: the topic leads the second by at least `lead`. Diversity: less than `limit`
    alike (Jaccard, pairs of words) to every seed and to all that was accepted before.
    """
    texts = as_texts(texts)
    guess = TopicGuess(seeds, texts)
    kept: list[Wording] = []
    refused: Counter[str] = Counter()
    taken = [shingles(seed.text, 2) for seed in seeds]
    for text in texts:
        topic, led = guess(text)
        pairs = shingles(text, 2)
        if malformed(text):
            refused["form"] += 1
        elif led < lead:
            refused["topic unclear"] += 1
        elif max(jaccard(pairs, other) for other in taken) >= limit:
            refused["not new"] += 1
        else:
            kept.append(Wording(topic, text))
            taken.append(pairs)
    return kept, refused


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: different runs of `n` words as a share of all (Li et al. 2016, arXiv 1510.03055)."""
    texts = as_texts(texts)
    runs: list[tuple[str, ...]] = []
    for text in texts:
        words = text.split()
        starts = range(len(words) - n + 1)
        runs += [tuple(words[start : start + n]) for start in starts]
    if not runs:
        return 0.0
    return len(set(runs)) / len(runs)


# ---------------------------------------------------------------- the task that grown data is judged by


def tickets(source: Sequence[Wording], n: int, seed: int) -> list[Ticket]:
    """`n` messages filled with drawn orders: the topics of `source` in turn, and the wordings of each topic in turn.

    So every topic gets its share, however few wordings it has. ValueError for an empty source.
    """
    if not source:
        raise ValueError("there is no wording to fill: loosen the controls, or sample more candidates")
    rng = random.Random(seed)
    spread: dict[str, list[Wording]] = {}
    for wording in rng.sample(list(source), len(source)):
        spread.setdefault(wording.topic, []).append(wording)
    topics = list(spread.values())
    filled = []
    for i in range(n):
        turn, place = divmod(i, len(topics))
        texts = topics[place]
        filled.append(_filled(texts[turn % len(texts)], rng))
    return filled


def _filled(wording: Wording, rng: random.Random) -> Ticket:
    product = _product(rng)
    other = _product(rng)
    number = str(rng.randrange(1000, 10000))
    free = [colour for colour in COLOURS if colour not in product]
    colour = rng.choice(free)
    name = rng.choice(NAMES)
    data = {"N": number, "P": product, "Q": other, "S": product.split()[-1], "C": colour, "A": name}
    marks = "".join(PLACEHOLDERS.values())
    message = re.sub(rf"\b[{marks}]\b", lambda mark: data[mark[0]], wording.text)
    return Ticket(message, f"{wording.topic} {number}")


def _product(rng: random.Random) -> str:
    return f"{rng.choice(SIZES)} {rng.choice(COLOURS)} {rng.choice(SHAPES)}"


def learn(chat: Chat, filed: Sequence[Ticket], steps: int, seed: int) -> Chat:
    """prisma-lm as the mail room: it reads a message and writes its topic and order number."""
    return fit(chat, _rows(chat, filed), steps, seed)


def _rows(chat: Chat, tickets: Sequence[Ticket]) -> list[lm.Row]:
    return [encode(chat.tokenizer, ticket.message, ticket.filed) for ticket in tickets]


def right(chat: Chat, exam: Sequence[Ticket]) -> list[bool]:
    """Whether the model files each message right, as greedy decoding would."""
    readings = lm.read(chat.model, _rows(chat, exam), chat.tokenizer.pad_token_id)
    return [reading.right for reading in readings]
