"""The support conversations of Unit 7.5: what customers write, what the records say, how Prisma answers.

Ten seed conversations (`seeds()`) are grown to 2,000: other wordings, names, orders, products, policies.
Every reply follows the house style, so it can be graded exactly: greeting, a sentence of feeling that belongs
to the customer's intent, a fact copied from the records, the next step, sign-off. prisma-lm never saw any of
it before.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from course_utils.prisma.shop import COLOURS, NAMES, SHAPES, SIZES, Order, make_shop, open_database
from course_utils.prisma.tools import Toolbox
from course_utils.settings import DATA, SEED

SAMPLE = DATA / "samples" / "conversations.jsonl"
SYSTEM = "Answer the customer in the style of Prisma. Facts:"
SIGN_OFF = "Kind regards, your Prisma team"
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}

# Nothing of the test is seen in training: neither the customer's name, nor the order, nor the wording.
SPLIT_NAMES = {"train": NAMES[:16], "validation": NAMES[16:20], "test": NAMES[20:]}
SPLIT_WORDINGS = {"train": slice(0, 6), "validation": slice(6, 7), "test": slice(7, 8)}
ORDERS_PER_SHOP = 100  # then a new shop opens, with other prices and policies


@dataclass(frozen=True)
class Reply:
    """What to say if the order has one of `statuses`: the fact and the next step, with slots."""

    statuses: tuple[str, ...]
    fact: str
    step: str


@dataclass(frozen=True)
class Intent:
    """One kind of request. The first wording is the seed's; the last two are for validation and test."""

    wordings: tuple[str, ...]
    feeling: str
    replies: tuple[Reply, ...]
    topic: str  # the policy that matters


TOPICS = ("shipping", "returns", "warranty", "gift")  # the policies that replies quote
OPEN, SENT = ("ordered", "packed"), ("shipped", "delivered")

INTENTS = {
    "status": Intent(
        (
            "Where is my order {n}?",
            "Can you tell me where my {p} is? The number is {n}.",
            "I want to know the status of order {n}.",
            "What is the status of my {p}, order {n}?",
            "Where is the {p} that I ordered? My order number is {n}.",
            "Has order {n} been sent? I want to know where it is.",
            "I would like to know where order {n} is now.",
            "Please tell me the status of my order. It is number {n}.",
        ),
        "thank you for your question.",
        (
            Reply(("ordered",), "Order {n} is ordered.", "We will pack the {p} today."),
            Reply(("packed",), "Order {n} is packed.", "We will send the {p} tomorrow."),
            Reply(("shipped",), "Order {n} is shipped.", "The {p} arrives within {shipping} days."),
            Reply(("delivered",), "Order {n} is delivered.", "Please look for the {p} at your door."),
            Reply(("returned",), "Order {n} is returned.", "We will pay you for the {p} soon."),
        ),
        "shipping",
    ),
    "late": Intent(
        (
            "I am still waiting for order {n}. It is very late!",
            "My {p} is late. I have waited for many days. Order {n}.",
            "Order {n} is too late, the birthday was last week!",
            "Why is my parcel so late? I am waiting for order {n}.",
            "I wait and wait, and the {p} of order {n} is still not here.",
            "The parcel with my {p} has not arrived yet, it is late. Order {n}.",
            "I am waiting since last month for order {n}. Why is it late?",
            "Order {n} is late. How long do I have to wait for my {p}?",
        ),
        "we are sorry that you have to wait.",
        (
            Reply(OPEN, "Order {n} with the {p} is still {s}.", "We will send it today."),
            Reply(("shipped",), "Order {n} with the {p} is shipped.", "It arrives within {shipping} days."),
        ),
        "shipping",
    ),
    "broken": Intent(
        (
            "The {p} from order {n} is broken.",
            "My {p} arrived broken! The order number is {n}.",
            "Order {n} arrived today, and the {p} in the box is damaged.",
            "I am sad, my new {p} is broken. Order {n}.",
            "We opened the parcel of order {n}, and the toy was damaged.",
            "There is a problem with order {n}: one {p} is broken.",
            "Order {n}: the box was open and the {p} is damaged.",
            "The toy in order {n} is broken. My child is very sad about the {p}.",
        ),
        "we are sorry that your toy is broken.",
        (Reply(SENT, "Order {n} is the {p}.", "We will send you a new one today."),),
        "shipping",
    ),
    "colour": Intent(
        (
            "You sent me the wrong colour. My toy of order {n} is {c}.",
            "The colour is wrong: I got a {c} {shape} with order {n}.",
            "I bought a {p}, but the {shape} in the box is {c}. Order {n}.",
            "Why is my {shape} {c}? That is not the colour I ordered. Order {n}.",
            "In the parcel of order {n} was a {c} {shape}, that is the wrong colour.",
            "Order {n} has the wrong colour, it is {c}.",
            "My order {n} arrived, but in {c}. I want the right colour.",
            "The {shape} from order {n} is {c}, this is the wrong colour!",
        ),
        "we are sorry about the wrong colour.",
        (Reply(SENT, "You ordered the {p} with order {n}.", "Keep the {c} {shape}, we will send yours."),),
        "returns",
    ),
    "refund": Intent(
        (
            "I do not like the {p}. I want a refund for order {n}.",
            "Can I return order {n} and get a refund?",
            "Please give me a refund for the {p}, order {n}.",
            "We do not need the {p} of order {n}. How do I return it?",
            "I want to send order {n} back. Will you pay me for it?",
            "How can I get a refund? I do not want the {p}, order number {n}.",
            "The {p} of order {n} is not for me. I would like to return it.",
            "I would like a refund for order {n}, we have two of the {p} now.",
        ),
        "we are sorry that you do not like your toy.",
        (Reply(SENT, "You can return the {p} within {returns} days.", "Please write {n} on the parcel."),),
        "returns",
    ),
    "cancel": Intent(
        (
            "Please cancel my order {n}.",
            "I want to cancel order {n}, the {p}.",
            "Can I still cancel the {p}? It is order {n}.",
            "Cancel order {n} please, it was wrong of me to order the {p}.",
            "I bought the {p} two times. Please cancel order {n}.",
            "Is it too late to cancel order {n}?",
            "My order {n} is not needed now. Can you cancel it?",
            "I would like to cancel the {p} of order {n} today.",
        ),
        "it is fine to change your order.",
        (
            Reply(OPEN, "Order {n} is {s}, so we can cancel it.", "We will pay you for the {p} today."),
            Reply(
                SENT, "Order {n} is {s}, so we can not cancel it.", "You can return it within {returns} days."
            ),
        ),
        "returns",
    ),
    "exchange": Intent(
        (
            "Can I exchange the {p} of order {n} for a {q}?",
            "I want to exchange order {n}. I would like the {q}.",
            "The {p} is too much for us, can we have the {q} for it? Please exchange order {n}.",
            "Please exchange my {p} for a {q}. Order {n}.",
            "I bought the {p} with order {n}, but I need the {q}. Do you exchange it?",
            "Order {n}: can you exchange my toy for the {q}?",
            "My child wants to exchange the {p} for the {q}. The order is {n}.",
            "Do you exchange toys? I have the {p} of order {n} and want the {q}.",
        ),
        "we are happy to exchange your toy.",
        (Reply(SENT, "The {q} costs {price} euros.", "Please send the {p} of order {n} back to us."),),
        "returns",
    ),
    "warranty": Intent(
        (
            "Is the {p} of order {n} still under warranty?",
            "How long is the warranty for order {n}?",
            "I bought the {p} last year. Is there a warranty? Order {n}.",
            "What is the warranty on my {p}? The number is {n}.",
            "Do you have a warranty for the toy of order {n}?",
            "I need to know the warranty of the {p}, order {n}.",
            "Order {n} is old. Is my {p} still covered by the warranty?",
            "Please tell me about the warranty of order {n}, the {p}.",
        ),
        "it is good that you ask about the warranty.",
        (Reply(SENT, "The {p} is covered for {warranty} months.", "Please keep the receipt of order {n}."),),
        "warranty",
    ),
    "gift": Intent(
        (
            "Order {n} is a gift. Can you put it in a gift box?",
            "Can I have gift wrapping for the {p}? It is order {n}.",
            "The {p} is a birthday present. Do you have gift wrapping for order {n}?",
            "Please make order {n} a gift, it is for a child.",
            "What does gift wrapping cost for order {n}?",
            "I want the {p} of order {n} with gift wrapping.",
            "Could order {n} be sent as a gift?",
            "My {p} is a present for a party. Please use gift wrapping, order {n}.",
        ),
        "a gift is always a good idea.",
        (Reply(OPEN, "Gift wrapping costs {gift} euros.", "We put the {p} of order {n} in a gift box."),),
        "gift",
    ),
    "thanks": Intent(
        (
            "The {p} arrived and it is great. Thank you!",
            "Thank you for the {p}, my child is very happy! Order {n}.",
            "Order {n} is here. Thanks, you are a great team!",
            "Thanks for order {n}, we like the {p} very much.",
            "I want to thank you, the {p} is very good.",
            "You sent order {n} so quick! Thank you very much.",
            "My {p} is here and all is fine. Thanks!",
            "Thank you all! We are happy with order {n}.",
        ),
        "your kind words make us happy.",
        (Reply(("delivered",), "It is good that the {p} arrived.", "See you again soon."),),
        "shipping",
    ),
}

HEADS = ("Hello, this is {name}. ", "Hi, I am {name}. ", "Dear team, my name is {name}. ", "{name} here. ")
TAILS = (" Thanks, {name}", " Regards, {name}", " {name}", " Kind regards, {name}")


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
        greeting, feeling, fact, step, sign_off = self.required.values()
        return f"{greeting} {feeling} {fact} {step} {sign_off}"

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


def _facts(rng: random.Random, intent: Intent, slots: dict[str, str], toolbox: Toolbox) -> tuple[str, ...]:
    """The order's record, the policy that matters and one that does not, and an article asked for."""
    other = rng.choice([topic for topic in TOPICS if topic != intent.topic])
    lines = [toolbox.policy(intent.topic).text, toolbox.policy(other).text]
    if any("{price}" in reply.fact for reply in intent.replies):
        lines[1] = toolbox.catalogue(slots["q"]).text
    rng.shuffle(lines)
    return (toolbox.orders(slots["n"]).text, *lines)


def _message(rng: random.Random, wording: str, slots: dict[str, str]) -> str:
    """The customer's words, with the name before or after them; some people write without capitals."""
    text = rng.choice(HEADS) + wording if rng.random() < 0.5 else wording + rng.choice(TAILS)
    if rng.random() < 0.1:
        text = text[0].lower() + text[1:]
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
    wordings: slice | None = None,
) -> Conversation:
    """Grow one conversation of the intent `kind` about `order`, worded as its split allows.

    Raises ValueError if nobody would write this about an order with such a status.
    """
    intent = INTENTS[kind]
    reply = _reply(intent, order)
    if reply is None:
        raise ValueError(f"nobody writes about {kind!r} when the order is {order.status}")
    slots = _slots(rng, order, toolbox)
    wording = rng.choice(intent.wordings[wordings or SPLIT_WORDINGS[split]])
    required = {
        "greeting": f"Hello {order.customer},",
        "feeling": intent.feeling,
        "fact": reply.fact.format(**slots),
        "step": reply.step.format(**slots),
        "sign-off": SIGN_OFF,
    }
    facts = _facts(rng, intent, slots, toolbox)
    return Conversation(kind, split, order.number, facts, _message(rng, wording, slots), required)


def _orders(rng: random.Random) -> Iterator[tuple[Order, Toolbox]]:
    """Endless orders, from shops that each have their own prices and policies."""
    while True:
        shop = make_shop(rng.randrange(10**9), ORDERS_PER_SHOP)
        toolbox = Toolbox(open_database(shop))
        yield from ((order, toolbox) for order in shop.orders.values())
        toolbox.database.close()


def _split_of(order: Order) -> str:
    return next(split for split, names in SPLIT_NAMES.items() if order.customer in names)


def make_conversations(n: int = 2000, seed: int = SEED) -> list[Conversation]:
    """`n` conversations (at most 3,000), each about an order of its own, with as many of every intent.

    Eight in ten are for training, one for validation, one for the test.
    """
    if not 0 < n <= 3000:
        raise ValueError(f"order numbers have four digits: ask for 1 to 3,000 conversations, not for {n}")
    rng, made, used = random.Random(seed), [], set()
    room = {split: round(n * share) for split, share in SPLITS.items()}
    room["train"] += n - sum(room.values())
    left = {(split, kind): -(-room[split] // len(INTENTS)) for split in room for kind in INTENTS}
    for order, toolbox in _orders(rng):
        split = _split_of(order)
        fitting = [k for k, v in INTENTS.items() if left[split, k] and _reply(v, order)]
        if order.number in used or not room[split] or not fitting:
            continue
        kind = rng.choice(fitting)
        made.append(conversation(rng, order, toolbox, kind, split))
        used.add(order.number)
        room[split] -= 1
        left[split, kind] -= 1
        if len(made) == n:
            break
    return made


def seeds() -> list[Conversation]:
    """The ten seed conversations, one for each intent, in the first wording."""
    rng, found = random.Random(SEED), {}
    for order, toolbox in _orders(rng):
        kind = next((k for k, v in INTENTS.items() if k not in found and _reply(v, order)), None)
        if kind and _split_of(order) == "train":
            found[kind] = conversation(rng, order, toolbox, kind, wordings=slice(0, 1))
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
    chosen = seeds() + [c for kind in INTENTS for c in [g for g in grown if g.intent == kind][:5]]
    rows = [
        {"id": i, "kind": "seed" if i < len(INTENTS) else "grown", "intent": c.intent, "split": c.split}
        | {"messages": c.messages, "required": c.required}
        for i, c in enumerate(chosen)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    print(write_sample())
