"""Alignment lab: a writer so small that a policy is optimised in a second, and a reward learned from comparisons.

A reply is a row of sentence numbers; the writer is a table that says, for each place and each sentence before it,
how likely every sentence is next. Replies are (n, longest); the number `items` means "the end", and fills the rest
of a row. Logits are (longest, items + 1, items + 1): the place, the sentence before (`items` at the start), the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from course_utils.settings import paced

Reward = Callable[[Tensor], Tensor]  # replies (n, longest) -> rewards (n,)


# ---------------------------------------------------------------- the writer


def rows(replies: Sequence[Sequence[int]], items: int, longest: int) -> Tensor:
    """Sentence numbers as a tensor (n, longest), filled up with the end. ValueError for a reply that does not fit."""
    table = torch.full((len(replies), longest), items)
    for n, reply in enumerate(replies):
        if len(reply) > longest:
            raise ValueError(f"reply {n} has {len(reply)} sentences; there is room for {longest}")
        if any(not 0 <= number < items for number in reply):
            raise ValueError(f"reply {n} holds a number that is no sentence: they go from 0 to {items - 1}")
        table[n, : len(reply)] = torch.tensor(reply, dtype=torch.long)
    return table


def imitate(replies: Tensor, items: int, smooth: float = 0.02) -> Tensor:
    """Logits of a writer that does what the `replies` (n, longest) do: counted, none of the chances quite zero.

    ValueError without replies.
    """
    if len(replies) == 0:
        raise ValueError("there is no reply to imitate: give some")
    n, longest = replies.shape
    counts = torch.full((longest, items + 1, items + 1), smooth)
    before = _before(replies, items)
    for place in range(longest):
        index = before[:, place], replies[:, place]
        counts[place].index_put_(index, torch.ones(n), accumulate=True)
    return counts.log()


def _before(replies: Tensor, items: int) -> Tensor:
    """The sentence before each place, (n, longest); `items` stands for the start."""
    start = torch.full_like(replies[:, :1], items)
    return torch.cat([start, replies[:, :-1]], 1)


def _written(replies: Tensor, items: int) -> Tensor:
    """1 where the writer chose something, its end included; 0 behind the end. (n, longest)."""
    ended = (replies == items).float().cumsum(1)
    already = ended - (replies == items).float()
    return (already == 0).float()


@torch.no_grad()
def draw(logits: Tensor, n: int, seed: int) -> Tensor:
    """`n` replies, (n, longest)."""
    generator = torch.Generator().manual_seed(seed)
    longest, _, choices = logits.shape
    end = choices - 1
    chances = logits.softmax(-1)
    previous = torch.full((n,), end)
    open_ = torch.ones(n, dtype=torch.bool)
    places = []
    for place in range(longest):
        nexts = torch.multinomial(chances[place, previous], 1, generator=generator)[:, 0]
        nexts = torch.where(open_, nexts, end)
        open_ = open_ & (nexts != end)
        places.append(nexts)
        previous = nexts
    return torch.stack(places, 1)


def log_prob(logits: Tensor, replies: Tensor) -> Tensor:
    """The log-probability of each reply, in nats, (n,)."""
    items = logits.shape[-1] - 1
    scores = logits.log_softmax(-1)
    place = torch.arange(replies.shape[1])
    chosen = scores[place, _before(replies, items), replies]  # (n, longest)
    return (chosen * _written(replies, items)).sum(1)


@torch.no_grad()
def divergence(policy: Tensor, reference: Tensor) -> float:
    """KL(policy, reference) of a reply in nats, exactly: over all places and sentences, no sampling."""
    longest, states, _ = policy.shape
    end = states - 1
    reached = torch.zeros(states)
    reached[end] = 1.0  # the start
    total = 0.0
    for place in range(longest):
        ours = policy[place].log_softmax(-1)
        theirs = reference[place].log_softmax(-1)
        apart = (ours.exp() * (ours - theirs)).sum(-1)  # (states,)
        total += float(reached @ apart)
        reached = reached @ ours.exp()
        reached[end] = 0.0  # who has ended chooses nothing more
    return total


# ---------------------------------------------------------------- the reward


def features(replies: Tensor, seen: Tensor) -> Tensor:
    """What can be seen of each reply: how often each kind of sentence stands in it, (n, kinds).

    `seen` (items, kinds) says as which kind a sentence is seen.
    """
    items = len(seen)
    counts = functional.one_hot(replies, items + 1).float().sum(1)  # (n, items + 1)
    return counts[:, :items] @ seen


def bradley_terry(differences: Tensor, ridge: float = 1.0, rounds: int = 25) -> Tensor:
    """The weights (kinds,) under which the chosen replies win most probably, by Newton's method.

    `differences` (pairs, kinds) are features of the chosen reply minus those of the rejected one.
    """
    if len(differences) == 0:
        raise ValueError("there is no pair to learn from: compare some replies first")
    kinds = differences.shape[1]
    weights = torch.zeros(kinds)
    for _ in range(rounds):
        wins = (differences @ weights).sigmoid()  # (pairs,): the chance that the chosen one wins
        slope = differences.T @ (1 - wins) - ridge * weights
        doubt = wins * (1 - wins)
        weighted = doubt[:, None] * differences
        bend = differences.T @ weighted + ridge * torch.eye(kinds)
        weights = weights + torch.linalg.solve(bend, slope)
    return weights


# ---------------------------------------------------------------- optimising against it


@dataclass(frozen=True)
class Point:
    """A policy on its way: the step, its exact distance in nats, the mean reward, and 300 of its replies."""

    step: int
    kl: float
    reward: float
    replies: Tensor


def optimise(
    reference: Tensor,
    reward: Reward,
    beta: float,
    seed: int,
    steps: int = 120,
    every: int = 10,
    batch: int = 128,
) -> list[Point]:
    """Policy gradient on `reward - beta * log(policy / reference)`; its states, every few steps.

    On-policy: each step draws `batch` replies anew. A reply's advantage is how far it lies above
    the mean of the others (leave one out, arXiv 2402.14740).
    """
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.08)
    steps = paced(steps)
    path = [_point(0, logits, reference, reward, seed)]
    for step in range(1, steps + 1):
        replies = draw(logits, batch, 1000 * seed + step)
        log_probs = log_prob(logits, replies)  # (batch,)
        drift = log_probs.detach() - log_prob(reference, replies)
        gains = reward(replies) - beta * drift
        rest = gains.sum() - gains  # (batch,)
        others = rest / (batch - 1)
        loss = -((gains - others) * log_probs).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % every == 0 or step == steps:
            path.append(_point(step, logits, reference, reward, seed))
    return path


def _point(step: int, logits: Tensor, reference: Tensor, reward: Reward, seed: int) -> Point:
    replies = draw(logits, 300, 77 + seed)
    kl = divergence(logits.detach(), reference)
    mean = reward(replies).mean()
    return Point(step, kl, float(mean), replies)


def best_of(reference: Tensor, reward: Reward, n: int, seed: int, cases: int = 300) -> Tensor:
    """For each of `cases` requests `n` replies, of which the one with the highest reward is kept: (cases, longest)."""
    replies = draw(reference, cases * n, 500 + seed)
    rewards = reward(replies).view(cases, n)
    winner = rewards.argmax(1)
    grouped = replies.view(cases, n, -1)
    return grouped[torch.arange(cases), winner]
