"""A KV cache by hand, for models of Llama's form: what was worked out for a token is kept for the next one."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from course_utils.research.attention_by_hand import attention
from course_utils.research.positions import rotary


@dataclass
class Cache:
    """The keys and the values of every layer, each (batch, heads, tokens, d); empty before the first token."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return self.keys[0].shape[-2] if self.keys else 0

    @property
    def bytes(self) -> int:
        """What its numbers take in memory."""
        return sum(kept.numel() * kept.element_size() for kept in (*self.keys, *self.values))


Step = tuple[Tensor, Tensor, Tensor]  # the result, the keys and the values to keep


def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Step:
    """Attention of new tokens to all tokens so far: the result, and the keys and values to keep.

    q, k and v (batch, heads, new, d) belong to the new tokens, already turned by their positions;
    `keys` and `values` (batch, heads, old, d) were kept. A new token sees all old ones, the new
    ones before it, and itself.
    """
    old = keys.shape[-2]
    new = q.shape[-2]
    keys = torch.cat((keys, k), dim=-2)  # (batch, heads, old + new, d)
    values = torch.cat((values, v), dim=-2)
    everything = torch.ones(new, old + new, dtype=torch.bool, device=q.device)
    mask = everything.tril(diagonal=old)
    result, _ = attention(q, keys, values, mask)  # (batch, heads, new, d)
    return result, keys, values


def one_by_one(step: Callable) -> Callable:
    """`attend`, made from a `step` for one token without a batch: its new tokens are handed over in their order.

    `step` takes q, k and v (heads, d), keys and values (heads, old, d), and returns as `attend` does. The heads of all
    rows of a batch are heads to it.
    """

    def steps(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Step:
        batch = len(q)
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))  # (batch x heads, new, d)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        results = []
        for t in range(q.shape[1]):
            result, keys, values = step(q[:, t], k[:, t], v[:, t], keys, values)
            results.append(result)  # (batch x heads, d)
        together = torch.stack(results, dim=1)
        apart = [part.unflatten(0, (batch, -1)) for part in (together, keys, values)]
        return tuple(apart)

    return steps


def forward(model: nn.Module, ids: Tensor, cache: Cache, step: Callable = attend) -> Tensor:
    """Logits (batch, new, words) of a Llama-like model for new tokens `ids` (batch, new).

    The cache grows by them. `step` does attention as `attend` does. ValueError for a model
    whose heads share keys: this lesson's code does not repeat them.
    """
    config = model.config
    if config.num_key_value_heads != config.num_attention_heads:
        raise ValueError("this model's heads share keys; take one where each has its own")
    positions = torch.arange(cache.tokens, cache.tokens + ids.shape[1], device=ids.device)
    if not cache.keys:
        _open(cache, model, batch=len(ids))
    states = model.model.embed_tokens(ids)  # (batch, new, width)
    for index, layer in enumerate(model.model.layers):
        q, k, v = queries_keys_values(layer, states, positions, config)
        mixed, keys, values = step(q, k, v, cache.keys[index], cache.values[index])
        cache.keys[index] = keys
        cache.values[index] = values
        joined = mixed.transpose(1, 2).flatten(-2)  # (batch, new, width)
        states = states + layer.self_attn.o_proj(joined)
        states = states + layer.mlp(layer.post_attention_layernorm(states))
    return model.lm_head(model.model.norm(states))


def _open(cache: Cache, model: nn.Module, batch: int) -> None:
    """No tokens yet, in every layer."""
    config = model.config
    heads = config.num_attention_heads
    width = config.hidden_size // heads
    nothing = model.lm_head.weight.new_empty(batch, heads, 0, width)
    cache.keys = [nothing] * config.num_hidden_layers
    cache.values = [nothing] * config.num_hidden_layers


def queries_keys_values(
    layer: nn.Module,
    states: Tensor,
    positions: Tensor,
    config: object,
) -> Step:
    """The heads' queries, keys and values, each (batch, heads, n, d), queries and keys turned.

    `states` (batch, n, width) is what enters the layer, `positions` (n,) where its tokens stand.
    """
    base = config.rope_parameters["rope_theta"]
    normed = layer.input_layernorm(states)
    attend = layer.self_attn
    projected = [project(normed) for project in (attend.q_proj, attend.k_proj, attend.v_proj)]
    heads = [part.unflatten(-1, (config.num_attention_heads, -1)) for part in projected]
    q, k, v = [part.transpose(1, 2) for part in heads]  # each (batch, heads, n, d)
    return rotary(q, positions, base), rotary(k, positions, base), v


@torch.inference_mode()
def greedy(model: nn.Module, ids: Tensor, new: int, cached: bool, step: Callable = attend) -> Tensor:
    """The `new` tokens (batch, new) that a Llama-like model writes after `ids`, the likeliest each time.

    With `cached` a step reads one token; without, it reads the whole text anew.
    """
    cache = Cache()
    text = ids
    reads = ids
    for _ in range(new):
        logits = forward(model, reads, cache, step)
        best = logits[:, -1:].argmax(-1)  # (batch, 1)
        text = torch.cat((text, best), dim=1)
        if cached:
            reads = best
        else:
            reads = text
            cache = Cache()
    return text[:, ids.shape[1] :]


@torch.inference_mode()
def next_token_times(model: nn.Module, ids: Tensor, rounds: int = 7) -> tuple[list[float], list[float]]:
    """Milliseconds for the token after `ids` (1, n): with the cache of all but the last, and without any.

    The two take turns, after one round that does not count.
    """
    known = Cache()
    forward(model, ids[:, :-1], known)
    ways = ((ids[:, -1:], known), (ids, Cache()))
    timed: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for (reads, cache), times in zip(ways, timed, strict=True):
            copied = Cache(list(cache.keys), list(cache.values))
            times.append(_milliseconds(model, reads, copied))
    return timed[0][1:], timed[1][1:]


def _milliseconds(model: nn.Module, reads: Tensor, cache: Cache) -> float:
    start = time.perf_counter()
    forward(model, reads, cache)
    if reads.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)
