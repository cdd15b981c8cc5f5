"""Unit 7.5, lab on data: faults planted in support conversations, detectors that find them, and the data card.

Every detector takes rows (chat messages with an id and a split) and returns what it would remove: the reason by id.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.finetuning.quality import claims_beyond
from course_utils.measures import share
from course_utils.models.inputs import as_list
from course_utils.prisma import conversations, manners
from course_utils.prisma.conversations import Conversation
from course_utils.prisma.shop import COLOURS, NAMES, SHAPES, SIZES, STATUSES
from course_utils.settings import DATA, SEED

CARD = DATA / "samples" / "conversations.md"
THRESHOLD = 0.8  # Jaccard similarity of two rows from which on they count as the same
PERMUTATIONS = 128  # of a MinHash: its estimates are off by about 1 / sqrt(128) = 9 points at most
FEATURES = 4096  # of the tone classifier: hashed words and pairs of words
PRIME, LARGEST = (1 << 61) - 1, (1 << 32) - 1  # of datasketch's hash functions (its scheme "legacy")


@dataclass(frozen=True)
class Row:
    """One training row: chat messages ({"role", "content"}), the split that it belongs to, and an id.

    Parts of text are joined. A row with a message that is none has no messages, and `fault` says why.
    """

    id: int
    split: str
    messages: tuple[dict, ...]
    fault: str = ""

    def __post_init__(self) -> None:
        try:
            messages = tuple(_message(number, one) for number, one in enumerate(self.messages, 1))
        except (TypeError, ValueError) as error:
            messages, fault = (), str(error)
        else:
            fault = "" if messages else self.fault
        object.__setattr__(self, "messages", messages)
        object.__setattr__(self, "fault", fault)

    def says(self, role: str) -> str:
        """What this role says first; an empty text if it says nothing."""
        return next((m["content"] for m in self.messages if m["role"] == role), "")

    @property
    def text(self) -> str:
        return "\n".join(m["content"] for m in self.messages)

    def saying(self, role: str, content: str) -> Row:
        """The row with other words for `role`."""
        turns = ({**m, "content": content} if m["role"] == role else m for m in self.messages)
        return replace(self, messages=tuple(turns))


def _message(number: int, one: Any) -> dict:
    """A chat message with its content as one text. ValueError, naming the turn, for what is none."""
    if not isinstance(one, dict):
        raise ValueError(f"turn {number} is {_kind(one)} and not a message")
    if missing := {"role", "content"} - one.keys():
        raise ValueError(f"turn {number} has no {' and no '.join(sorted(missing))}")
    if not isinstance(one["role"], str):
        raise ValueError(f"the role of turn {number} is {_kind(one['role'])}")
    content = _joined(number, one["content"])
    if re.search("[\ud800-\udfff]", content):
        raise ValueError(f"turn {number} has half a sign in it (a lone surrogate), which can't be written")
    return {**one, "content": content}


def _joined(number: int, content: Any) -> str:
    """A text, or the parts of one together."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"what turn {number} says is {_kind(content)} and not text")
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    if others := [part for part in parts if not isinstance(part, str)]:
        raise ValueError(f"turn {number} has {len(others)} of {len(parts)} parts that are not text")
    return "".join(parts)


def _kind(value: Any) -> str:
    """What a value is, in words."""
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")


def rows_of(talks: Sequence[Conversation | dict]) -> list[Row]:
    """Conversations, or rows in a format that `to_messages` reads, as rows, numbered from 0.

    A row in a format may name its "split"; without, it is for training. One that can't be read keeps its number, has
    no messages, and says why in `fault`.
    """
    return [_row(number, talk) for number, talk in enumerate(talks)]


def _row(number: int, talk: Any) -> Row:
    if isinstance(talk, Conversation):
        return Row(number, talk.split, tuple(talk.messages))
    split = talk.get("split", "train") if isinstance(talk, dict) else "train"
    try:
        return Row(number, str(split), tuple(to_messages(talk)))
    except ValueError as error:
        return Row(number, str(split), (), str(error))


# ---------------------------------------------------------------- formats


def to_messages(row: dict) -> list[dict]:
    """A row in Alpaca's, ShareGPT's or a chat format as chat messages. ValueError for any other, or other roles.

    A prompt or completion that is plain text becomes the user's or the assistant's message.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a row is a dictionary with names and values, and this one is {_kind(row)}")
    if "messages" in row:
        return _turns("messages", row["messages"])
    if {"prompt", "completion"} <= row.keys():
        return [*_said("user", row["prompt"]), *_said("assistant", row["completion"])]
    if {"instruction", "output"} <= row.keys():
        asked = {"role": "user", "content": row.get("input") or row["instruction"]}
        system = [{"role": "system", "content": row["instruction"]}] if row.get("input") else []
        return [*system, asked, {"role": "assistant", "content": row["output"]}]
    if "conversations" in row:
        turns = _turns("conversations", row["conversations"])
        return [_turn(number, one) for number, one in enumerate(turns, 1)]
    known = ", ".join(sorted(map(str, row))) or "nothing in it"
    raise ValueError(f"a row with {known} is in no format known here: rename its parts, or write a converter")


def _turns(name: str, value: Any) -> list:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {_kind(value)} and not a list")
    return list(value)


def _said(role: str, value: Any) -> list:
    """A list of messages as it is; a text as one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return _turns("prompt" if role == "user" else "completion", value)


def _turn(number: int, one: Any) -> Any:
    """One of ShareGPT's turns as a chat message. One that is a chat message already stays as it is."""
    if not isinstance(one, dict) or "role" in one:
        return one  # whoever makes a row of it says what is wrong with it
    if missing := {"from", "value"} - one.keys():
        raise ValueError(f"turn {number} has no {' and no '.join(sorted(missing))}")
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    speaker = str(one["from"])
    if speaker not in roles:
        raise ValueError(f"ShareGPT knows {', '.join(roles)}: rename the turns from {speaker}")
    return {"role": roles[speaker], "content": one["value"]}


def broken_format(rows: Sequence[Row]) -> dict[int, str]:
    """Rows that no chat template can take, or that would teach the model to stop at the wrong place."""
    found = {}
    for row in rows:
        roles = [m["role"] for m in row.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if row.fault:
            found[row.id] = row.fault
        elif not roles:
            found[row.id] = "there are no turns"
        elif any(not m["content"].strip() for m in row.messages):
            found[row.id] = "a turn is empty"
        elif not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
            found[row.id] = f"roles in a wrong order: {', '.join(roles)}"
        elif re.search(r"<\|\w+\|>", row.text):
            found[row.id] = "a marker of the chat template inside a turn"
        elif not row.messages[-1]["content"].endswith(conversations.SIGN_OFF):
            found[row.id] = f"the reply stops before its end: ...{row.messages[-1]['content'][-20:]!r}"
    return found


# ---------------------------------------------------------------- near-duplicates and leaks


def shingles(text: str, n: int = 3) -> set[str]:
    """All runs of `n` words, small letters, without punctuation; the whole text if it is shorter."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def jaccard(a: set, b: set) -> float:
    """What two sets share, as a part of all that is in them."""
    return len(a & b) / len(a | b) if a | b else 1.0


def minhash(items: Iterable[str], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each hash function h(x) = (a x + b) mod p, its smallest value over `items` (Broder 1997): (functions,).

    Two sets have the same smallest value with a probability that is just their Jaccard similarity.
    """
    x = np.array([_hashed(item) for item in items], np.uint64)[:, None]
    return (((a * x + b) % np.uint64(PRIME)) & np.uint64(LARGEST)).min(0)


def _hashed(item: str) -> int:
    """32 bits of SHA-1, as datasketch takes them."""
    return int.from_bytes(hashlib.sha1(item.encode()).digest()[:4], "little")


def similar_pairs(texts: Sequence[str], threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """All pairs (i, j, Jaccard similarity), i < j, of texts at least `threshold` alike.

    datasketch's MinHash index names candidates without comparing all with all; each is then checked exactly.
    """
    from datasketch import MinHash, MinHashLSH

    texts = as_list(texts, "texts")
    if not 0 < threshold <= 1:
        raise ValueError(f"a similarity lies between 0 and 1, so {threshold} is no threshold")
    sets = [shingles(text) for text in texts]
    # Weighed towards missing nothing: a candidate too much costs one exact check, a pair missed stays missed.
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.02, 0.98))
    pairs = []
    for j, items in enumerate(sets):
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch([item.encode() for item in items])
        alike = [(i, j, jaccard(sets[i], items)) for i in index.query(sketch)]
        pairs += sorted(pair for pair in alike if pair[2] >= threshold)
        index.insert(j, sketch)
    return pairs


@lru_cache(maxsize=1)  # duplicates and leaks ask for the same ones
def _pairs(texts: tuple[str, ...]) -> list[tuple[int, int, float]]:
    return similar_pairs(texts)


def _that_say_something(rows: Sequence[Row]) -> list[Row]:
    """Without the rows that have no messages: two of them are no copies of each other."""
    return [row for row in rows if row.messages]


def duplicates(rows: Sequence[Row]) -> dict[int, str]:
    """Rows that say nearly the same as an earlier row of their split."""
    rows, found = _that_say_something(rows), {}
    for i, j, similar in _pairs(tuple(row.text for row in rows)):
        if rows[i].split == rows[j].split and rows[i].id not in found:
            found[rows[j].id] = f"{similar:.0%} the same as row {rows[i].id}"
    return found


def leaks(rows: Sequence[Row]) -> dict[int, str]:
    """Training rows that validation or test know too: the text, the order or the customer."""
    rows, found = _that_say_something(rows), {}
    for i, j, similar in _pairs(tuple(row.text for row in rows)):
        for mine, other in ((rows[i], rows[j]), (rows[j], rows[i])):
            if mine.split == "train" != other.split:
                found[mine.id] = f"{similar:.0%} the same as row {other.id} of {other.split}"
    for what, value in (("order", "number"), ("customer", "customer")):
        held = {}
        for row in rows:
            if row.split != "train":
                held.setdefault(record(row).get(value), row)
        for row in rows:
            known = record(row).get(value)
            if row.split == "train" and known and known in held:
                found.setdefault(row.id, f"{what} {known} is in {held[known].split} too, row {held[known].id}")
    return found


# ---------------------------------------------------------------- contradictions

ORDER = re.compile(
    r"order (?P<number>\d{4}): (?P<quantity>\d+) (?P<product>[a-z ]+) for (?P<customer>\w+), (?P<status>\w+)"
)
PRODUCT = re.compile(rf"\b(?:{'|'.join(SIZES)}) (?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b")


def record(row: Row) -> dict[str, str]:
    """The order's record in the system turn: number, quantity, product, customer, status. Empty without one."""
    found = ORDER.search(row.says("system"))
    return found.groupdict() if found else {}


def untrue(row: Row) -> str:
    """What the reply says that its own facts do not; an empty text if all is covered or there is no record."""
    beyond = claims_beyond(row.says("system"), row.says("assistant")) if record(row) else ()
    for what in ("number", "toy", "name", "status"):
        if said := sorted(value for kind, value in beyond if kind == what):
            return f"{what} {', '.join(said)}: not in the facts"
    return ""


def policy(row: Row) -> tuple[tuple[str, str], str]:
    """The situation (topic of the reply, status of the order) and the reply without names, numbers and products."""
    reply = row.says("assistant")
    topic, _, rest = reply.partition(":")
    plain = PRODUCT.sub("PRODUCT", re.sub(r"\d+", "NUMBER", rest))
    plain = re.sub(rf"\b(?:{'|'.join(COLOURS)})\b", "COLOUR", plain)
    plain = re.sub(rf"\b(?:{'|'.join(NAMES)})\b", "NAME", plain)
    return (topic, record(row).get("status", "")), plain


def contradictions(rows: Sequence[Row]) -> dict[int, str]:
    """Replies against their own record, and replies that fewer than a quarter of the same situation agree with."""
    rows = _that_say_something(rows)
    found = {row.id: reason for row in rows if (reason := untrue(row))}
    situations = defaultdict(list)
    for row in rows:
        situation, plain = policy(row)
        situations[situation].append((row, plain))
    for (topic, status), members in situations.items():
        counts = Counter(plain for _, plain in members)
        for row, plain in members:
            if counts[plain] < len(members) / 4:
                reason = f"{counts[plain]} of {len(members)} replies on {topic!r}, order {status}, say it like this"
                found.setdefault(row.id, reason)
    return found


# ---------------------------------------------------------------- toxic words, personal data


def listed(text: str) -> set[str]:
    """The words of `text` that are on the list of insults."""
    return set(re.findall(r"[a-z]+", text.lower())) & manners.INSULTS


def stock() -> list[str]:
    """The sentences that the conversations are made of: written by hand, read by us, civil."""
    replies = [part for intent in conversations.INTENTS.values() for r in intent.replies for part in (r.fact, r.step)]
    asked = [
        part for intent in conversations.INTENTS.values() for part in (*intent.first, *intent.second, intent.feeling)
    ]
    return [part for part in (*asked, *replies) if part]


class ToneClassifier:
    """Logistic regression on the words and pairs of words of a text, taught by short hand-written examples.

    It knows only what `manners.py` and `civil` show it: English, a shop, mild insults.
    """

    def __init__(self, civil: Sequence[str]) -> None:
        groups = manners.RUDE, (*manners.CIVIL, *civil)
        x = self._features([text for group in groups for text in group])
        y = np.repeat([1.0, 0.0], [len(group) for group in groups])
        self.weights, self.bias = np.zeros(FEATURES), 0.0
        for _ in range(300):  # gradient descent; the problem is convex, so there is nothing to tune but its end
            error = (self._sigmoid(x @ self.weights + self.bias) - y) / len(y)
            self.weights -= 10.0 * (x.T @ error + 3e-4 * self.weights)
            self.bias -= 10.0 * error.sum()

    @staticmethod
    def _sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    def _features(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, FEATURES): which hashed words and pairs of words are there, at length 1."""
        x = np.zeros((len(texts), FEATURES))
        for row, text in zip(x, texts, strict=True):
            for item in shingles(text, 1) | shingles(text, 2):
                row[_hashed(item) % FEATURES] = 1
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1)

    def rudeness(self, texts: Sequence[str]) -> np.ndarray:
        """How likely each text is rude, 0 to 1: the highest of its sentences."""
        texts = as_list(texts, "texts")
        if not texts:
            return np.zeros(0)
        sentences = [re.findall(r"[^.!?]+", text) or [text] for text in texts]
        flat = self._sigmoid(self._features([s for some in sentences for s in some]) @ self.weights + self.bias)
        ends = np.cumsum([len(some) for some in sentences])
        return np.array([part.max() for part in np.split(flat, ends[:-1])])


def toxic(rows: Sequence[Row], civil: Sequence[str] | None = None) -> dict[int, str]:
    """Rows in which somebody is insulted, by the word list or by the classifier.

    `civil` shows the classifier what is said in this shop without offence; left out, the `stock`.
    """
    turns = [(row, m["content"]) for row in rows for m in row.messages if m["role"] != "system" and m["content"]]
    scores = ToneClassifier(stock() if civil is None else civil).rudeness([text for _, text in turns])
    found = {}
    for (row, text), score in zip(turns, scores, strict=True):
        if words := listed(text):
            found[row.id] = f"on the list of insults: {', '.join(sorted(words))}"
        elif score > 0.5:
            found.setdefault(row.id, f"rude with a probability of {score:.0%}")
    return found


PERSONAL = {
    "mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "telephone number": re.compile(r"(?<![\w-])(?:\+|00?)\d(?:[ /-]?\d){7,13}(?![\w-])"),
    "card number": re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"),
}


def luhn(number: str) -> bool:
    """Whether the last digit checks (ISO/IEC 7812-1): it does for card numbers, and for one number in ten by chance."""
    digits = [int(d) for d in re.sub(r"\D", "", number)][::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0


def personal_data(rows: Sequence[Row]) -> dict[int, str]:
    """Rows with a mail address, a telephone number or a card number in any turn."""
    found = {}
    for row in rows:
        for what, pattern in PERSONAL.items():
            hits = [hit for hit in pattern.findall(row.text) if what != "card number" or luhn(hit)]
            if hits:
                found.setdefault(row.id, f"{what} ending in ...{hits[0][-3:]}")
    return found


# ---------------------------------------------------------------- all together

DETECTORS: dict[str, Callable[[Sequence[Row]], dict[int, str]]] = {
    "broken format": broken_format,
    "personal data": personal_data,
    "toxic": toxic,
    "contradiction": contradictions,
    "leak": leaks,
    "duplicate": duplicates,
}


def examine(rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """What each detector finds in `rows`; one that can't be read has a broken format, and the rest are examined.

    ValueError if two rows share an id. TypeError for what is not made by `rows_of`.
    """
    if others := [one for one in rows if not isinstance(one, Row)]:
        raise TypeError(f"examine takes rows, and there is {_kind(others[0])}: make them with rows_of(...)")
    if len({row.id for row in rows}) < len(rows):
        raise ValueError("two rows have the same id: number them anew, or a removal would take the wrong one")
    return {kind: detect(rows) for kind, detect in DETECTORS.items()}


def clean(rows: Sequence[Row], found: dict[str, dict[int, str]]) -> tuple[list[Row], list[dict]]:
    """`rows` without those in `found` (from `examine`), and one line for each removal: row, split, fault, reason."""
    splits, removed = {row.id: row.split for row in rows}, {}
    for kind, reasons in found.items():
        for id_, reason in reasons.items():
            removed.setdefault(id_, {"row": id_, "split": splits[id_], "fault": kind, "reason": reason})
    return [row for row in rows if row.id not in removed], [removed[id_] for id_ in sorted(removed)]


# ---------------------------------------------------------------- faults to find


def _edited(rng: random.Random, text: str, edits: int) -> str:
    """The text with one sign changed and `edits` words dropped: what copying between systems does."""
    words = text.split(" ")
    for _ in range(min(edits, len(words) - 1)):
        del words[rng.randrange(len(words))]
    return " ".join(words).replace(".", rng.choice("!;"), 1)


def _copied(rng: random.Random, row: Row) -> Row:
    """The row once more: as it is, or with up to four words of the message and of the reply dropped."""
    edits = rng.randrange(5)
    return row if not edits else row.saying("user", _edited(rng, row.says("user"), edits))


def _about_the_same_order(rng: random.Random, row: Row) -> Row:
    """Another letter about the order of `row`, whose text is not alike."""
    known = record(row)
    asked = f"I have to ask again, please look at order {known['number']} today."
    reply = f"{known['customer']}, we look at order {known['number']} again. {conversations.SIGN_OFF}"
    return row.saying("user", asked).saying("assistant", f"status: {reply}")


def _contradicting(rng: random.Random, row: Row) -> Row:
    """A wrong number, name, product or status, or the promise that belongs to another situation.

    The last one is hard: the number stands in the facts, but it is how many toys were ordered.
    """
    reply, known = row.says("assistant"), record(row)
    promised = re.findall(r"(?:within|for) \d+ (?:days|months)", reply)
    other = {promised[0]: re.sub(r"\d+", known["quantity"], promised[0])} if promised else {}
    other |= {
        known["number"]: str(rng.choice([n for n in range(1000, 10000) if str(n) != known["number"]])),
        known["customer"]: rng.choice([name for name in NAMES if name != known["customer"]]),
        known["product"]: "tiny brown box",
        f"is {known['status']}": f"is {rng.choice([s for s in STATUSES if s != known['status']])}",
        "can cancel": "can not cancel",
        "can not cancel": "can cancel",
        "we are sorry": "we are not sorry",
    }
    possible = sorted(old for old in other if old in reply)
    old = rng.choice(possible)
    return row.saying("assistant", reply.replace(old, other[old]))


def _insulting(rng: random.Random, row: Row) -> Row:
    role = rng.choice(("user", "assistant"))
    insult, said = rng.choice(manners.RUDE_TEST), row.says(role)
    return row.saying(role, f"{insult} {said}" if role == "user" else said.replace(". ", f". {insult} ", 1))


def _malformed(rng: random.Random, row: Row) -> Row:
    system, asked, reply = row.messages
    text = reply["content"]
    return rng.choice(
        (
            row.saying("assistant", " "),
            row.saying("assistant", text[: rng.randrange(10, len(text) - 2)]),
            row.saying("assistant", f"{text}<|end|>"),
            replace(row, messages=(system, reply, asked)),
            replace(row, messages=(system, asked)),
        )
    )


def _exposing(rng: random.Random, row: Row) -> Row:
    card = f"4000 0000 {rng.randrange(1000, 10000)} {rng.randrange(100, 1000)}"
    card += next(d for d in "0123456789" if luhn(card + d))
    name = f"{record(row)['customer'].lower()}{rng.randrange(10, 99)}"
    told = (f"My mail is {name}@example.org.", f"Call me at +49 30 5550{rng.randrange(100, 1000)}.")
    told = rng.choice((*told, f"I paid with card {card}.", f"My mail is {name} at example dot org."))
    return row.saying("user", f"{row.says('user')} {told}")


def plant_faults(rows: Sequence[Row], seed: int = SEED, each: int = 20) -> tuple[list[Row], dict[int, str]]:
    """`rows` with `each` faults of each kind in the training split, and the kind by the id of each faulty row.

    Duplicates and leaks are added with new ids at the end, the other faults replace a sound row.
    """
    rng, train = random.Random(seed), [row for row in rows if row.split == "train"]
    held = [row for row in rows if row.split != "train"]
    if len(train) < 5 * each or len(held) < each:
        raise ValueError(
            f"{len(train)} training rows and {len(held)} others are too few for {each} faults of each kind"
        )
    changes = {
        "broken format": _malformed,
        "personal data": _exposing,
        "toxic": _insulting,
        "contradiction": _contradicting,
    }
    chosen = rng.sample(train, each * (len(changes) + 1))
    new, truth = {row.id: row for row in rows}, {}
    for i, (kind, change) in enumerate(changes.items()):
        for row in chosen[i * each : (i + 1) * each]:
            new[row.id], truth[row.id] = change(rng, row), kind
    for id_, (kind, row) in enumerate(_copies(rng, chosen[-each:], held, each), max(new) + 1):
        new[id_], truth[id_] = replace(row, id=id_, split="train"), kind
    return list(new.values()), truth


def _copies(rng: random.Random, train: Sequence[Row], held: Sequence[Row], each: int) -> list[tuple[str, Row]]:
    """A duplicate of each row of `train`, and `each` leaks of rows in `held`."""
    spread = (_copied, _about_the_same_order)
    made = [("duplicate", _copied(rng, row)) for row in train]
    return made + [("leak", spread[i % 2](rng, row)) for i, row in enumerate(rng.sample(held, each))]


def scores(found: dict[str, dict[int, str]], truth: dict[int, str]) -> list[dict]:
    """For each detector: faults of its kind planted and found, sound rows flagged, recall and precision.

    A row counts as a false alarm only if it has no planted fault at all.
    """
    lines = []
    for kind, reasons in found.items():
        planted = [id_ for id_, fault in truth.items() if fault == kind]
        hits = [id_ in reasons for id_ in planted]
        wrong = [id_ for id_ in reasons if id_ not in truth]
        line = {"fault": kind, "planted": len(planted), "found": sum(hits), "false alarms": len(wrong)}
        line["recall"] = str(share(hits)) if hits else "-"
        flagged = [True] * sum(hits) + [False] * len(wrong)
        line["precision"] = str(share(flagged)) if flagged else "-"
        lines.append(line)
    return lines


# ---------------------------------------------------------------- the data card


def fingerprint(lines: Iterable[Any]) -> str:
    """SHA-256 of anything as JSON lines, in their order: other data, another fingerprint."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def data_card(rows: Sequence[Row], origin: str, limits: Sequence[str], removed: Sequence[dict] = ()) -> str:
    """A dataset card in Markdown, with the header that model hubs read. ValueError without rows.

    `origin` says where the rows come from; `limits` what they cannot be used for; `removed` is `clean`'s list.
    """
    if not rows:
        raise ValueError("a data card needs rows to describe")
    splits, kinds = Counter(row.split for row in rows), Counter(line["fault"] for line in removed)
    words = [len(row.text.split()) for row in rows]
    topics = Counter(policy(row)[0][0] for row in rows)
    parts = [
        "---\nlicense: cc-by-4.0\nlanguage: en\ntask_categories: [text-generation]\n---",
        "# Support conversations of Prisma, a made-up toy shop",
        f"## Origin\n{origin}",
        "## Rows\n| split | rows | orders | customers |\n| --- | --- | --- | --- |\n"
        + "\n".join(_split_line(rows, split) for split in splits),
        f"{len(rows):,} rows of {min(words)} to {max(words)} words; each has a system turn with the facts, a "
        f"customer's message, a reply. Topics: {', '.join(f'{topic} {n}' for topic, n in sorted(topics.items()))}.",
        "## Checked\n" + (_removal_lines(kinds) if kinds else "Nothing was removed."),
        "## Limits\n" + "\n".join(f"- {limit}" for limit in limits),
        f"## Fingerprint\nSHA-256 of the rows: `{fingerprint([row.split, row.messages] for row in rows)}`",
    ]
    return "\n\n".join(parts) + "\n"


def _split_line(rows: Sequence[Row], split: str) -> str:
    records = [record(row) for row in rows if row.split == split]
    distinct = [len({r.get(key) for r in records} - {None}) for key in ("number", "customer")]
    return f"| {split} | {len(records):,} | {distinct[0]:,} | {distinct[1]} |"


def _removal_lines(kinds: Counter) -> str:
    return f"Removed: {sum(kinds.values())} rows.\n" + "\n".join(f"- {kind}: {n}" for kind, n in sorted(kinds.items()))


ORIGIN = (
    "Generated by `course_utils/prisma/conversations.py` (seed {seed}) from sentences written by hand: ten intents, "
    "six first and five second sentences each. Names, orders, products, prices and policies are drawn; nobody's data "
    "is in it."
)
LIMITS = (
    "Customers write in short, clean English with two sentences from a stock of 110: real letters are not like this.",
    "Each reply is right by construction, and always in the same style: there is no second good answer.",
    "No conversation has more than one question and one answer.",
    "Sentences are shared between the splits, their pairs are not: a test score says nothing about other wordings.",
)


def write_card(path: Path = CARD) -> Path:
    """Write the card of the course's 2,000 conversations."""
    card = data_card(rows_of(conversations.make_conversations()), ORIGIN.format(seed=SEED), LIMITS)
    path.write_text(card, encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    print(write_card())
