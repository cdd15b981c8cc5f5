"""The support conversations of Unit 7.5: what customers write, what the records say, how Prisma answers.

Ten seed conversations (`seeds()`) are grown to 2,000: other wordings, names, orders, products, policies. Every
reply follows the house style, so it can be graded exactly: a topic for the files, the customer's name, a sentence
of feeling that suits the topic, a fact copied from the records, the next step, sign-off. prisma-lm never saw any of it
before, but nearly every word: a token that a small model never met costs many more steps to learn.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from course_utils.prisma.shop import COLOURS, NAMES, SHAPES, SIZES, Order, make_shop, open_database
from course_utils.prisma.tools import Toolbox
from course_utils.settings import DATA, SEED

SAMPLE = DATA / "samples" / "conversations.jsonl"
SYSTEM = "Answer the customer."
SIGN_OFF = "Our kind regards, the toy shop team"
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}

# A message has two sentences of the customer's. Training has seen every sentence, but none of the pairs of
# validation and test, and none of their orders: sentences i and j belong to the split at (i + j) mod 5.
SPLIT_PAIRS = ("train", "train", "train", "validation", "test")
# And nobody who writes in training writes in validation or test: names belong to splits in turn.
SPLIT_NAMES = ("train", "train", "train", "train", "validation", "test")
ORDERS_PER_SHOP = 100  # then a new shop opens, with other prices and policies


@dataclass(frozen=True)
class Reply:
    """What to say if the order has one of `statuses`: the fact and the next step, with slots."""

    statuses: tuple[str, ...]
    fact: str
    step: str


@dataclass(frozen=True)
class Intent:
    """One kind of request: first sentences, second sentences, and how Prisma answers."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    feeling: str
    replies: tuple[Reply, ...]
    topic: str = ""  # the policy that the shop's search adds to the facts


TOPICS = ("shipping", "returns", "warranty", "gift")  # the policies that replies quote
OPEN, SENT = ("ordered", "packed"), ("shipped", "delivered")

INTENTS = {
    "status": Intent(
        (
            "What is the status of order {n}?",
            "I want to know the status of the {p}. The order number is {n}.",
            "Where is order {n}? Please tell me the status.",
            "Where is the {p} of order {n} now, what is the status?",
            "I do not know the status of order {n}.",
            "Tell me the status of the {p}, order {n}.",
        ),
        ("", "Please look it up.", "Can you tell me?", "I need it next week.", "It is for a child."),
        "thank you for your question.",
        (
            Reply(("ordered",), "Order {n} is ordered.", "Our team will send the {p} soon."),
            Reply(("packed",), "Order {n} is packed.", "Our team will send the {p} tomorrow."),
            Reply(("shipped",), "Order {n} is shipped.", "The {p} arrives within {shipping} days."),
            Reply(("delivered",), "Order {n} is delivered.", "Please look for the {p} at your door."),
            Reply(("returned",), "Order {n} is returned.", "You will get a refund for the {p} soon."),
        ),
        "shipping",
    ),
    "late": Intent(
        (
            "I am still waiting for order {n}, it is very late.",
            "The {p} is late. I have been waiting for order {n} for many days.",
            "Order {n} is too late.",
            "The parcel with the {p} is late, the order is {n}.",
            "I wait and wait, and the {p} of order {n} is late.",
            "The parcel of order {n} is not here yet, it is late.",
        ),
        ("", "The birthday was last week.", "How long do I have to wait?", "I am angry.", "Please check it."),
        "we are sorry that you have to wait.",
        (
            Reply(OPEN, "Order {n} with the {p} is still {s}.", "Our team will send it today."),
            Reply(("shipped",), "Order {n} with the {p} is shipped.", "It arrives within {shipping} days."),
        ),
        "shipping",
    ),
    "broken": Intent(
        (
            "The {p} of order {n} is broken.",
            "The {p} arrived broken. The order number is {n}.",
            "Order {n} arrived today, and the {p} in the box is broken.",
            "I am sad, the new {p} of order {n} is broken.",
            "The parcel of order {n} is here, but the toy is broken.",
            "There is a problem with order {n}: one {p} is broken.",
        ),
        ("", "The box was open.", "What can you do?", "I need a new one.", "Please help me."),
        "we are sorry that your toy is broken.",
        (Reply(SENT, "Order {n} is the {p}.", "Our team will send a new one today."),),
    ),
    "colour": Intent(
        (
            "You sent the wrong colour. The toy of order {n} is {c}.",
            "The colour is wrong: the {shape} of order {n} is {c}.",
            "I bought a {p}, but the colour in the box is {c}. It is order {n}.",
            "The {shape} is {c}. It is not the colour of order {n}.",
            "The {shape} in the parcel of order {n} is {c}, the wrong colour.",
            "Order {n} has the wrong colour, it is {c}.",
        ),
        ("", "Please look at the order.", "I do not want it.", "Please send a good one.", "Can you help?"),
        "we are sorry about the wrong colour.",
        (
            Reply(
                SENT, "You ordered the {p} with order {n}.", "Our team will send it, please keep the one that is {c}."
            ),
        ),
    ),
    "refund": Intent(
        (
            "I do not like the {p}. I want a refund for order {n}.",
            "Can I return order {n} and get a refund?",
            "Please give me a refund for the {p}, order {n}.",
            "I would like to get a refund for the {p} of order {n}.",
            "I want to send order {n} back to you and get a refund.",
            "The {p} of order {n} is not for me, I want a refund.",
        ),
        ("", "I do not need it.", "How do I do it?", "I never used it.", "What do I have to do?"),
        "we are sorry that you do not like your toy.",
        (Reply(SENT, "You can return the {p} within {returns} days.", "Please write {n} on the parcel."),),
        "returns",
    ),
    "cancel": Intent(
        (
            "Please cancel order {n}.",
            "I want to cancel order {n}, the {p}.",
            "Can I still cancel the {p}? It is order {n}.",
            "I have to cancel order {n}.",
            "I bought two of the {p}. Please cancel order {n}.",
            "I would like to cancel the {p} with the number {n}.",
        ),
        ("", "I do not need it now.", "Please do it today.", "I want to buy less.", "I have one already."),
        "it is fine to change your order.",
        (
            Reply(OPEN, "Order {n} is {s}, so you can cancel it.", "You will get a refund for the {p} today."),
            Reply(SENT, "Order {n} is {s}, so you can not cancel it.", "You can return it within {returns} days."),
        ),
        "returns",
    ),
    "exchange": Intent(
        (
            "Can I exchange the {p} of order {n} for a {q}?",
            "I want to exchange order {n}. I would like the {q}.",
            "Please exchange order {n} for the {q}.",
            "Please exchange the {p} for a {q}, the order is {n}.",
            "I bought the {p} with order {n}, but I need the {q}. Can I exchange it?",
            "Do you exchange toys? I have order {n} and want the {q}.",
        ),
        ("", "What does it cost?", "I like it more.", "Please tell me how.", "How much is it?"),
        "we are happy to exchange your toy.",
        (Reply(SENT, "The {q} costs {price} euros.", "Please send us the {p} of order {n}."),),
    ),
    "warranty": Intent(
        (
            "Is there still a warranty on the {p} of order {n}?",
            "How long is the warranty of order {n}?",
            "I bought the {p} many months before, is there a warranty on order {n}?",
            "What is the warranty of the {p}? The number is {n}.",
            "Is there a warranty on the toy of order {n}?",
            "I need to know the warranty of the {p}, order {n}.",
        ),
        ("", "I have the receipt.", "I want to be safe.", "Please tell me.", "I use it every day."),
        "it is good that you ask about the warranty.",
        (Reply(SENT, "The {p} is covered for {warranty} months.", "Please keep the receipt of order {n}."),),
        "warranty",
    ),
    "gift": Intent(
        (
            "Order {n} is a gift. Can you put it in a gift box?",
            "Can I have gift wrapping for the {p}? It is order {n}.",
            "The {p} is a gift. Is there gift wrapping for order {n}?",
            "Please make order {n} a gift.",
            "What does gift wrapping cost for order {n}?",
            "I want the {p} of order {n} with gift wrapping.",
        ),
        ("", "It is for a birthday.", "The party is next week.", "Please use a good box.", "I will pay for it."),
        "a gift is always good.",
        (Reply(OPEN, "The price of gift wrapping is {gift} euros.", "Our team will put the {p} in a gift box."),),
        "gift",
    ),
    "thanks": Intent(
        (
            "The {p} arrived and it is great, thanks.",
            "I want to say thanks for the {p} of order {n}.",
            "Order {n} is here. You are a great team, thanks.",
            "Please take my thanks for order {n}, I like the {p} very much.",
            "My thanks to you, the {p} is very good.",
            "You sent order {n} so quick, thanks very much.",
        ),
        ("", "I am very happy.", "I like it.", "I will buy again.", "All is fine."),
        "it is great that you are happy.",
        (Reply(("delivered",), "It is good that the {p} arrived.", "You are always welcome."),),
    ),
}

HEADS = ("hello, this is {name}. ", "hello from {name}. ", "dear team, my name is {name}. ", "{name} here. ")
TAILS = (" dear team, {name}", " regards, {name}", " {name}", " kind regards, {name}")


@dataclass(frozen=True)
class Conversation:
    """One conversation: system turn with the facts, the customer's message, the reply.

    `required` holds what a reply must contain, by part and in this order.
    """

    intent: str
    split: str
    number: int
    facts: tuple[str, ...]
    message: str
    required: dict[str, str]

    @property
    def reply(self) -> str:
        return " ".join(self.required.values())

    @property
    def prompt(self) -> list[dict]:
        """The turns before the reply, as chat messages."""
        system = "\n".join((SYSTEM, *self.facts))
        return [{"role": "system", "content": system}, {"role": "user", "content": self.message}]

    @property
    def messages(self) -> list[dict]:
        """All turns, as chat messages."""
        return [*self.prompt, {"role": "assistant", "content": self.reply}]


# ---------------------------------------------------------------- drawing conversations


def _other_colour(rng: random.Random, colour: str) -> str:
    return rng.choice([c for c in COLOURS if c != colour])


def _slots(rng: random.Random, order: Order, toolbox: Toolbox) -> dict[str, str]:
    """The values that wordings and replies are filled with. Numbers come from the shop's own tools."""
    item = order.product
    wanted = f"{rng.choice(SIZES)} {_other_colour(rng, item.colour)} {rng.choice(SHAPES)}"
    slots = {"n": str(order.number), "name": order.customer, "p": item.name, "s": order.status}
    slots |= {"shape": item.shape, "c": _other_colour(rng, item.colour), "q": wanted}
    slots |= {"price": toolbox.catalogue(wanted).fields["price"]}
    return slots | {topic: toolbox.policy(topic).fields["number"] for topic in TOPICS}


def _facts(intent: Intent, slots: dict[str, str], toolbox: Toolbox) -> tuple[str, ...]:
    """What the shop's search adds: the order's record, the policy that matters, an article asked for."""
    lines = [toolbox.orders(slots["n"]).text]
    if intent.topic:
        lines.append(toolbox.policy(intent.topic).text)
    if any("{price}" in reply.fact for reply in intent.replies):
        lines.append(toolbox.catalogue(slots["q"]).text)
    return tuple(lines)


def wordings(intent: Intent, split: str) -> list[str]:
    """The pairs of sentences that a split may use, the seed's first."""
    texts = []
    for (i, first), (j, second) in product(enumerate(intent.first), enumerate(intent.second)):
        if SPLIT_PAIRS[(i + j) % len(SPLIT_PAIRS)] == split:
            texts.append(f"{first} {second}".strip())
    return texts


def _message(rng: random.Random, wording: str, slots: dict[str, str]) -> str:
    """The customer's words, with the name before or after them."""
    text = rng.choice(HEADS) + wording if rng.random() < 0.5 else wording + rng.choice(TAILS)
    return text.format(**slots)


def _reply(intent: Intent, order: Order) -> Reply | None:
    """The reply that fits the order's status; None if nobody would write this about such an order."""
    return next((reply for reply in intent.replies if order.status in reply.statuses), None)


def conversation(
    rng: random.Random,
    order: Order,
    toolbox: Toolbox,
    kind: str,
    split: str = "train",
    wording: str | None = None,
) -> Conversation:
    """Grow one conversation of the intent `kind` about `order`, worded as its split allows or as given.

    Raises ValueError if nobody would write this about an order with such a status.
    """
    intent = INTENTS[kind]
    reply = _reply(intent, order)
    if reply is None:
        raise ValueError(f"nobody writes about {kind!r} when the order is {order.status}")
    slots = _slots(rng, order, toolbox)
    wording = wording or rng.choice(wordings(intent, split))
    required = {
        "topic": f"{kind}:",
        "name": f"{order.customer},",
        "feeling": intent.feeling,
        "fact": reply.fact.format(**slots),
        "step": reply.step.format(**slots),
        "sign-off": SIGN_OFF,
    }
    facts = _facts(intent, slots, toolbox)
    # The shop's web form makes customers choose a topic.
    message = f"{_message(rng, wording, slots)} (topic: {kind})"
    return Conversation(kind, split, order.number, facts, message, required)


def _orders(rng: random.Random) -> Iterator[tuple[Order, Toolbox]]:
    """Endless orders, from shops that each have their own prices and policies."""
    while True:
        shop = make_shop(rng.randrange(10**9), ORDERS_PER_SHOP)
        toolbox = Toolbox(open_database(shop))
        yield from ((order, toolbox) for order in shop.orders.values())
        toolbox.database.close()


def _quotas(room: dict[str, int]) -> Counter:
    """How many conversations of each kind, and of each status in it, a split takes; 0 of what nobody would write."""
    quotas: Counter = Counter()
    for split, kind in product(room, INTENTS):
        statuses: list[str] = []
        for reply in INTENTS[kind].replies:
            statuses += reply.statuses
        quotas[split, kind] = -(-room[split] // len(INTENTS))
        quotas |= {(split, kind, status): -(-quotas[split, kind] // len(statuses)) for status in statuses}
    return quotas


def make_conversations(n: int = 2000, seed: int = SEED) -> list[Conversation]:
    """`n` conversations (at most 3,000), each about an order of its own, with as many of every intent.

    Within an intent there are as many of every status that it answers. They are shuffled, so that the first few are
    as mixed as all. Eight in ten are for training, one for validation, one for the test.
    """
    if not 0 < n <= 3000:
        raise ValueError(f"order numbers have four digits: ask for 1 to 3,000 conversations, not for {n}")
    rng, made, used = random.Random(seed), [], set()
    room = {split: round(n * share) for split, share in SPLITS.items()}
    room["train"] += n - sum(room.values())
    left = _quotas(room)
    for order, toolbox in _orders(rng):
        split = SPLIT_NAMES[NAMES.index(order.customer) % len(SPLIT_NAMES)]
        fitting = [k for k in INTENTS if left[split, k] and left[split, k, order.status]]
        if order.number in used or not fitting or not room[split]:
            continue
        kind = rng.choice(fitting)
        made.append(conversation(rng, order, toolbox, kind, split))
        used.add(order.number)
        room[split] -= 1
        left.subtract([(split, kind), (split, kind, order.status)])
        if len(made) == n:
            break
    rng.shuffle(made)
    return made


def seeds() -> list[Conversation]:
    """The ten seed conversations, one for each intent, in the first wording."""
    rng, found = random.Random(SEED), {}
    for order, toolbox in _orders(rng):
        kind = next((k for k, v in INTENTS.items() if k not in found and _reply(v, order)), None)
        if kind:
            found[kind] = conversation(rng, order, toolbox, kind, wording=wordings(INTENTS[kind], "train")[0])
        if len(found) == len(INTENTS):
            break
    return [found[kind] for kind in INTENTS]


def by_split(conversations: Iterable[Conversation]) -> dict[str, list[Conversation]]:
    """The conversations under the names of their splits."""
    parts: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for one in conversations:
        parts[one.split].append(one)
    return parts


# ---------------------------------------------------------------- grading


def _plain(text: str) -> str:
    return " ".join(text.split())


def parts_right(asked: Conversation, reply: str) -> dict[str, bool]:
    """For each part of the house style, whether the reply has it word for word, after the parts before it."""
    rest, right = _plain(reply), {}
    for name, wanted in asked.required.items():
        before, found, after = rest.partition(wanted)
        right[name] = bool(found)
        rest = after if found else rest
    return right


def graded(asked: Conversation, reply: str) -> bool:
    """Whether a reply may be sent: all parts are there, and nothing else.

    Anything on top would be unchecked: another number, a second sign-off, a promise that nobody made.
    """
    return _plain(reply) == _plain(asked.reply)


# ---------------------------------------------------------------- formats


def chat_row(one: Conversation) -> dict:
    """TRL's format: chat messages, in two lists split where the loss begins."""
    return {"prompt": one.prompt, "completion": one.messages[-1:]}


def alpaca_row(one: Conversation) -> dict:
    """Stanford Alpaca's format: one instruction, one input, one output."""
    return {"instruction": SYSTEM, "input": "\n".join((*one.facts, one.message)), "output": one.reply}


def sharegpt_row(one: Conversation) -> dict:
    """ShareGPT's format: turns `from` "system", "human" and "gpt"."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in one.messages]}


def write_sample(path: Path = SAMPLE) -> Path:
    """Write the ten seeds and five grown conversations of each intent as JSON lines."""
    grown = make_conversations()
    chosen = seeds()
    for kind in INTENTS:
        alike = [talk for talk in grown if talk.intent == kind]
        chosen += alike[:5]
    lines = []
    for i, talk in enumerate(chosen):
        origin = "seed" if i < len(INTENTS) else "grown"
        row = {"id": i, "kind": origin, "intent": talk.intent, "split": talk.split}
        row |= {"messages": talk.messages, "required": talk.required}
        lines.append(json.dumps(row) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    print(write_sample())
