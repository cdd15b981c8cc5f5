"""A person's word before what cannot be undone, a record of it, and what happens when the person tires (Unit 7.2)."""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from course_utils.prisma.shop import Shop

VERDICTS = ("approve", "edit", "reject")


@dataclass(frozen=True)
class Request:
    """What an agent wants to do. `worth` is what is at stake, in euros."""

    action: str
    arguments: dict[str, Any]
    worth: float


@dataclass(frozen=True)
class Decision:
    """What was decided, by whom, and why. An edit brings the `arguments` that hold instead."""

    verdict: str
    by: str
    why: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r}: write one of {', '.join(VERDICTS)}.")
        if not self.by:
            raise ValueError("A decision needs the name of who made it.")
        if bool(self.arguments) != (self.verdict == "edit"):
            raise ValueError("An edit needs the arguments that hold instead, and no other verdict has any.")


@dataclass(frozen=True)
class Entry:
    """A line of the record: when, what was asked for, what was decided, and what the action answered."""

    when: str
    request: Request
    decision: Decision
    result: str


class Gate:
    """Runs an action itself where `needs_person` says no, and asks `decide` where it says yes. It keeps a record.

    `decide` may be a person, a page in a browser or a function. Where it fails, nothing is done.
    """

    def __init__(
        self,
        action: Callable[..., str],
        needs_person: Callable[[Request], bool],
        decide: Callable[[Request], Decision],
    ) -> None:
        self.action, self.needs_person, self.decide = action, needs_person, decide
        self.record: list[Entry] = []

    def __call__(self, request: Request) -> str:
        """Do what was asked for, or its edit, or nothing. Returns what the agent reads."""
        decision = self._decision(request)
        if decision.verdict == "reject":
            result = f"error: refused by {decision.by}: {decision.why}"
        else:
            result = self._done(request.arguments | decision.arguments)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.record.append(Entry(now, request, decision, result))
        return result

    def _done(self, arguments: dict[str, Any]) -> str:
        try:
            return self.action(**arguments)
        except Exception as error:  # it may be half done: the record has to hold it
            return f"error: {type(error).__name__}: {error}"

    def _decision(self, request: Request) -> Decision:
        if not self.needs_person(request):
            return Decision("approve", "the rule", "below the limit")
        try:
            return self.decide(request)
        except Exception as error:  # nobody there, a broken page: silence is no consent
            return Decision("reject", "nobody", f"no decision ({type(error).__name__})")

    def rows(self) -> list[dict]:
        """The record as rows of a table, without the times."""
        rows = []
        for entry in self.record:
            asked = ", ".join(f"{name} {value}" for name, value in entry.request.arguments.items())
            row = {"asked for": f"{entry.request.action}: {asked}", "verdict": entry.decision.verdict}
            rows.append(row | {"by": entry.decision.by, "why": entry.decision.why, "result": entry.result})
        return rows

    def write(self, file: Path) -> None:
        """Write the record to a file, a line of JSON for each entry."""
        with file.open("w", encoding="utf-8") as lines:
            for entry in self.record:
                lines.write(json.dumps(asdict(entry)) + "\n")


def by_person(name: str, read: Callable[[str], str] = input) -> Callable[[Request], Decision]:
    """A `decide` that asks whoever sits here for "y", "n" or another amount, and waits. For your own runs."""

    def decide(request: Request) -> Decision:
        wanted = ", ".join(f"{key} {value}" for key, value in request.arguments.items())
        while True:
            said = read(f"{request.action} ({wanted})? y, n, or another amount: ").strip().lower()
            if said in ("y", "yes"):
                return Decision("approve", name)
            if said in ("n", "no"):
                return Decision("reject", name, "said no")
            if said.isdecimal():
                return Decision("edit", name, "another amount", {"amount": int(said)})

    return decide


# ---------------------------------------------------------------- a person who tires, simulated


@dataclass(frozen=True)
class Case:
    """A refund that an agent would pay: `worth` euros. Should it be paid?"""

    worth: int
    harmful: bool


def day_of_cases(prisma: Shop, n: int, harmful: float, rng: random.Random) -> list[Case]:
    """`n` refunds of one day, of which the share `harmful` should not be paid.

    An honest customer returns some order. Who cheats has looked for a dear one: the dearest of three.
    """
    orders = list(prisma.orders.values())
    cases = []
    for _ in range(n):
        bad = rng.random() < harmful
        drawn = rng.choices(orders, k=3 if bad else 1)
        worth = max(order.quantity * order.product.price for order in drawn)
        cases.append(Case(worth, bad))
    return cases


def attention(asked: int, tiring: float, fresh: float = 0.95) -> float:
    """How likely a person notices what is wrong after `asked` questions on the same day: it falls by e^-tiring each."""
    return fresh * math.exp(-tiring * asked)


def day(cases: Sequence[Case], limit: float, tiring: float, rng: random.Random) -> tuple[int, int]:
    """How many questions a person is asked on a day, and how many euros of harm are paid all the same.

    Every case of `limit` euros or more is asked about.
    """
    asked = harm = 0
    for case in cases:
        luck = rng.random()  # drawn for each case, so that days with other limits stay comparable
        noticed = False
        if case.worth >= limit:
            noticed = luck < attention(asked, tiring)
            asked += 1
        if case.harmful and not noticed:
            harm += case.worth
    return asked, harm
