"""Where a token stands, told by sinusoidal and rotary positions. (ALiBi is an exercise of Unit 7.3.)"""

import torch
from torch import Tensor

BASE = 10_000.0  # of the angles, in both papers


def angles(positions: Tensor, width: int, base: float = BASE) -> Tensor:
    """How far each pair of numbers turns at each of the `positions` (n,), in radians.

    Pair i of (n, width / 2) turns by base^(-2 i / width) a token: the first by a whole radian, the
    last by hardly anything. `positions` are floating point, and their precision is the result's.
    ValueError for an odd width: numbers turn in pairs.
    """
    if width % 2:
        raise ValueError(f"width {width} is odd, and numbers turn in pairs: take an even one")
    pairs = torch.arange(0, width, 2, dtype=positions.dtype, device=positions.device)
    speeds = 1 / base ** (pairs / width)  # (width / 2,), radians a token
    return torch.outer(positions, speeds)


def sinusoidal(length: int, width: int) -> Tensor:
    """A vector for each position, to be added to the token's: (length, width).

    arXiv 1706.03762, section 3.5. The numbers of a pair are the sine and the cosine of its angle.
    """
    places = torch.arange(length, dtype=torch.float64)
    turned = angles(places, width)  # (length, width / 2)
    table = torch.empty(length, width)
    table[:, 0::2] = turned.sin()
    table[:, 1::2] = turned.cos()
    return table


def rotary(x: Tensor, positions: Tensor, base: float = BASE) -> Tensor:
    """Queries or keys x (..., n, d), each turned by its position (arXiv 2104.09864).

    `positions` is (n,). As in Llama, numbers i and i + d / 2 are the two coordinates of a point in
    a plane, and the point turns about the origin by its pair's angle. (The paper pairs neighbours.)
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    turns = angles(positions.to(exact), x.shape[-1], base)  # (n, d / 2)
    cos = turns.cos().to(x.dtype)
    sin = turns.sin().to(x.dtype)
    across, up = x.chunk(2, dim=-1)  # each (..., n, d / 2)
    new_across = across * cos - up * sin
    new_up = across * sin + up * cos
    return torch.cat((new_across, new_up), dim=-1)
