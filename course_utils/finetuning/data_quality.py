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
from course_utils.prisma.shop import COLOURS, NAMES, RECORD, SHAPES, SIZES, STATUSES
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
        said = (message["content"] for message in self.messages if message["role"] == role)
        return next(said, "")

    @property
    def text(self) -> str:
        contents = [message["content"] for message in self.messages]
        return "\n".join(contents)

    def saying(self, role: str, content: str) -> Row:
        """The row with other words for `role`."""
        turns = []
        for message in self.messages:
            said = content if message["role"] == role else message["content"]
            turns.append({**message, "content": said})
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
    others = [part for part in parts if not isinstance(part, str)]
    if others:
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
        asked = _said("user", row["prompt"])
        answered = _said("assistant", row["completion"])
        return [*asked, *answered]
    if {"instruction", "output"} <= row.keys():
        return _from_alpaca(row)
    if "conversations" in row:
        turns = _turns("conversations", row["conversations"])
        return [_turn(number, turn) for number, turn in enumerate(turns, 1)]
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


def _from_alpaca(row: dict) -> list[dict]:
    """The instruction is the user's message, or the system's where there is an input too."""
    instruction, output = row["instruction"], row["output"]
    reply = {"role": "assistant", "content": output}
    asked = row.get("input")
    if not asked:
        return [{"role": "user", "content": instruction}, reply]
    return [{"role": "system", "content": instruction}, {"role": "user", "content": asked}, reply]


def broken_format(rows: Sequence[Row]) -> dict[int, str]:
    """Rows that no chat template can take, or that would teach the model to stop at the wrong place."""
    faults = {}
    for row in rows:
        fault = _format_fault(row)
        if fault:
            faults[row.id] = fault
    return faults


def _format_fault(row: Row) -> str:
    """What is wrong with the format of a row; an empty text if nothing is."""
    if row.fault:
        return row.fault
    roles = [message["role"] for message in row.messages]
    if not roles:
        return "there are no turns"
    if any(not message["content"].strip() for message in row.messages):
        return "a turn is empty"
    turns = roles[1:] if roles[0] == "system" else roles
    rounds = len(turns) // 2
    if not turns or turns != ["user", "assistant"] * rounds:
        return f"roles in a wrong order: {', '.join(roles)}"
    if re.search(r"<\|\w+\|>", row.text):
        return "a marker of the chat template inside a turn"
    last = row.messages[-1]["content"]
    if not last.endswith(conversations.SIGN_OFF):
        return f"the reply stops before its end: ...{last[-20:]!r}"
    return ""


# ---------------------------------------------------------------- near-duplicates and leaks


def shingles(text: str, n: int = 3) -> set[str]:
    """All runs of `n` words, small letters, without punctuation; the whole text if it is shorter."""
    words = re.findall(r"\w+", text.lower())
    count = max(1, len(words) - n + 1)
    return {" ".join(words[i : i + n]) for i in range(count)}


def jaccard(a: set, b: set) -> float:
    """What two sets share, as a part of all that is in them."""
    together = a | b
    if not together:
        return 1.0
    return len(a & b) / len(together)


def minhash(items: Iterable[str], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each hash function h(x) = (a x + b) mod p, its smallest value over `items` (Broder 1997): (functions,).

    Two sets have the same smallest value with a probability that is just their Jaccard similarity.
    """
    x = np.array([_hashed(item) for item in items], np.uint64)[:, None]  # (items, 1)
    remainders = (a * x + b) % np.uint64(PRIME)  # (items, functions)
    hashes = remainders & np.uint64(LARGEST)
    return hashes.min(0)


def _hashed(item: str) -> int:
    """32 bits of SHA-1, as datasketch takes them."""
    digest = hashlib.sha1(item.encode()).digest()
    return int.from_bytes(digest[:4], "little")


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
        for i in sorted(index.query(sketch)):
            alike = jaccard(sets[i], items)
            if alike >= threshold:
                pairs.append((i, j, alike))
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
    rows = _that_say_something(rows)
    texts = tuple(row.text for row in rows)
    copies = {}
    for i, j, similar in _pairs(texts):
        earlier, later = rows[i], rows[j]
        if earlier.split == later.split and earlier.id not in copies:
            copies[later.id] = f"{similar:.0%} the same as row {earlier.id}"
    return copies


def leaks(rows: Sequence[Row]) -> dict[int, str]:
    """Training rows that validation or test know too: the text, the order or the customer."""
    rows = _that_say_something(rows)
    texts = tuple(row.text for row in rows)
    leaked = {}
    for i, j, similar in _pairs(texts):
        for mine, other in ((rows[i], rows[j]), (rows[j], rows[i])):
            if mine.split == "train" != other.split:
                leaked[mine.id] = f"{similar:.0%} the same as row {other.id} of {other.split}"
    for what, key in (("order", "number"), ("customer", "customer")):
        held = _held_out(rows, key)
        for row in rows:
            known = record(row).get(key)
            if row.split == "train" and known and known in held:
                other = held[known]
                leaked.setdefault(row.id, f"{what} {known} is in {other.split} too, row {other.id}")
    return leaked


# ---------------------------------------------------------------- contradictions

PRODUCT = re.compile(rf"\b(?:{'|'.join(SIZES)}) (?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})\b")


def record(row: Row) -> dict[str, str]:
    """The order's record in the system turn: number, quantity, product, customer, status. Empty without one."""
    found = RECORD.search(row.says("system"))
    return found.groupdict() if found else {}


def _held_out(rows: Sequence[Row], key: str) -> dict[str | None, Row]:
    """The first row outside of training for each value of `key` in the orders' records."""
    held: dict[str | None, Row] = {}
    for row in rows:
        if row.split != "train":
            held.setdefault(record(row).get(key), row)
    return held


def untrue(row: Row) -> str:
    """What the reply says that its own facts do not; an empty text if all is covered or there is no record."""
    if not record(row):
        return ""
    beyond = claims_beyond(row.says("system"), row.says("assistant"))
    for what in ("number", "toy", "name", "status"):
        said = sorted(value for kind, value in beyond if kind == what)
        if said:
            return f"{what} {', '.join(said)}: not in the facts"
    return ""


def policy(row: Row) -> tuple[tuple[str, str], str]:
    """The situation (topic of the reply, status of the order) and the reply without names, numbers and products."""
    reply = row.says("assistant")
    topic, _, rest = reply.partition(":")
    plain = re.sub(r"\d+", "NUMBER", rest)
    plain = PRODUCT.sub("PRODUCT", plain)
    plain = re.sub(rf"\b(?:{'|'.join(COLOURS)})\b", "COLOUR", plain)
    plain = re.sub(rf"\b(?:{'|'.join(NAMES)})\b", "NAME", plain)
    status = record(row).get("status", "")
    return (topic, status), plain


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
    words = re.findall(r"[a-z]+", text.lower())
    return set(words) & manners.INSULTS


def stock() -> list[str]:
    """The sentences that the conversations are made of: written by hand, read by us, civil."""
    asked: list[str] = []
    replies: list[str] = []
    for intent in conversations.INTENTS.values():
        asked += [*intent.first, *intent.second, intent.feeling]
        for reply in intent.replies:
            replies += [reply.fact, reply.step]
    return [part for part in (*asked, *replies) if part]


class ToneClassifier:
    """Logistic regression on the words and pairs of words of a text, taught by short hand-written examples.

    It knows only what `manners.py` and `civil` show it: English, a shop, mild insults.
    """

    def __init__(self, civil: Sequence[str]) -> None:
        rude = manners.RUDE
        polite = (*manners.CIVIL, *civil)
        x = self._features([*rude, *polite])  # (texts, FEATURES)
        y = np.repeat([1.0, 0.0], [len(rude), len(polite)])
        self.weights, self.bias = np.zeros(FEATURES), 0.0
        for _ in range(300):  # gradient descent; the problem is convex, so there is nothing to tune but its end
            error = (self._chances(x) - y) / len(y)
            slope = x.T @ error + 3e-4 * self.weights
            self.weights -= 10.0 * slope
            self.bias -= 10.0 * error.sum()

    @staticmethod
    def _sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    def _chances(self, x: np.ndarray) -> np.ndarray:
        """How likely each row of features is rude."""
        z = x @ self.weights + self.bias
        return 1 / (1 + np.exp(-z))

    def _features(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, FEATURES): which hashed words and pairs of words are there, at length 1."""
        x = np.zeros((len(texts), FEATURES))
        for row, text in zip(x, texts, strict=True):
            for item in shingles(text, 1) | shingles(text, 2):
                row[_hashed(item) % FEATURES] = 1
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.maximum(lengths, 1)

    def rudeness(self, texts: Sequence[str]) -> np.ndarray:
        """How likely each text is rude, 0 to 1: the highest of its sentences."""
        texts = as_list(texts, "texts")
        if not texts:
            return np.zeros(0)
        sentences: list[str] = []
        starts: list[int] = []
        for text in texts:
            starts.append(len(sentences))
            sentences += re.findall(r"[^.!?]+", text) or [text]
        chances = self._chances(self._features(sentences))
        return np.maximum.reduceat(chances, starts)


def toxic(rows: Sequence[Row], civil: Sequence[str] | None = None) -> dict[int, str]:
    """Rows in which somebody is insulted, by the word list or by the classifier.

    `civil` shows the classifier what is said in this shop without offence; left out, the `stock`.
    """
    turns: list[tuple[Row, str]] = []
    for row in rows:
        said = [message["content"] for message in row.messages if message["role"] != "system"]
        turns += [(row, text) for text in said if text]
    classifier = ToneClassifier(stock() if civil is None else civil)
    scores = classifier.rudeness([text for _, text in turns])
    rude = {}
    for (row, text), score in zip(turns, scores, strict=True):
        words = listed(text)
        if words:
            rude[row.id] = f"on the list of insults: {', '.join(sorted(words))}"
        elif score > 0.5:
            rude.setdefault(row.id, f"rude with a probability of {score:.0%}")
    return rude


PERSONAL = {
    "mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "telephone number": re.compile(r"(?<![\w-])(?:\+|00?)\d(?:[ /-]?\d){7,13}(?![\w-])"),
    "card number": re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)"),
}


def luhn(number: str) -> bool:
    """Whether the last digit checks (ISO/IEC 7812-1): it does for card numbers, and for one number in ten by chance."""
    plain = re.sub(r"\D", "", number)
    digits = [int(digit) for digit in plain]
    digits.reverse()
    total = sum(digits[::2])
    for digit in digits[1::2]:
        total += sum(divmod(2 * digit, 10))  # of a doubled digit both digits count
    return total % 10 == 0


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
    others = [row for row in rows if not isinstance(row, Row)]
    if others:
        raise TypeError(f"examine takes rows, and there is {_kind(others[0])}: make them with rows_of(...)")
    ids = {row.id for row in rows}
    if len(ids) < len(rows):
        raise ValueError("two rows have the same id: number them anew, or a removal would take the wrong one")
    return {kind: detect(rows) for kind, detect in DETECTORS.items()}


def clean(rows: Sequence[Row], found: dict[str, dict[int, str]]) -> tuple[list[Row], list[dict]]:
    """`rows` without those in `found` (from `examine`), and one line for each removal: row, split, fault, reason."""
    splits = {row.id: row.split for row in rows}
    removed: dict[int, dict] = {}
    for kind, reasons in found.items():
        for id_, reason in reasons.items():
            line = {"row": id_, "split": splits[id_], "fault": kind, "reason": reason}
            removed.setdefault(id_, line)
    kept = [row for row in rows if row.id not in removed]
    lines = [removed[id_] for id_ in sorted(removed)]
    return kept, lines


# ---------------------------------------------------------------- faults to find


def _edited(rng: random.Random, text: str, edits: int) -> str:
    """The text with one sign changed and `edits` words dropped: what copying between systems does."""
    words = text.split(" ")
    for _ in range(min(edits, len(words) - 1)):
        del words[rng.randrange(len(words))]
    shorter = " ".join(words)
    return shorter.replace(".", rng.choice("!;"), 1)


def _copied(rng: random.Random, row: Row) -> Row:
    """The row once more: as it is, or with up to four words of the message and of the reply dropped."""
    edits = rng.randrange(5)
    if not edits:
        return row
    asked = _edited(rng, row.says("user"), edits)
    return row.saying("user", asked)


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
    reply = row.says("assistant")
    known = record(row)
    other = {}
    promised = re.findall(r"(?:within|for) \d+ (?:days|months)", reply)
    if promised:
        other[promised[0]] = re.sub(r"\d+", known["quantity"], promised[0])
    numbers = [number for number in range(1000, 10000) if str(number) != known["number"]]
    names = [name for name in NAMES if name != known["customer"]]
    statuses = [status for status in STATUSES if status != known["status"]]
    other |= {
        known["number"]: str(rng.choice(numbers)),
        known["customer"]: rng.choice(names),
        known["product"]: "tiny brown box",
        f"is {known['status']}": f"is {rng.choice(statuses)}",
        "can cancel": "can not cancel",
        "can not cancel": "can cancel",
        "we are sorry": "we are not sorry",
    }
    possible = sorted(old for old in other if old in reply)
    old = rng.choice(possible)
    return row.saying("assistant", reply.replace(old, other[old]))


def _insulting(rng: random.Random, row: Row) -> Row:
    role = rng.choice(("user", "assistant"))
    insult = rng.choice(manners.RUDE_TEST)
    said = row.says(role)
    if role == "user":
        return row.saying(role, f"{insult} {said}")
    return row.saying(role, said.replace(". ", f". {insult} ", 1))


def _malformed(rng: random.Random, row: Row) -> Row:
    system, asked, reply = row.messages
    text = reply["content"]
    end = rng.randrange(10, len(text) - 2)
    variants = (
        row.saying("assistant", " "),
        row.saying("assistant", text[:end]),
        row.saying("assistant", f"{text}<|end|>"),
        replace(row, messages=(system, reply, asked)),
        replace(row, messages=(system, asked)),
    )
    return rng.choice(variants)


def _exposing(rng: random.Random, row: Row) -> Row:
    card = f"4000 0000 {rng.randrange(1000, 10000)} {rng.randrange(100, 1000)}"
    card += next(digit for digit in "0123456789" if luhn(card + digit))
    customer = record(row)["customer"].lower()
    name = f"{customer}{rng.randrange(10, 99)}"
    sentences = (
        f"My mail is {name}@example.org.",
        f"Call me at +49 30 5550{rng.randrange(100, 1000)}.",
        f"I paid with card {card}.",
        f"My mail is {name} at example dot org.",
    )
    told = rng.choice(sentences)
    return row.saying("user", f"{row.says('user')} {told}")


def plant_faults(rows: Sequence[Row], seed: int = SEED, each: int = 20) -> tuple[list[Row], dict[int, str]]:
    """`rows` with `each` faults of each kind in the training split, and the kind by the id of each faulty row.

    Duplicates and leaks are added with new ids at the end, the other faults replace a sound row.
    """
    rng = random.Random(seed)
    train = [row for row in rows if row.split == "train"]
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
    chosen = rng.sample(train, each * (len(changes) + 1))  # the last `each` are for copies
    new = {row.id: row for row in rows}
    truth: dict[int, str] = {}
    for i, (kind, change) in enumerate(changes.items()):
        start = i * each
        for row in chosen[start : start + each]:
            new[row.id] = change(rng, row)
            truth[row.id] = kind
    copies = _copies(rng, chosen[-each:], held, each)
    for id_, (kind, row) in enumerate(copies, max(new) + 1):
        new[id_] = replace(row, id=id_, split="train")
        truth[id_] = kind
    return list(new.values()), truth


def _copies(rng: random.Random, train: Sequence[Row], held: Sequence[Row], each: int) -> list[tuple[str, Row]]:
    """A duplicate of each row of `train`, and `each` leaks of rows in `held`."""
    copies = [("duplicate", _copied(rng, row)) for row in train]
    leaked = rng.sample(held, each)
    for i, row in enumerate(leaked):
        leak = _about_the_same_order if i % 2 else _copied
        copies.append(("leak", leak(rng, row)))
    return copies


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
        text = json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n"
        digest.update(text.encode())
    return digest.hexdigest()


def data_card(rows: Sequence[Row], origin: str, limits: Sequence[str], removed: Sequence[dict] = ()) -> str:
    """A dataset card in Markdown, with the header that model hubs read. ValueError without rows.

    `origin` says where the rows come from; `limits` what they cannot be used for; `removed` is `clean`'s list.
    """
    if not rows:
        raise ValueError("a data card needs rows to describe")
    kinds = Counter(line["fault"] for line in removed)
    digest = fingerprint([row.split, row.messages] for row in rows)
    parts = [
        "---\nlicense: cc-by-4.0\nlanguage: en\ntask_categories: [text-generation]\n---",
        "# Support conversations of Prisma, a made-up toy shop",
        f"## Origin\n{origin}",
        f"## Rows\n{_split_table(rows)}",
        _description(rows),
        f"## Checked\n{_removal_lines(kinds)}",
        f"## Limits\n{_listing(limits)}",
        f"## Fingerprint\nSHA-256 of the rows: `{digest}`",
    ]
    return "\n\n".join(parts) + "\n"


def _split_table(rows: Sequence[Row]) -> str:
    """A Markdown table with a line for each split, in the order in which they come."""
    head = "| split | rows | orders | customers |\n| --- | --- | --- | --- |"
    splits = Counter(row.split for row in rows)
    lines = [_split_line(rows, split) for split in splits]
    return "\n".join([head, *lines])


def _split_line(rows: Sequence[Row], split: str) -> str:
    records = [record(row) for row in rows if row.split == split]
    orders = _distinct(records, "number")
    customers = _distinct(records, "customer")
    return f"| {split} | {len(records):,} | {orders:,} | {customers} |"


def _distinct(records: Sequence[dict[str, str]], key: str) -> int:
    """How many different values of `key` there are; records without it do not count."""
    values = {known.get(key) for known in records}
    return len(values - {None})


def _description(rows: Sequence[Row]) -> str:
    """How many rows, how long, and how often each topic comes."""
    words = [len(row.text.split()) for row in rows]
    topics: Counter[str] = Counter()
    for row in rows:
        (topic, _), _ = policy(row)
        topics[topic] += 1
    counts = [f"{topic} {n}" for topic, n in sorted(topics.items())]
    return (
        f"{len(rows):,} rows of {min(words)} to {max(words)} words; each has a system turn with the facts, a "
        f"customer's message, a reply. Topics: {', '.join(counts)}."
    )


def _removal_lines(kinds: Counter) -> str:
    if not kinds:
        return "Nothing was removed."
    lines = [f"{kind}: {n}" for kind, n in sorted(kinds.items())]
    return f"Removed: {sum(kinds.values())} rows.\n{_listing(lines)}"


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


def _listing(lines: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def write_card(path: Path = CARD) -> Path:
    """Write the card of the course's 2,000 conversations."""
    rows = rows_of(conversations.make_conversations())
    card = data_card(rows, ORIGIN.format(seed=SEED), LIMITS)
    path.write_text(card, encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    print(write_card())
