"""Rotary positions beyond the trained length, and a needle to find there."""

import contextlib
import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from course_utils.prisma import lm, text
from course_utils.research.positions import BASE, angles


def plain(width: int, base: float = BASE) -> Tensor:
    """How far each pair of numbers of a head turns from one token to the next: (width / 2,) in radians.

    `width` numbers a head; the pairs turn ever more slowly (RoFormer, arXiv 2104.09864).
    """
    return angles(torch.ones(1), width, base)[0]


def linear(width: int, factor: float, base: float = 10000.0) -> Tensor:
    """Position interpolation (arXiv 2306.15595): all pairs turn `factor` times more slowly."""
    return plain(width, base) / factor


def ntk(width: int, factor: float, base: float = 10000.0) -> Tensor:
    """The NTK-aware way: a larger base, so that the slowest pair slows down by `factor`, the
    fastest not at all.
    """
    if width < 4:
        raise ValueError(f"{width} numbers a head: this way needs two pairs, so 4 or more")
    power = width / (width - 2)
    larger = base * factor**power
    return plain(width, larger)


def yarn(width: int, factor: float, trained: int, base: float = 10000.0) -> Tensor:
    """YaRN (arXiv 2309.00071): pairs that turn often within `trained` tokens stay, slow ones are
    interpolated.

    Stay: 32 turns and more. Interpolated: less than one turn. Between them, a mixture.
    """
    often = pair_that_turns(32, width, trained, base)
    once = pair_that_turns(1, width, trained, base)
    first = max(math.floor(often), 0)
    last = min(math.ceil(once), width - 1)
    pairs = torch.arange(width // 2)
    ramp = (pairs - first) / (last - first)
    ramp = ramp.clamp(0, 1)  # (width / 2,): 0 stays, 1 is interpolated
    fast = plain(width, base)
    slow = linear(width, factor, base)
    return torch.lerp(fast, slow, ramp)


def pair_that_turns(times: float, width: int, trained: int, base: float) -> float:
    """Which pair turns so many `times` within `trained` tokens; a fraction, as if there were pairs between."""
    radians = times * math.tau
    tokens_a_radian = trained / radians
    power = math.log(tokens_a_radian, base)  # of the base
    return power * width / 2


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
    rotary.inv_freq = frequencies.to(before.device)
    rotary.attention_scaling = times
    try:
        yield model
    finally:
        rotary.inv_freq, rotary.attention_scaling = before, sharp


# ---------------------------------------------------------------- the needle


def needle(tokenizer, pairs: int, seed: int) -> lm.Row:
    """A list of `pairs` lines "word: word word" in random order, and the start of one of them once more.

    Only the rest of that line is to be learned: two words that stand somewhere above. ValueError for more lines than
    there are words to begin them.
    """
    most = len(text.LEXICON)
    if not 1 <= pairs <= most:
        raise ValueError(f"{pairs} lines: take 1 to {most}, because no two begin with the same word.")
    rng = random.Random(f"needle {pairs} {seed}")
    shown = ""
    lines = {}
    for key in rng.sample(text.LEXICON, pairs):
        first, second = rng.sample(text.LEXICON, 2)
        lines[key] = f" {first} {second}\n"
        shown += f"{key}:{lines[key]}"
    asked = rng.choice(list(lines))
    pieces = ((f"{shown}{asked}:", False), (lines[asked], True))
    return lm.encode(tokenizer, text.Example("needle", pieces))


def recall(model: nn.Module, rows: Sequence[lm.Row], pad: int) -> list[bool]:
    """For each row whether the model's first choice is right at each token to be written."""
    readings = lm.read(model, rows, pad, batch=8, use_cache=False)
    return [reading.right for reading in readings]
