"""What fresh examples are drawn with: tensors from a `random.Random`, so that one seed decides everything."""

from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F


def generator(draw: Random) -> torch.Generator:
    """torch's source of random numbers, seeded by the next number of `draw`."""
    seed = draw.randrange(2**31)
    return torch.Generator().manual_seed(seed)


def normal(draw: Random, *shape: int) -> Tensor:
    """Normally distributed numbers."""
    return torch.randn(shape, generator=generator(draw))


def unit_vectors(draw: Random, n: int, d: int) -> Tensor:
    """n vectors (n, d) of length 1, in every direction alike."""
    return F.normalize(normal(draw, n, d), dim=-1)


def fractions(draw: Random, *shape: int, of: int = 8) -> Tensor:
    """Multiples of 1 / `of` between -2 and 2: sums and products of a few of them are exact."""
    whole = torch.randint(-2 * of, 2 * of + 1, shape, generator=generator(draw))
    return whole / of
