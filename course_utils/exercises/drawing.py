"""What fresh examples are drawn with: tensors from a `random.Random`, so that one seed decides everything."""

from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F


def generator(draw: Random) -> torch.Generator:
    """torch's source of random numbers, seeded by the next number of `draw`."""
    source = torch.Generator()
    seed = draw.randrange(2**31)
    return source.manual_seed(seed)


def normal(draw: Random, *shape: int) -> Tensor:
    """Normally distributed numbers."""
    source = generator(draw)
    return torch.randn(shape, generator=source)


def unit_vectors(draw: Random, n: int, d: int) -> Tensor:
    """n vectors (n, d) of length 1, in every direction alike."""
    vectors = normal(draw, n, d)
    return F.normalize(vectors, dim=-1)


def integers(draw: Random, below: int, *shape: int) -> Tensor:
    """Whole numbers from 0 on, all less than `below`."""
    source = generator(draw)
    return torch.randint(below, shape, generator=source)


def fractions(draw: Random, *shape: int, of: int = 8) -> Tensor:
    """Multiples of 1 / `of` between -2 and 2: sums and products of a few of them are exact."""
    most = 2 * of
    whole = integers(draw, 2 * most + 1, *shape)
    return (whole - most) / of
