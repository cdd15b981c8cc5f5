"""Unit 7.2: tools, people and counters that a student's function is called with. No answer stands here, so they may go
where it runs. All are scripted: they answer the same every time.
"""

import copy

# --- tools with an argument, for `act` ------------------------------------------------------------------


def orders(number: str) -> str:
    """A tool that knows one order."""
    return f"order {number}: 3 cubes, shipped" if number == "4821" else f"error: no order {number}"


def clock(nothing: str) -> str:
    """A tool without an argument."""
    return "noon" if nothing == "" else "error: no argument is taken"


def stock(product: str) -> str:
    """A tool that is broken."""
    raise RuntimeError("the database is locked")


class Known:
    """A tool that knows some answers, and says so of what it does not know."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def __call__(self, argument: str) -> str:
        return self.answers.get(argument, f"error: nothing about {argument!r}")

    def __repr__(self) -> str:
        return f"a tool that knows {self.answers}"


class Broken:
    """A tool that raises an exception, whatever it is asked."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, argument: str) -> str:
        raise self.error

    def __repr__(self) -> str:
        return f"a tool that raises {self.error!r}"


# --- a toolbox, for `retrying_toolbox` ------------------------------------------------------------------


class Scripted:
    """A toolbox that gives one outcome after the other, whatever it is asked; exceptions are raised."""

    def __init__(self, *outcomes: str | Exception) -> None:
        self.left = list(outcomes)

    def __call__(self, tool: str, argument: str) -> str:
        outcome = self.left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return f"{tool}[{argument}]: {outcome}"

    def __repr__(self) -> str:
        named = [repr(one) if isinstance(one, Exception) else one for one in self.left]
        return f"one after the other: {', '.join(named)}"


# --- a person and tools, for `approval_gate` ------------------------------------------------------------


class Desk:
    """A person who decides, and tools that run; an answer tells how many questions and runs there were by then."""

    def __init__(self, decisions: dict[tuple[str, str], list[tuple[str, str]]]) -> None:
        self.decisions = copy.deepcopy(decisions)
        self.asked = self.ran = 0

    def ask(self, tool: str, argument: str) -> tuple[str, str]:
        """The person's next decision about this very call."""
        self.asked += 1
        known = self.decisions.get((tool, argument), [])
        return known.pop(0) if known else ("reject", "nobody expected this question")

    def run(self, tool: str, argument: str) -> str:
        """Run a call."""
        self.ran += 1
        return f"{tool}[{argument}] ran, the {self.ran}. call, after {self.asked} questions"


# --- counters, for `reflection_memory` ------------------------------------------------------------------


def count_words(text: str) -> int:
    """Stands in for a tokenizer: a word is a token, and so is a dash."""
    return len(text.split())


def count_letters(text: str) -> int:
    """Another one: a letter is a token, and so is a blank."""
    return len(text)
