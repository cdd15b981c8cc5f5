"""Documents cut into chunks that a search can find and a small model can read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A sentence ends at . ! or ? before white space; a blank line ends it, too, as headings have no full stop.
_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|\n\s*\n")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `text` is the document's own from the character `start` on, `source` names the document.

    So a citation can be looked up: `document[start : start + len(text)] == text`.
    """

    text: str
    source: str
    start: int


def spans(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence of `text` starts and ends, without the white space around it."""
    start = 0
    for end in (*(found.span() for found in _END.finditer(text)), (len(text), len(text))):
        first, last = _stripped(text, start, end[0])
        if first < last:
            yield first, last
        start = end[1]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends."""
    inside = text[start:end]
    left = len(inside) - len(inside.lstrip())
    return start + left, start + len(inside.rstrip())


def sentences(text: str) -> list[str]:
    """The sentences of `text`."""
    return [text[start:end] for start, end in spans(text)]


def chunk(text: str, source: str, size: int = 80, overlap: int = 1) -> list[Chunk]:
    """Cut `text` into chunks of whole sentences, at most `size` words each; neighbours share `overlap` sentences.

    A sentence of more than `size` words is cut between words. An empty text has no chunks. ValueError for sizes that
    make no sense.
    """
    if size < 1 or overlap < 0:
        raise ValueError(f"a chunk has at least 1 word and an overlap at least 0 sentences, not {size} and {overlap}")
    parts = list(_short_parts(text, size))
    counts = [len(_WORD.findall(text, *part)) for part in parts]
    chunks = []
    first = 0
    while first < len(parts):
        last = _last(counts, first, size)
        start, end = parts[first][0], parts[last - 1][1]
        chunks.append(Chunk(text[start:end], source, start))
        if last == len(parts):
            break
        first = max(first + 1, last - overlap)
        # Every chunk brings a new sentence: an overlap that leaves no room for one is shortened.
        while _last(counts, first, size) <= last:
            first += 1
    return chunks


def _last(counts: list[int], first: int, size: int) -> int:
    """The end of the chunk that begins at sentence `first`: as many as fit, one at least."""
    words = 0
    for place in range(first, len(counts)):
        words += counts[place]
        if words > size:
            return max(place, first + 1)
    return len(counts)


def _short_parts(text: str, size: int) -> Iterator[tuple[int, int]]:
    """The spans of the sentences, those of more than `size` words in pieces."""
    for start, end in spans(text):
        words = [found.span() for found in _WORD.finditer(text, start, end)]
        for place in range(0, len(words), size):
            piece = words[place : place + size]
            yield piece[0][0], piece[-1][1]
