"""The lab's real text: the Constitution of the United States, with questions in other words than its own."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from course_utils.agents.retrieval.chunks import Chunk
from course_utils.settings import DATA

SOURCE = "constitution.txt"


@dataclass(frozen=True)
class Asked:
    """A question, and the phrases of which an answering passage holds one."""

    text: str
    says: tuple[str, ...]


def text() -> str:
    """The whole text, a paragraph a line with blank lines between (public domain; data/README.md says whence)."""
    return (DATA / "samples" / SOURCE).read_text("utf-8")


def questions() -> list[Asked]:
    """80 questions in other words than the text, written before any search was tried on them."""
    return _listed("question")


def lookups() -> list[Asked]:
    """40 queries of somebody who knows the text's own terms."""
    return _listed("lookup")


def _listed(kind: str) -> list[Asked]:
    tables = tomllib.loads((DATA / "samples" / "constitution_questions.toml").read_text("utf-8"))
    return [Asked(row["text"], tuple(row["says"])) for row in tables[kind]]


def answering(chunks: Sequence[Chunk], asked: Asked) -> set[int]:
    """The places of the chunks that hold the answer. It may be empty where a cut runs through the phrase."""
    places = set()
    for place, chunk in enumerate(chunks):
        found = [phrase in chunk.text for phrase in asked.says]
        if any(found):
            places.add(place)
    return places
