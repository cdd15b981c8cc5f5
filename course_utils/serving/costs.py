"""A hosted API or a server of your own: what a day costs with either, and from how many tokens on they cost the same.

Every number that goes in carries where it is from and when it was read. Money is in one currency of your choice.
"""

import math
from dataclasses import dataclass
from datetime import date

SECONDS = 86_400  # of a day
EXAMPLE = "an example, not a price"


@dataclass(frozen=True)
class Origin:
    """Where a number is from, and when it was read there (None for an example)."""

    source: str = EXAMPLE
    read_on: date | None = None

    def __post_init__(self) -> None:
        if (self.source == EXAMPLE) != (self.read_on is None):
            raise ValueError("A price needs its source and the day on which you read it; an example has neither.")

    def __str__(self) -> str:
        return self.source if self.read_on is None else f"{self.source}, {self.read_on.isoformat()}"


@dataclass(frozen=True)
class Hosted:
    """Prices of an API for a million tokens, read and written."""

    per_million_read: float
    per_million_written: float
    origin: Origin = Origin()

    def per_written(self, read: float) -> float:
        """The price of one written token together with the `read` tokens that come with it."""
        return (self.per_million_written + read * self.per_million_read) / 1e6


@dataclass(frozen=True)
class Own:
    """A server: its price an hour, tokens that it writes a second when it is full, and the work on it a day."""

    per_hour: float
    tokens_per_second: float
    work_per_day: float  # somebody has to update, watch and mend it, whether it is asked or not
    busy: float  # the share of the day's full capacity that is really used: people sleep
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        if min(self.per_hour, self.work_per_day) < 0 or self.tokens_per_second <= 0 or not 0 < self.busy <= 1:
            raise ValueError("A server needs prices of 0 or more, a rate above 0, and a share in (0, 1].")

    @property
    def per_day(self) -> float:
        """The price of one machine for a day."""
        return 24 * self.per_hour

    @property
    def most(self) -> float:
        """Tokens that one machine writes in a day."""
        return SECONDS * self.tokens_per_second * self.busy

    def cost(self, written: float) -> float:
        """What a day costs: whole machines, at least one, and the work."""
        machines = max(1, math.ceil(written / self.most))
        return machines * self.per_day + self.work_per_day


def break_even(hosted: Hosted, own: Own, read: float) -> float:
    """Written tokens a day from which the own server costs no more; infinite if it never does.

    `read` is how many tokens are read for each one that is written. A further machine is paid as a whole, so just
    behind this point the API may be the cheaper one again for a while.
    """
    price = hosted.per_written(read)
    saved = price * own.most - own.per_day  # by one full machine a day
    if saved <= 0:
        return math.inf
    machines = max(1, math.ceil(own.work_per_day / saved))  # so many pay for the work on them, too
    return (machines * own.per_day + own.work_per_day) / price
