"""What an agent still knows of a long conversation: everything, a window, a summary, a long-term store.

A conversation is a row of notes "who: what", one a turn, such as "Ada: blue star". A later note about the same person
replaces the earlier one. Each memory is asked for its `context`: the notes that the model gets to read for a question.
prisma-lm learned to look a word up in such lines; it did not learn to summarize, so here a rule does.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from course_utils.prisma.shop import COLOURS, NAMES, SHAPES

if TYPE_CHECKING:
    from course_utils.models.roles import Chat


@dataclass(frozen=True)
class Note:
    """One turn: what somebody wants. In a prompt it is the line "who: what"."""

    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.who}: {self.what}"


class Memory(Protocol):
    """Takes notes one by one, and says which the model reads for a question."""

    def add(self, note: Note) -> None: ...
    def context(self, question: str) -> list[Note]: ...


class Window:
    """The last `size` notes, whatever is asked; None keeps all. ValueError for a window without a place."""

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"a window of {size} notes: it needs one at least")
        self.size, self.notes = size, []

    def add(self, note: Note) -> None:
        self.notes.append(note)

    def context(self, question: str) -> list[Note]:
        return self.notes[-self.size :] if self.size else list(self.notes)


class Summary:
    """A window of `size` notes. What leaves it is folded into a summary: one line a person, short, `lines` at most.

    The rule keeps the first word of a wish and, of the persons, those it heard of last. A summary has a limit, or it
    would be the conversation; so it has to lose something.
    """

    def __init__(self, size: int, lines: int) -> None:
        self.window, self.lines = Window(size), lines
        self.kept: dict[str, Note] = {}

    def add(self, note: Note) -> None:
        self.window.add(note)
        if len(self.window.notes) > self.window.size:
            self._fold(self.window.notes.pop(0))

    def _fold(self, old: Note) -> None:
        self.kept.pop(old.who, None)
        self.kept[old.who] = Note(old.who, old.what.split()[0])
        while len(self.kept) > self.lines:
            oldest = next(iter(self.kept))
            del self.kept[oldest]

    def context(self, question: str) -> list[Note]:
        return [*self.kept.values(), *self.window.notes]


class Store:
    """A long-term store outside the prompt: it keeps the newest note on each person, and looks up `found` of them."""

    def __init__(self, found: int = 3) -> None:
        self.found, self.notes = found, {}

    def add(self, note: Note) -> None:
        self.notes[note.who] = note

    def context(self, question: str) -> list[Note]:
        notes = list(self.notes.values())
        best = closest(question, [str(note) for note in notes], self.found)
        return [notes[i] for i in reversed(best)]  # the best last: next to the question


def words(line: str) -> list[str]:
    """The words of a text in small letters."""
    return re.findall(r"\w+", line.lower())


def closest(question: str, passages: Sequence[str], n: int) -> list[int]:
    """The places of the `n` passages that share most words with the question, best first; fewer if fewer share one.

    A rare word counts more: each word weighs one over the number of passages that hold it. A tie goes to the earlier.
    """
    sets = [set(words(passage)) for passage in passages]
    weights = {}
    for word in words(question):
        holding = sum(word in one for one in sets)
        weights[word] = 1 / max(1, holding)
    scores = []
    for one in sets:
        shared = sorted(one.intersection(weights))
        scores.append(sum(weights[word] for word in shared))
    order = sorted(range(len(sets)), key=lambda i: -scores[i])
    return [i for i in order[:n] if scores[i] > 0]


def conversation(turns: int, seed: int) -> list[Note]:
    """`turns` notes on the shop's customers, in which some change their mind.

    Each of the 24 customers speaks before one of them speaks again. ValueError for fewer turns than customers.
    """
    if turns < len(NAMES):
        raise ValueError(f"{turns} turns: each of the {len(NAMES)} customers has to speak once")
    rng = random.Random(seed)
    speakers = [*rng.sample(NAMES, len(NAMES)), *rng.choices(NAMES, k=turns - len(NAMES))]
    return [Note(who, f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}") for who in speakers]


def truth(notes: Sequence[Note]) -> dict[str, str]:
    """What each person wants in the end."""
    return {note.who: note.what for note in notes}


def prompts(memory: Memory, people: Sequence[str]) -> list[str]:
    """For each person the notes in the memory's context, and the beginning of the line to write."""
    made = []
    for who in people:
        lines = [f"{note}\n" for note in memory.context(who)]
        made.append("".join(lines) + f"{who}:")
    return made


def holds(memory: Memory, wanted: dict[str, str]) -> list[bool]:
    """For each person whether the newest note in the context is the true one: an exact check, without a model."""
    found = []
    for who, what in wanted.items():
        about = [note.what for note in memory.context(who) if note.who == who]
        found.append(about[-1:] == [what])
    return found


def reads(chat: "Chat", memory: Memory, wanted: dict[str, str]) -> list[bool]:
    """For each person whether the model, reading the context, writes what is true."""
    replies = chat.complete_many(prompts(memory, list(wanted)), max_new_tokens=8, stop=["\n"])
    return [reply.strip() == what for reply, what in zip(replies, wanted.values(), strict=True)]
