"""Looking into models: attention maps, rollout, head roles, heads switched off."""

import contextlib
import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from course_utils.research.attention_by_hand import multi_head_attention


@contextlib.contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Let a transformers model do attention step by step for a while: fused kernels keep no weights."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attention_maps(model: nn.Module, ids: Tensor) -> Tensor:
    """Attention weights (layers, batch, heads, n, n) of a transformers model for token ids (batch, n)."""
    with torch.inference_mode(), eager(model):
        result = model(input_ids=ids.to(model.device), output_attentions=True, use_cache=False)
    return torch.stack([layer.float().cpu() for layer in result.attentions])


def largest_difference(first: Tensor, second: Tensor) -> float:
    """How far apart two tensors of one shape are where they differ most."""
    return (first - second).abs().max().item()


def ranked_heads(scores: Tensor) -> list[tuple[int, int]]:
    """The places of all heads as (layer, head), the largest of `scores` (layers, heads) first."""
    order = scores.flatten().argsort(descending=True, stable=True)
    return [divmod(place, scores.shape[1]) for place in order.tolist()]


def vision_blocks(clip: nn.Module) -> list[nn.MultiheadAttention]:
    """The attention of every block of an open_clip vision tower, the first block first."""
    return [module for module in clip.visual.modules() if isinstance(module, nn.MultiheadAttention)]


def vision_attention(clip: nn.Module, pixels: Tensor) -> tuple[Tensor, float]:
    """Attention weights (layers, batch, heads, n, n) of an open_clip vision tower, and how far off they are.

    open_clip asks its blocks for no weights. So every block's input is caught and attention is done again by
    hand; the number is the largest difference between that and what the block itself gave. Token 0 is the
    class token.
    """
    maps: list[Tensor] = []
    worst = 0.0

    def again(module: nn.MultiheadAttention, inputs: tuple, output: tuple) -> None:
        nonlocal worst
        mixed, weights = multi_head_attention(inputs[0], module)
        worst = max(worst, largest_difference(mixed, output[0]))
        maps.append(weights.float().cpu())

    blocks = vision_blocks(clip)
    hooks = [block.register_forward_hook(again) for block in blocks]
    device = next(clip.parameters()).device
    try:
        with torch.no_grad():
            clip.encode_image(pixels.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps), worst


def rollout(maps: Tensor) -> Tensor:
    """Attention followed through all layers (arXiv 2005.00928): (layers, heads, n, n) to (n, n).

    Row i says how much of every input token is in token i at the top, if each layer mixes half of
    what it had (the residual connection) with half of what its heads brought, on average.
    """
    itself = torch.eye(maps.shape[-1])  # (n, n)
    mixed = itself
    for layer in maps.mean(dim=1):  # (n, n), the mean of the heads
        step = 0.5 * itself + 0.5 * layer
        mixed = step @ mixed
    return mixed


def head_roles(maps: Tensor) -> dict[str, Tensor]:
    """The share of attention that each head spends on three places: {place: (layers, heads)}.

    `maps` is (layers, heads, n, n) from a causal model. The first token is left out as a query: it sees only
    itself.
    """
    itself = maps.diagonal(dim1=-2, dim2=-1)[..., 1:]
    before = maps.diagonal(offset=-1, dim1=-2, dim2=-1)
    first = maps[..., 1:, 0]
    return {
        "itself": itself.mean(-1),
        "the token before": before.mean(-1),
        "the first token": first.mean(-1),
    }


def repeated_rows(tokenizer, words: Sequence[str], count: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of `count` different words, each row written twice: token ids (rows, 2 x length), and where copying is due.

    Only words are used that take as few tokens as the shortest, with the space before them. The second tensor holds
    the positions, in the second copy, after which a word comes that the model can know.
    """
    pieces = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    size = min(map(len, pieces))
    usable = torch.tensor([piece for piece in pieces if len(piece) == size])  # (words, size)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(usable), generator=generator) for _ in range(rows)]
    picks = torch.stack([order[:count] for order in orders])
    once = usable[picks].flatten(1)  # (rows, length)
    length = count * size
    asks = torch.arange(length + 2 * size - 2, 2 * length - 1, size)
    return once.repeat(1, 2), asks


def induction_scores(maps: Tensor, asks: Tensor) -> Tensor:
    """The share of attention that goes to the word which came next the last time: (layers, heads).

    `maps` is (layers, batch, heads, n, n) for rows that are written twice; `asks` are the places
    where copying is due. A head may look right there or up to one word earlier: the better counts.
    1 would be a head that does nothing else (Olsson et al. 2022, arXiv 2209.11895).
    """
    length = maps.shape[-1] // 2  # of one copy
    wanted = asks - length + 1
    word = int(asks[1] - asks[0])  # tokens a word, the space before it included
    looks = []
    for back in range(word):
        weights = maps[..., asks - back, wanted]  # (layers, batch, heads, asks)
        looks.append(weights.mean(dim=(1, -1)))  # (layers, heads)
    return torch.stack(looks).amax(dim=0)


@contextlib.contextmanager
def without_heads(model: nn.Module, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Switch (layer, head) pairs of a Llama-like model off: their part of the result is set to zero."""

    def silence(which: list[int], module: nn.Module, inputs: tuple) -> tuple:
        parts = inputs[0].unflatten(-1, (model.config.num_attention_heads, -1)).clone()
        parts[..., which, :] = 0
        return (parts.flatten(-2),)

    hooks = []
    for index, layer in enumerate(model.model.layers):
        which = [head for at, head in heads if at == index]
        if which:
            silenced = functools.partial(silence, which)
            hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(silenced))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def copying(model: nn.Module, ids: Tensor, asks: Tensor) -> list[bool]:
    """For rows of `repeated_rows`: is each word of the second copy the model's first choice?"""
    with torch.inference_mode():
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
    guesses = logits.argmax(-1).cpu()
    right = guesses[:, asks] == ids[:, asks + 1]
    return right.flatten().tolist()
