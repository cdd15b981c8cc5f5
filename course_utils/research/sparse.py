"""Attention that looks at less: windows, blocks, the first tokens; and attention over a ring of devices."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ---------------------------------------------------------------- masks: True where a query (row) may look


def window_mask(n: int, window: int, first: int = 0) -> Tensor:
    """(n, n): each token sees itself and the `window` - 1 before it, and always the `first` tokens
    of the text.

    ValueError for a window below 1: a token that sees nothing has no softmax.
    """
    if window < 1 or first < 0:
        raise ValueError(f"A window of {window}, {first} first tokens: take 1 or more, 0 or more.")
    places = torch.arange(n)
    distance = places.unsqueeze(-1) - places  # (n, n)
    near = distance < window
    kept = places < first
    return (near | kept) & (distance >= 0)


def block_sparse_mask(n: int, block: int, near: int = 1, chosen: int = 1, seed: int = 0) -> Tensor:
    """(n, n), in blocks of `block` tokens, as BigBird has them (arXiv 2007.14062), for a text read from left to right.

    Each block sees itself and the `near` before it, the first one, and `chosen` others, drawn once. ValueError if `n`
    is no multiple of `block`.
    """
    if block < 1 or n % block:
        raise ValueError(f"{n} tokens are no whole number of blocks of {block}: change one of them.")
    count = n // block
    blocks = window_mask(count, near + 1, first=1)  # (blocks, blocks)
    generator = torch.Generator().manual_seed(seed)
    for row in range(count):
        drawn = torch.randperm(row + 1, generator=generator)[:chosen]
        blocks[row, drawn] = True
    tokens = blocks.repeat_interleave(block, 0).repeat_interleave(block, 1)  # (n, n)
    return tokens.tril()


# ---------------------------------------------------------------- the window, and nothing else, computed


def masked_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """A window as a mask: all n x n scores are made, and most of them are thrown away. Shapes (..., n, d)."""
    mask = window_mask(q.shape[-2], window)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., n, n)
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """The same in blocks as long as the window: each block needs its own keys and those of the block before.

    q, k, v: (..., n, d). ValueError if n is no multiple of the window.
    """
    n = q.shape[-2]
    if window < 1 or n % window:
        raise ValueError(f"{n} tokens are no whole number of windows of {window}: fill the text up.")
    asks = q.unflatten(-2, (-1, window))  # (..., blocks, window, d)
    keys = _with_the_block_before(k, window)  # (..., blocks, 2 window, d)
    values = _with_the_block_before(v, window)
    scores = asks @ keys.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., blocks, window, 2 window)
    places = torch.arange(2 * window)
    distance = places[window:].unsqueeze(-1) - places  # (window, 2 window)
    allowed = (distance >= 0) & (distance < window)
    exists = torch.ones(n // window, 1, 2 * window, dtype=torch.bool)
    exists[0, :, :window] = False  # nothing stands before the first block
    scores = scores.masked_fill(~(allowed & exists), float("-inf"))
    return (scores.softmax(-1) @ values).flatten(-3, -2)


def _with_the_block_before(x: Tensor, window: int) -> Tensor:
    """(..., n, d) to (..., blocks, 2 window, d)."""
    shifted = F.pad(x, (0, 0, window, 0))[..., :-window, :]
    before = shifted.unflatten(-2, (-1, window))
    own = x.unflatten(-2, (-1, window))
    return torch.cat([before, own], dim=-2)


# ---------------------------------------------------------------- a trained model behind a mask


def logits_behind(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits (batch, n, words) of a transformers model for ids (batch, n), where each layer sees by `mask` (n, n).

    Positions stay what they are: only what a token may look at changes.
    """
    numbers = torch.zeros(mask.shape, dtype=model.dtype)
    hidden = numbers.masked_fill(~mask, float("-inf")).expand(len(ids), 1, -1, -1)
    with torch.inference_mode():
        result = model(input_ids=ids.to(model.device), attention_mask=hidden.to(model.device), use_cache=False)
    return result.logits.float().cpu()


def surprise(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Loss in nats of each token after the first, (batch, n - 1), behind a mask."""
    logits = logits_behind(model, ids, mask)[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


# ---------------------------------------------------------------- a ring of devices


@dataclass(frozen=True)
class Ring:
    """What a ring of devices made: the result, and for one device the numbers that it held and sent."""

    result: Tensor
    held: int  # scores at once
    sent: int  # numbers, over all rounds
    busy: list[int]  # devices that had something to compute, for each round


def ring_attention(q: Tensor, k: Tensor, v: Tensor, devices: int) -> Ring:
    """Causal attention with the text cut over devices that pass keys and values on (arXiv 2310.01889).

    q, k, v: (n, d). Each device keeps its queries, and after `devices` rounds it has seen all keys. Softmax is put
    together from parts, as in FlashAttention. ValueError if n is no multiple of `devices`.
    """
    n, width = q.shape
    if devices < 1 or n % devices:
        raise ValueError(f"{n} tokens can't be shared equally by {devices} devices: fill the text up.")
    size = n // devices
    queries, keys, values = q.split(size), k.split(size), v.split(size)
    devices_ = [_Device(part, place * size) for place, part in enumerate(queries)]
    busy = []
    for round_ in range(devices):
        worked = 0
        for place, device in enumerate(devices_):
            owner = (place - round_) % devices  # whose keys have arrived here
            worked += device.look(keys[owner], values[owner], owner * size)
        busy.append(worked)
    result = torch.cat([device.result() for device in devices_])
    sent = (devices - 1) * 2 * size * width
    return Ring(result, size * size, sent, busy)


class _Device:
    """One member of the ring: its queries, and what it has summed up so far."""

    def __init__(self, q: Tensor, start: int) -> None:
        self.q, self.start = q, start
        self.top = q.new_full((len(q), 1), float("-inf"))  # the largest score so far
        self.total = q.new_zeros(len(q), 1)
        self.mixed = torch.zeros_like(q)

    def look(self, k: Tensor, v: Tensor, start: int) -> bool:
        """Take in a block of keys and values that begins at `start`; False if all of it is in the future."""
        if start > self.start:
            return False
        own = self.start + torch.arange(len(self.q))
        theirs = start + torch.arange(len(k))
        scores = self.q @ k.T / math.sqrt(self.q.shape[-1])  # (own, theirs)
        scores = scores.masked_fill(theirs > own.unsqueeze(-1), float("-inf"))
        new_top = torch.maximum(self.top, scores.amax(-1, keepdim=True))
        old = (self.top - new_top).exp()  # what the sums so far are worth now
        part = (scores - new_top).exp()
        self.total = self.total * old + part.sum(-1, keepdim=True)
        self.mixed = self.mixed * old + part @ v
        self.top = new_top
        return True

    def result(self) -> Tensor:
        return self.mixed / self.total
