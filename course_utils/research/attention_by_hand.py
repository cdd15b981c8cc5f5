"""Attention by hand."""

import math

from torch import Tensor, nn
from torch.nn import functional as F


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention (arXiv 1706.03762, equation 1): the result and the weights.

    q is (..., n, d), k (..., m, d), v (..., m, e); `mask` (n, m) is True where a query may look.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., n, m)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)  # (..., n, m)
    return weights @ v, weights


def multi_head_attention(x: Tensor, module: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """What `module` does to x (batch, n, width): project, split into heads, attend, join, project.

    Returns the result (batch, n, width) and the weights of every head (batch, heads, n, n).
    """
    projected = F.linear(x, module.in_proj_weight, module.in_proj_bias)  # (batch, n, 3 width)
    parts = projected.unflatten(-1, (3, module.num_heads, -1))  # (batch, n, 3, heads, d)
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, n, d)
    mixed, weights = attention(q, k, v)
    joined = mixed.transpose(1, 2).flatten(-2)  # (batch, n, width)
    return module.out_proj(joined), weights
