"""Many clients of one server: a key for each, kept as hashes, and turns that are given fairly."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

HASH_LETTERS = set("0123456789abcdef")
HASH_LENGTH = 64


def hashed(key: bytes) -> str:
    """What is kept of a key. Keys are long and random, so nobody finds one by trying, and no salt is needed."""
    return hashlib.sha256(key).hexdigest()


def read_keys(path: Path) -> dict[str, str]:
    """Names by the hashes of their keys, from a JSON file {name: hash}. ValueError if it is no such file."""
    cure = "`course keys` writes one."
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no file of keys at {path}: {cure}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no file of keys ({type(error).__name__}): {cure}") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no keys: {cure}")
    for name, hash in content.items():
        if not name or not _is_hash(hash):
            raise ValueError(f"{path}: the entry of {name!r} is no hash of a key. {cure}")
    names = {hash: name for name, hash in content.items()}
    if len(names) < len(content):
        raise ValueError(f"{path}: two names share a key. {cure}")
    return names


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == HASH_LENGTH and set(value) <= HASH_LETTERS


class Turns:
    """Places in a server, given fairly: next comes who holds the fewest, and of these who came last longest ago.

    Nobody holds more than half of the places (one at least), so that there is soon one for whoever comes next.
    """

    def __init__(self, places: int) -> None:
        if places < 1:
            raise ValueError(f"places is {places}, and must be 1 or more.")
        self.free = places
        self.most = max(1, places // 2)
        self.held: Counter[str] = Counter()
        self.given = 0  # places, so far
        self.served: Counter[str] = Counter()  # the number of the place that each was given last
        self.waiting: dict[asyncio.Future, str] = {}  # in the order in which they came

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it until the end of the block."""
        place = asyncio.get_running_loop().create_future()
        self.waiting[place] = name
        self.give()
        try:
            await place
            yield
        finally:
            self.end(place, name)

    def end(self, place: asyncio.Future, name: str) -> None:
        """Give a place back, or leave the queue."""
        if self.waiting.pop(place, None) is None:  # it was given
            self.free += 1
            self.held[name] -= 1
            if not self.held[name]:
                del self.held[name]
        self.give()

    def give(self) -> None:
        """Give the free places to those whose turn it is."""
        while self.free and (place := self.next()):
            name = self.waiting.pop(place)
            self.free -= 1
            self.held[name] += 1
            self.given += 1
            self.served[name] = self.given
            place.set_result(None)

    def next(self) -> asyncio.Future | None:
        """Whose turn it is, None if nobody may have a place now."""
        waiting = [place for place in self.waiting if not place.done()]  # done: cancelled, and about to leave
        allowed = [place for place in waiting if self.held[self.waiting[place]] < self.most]

        def order(place: asyncio.Future) -> tuple[int, int]:
            name = self.waiting[place]
            return self.held[name], self.served[name]

        return min(allowed, key=order, default=None)
