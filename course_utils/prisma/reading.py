"""Texts of the shop's kind with questions on them: what prisma-reader learns from, and is measured by.

A passage is a handful of facts, cut into numbered sources. A question asks for one of them, and the reply names the
source: "Answer: 12 euros [2]". Where the passage does not say it, the right reply is `UNKNOWN`. The last wording of
every sentence and of every question is held out: training never sees it.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from course_utils.prisma import text
from course_utils.prisma.shop import COLOURS, NAMES, SHAPES, SIZES, TOPICS, Shop, make_shop

UNKNOWN = "I do not know"
WORDINGS = ("trained", "held out")
SOURCE = re.compile(r"\[(\d+)\]")


@dataclass(frozen=True)
class Kind:
    """One kind of facts: how sentences say it, how questions ask for it, how answers look.

    `sentences` are (wording, what it says) pairs. `questions` and `answers` have the same keys.
    """

    key: str
    sentences: tuple[tuple[str, str], ...]
    questions: dict[str, tuple[str, ...]]
    answers: dict[str, str]


KINDS = {
    "product": Kind(
        "p",
        (
            ("The {p} costs {price} euros, and we have {stock} in stock.", "price stock"),
            ("You can buy the {p} for {price} euros. There are {stock} left.", "price stock"),
            ("Our {p} is {price} euros.", "price"),
            ("{p}: {price} euros, {stock} in stock", "price stock"),
            ("The price of the {p} is {price} euros.", "price"),
            ("We have {stock} of the {p} in stock.", "stock"),
            ("There are {stock} pieces of the {p}, each for {price} euros.", "price stock"),
        ),
        {
            "price": (
                "What does the {p} cost?",
                "How much is the {p}?",
                "What is the price of the {p}?",
                "How many euros is the {p}?",
                "I want to buy the {p}. What do I pay?",
                "Please tell me the price of the {p}.",
                "What do I pay for the {p}?",
            ),
            "stock": (
                "How many of the {p} are in stock?",
                "How many of the {p} do you have?",
                "What is the stock of the {p}?",
                "How many of the {p} are left?",
                "Is the {p} still in stock? How many?",
                "How many pieces of the {p} are there?",
            ),
        },
        {"price": "{price} euros", "stock": "{stock}"},
    ),
    "order": Kind(
        "n",
        (
            ("Order {n} of {c}: {q} {o}, {s}.", "status owner contents quantity"),
            ("order {n}: {q} {o} for {c}, {s}", "status owner contents quantity"),
            ("{c} bought {q} {o} with order {n}. The parcel was {s}.", "status owner contents quantity"),
            ("Order {n} is {s}. {c} bought {q} of the {o}.", "status owner contents quantity"),
            ("The order of {c} has the number {n}. In the box are {q} {o}.", "owner contents quantity"),
            ("{c} asked about order {n}, it is {s}.", "status owner"),
            ("The parcel of {c} with order {n} is {s}, in it are {q} {o}.", "status owner contents quantity"),
        ),
        {
            "status": (
                "Where is order {n}?",
                "What is the status of order {n}?",
                "Has order {n} been sent?",
                "Tell me about my order {n}.",
                "Where is the parcel of {c}?",
                "I am waiting for order {n}. Where is it?",
                "Has {c}'s order been sent?",
                "Please check the status of order {n}.",
            ),
            "owner": (
                "Who bought order {n}?",
                "Whose order is {n}?",
                "Who is the customer of order {n}?",
                "What is the name of the customer with order {n}?",
                "For whom is order {n}?",
            ),
            "contents": (
                "What is in order {n}?",
                "Which toy is in order {n}?",
                "What did I buy with order {n}?",
                "What did {c} buy?",
                "Which toy did {c} order?",
                "What is in the parcel of {c}?",
                "Which toy did I get with order {n}?",
            ),
            "quantity": (
                "How many toys are in order {n}?",
                "How many pieces did I buy with order {n}?",
                "How many toys did {c} buy?",
                "How many pieces are in the parcel of {c}?",
                "How many toys did I get with order {n}?",
            ),
        },
        {"status": "{s}", "owner": "{c}", "contents": "{o}", "quantity": "{q}"},
    ),
    "customer": Kind(
        "c",
        (
            ("{c}: last order {n}", "number"),
            ("The last order of {c} is {n}.", "number"),
            ("{c} asks for order {n}.", "number"),
            ("{c} was here last with order {n}.", "number"),
        ),
        {
            "number": (
                "What is the number of {c}'s last order?",
                "Which order did {c} make last?",
                "What is the order number of {c}?",
                "Please find the last order of {c}.",
            )
        },
        {"number": "{n}"},
    ),
    "phone": Kind(
        "c",
        (
            ("The phone number of {c} is {t}.", "phone"),
            ("You can call {c} at {t}.", "phone"),
            ("{c}, phone {t}", "phone"),
            ("Please call {c}, the number is {t}.", "phone"),
        ),
        {
            "phone": (
                "What is the phone number of {c}?",
                "How can I call {c}?",
                "Which phone number has {c}?",
                "With what number do I call {c}?",
            )
        },
        {"phone": "{t}"},
    ),
    "voucher": Kind(
        "c",
        (
            ("The voucher of {c} is worth {v} euros.", "voucher"),
            ("{c} has a voucher for {v} euros.", "voucher"),
            ("We sent {c} a gift card of {v} euros.", "voucher"),
            ("There is a voucher of {v} euros for {c}.", "voucher"),
        ),
        {
            "voucher": (
                "What is the voucher of {c} worth?",
                "How much is on the voucher of {c}?",
                "How many euros is the gift card of {c}?",
                "What can {c} pay with the voucher?",
            )
        },
        {"voucher": "{v} euros"},
    ),
    "present": Kind(
        "c",
        (
            ("{c} wants a {o} for the birthday.", "present"),
            ("The birthday present for {c} is a {o}.", "present"),
            ("We will give {c} a {o} for the party.", "present"),
            ("For the birthday {c} will get a {o}.", "present"),
        ),
        {
            "present": (
                "What is the birthday present for {c}?",
                "Which toy does {c} get for the birthday?",
                "What do we give {c}?",
                "What will {c} get for the birthday?",
            )
        },
        {"present": "{o}"},
    ),
    "place": Kind(
        "p",
        (
            ("The {p} is on shelf {v}.", "place"),
            ("You find the {p} on shelf {v}.", "place"),
            ("Look for the {p} on shelf {v}.", "place"),
            ("On shelf {v} there is the {p}.", "place"),
        ),
        {
            "place": (
                "On which shelf is the {p}?",
                "Where do I find the {p}?",
                "What is the shelf of the {p}?",
                "Which shelf has the {p}?",
            )
        },
        {"place": "{v}"},
    ),
    "box": Kind(
        "p",
        (
            ("The box of the {p} is {w}.", "box"),
            ("We send the {p} in a {w} box.", "box"),
            ("The {p} arrives in a box, and its colour is {w}.", "box"),
            ("There is a {w} box for the {p}.", "box"),
        ),
        {
            "box": (
                "What colour is the box of the {p}?",
                "In which box do you send the {p}?",
                "Which colour has the box of the {p}?",
                "Please tell me the colour of the box with the {p}.",
            )
        },
        {"box": "{w}"},
    ),
    "policy": Kind(
        "topic",
        (),  # see POLICIES
        {},
        {},
    ),
}

# The shop's promises: sentences and questions by topic, the last of each held out.
POLICIES = {
    "returns": (
        (
            "goods can be returned within {} days",
            "You can return a toy within {} days.",
            "We take toys back for {} days.",
            "A toy can be sent back within {} days.",
        ),
        (
            "How many days do I have to return a toy?",
            "How long can I send goods back?",
            "Until when can I return a toy?",
            "How long do you take a toy back?",
            "Within how many days can I return it?",
        ),
    ),
    "warranty": (
        (
            "toys are covered for {} months",
            "The warranty lasts {} months.",
            "There is a warranty of {} months on all toys.",
            "Each toy has {} months of warranty.",
        ),
        (
            "How long is a toy covered?",
            "How many months does the warranty last?",
            "How long is the warranty?",
            "My toy is broken. How long is it covered?",
            "For how many months is there a warranty?",
        ),
    ),
    "shipping": (
        (
            "parcels arrive within {} days",
            "Your parcel will arrive in {} days.",
            "Delivery takes {} days.",
            "We deliver within {} days.",
        ),
        (
            "How long does a parcel take?",
            "How many days until my parcel arrives?",
            "How long is the delivery?",
            "When will my parcel be here?",
            "In how many days do you deliver?",
        ),
    ),
    "fee": (
        (
            "shipping costs {} euros",
            "The shipping fee is {} euros.",
            "We send your parcel for {} euros.",
            "You pay {} euros for shipping.",
        ),
        (
            "What does shipping cost?",
            "How much is the shipping fee?",
            "What do I pay for shipping?",
            "How much do you ask to send a parcel?",
            "How many euros is shipping?",
        ),
    ),
    "discount": (
        (
            "orders of ten or more get {} percent off",
            "For ten toys or more there is a discount of {} percent.",
            "If you buy ten, you get {} percent off.",
            "The discount for ten or more toys is {} percent.",
        ),
        (
            "What discount do I get for ten or more?",
            "How many percent off for ten toys?",
            "I want to buy ten toys. What discount is there?",
            "How much less do I pay for ten?",
            "What is the discount for ten toys?",
        ),
    ),
    "gift": (
        (
            "gift wrapping costs {} euros",
            "The price of gift wrapping is {} euros.",
            "A gift box is {} euros.",
            "You can have gift wrapping for {} euros.",
        ),
        (
            "What does gift wrapping cost?",
            "How much do you ask for a gift box?",
            "How much is gift wrapping?",
            "What is the price of a gift box?",
            "What do I pay for gift wrapping?",
        ),
    ),
}


@dataclass(frozen=True)
class Fact:
    """A sentence, and the questions that it answers: wordings by what they ask, and the answers."""

    kind: str
    sentence: str
    slots: dict[str, str]
    says: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question on a passage. `source` is the number of the source that answers it, from 1; None for nowhere."""

    text: str
    answer: str
    source: int | None
    asks: str


@dataclass(frozen=True)
class Passage:
    """Sources in their order, and questions on them."""

    sources: tuple[str, ...]
    questions: tuple[Question, ...]


# ---------------------------------------------------------------- drawing facts


def _worded(rng: random.Random, wordings: Sequence, split: str) -> int:
    """The place of a wording that the split may use."""
    last = len(wordings) - 1
    return last if split == "held out" else rng.randrange(last)


def _slots(rng: random.Random, shop: Shop) -> dict[str, str]:
    """Values for every wording: an order with its customer, a product, and numbers."""
    order = rng.choice(list(shop.orders.values()))
    item = rng.choice(list(shop.products.values()))
    slots = {"n": str(order.number), "c": order.customer, "q": str(order.quantity), "s": order.status}
    slots |= {"o": order.product.name, "p": item.name, "price": str(item.price), "stock": str(item.stock)}
    slots |= {"v": str(rng.randint(1, 60)), "t": str(rng.randint(1000, 9999)), "w": rng.choice(COLOURS)}
    return slots | {"topic": rng.choice(list(TOPICS))}


def _fact(rng: random.Random, shop: Shop, kind: str, slots: dict[str, str], split: str) -> Fact:
    if kind == "policy":
        topic = slots["topic"]
        sentences, _ = POLICIES[topic]
        number = shop.policies[topic]
        sentence = sentences[_worded(rng, sentences, split)].format(number)
        _, answer = text.POLICY_QUESTIONS[topic]
        return Fact(kind, sentence, slots | {"value": answer.format(number)}, (topic,))
    sentences = KINDS[kind].sentences
    wording, says = sentences[_worded(rng, sentences, split)]
    return Fact(kind, wording.format(**slots), slots, tuple(says.split()))


def _facts(rng: random.Random, shop: Shop, count: int, split: str) -> list[Fact]:
    """`count` facts, no two of one kind about the same thing or the same customer."""
    facts: list[Fact] = []
    taken: set[tuple[str, str]] = set()
    favourites = rng.choices(list(KINDS), (4, 4, 1, 1, 1, 1, 1, 1, 2), k=2)
    while len(facts) < count:
        # Facts of one or two kinds, mostly: the hard question is which of them.
        kind = rng.choice(favourites) if rng.random() < 0.7 else rng.choice(list(KINDS))
        slots = _slots(rng, shop)
        if facts and kind != "policy" and rng.random() < 0.5:
            slots["p"] = _neighbour(rng, shop, facts[-1].slots["p"])
            item = shop.products[slots["p"]]
            slots |= {"price": str(item.price), "stock": str(item.stock)}
        names = {(kind, slots[KINDS[kind].key])}
        if kind == "order":
            names.add((kind, slots["c"]))
        if kind in ("order", "customer"):  # "the order number of Ada" must mean one thing
            names.add(("number", slots["c"]))
        if names & taken:
            if kind == "policy" and len(facts) > 2:
                favourites = ["product", "order"]
            continue
        taken |= names
        facts.append(_fact(rng, shop, kind, slots, split))
    return facts


def _neighbour(rng: random.Random, shop: Shop, name: str) -> str:
    """A product that differs in one word: what a careless reader mistakes for it."""
    words = name.split()
    at = rng.randrange(3)
    choices = (SIZES, COLOURS, SHAPES)[at]
    words[at] = rng.choice([word for word in choices if word != words[at]])
    return " ".join(words)


# ---------------------------------------------------------------- questions


def _ask(rng: random.Random, fact: Fact, asks: str, split: str, told: str) -> str:
    """A question for `asks`. A question may name the customer only where the fact's sentence does."""
    if fact.kind == "policy":
        _, wordings = POLICIES[asks]
        return wordings[_worded(rng, wordings, split)]
    wordings = KINDS[fact.kind].questions[asks]
    if fact.kind == "order" and split == "trained" and fact.slots["c"] not in told:
        wordings = tuple(wording for wording in wordings if "{c}" not in wording)
    return wordings[_worded(rng, wordings, split)].format(**fact.slots)


def _answer(fact: Fact, asks: str) -> str:
    if fact.kind == "policy":
        return fact.slots["value"]
    return KINDS[fact.kind].answers[asks].format(**fact.slots)


def _present(rng: random.Random, facts: Sequence[Fact], places: Sequence[int], split: str) -> Question:
    at = rng.randrange(len(facts))
    fact = facts[at]
    asks = rng.choice(fact.says)
    return Question(_ask(rng, fact, asks, split, fact.sentence), _answer(fact, asks), places[at], asks)


def _absent(rng: random.Random, shop: Shop, facts: Sequence[Fact], split: str) -> Question:
    """A question that looks as if the passage answered it: another thing of the kind, or something it leaves out."""
    told = {(fact.kind, asks, fact.slots[KINDS[fact.kind].key]) for fact in facts for asks in fact.says}
    customers = {fact.slots["c"] for fact in facts}
    while True:
        fact = rng.choice(facts)
        kind = fact.kind if rng.random() < 0.8 else rng.choice(list(KINDS))
        if kind == "policy":
            asks = rng.choice([topic for topic in TOPICS])
            asked = replace(fact, kind=kind, slots=fact.slots | {"topic": asks})
        else:
            asks = rng.choice(list(KINDS[kind].questions))
            asked = replace(fact, kind=kind, slots=_other(rng, shop, fact, kind, customers))
        if (kind, asks, asked.slots[KINDS[kind].key]) not in told:
            break
    return Question(_ask(rng, asked, asks, split, fact.sentence), UNKNOWN, None, asks)


def _other(rng: random.Random, shop: Shop, fact: Fact, kind: str, customers: set[str]) -> dict[str, str]:
    """The fact's values as they are, in one case of three, or with another thing in the place of its own."""
    by_order = kind in ("order", "customer")  # another fact may name another order of the same customer
    if rng.random() < 0.35 and (fact.kind == kind or not by_order):
        return fact.slots
    slots = dict(fact.slots)
    slots["p"] = _neighbour(rng, shop, slots["p"]) if rng.random() < 0.7 else rng.choice(list(shop.products))
    slots["c"] = rng.choice([name for name in NAMES if name not in customers])
    digits = list(slots["n"])
    if rng.random() < 0.5:
        at = rng.randrange(1, 4)
        digits[at] = rng.choice([digit for digit in "0123456789" if digit != digits[at]])
    else:
        digits = list(str(rng.randint(1000, 9999)))
    return slots | {"n": "".join(digits)}


def passage(
    rng: random.Random,
    shop: Shop,
    questions: int = 1,
    split: str = "trained",
    absent: float = 0.25,
    longest: int = 3,
) -> Passage:
    """Three to eight facts in sources of up to `longest` facts, and questions; the share `absent` asks for what
    is not there. `split` is "trained" or "held out": which wordings are used.
    """
    if split not in WORDINGS:
        raise ValueError(f"there is no split {split!r}; take one of {', '.join(WORDINGS)}")
    facts = _facts(rng, shop, rng.randint(3, 8), split)
    rng.shuffle(facts)
    sources: list[str] = []
    places: list[int] = []
    room = 0
    for fact in facts:
        sentence = fact.sentence
        if rng.random() < 0.5:
            sentence = sentence[0].upper() + sentence[1:]
        if room:
            joint = " " if sources[-1].endswith(".") else ". "
            sources[-1] += joint + sentence
            room -= 1
        else:
            sources.append(sentence)
            room = rng.randrange(longest)
        places.append(len(sources))
    asked = []
    for _ in range(questions):
        missing = rng.random() < absent
        asked.append(_absent(rng, shop, facts, split) if missing else _present(rng, facts, places, split))
    return Passage(tuple(sources), tuple(asked))


# ---------------------------------------------------------------- how prompts and replies look


def user_text(sources: Sequence[str], question: str, cite: bool = True) -> str:
    """What the user's turn says: the sources, with their numbers if they are to be cited, and the question."""
    lines = [f"[{i}] {source}" if cite else source for i, source in enumerate(sources, 1)]
    return "\n".join((*lines, question))


def prompt(sources: Sequence[str], question: str, cite: bool = True) -> str:
    """The prompt that prisma-reader continues. ValueError without a source."""
    if not sources:
        raise ValueError("there is nothing to read: give at least one source")
    return text.prompt("read", user_text(sources, question, cite))


def reply_text(question: Question, cite: bool = True) -> str:
    """The right reply."""
    cited = f" [{question.source}]" if cite and question.source else ""
    return f"Answer: {question.answer}{cited}"


@dataclass(frozen=True)
class Read:
    """What a reply says: the answer, None where the reader does not know; the cited source, None without one."""

    answer: str | None
    source: int | None


def parse(reply: str) -> Read:
    """The answer and the source in a reply."""
    answer = text.final_answer(reply)
    cited = SOURCE.findall(answer)
    answer = SOURCE.sub("", answer).strip().rstrip(".").strip()
    source = int(cited[-1]) if cited else None
    known = answer.lower() != UNKNOWN.lower() and bool(answer)
    return Read(answer if known else None, source)


def example(rng: random.Random, shop: Shop) -> text.Example:
    """A passage with eight questions, each in a turn of its own; one passage in four has no numbers to cite."""
    cite = rng.random() < 0.75
    read = passage(rng, shop, questions=8, longest=3 if cite else 1)
    first, *others = read.questions
    pieces = [(prompt(read.sources, first.text, cite), False), (reply_text(first, cite) + "<|end|>", True)]
    for question in others:
        pieces.append((text.turn("user", question.text) + "<|assistant|>", False))
        pieces.append((reply_text(question, cite) + "<|end|>", True))
    return text.Example("read", tuple(pieces))


def examples(seed: int) -> Iterator[text.Example]:
    """Endless training examples, each 50 from a fresh shop, so that no fact can be learned by heart."""
    rng = random.Random(seed)
    while True:
        shop = make_shop(rng.randrange(10**6, 10**9))
        for _ in range(50):
            yield example(rng, shop)


def tests(n: int, seed: int, split: str = "trained", absent: float = 0.25) -> list[Passage]:
    """`n` passages with one question each about shops that training never drew (its seeds begin at a million)."""
    rng = random.Random(f"reading {seed} {split}")
    drawn = []
    while len(drawn) < n:
        shop = make_shop(rng.randrange(10**6))
        drawn += [passage(rng, shop, split=split, absent=absent) for _ in range(10)]
    return drawn[:n]


def right(wanted: Question, reply: str, cite: bool = True) -> bool:
    """Whether a reply is right in every token: the answer, the source, and nothing else."""
    return reply.strip() == reply_text(wanted, cite)
