"""Unit 7.5, labs: tasks and marks for instruction tuning, continued pre-training, and retrieval with fine-tuning."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from course_utils.models import hardware
from course_utils.models.inputs import as_texts
from course_utils.prisma import lm, text
from course_utils.prisma.shop import NAMES, Order, make_shop
from course_utils.prisma.text import Example

Pair = tuple[str, str]

# ---------------------------------------------------------------- instructions

# What a record holds. NEW is in every record, but no training task ever asks for it.
FIELDS: dict[str, Callable[[Order], str]] = {
    "name": lambda order: order.customer,
    "size": lambda order: order.product.size,
    "colour": lambda order: order.product.colour,
    "status": lambda order: order.status,
    "shape": lambda order: order.product.shape,
}
NEW = "shape"
FORMS = ("Write the {a}, then the {b}.", "First the {a}, then the {b}, please.")
NEW_FORM = ("Tell me the {a} and the {b}.",)


def field_tasks(held_out: int, seed: int) -> dict[str, list[Pair]]:
    """Tasks are pairs of fields to write in this order: "train", "held out" and those with the "new field"."""
    old_fields = [field for field in FIELDS if field != NEW]
    known = list(itertools.permutations(old_fields, 2))
    random.Random(seed).shuffle(known)
    new: list[Pair] = []
    for field in old_fields:
        new += [(field, NEW), (NEW, field)]
    return {"train": known[held_out:], "held out": known[:held_out], "new field": new}


def instructions(tasks: Sequence[Pair], n: int, seed: int, forms: Sequence[str] = FORMS) -> list[Example]:
    """`n` (at most 9,000) records, each with an instruction in one of `forms`; the tasks take turns.

    ValueError without tasks, or for more records than order numbers.
    """
    if not tasks or n > 9000:
        raise ValueError(f"{n} records for {len(tasks)} tasks: hold out fewer tasks, and ask for at most 9,000 records")
    rng = random.Random(seed)
    shop = make_shop(seed, n)
    examples = []
    for i, order in enumerate(shop.orders.values()):
        first, second = tasks[i % len(tasks)]
        record = [f"{field}: {value(order)}" for field, value in FIELDS.items()]
        rng.shuffle(record)
        instruction = rng.choice(forms).format(a=first, b=second)
        asked = "\n".join((*record, instruction))
        reply = "".join(f"{field}: {FIELDS[field](order)}\n" for field in (first, second))
        examples.append(text.exchange(f"{first}, {second}", asked, reply))
    return examples


# ---------------------------------------------------------------- what the model could do before

SKILLS = ("worked", "planner", "reflect", "executor")


def skills(n: int, seed: int) -> dict[str, list[Example]]:
    """`n` examples of each of four things that prisma-lm can do. One wanted reply each."""
    examples = {}
    for name in SKILLS:
        endless = text.mixture(seed, {name: 1.0})
        examples[name] = list(itertools.islice(endless, n))
    return examples


def with_replay(new: Sequence[Any], old: Sequence[Any], part: float, seed: int) -> list[Any]:
    """`new`, and so many of `old` that they make `part` (0 to below 1) of the whole."""
    if not 0 <= part < 1:
        raise ValueError(f"the replayed part must be at least 0 and below 1, not {part}")
    count = round(len(new) * part / (1 - part))
    replayed = random.Random(seed).choices(list(old), k=count)
    return [*new, *replayed]


def perplexity(model: nn.Module, rows: Sequence[lm.Row]) -> float:
    """exp of the mean loss over all learned tokens of `rows`."""
    with hardware.autocast(next(model.parameters()).device):
        return lm.perplexity(lm.read(model, rows, pad=0))


# ---------------------------------------------------------------- pages and questions

QUESTIONS = (
    "How much is the voucher of {p}?",
    "What is the voucher of {p}?",
    "How many euros is the voucher of {p}?",
)
UNKNOWN = "I do not know"


def vouchers(seed: int) -> dict[str, int]:
    """How many euros each customer's voucher is worth. Another seed, other vouchers."""
    rng = random.Random(seed)
    return {name: rng.randint(3, 49) for name in NAMES}


def voucher_page(name: str, euros: int) -> str:
    """The page on a customer's voucher, of one sentence."""
    return f"The voucher of {name} is {euros} euros."


def voucher_questions(names: Sequence[str], seed: int) -> list[str]:
    """A question on the voucher of each customer, in one of three wordings."""
    names = as_texts(names, "names")
    rng = random.Random(seed)
    return [rng.choice(QUESTIONS).format(p=name) for name in names]


def search(asked: Sequence[str], pages: Sequence[str], k: int) -> list[list[int]]:
    """For each question the numbers of the `k` pages that share the rarest words with it, best first.

    The score is the sum of the inverse document frequencies of the shared words (Sparck Jones 1972).
    """
    asked = as_texts(asked, "questions")
    pages = as_texts(pages, "pages")
    bags = [_words(page) for page in pages]
    pages_with: Counter[str] = Counter()
    for bag in bags:
        pages_with.update(bag)
    rarity = {word: math.log(len(pages) / n) for word, n in pages_with.items()}
    results = []
    for question in asked:
        words = _words(question)
        scores = [_total(rarity, words & bag) for bag in bags]
        best = sorted(range(len(bags)), key=lambda i: -scores[i])
        results.append(best[:k])
    return results


def _words(said: str) -> set[str]:
    return set(re.findall(r"\w+", said.lower()))


def _total(rarity: dict[str, float], words: set[str]) -> float:
    return sum(rarity[word] for word in words)


def _reply(question: str, pages: Sequence[str], answer: str) -> Example:
    """A question under its pages, in the form in which prisma-lm reads; without pages, in that of a direct question."""
    asked = "\n".join((*pages, question))
    head = text.prompt("read" if pages else "direct", asked)
    return Example("voucher", ((head, False), (f"Answer: {answer}<|end|>", True)))


def voucher_tasks(names: Sequence[str], worth: dict[str, int], k: int, seed: int) -> list[Example]:
    """A question on the voucher of each of `names`, under the `k` pages that `search` finds, in random order.

    Without pages (k = 0) the model can only guess or remember.
    """
    rng = random.Random(seed)
    asked = voucher_questions(names, seed)
    everybody = rng.sample(list(worth), len(worth))  # pages that fit equally badly come in another order each time
    pages = [voucher_page(name, worth[name]) for name in everybody]
    results = search(asked, pages, k)
    examples = []
    for name, question, hits in zip(names, asked, results, strict=True):
        shuffled = rng.sample(hits, len(hits))
        shown = [pages[i] for i in shuffled]
        examples.append(_reply(question, shown, f"{worth[name]} euros"))
    return examples


def missing_tasks(names: Sequence[str], worth: dict[str, int], k: int, seed: int) -> list[Example]:
    """`voucher_tasks` in which the page that is asked for is not there. The right answer is UNKNOWN."""
    rng = random.Random(seed)
    asked = voucher_questions(names, seed)
    examples = []
    for name, question in zip(names, asked, strict=True):
        others = [other for other in worth if other != name]
        pages = [voucher_page(other, worth[other]) for other in rng.sample(others, k)]
        examples.append(_reply(question, pages, UNKNOWN))
    return examples
