"""Rotary positions beyond the trained length, and a needle to find there."""

import contextlib
import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from course_utils.prisma import lm, text


def plain(width: int, base: float = 10000.0) -> Tensor:
    """How far each pair of numbers of a head turns from one token to the next: (width / 2,) in radians.

    `width` numbers a head; the pairs turn ever more slowly (RoFormer, arXiv 2104.09864).
    """
    pairs = torch.arange(0, width, 2) / width  # (width / 2,)
    return base**-pairs


def linear(width: int, factor: float, base: float = 10000.0) -> Tensor:
    """Position interpolation (arXiv 2306.15595): all pairs turn `factor` times more slowly."""
    return plain(width, base) / factor


def ntk(width: int, factor: float, base: float = 10000.0) -> Tensor:
    """The NTK-aware way: a larger base, so that the slowest pair slows down by `factor`, the fastest not at all."""
    larger = base * factor ** (width / (width - 2))
    return plain(width, larger)


def yarn(width: int, factor: float, trained: int, base: float = 10000.0) -> Tensor:
    """YaRN (arXiv 2309.00071): pairs that turn often within `trained` tokens stay, slow ones are interpolated.

    Stay: 32 turns and more. Interpolated: less than one turn. Between them, a mixture.
    """
    pairs = torch.arange(width // 2)
    first = max(math.floor(pair_that_turns(32, width, trained, base)), 0)
    last = min(math.ceil(pair_that_turns(1, width, trained, base)), width - 1)
    mixed = ((pairs - first) / (last - first)).clamp(0, 1)  # (width / 2,)
    stays, slowed = plain(width, base), linear(width, factor, base)
    return stays * (1 - mixed) + slowed * mixed


def pair_that_turns(times: float, width: int, trained: int, base: float) -> float:
    """Which pair turns so many `times` within `trained` tokens; a fraction, as if there were pairs between."""
    tokens_a_radian = trained / (times * 2 * math.pi)
    return width * math.log(tokens_a_radian) / (2 * math.log(base))


def sharpening(factor: float) -> float:
    """What YaRN multiplies cosines and sines by, so that attention over more tokens stays as sharp."""
    return 0.1 * math.log(factor) + 1


@contextlib.contextmanager
def scaled(model: nn.Module, frequencies: Tensor, times: float = 1.0) -> Iterator[nn.Module]:
    """Let a Llama turn by `frequencies` (width / 2,), cosines and sines `times` as large, for a while.

    ValueError if the model's heads have another width.
    """
    rotary = model.model.rotary_emb
    before, sharp = rotary.inv_freq, rotary.attention_scaling
    if frequencies.shape != before.shape:
        raise ValueError(f"{len(frequencies)} frequencies, and the model's heads have {len(before)} pairs.")
    rotary.inv_freq, rotary.attention_scaling = frequencies.to(before.device), times
    try:
        yield model
    finally:
        rotary.inv_freq, rotary.attention_scaling = before, sharp


# ---------------------------------------------------------------- the needle


def needle(tokenizer, pairs: int, seed: int) -> lm.Row:
    """A list of `pairs` lines "word: word word" in random order, and the start of one of them once more.

    Only the rest of that line is to be learned: two words that stand somewhere above. ValueError without a pair.
    """
    if pairs < 1:
        raise ValueError("A needle needs at least one line to hide in.")
    rng = random.Random(f"needle {pairs} {seed}")
    keys = rng.sample(text.LEXICON, pairs)
    values = [" ".join(rng.sample(text.LEXICON, 2)) for _ in keys]
    lines = [f"{key}: {value}\n" for key, value in zip(keys, values, strict=True)]
    asked = rng.randrange(pairs)
    shown = "".join(lines) + f"{keys[asked]}:"
    example = text.Example("needle", ((shown, False), (f" {values[asked]}\n", True)))
    return lm.encode(tokenizer, example)


def recall(model: nn.Module, rows: Sequence[lm.Row], pad: int) -> list[bool]:
    """For each row whether the model's first choice is right at each token to be written."""
    return [reading.right for reading in lm.read(model, rows, pad, batch=8, use_cache=False)]
