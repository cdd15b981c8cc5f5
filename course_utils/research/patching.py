"""What is known where: logit lens, activation patching and feature attribution for models of Llama's form."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_utils.prisma import shop, text

# ---------------------------------------------------------------- prompts that differ in one word


@dataclass(frozen=True)
class Case:
    """Two orders, and a question on the second: what the user says, what is right, and what the first order's is."""

    said: str
    answer: str
    other: str


def _order(rng: random.Random, number: int, status: str) -> str:
    """A fact as prisma-lm knows them; each word is one token, and each digit."""
    name = rng.choice(shop.NAMES)
    size = rng.choice(shop.SIZES)
    toy = f"{rng.choice(shop.COLOURS)} {rng.choice(shop.SHAPES)}"
    return f"Order {number} of {name}: {rng.randint(2, 9)} {size} {toy}, {status}."


def twins(count: int, seed: int) -> list[tuple[Case, Case]]:
    """Pairs of cases that differ in nothing but the status of the order that is asked for.

    All of them have the same number of tokens, so that a place means the same in each.
    """
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        other, first, second = rng.sample(shop.STATUSES, 3)
        numbers = rng.sample(range(1000, 10_000), 2)
        before = _order(rng, numbers[0], other)
        state = rng.getstate()
        cases = []
        for status in (first, second):
            rng.setstate(state)  # the same toy for the same customer
            asked = _order(rng, numbers[1], status)
            said = f"{before}\n{asked}\nWhere is order {numbers[1]}?"
            cases.append(Case(said, status, other))
        pairs.append((cases[0], cases[1]))
    return pairs


def encoded(tokenizer, cases: Sequence[Case]) -> Tensor:
    """The token ids (cases, n) of the whole prompts, up to where the status has to be written.

    ValueError if they have different lengths, or a status is more than one token.
    """
    rows = []
    for case in cases:
        prompt = text.prompt("read", case.said)
        rows.append(tokenizer.encode(prompt + "Answer: ", add_special_tokens=False))
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"prompts of {sorted(lengths)} tokens can't be compared place by place: use prisma-lm")
    return torch.tensor(rows)


def word_ids(tokenizer, words: Sequence[str]) -> Tensor:
    """The token of each word (words,). ValueError for a word that takes more than one."""
    pieces = [tokenizer.encode(word, add_special_tokens=False) for word in words]
    for word, piece in zip(words, pieces, strict=True):
        if len(piece) != 1:
            raise ValueError(f"{word!r} is {len(piece)} tokens here: the next token can't tell it")
    return torch.tensor(pieces).flatten()


# ---------------------------------------------------------------- the stream of states


def stations(model: nn.Module) -> list[nn.Module]:
    """Where the states can be read and changed on their way up: each layer, and the last norm."""
    return [*model.model.layers, model.model.norm]


@torch.inference_mode()
def states(model: nn.Module, ids: Tensor) -> Tensor:
    """What enters each layer, and at last what leaves the highest: (layers + 1, batch, n, width)."""
    caught: list[Tensor] = []
    hooks = [place.register_forward_pre_hook(lambda _, given: caught.append(given[0])) for place in stations(model)]
    try:
        model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(caught)


def logit_lens(model: nn.Module, entering: Tensor) -> Tensor:
    """The logits (..., words) that states (..., width) would give if no layer came any more."""
    return model.lm_head(model.model.norm(entering))


@contextlib.contextmanager
def patched(model: nn.Module, layer: int, place: int, given: Tensor) -> Iterator[None]:
    """For a while, put `given` (batch, width) in the place of what enters `layer` at token `place`.

    A layer's number that is the number of layers means what leaves the highest; IndexError beyond.
    """

    def put(module: nn.Module, inputs: tuple) -> tuple:
        changed = inputs[0].clone()  # (batch, n, width)
        changed[:, place] = given
        return (changed, *inputs[1:])

    hook = stations(model)[layer].register_forward_pre_hook(put)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode()
def preference(model: nn.Module, ids: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """How much rather the next token is `first` than `second`: the logits' difference (batch,)."""
    logits = model(input_ids=ids, use_cache=False).logits[:, -1]  # (batch, words)
    rows = torch.arange(len(ids))
    return logits[rows, first] - logits[rows, second]


def brought_back(changed: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The share of the way from `low` to `high` that a preference has gone, case by case."""
    return (changed - low) / (high - low)


# ---------------------------------------------------------------- which tokens the answer is due to


def log_probability(model: nn.Module, embedded: Tensor, wanted: Tensor) -> Tensor:
    """The log-probability (batch,) in nats of the tokens `wanted` after texts given as vectors (batch, n, width)."""
    logits = model(inputs_embeds=embedded, use_cache=False).logits[:, -1]
    return logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]


def slope(model: nn.Module, embedded: Tensor, wanted: Tensor) -> Tensor:
    """How the log-probability changes with every number of the vectors: (batch, n, width)."""
    point = embedded.detach().requires_grad_()
    with torch.enable_grad():
        value = log_probability(model, point, wanted).sum()
    return torch.autograd.grad(value, point)[0]


def gradient_times_input(
    model: nn.Module,
    embedded: Tensor,
    baseline: Tensor,
    wanted: Tensor,
) -> Tensor:
    """A token's share in the answer, by the slope where the text is: (batch, n)."""
    change = embedded - baseline
    return (slope(model, embedded, wanted) * change).sum(-1)


def integrated_gradients(
    model: nn.Module, embedded: Tensor, baseline: Tensor, wanted: Tensor, steps: int = 16
) -> Tensor:
    """A token's share in the answer, by the mean slope on the straight way from the baseline (arXiv
    1703.01365).

    Shapes as in `gradient_times_input`. The shares add up to the log-probability's change along
    that way, the better the more `steps`.
    """
    change = embedded - baseline  # (batch, n, width)
    total = torch.zeros_like(change)
    for number in range(steps):
        part = (number + 0.5) / steps  # the middle of each step
        total += slope(model, baseline + part * change, wanted)
    return (total / steps * change).sum(-1)
