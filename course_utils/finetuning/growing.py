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
    if each is not None and not 0 < each <= min(map(len, spread.values())):
        raise ValueError(f"there are {min(map(len, spread.values()))} wordings per topic in {split!r}, not {each}")
    chosen = {
        t: some if each is None else [some[i * len(some) // each] for i in range(each)] for t, some in spread.items()
    }
    return [_wording(topic, text) for topic, some in chosen.items() for text in some]


def letters() -> list[Wording]:
    """A hundred letters in nobody's template: see `prisma/letters.py`."""
    return [_wording(topic, text) for topic, some in LETTERS.items() for text in some]


# ---------------------------------------------------------------- training a small model on short rows


def encode(tokenizer: Any, asked: str, answer: str) -> lm.Row:
    """Token ids and labels of one question and its answer; only the answer and its end are learned."""
    return lm.encode(tokenizer, exchange("mail", asked, answer))


def fit(chat: Chat, rows: Sequence[lm.Row], steps: int, seed: int, batch: int = 12) -> Chat:
    """A copy of `chat` after `steps` of full fine-tuning on `rows` (from `encode`), each batch drawn anew.

    At this size all weights fit, and training them takes fewer steps than an adapter.
    """
    model = copy.deepcopy(chat.model)
    model.set_attn_implementation("eager")  # for short rows on a CPU it trains faster than the fused kernel
    peft_methods.fit(model, rows, steps, 2e-3, seed, batch)
    return dataclasses.replace(chat, model=model)


# ---------------------------------------------------------------- growth

ASKED = "Write as a customer."


def teach_writing(chat: Chat, archive: Sequence[Wording], steps: int, seed: int) -> Chat:
    """prisma-lm after it has read old letters, without their topics. A larger model has read enough: it is returned."""
    if chat.tier != "bundled":
        return chat
    return fit(chat, [encode(chat.tokenizer, ASKED, one.text) for one in archive], steps, seed, batch=16)


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
        if len({one.topic for one in seeds}) < 2:
            raise ValueError("a topic is guessed by comparing: give seeds of at least two topics")
        texts = [shingles(text, 1) for text in (*background, *(one.text for one in seeds))]
        counts = Counter(word for words in texts for word in words if len(word) > 1)  # no placeholders
        self.weight = {word: math.log((1 + len(texts)) / count) ** 2 for word, count in counts.items()}
        self.words: dict[str, set[str]] = {one.topic: set() for one in seeds}
        for one in seeds:
            self.words[one.topic] |= shingles(one.text, 1)

    def _total(self, words: set[str]) -> float:
        return sum(self.weight.get(word, 0.0) for word in words)

    def __call__(self, text: str) -> tuple[str, float]:
        """The likeliest topic, and by how much its cosine leads the second."""
        said = shingles(text, 1)
        size = max(self._total(said), 1e-9) ** 0.5
        score = {t: self._total(words & said) / self._total(words) ** 0.5 / size for t, words in self.words.items()}
        first, second = sorted(score, key=score.__getitem__, reverse=True)[:2]
        return first, score[first] - score[second]


def malformed(text: str) -> bool:
    """Whether `text` is no message: no order number or two, no sentence, a word twice in a row."""
    words = text.split()
    twice = any(a == b for a, b in zip(words, words[1:], strict=False))
    once = len(re.findall(r"\bN\b", text)) == 1
    return twice or not once or not re.fullmatch(r"[A-Z][^<>\n]*[.?!]", text)


def control(
    texts: Sequence[str], seeds: Sequence[Wording], lead: float = 0.1, limit: float = 0.8
) -> tuple[list[Wording], Counter]:
    """What may be used of `texts`, each under its topic, and how many were refused for what.

    Form: see `malformed`. Consistency: the topic leads the second by at least `lead`. Diversity: less than `limit`
    alike (Jaccard, pairs of words) to every seed and to all that was accepted before.
    """
    texts = as_texts(texts)
    guess, kept, refused = TopicGuess(seeds, texts), [], Counter()
    taken = [shingles(one.text, 2) for one in seeds]
    for text in texts:
        (topic, led), pairs = guess(text), shingles(text, 2)
        reason = "form" if malformed(text) else "topic unclear" if led < lead else ""
        if not reason and max(jaccard(pairs, other) for other in taken) >= limit:
            reason = "not new"
        if reason:
            refused[reason] += 1
            continue
        kept.append(Wording(topic, text))
        taken.append(pairs)
    return kept, refused


def distinct(texts: Sequence[str], n: int) -> float:
    """distinct-n: different runs of `n` words as a share of all (Li et al. 2016, arXiv 1510.03055)."""
    texts = as_texts(texts)
    runs = [tuple(words[i : i + n]) for text in texts for words in [text.split()] for i in range(len(words) - n + 1)]
    return len(set(runs)) / len(runs) if runs else 0.0


# ---------------------------------------------------------------- the task that grown data is judged by


def tickets(source: Sequence[Wording], n: int, seed: int) -> list[Ticket]:
    """`n` messages filled with drawn orders: the topics of `source` in turn, and the wordings of each topic in turn.

    So every topic gets its share, however few wordings it has. ValueError for an empty source.
    """
    if not source:
        raise ValueError("there is no wording to fill: loosen the controls, or sample more candidates")
    rng, spread = random.Random(seed), {}
    for one in rng.sample(list(source), len(source)):
        spread.setdefault(one.topic, []).append(one)
    turns = (list(spread.values())[i % len(spread)] for i in range(n))
    return [_filled(some[i // len(spread) % len(some)], rng) for i, some in enumerate(turns)]


def _filled(one: Wording, rng: random.Random) -> Ticket:
    product = f"{rng.choice(SIZES)} {rng.choice(COLOURS)} {rng.choice(SHAPES)}"
    other = f"{rng.choice(SIZES)} {rng.choice(COLOURS)} {rng.choice(SHAPES)}"
    data = {"N": str(rng.randrange(1000, 10000)), "P": product, "Q": other, "S": product.split()[-1]}
    data |= {"C": rng.choice([c for c in COLOURS if c not in product]), "A": rng.choice(NAMES)}
    marks = "".join(PLACEHOLDERS.values())
    return Ticket(re.sub(rf"\b[{marks}]\b", lambda mark: data[mark[0]], one.text), f"{one.topic} {data['N']}")


def learn(chat: Chat, filed: Sequence[Ticket], steps: int, seed: int) -> Chat:
    """prisma-lm as the mail room: it reads a message and writes its topic and order number."""
    return fit(chat, [encode(chat.tokenizer, one.message, one.filed) for one in filed], steps, seed)


def right(chat: Chat, exam: Sequence[Ticket]) -> list[bool]:
    """Whether the model files each message right, as greedy decoding would."""
    rows = [encode(chat.tokenizer, one.message, one.filed) for one in exam]
    return [one.right for one in lm.read(chat.model, rows, chat.tokenizer.pad_token_id)]
