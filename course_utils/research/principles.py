"""Alignment lab: written principles, a critic that applies them, and replies revised until they are kept.

After Constitutional AI (Bai et al. 2022, arXiv 2212.08073). There one large model writes, criticises and revises.
Here the critic is a rule or a second model, and to revise means to write again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.measures import Measure, matches, share


@dataclass(frozen=True)
class Principle:
    """A rule in words, and the critic that says whether a reply to a request keeps it."""

    name: str
    words: str
    kept: Callable[[Any, str], bool]


def broken(principles: Sequence[Principle], request: Any, reply: str) -> list[str]:
    """The critique: the names of the principles that the reply breaks. ValueError without principles."""
    if not principles:
        raise ValueError("there is no principle to judge by: write one at least")
    return [principle.name for principle in principles if not principle.kept(request, reply)]


Rewrite = Callable[[list[int], int], list[str]]  # places of the requests, the round -> a new reply to each


def revise(
    principles: Sequence[Principle],
    requests: Sequence[Any],
    replies: Sequence[str],
    rewrite: Rewrite,
    rounds: int,
) -> list[list[str]]:
    """All replies before, and after each round. What breaks a principle is written again.

    A new reply takes the place of the old one only if it breaks fewer. ValueError if there is not a reply to each.
    """
    if len(requests) != len(replies):
        raise ValueError(f"{len(replies)} replies to {len(requests)} requests: one each is needed")
    history = [list(replies)]
    faults = [broken(principles, *pair) for pair in zip(requests, replies, strict=True)]
    for number in range(1, rounds + 1):
        now = list(history[-1])
        places = [place for place, names in enumerate(faults) if names]
        written = rewrite(places, number)
        for place, text in zip(places, written, strict=True):
            names = broken(principles, requests[place], text)
            if len(names) < len(faults[place]):
                now[place] = text
                faults[place] = names
        history.append(now)
    return history


def agreement(one: Sequence[bool], other: Sequence[bool]) -> tuple[Measure, float]:
    """How often two labellers say the same, and Cohen's kappa: 0 is what chance gives, 1 is always.

    ValueError if they did not label the same pairs.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} labels and {len(other)}: both have to label the same pairs")
    same = share(matches(one, other))
    first = sum(one) / len(one)
    second = sum(other) / len(other)
    both_yes = first * second
    both_no = (1 - first) * (1 - second)
    chance = both_yes + both_no
    if chance == 1:  # both always say the same one thing: there is nothing to agree on
        return same, 0.0
    above = same.value - chance
    return same, above / (1 - chance)
