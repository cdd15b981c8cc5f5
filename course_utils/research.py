"""Helpers of Unit 7.3: attention by hand, a look inside trained models, quantisation, fair measurements.

The short functions that are the lesson (attention, multi_head_attention, tiled_attention, rollout, quantise)
stand in the notebook word for word; a test holds both copies in step.
"""

import contextlib
import copy
import functools
import math
import random
import re
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_utils.prisma import lm, text
from course_utils.prisma.shop import make_shop, open_database
from course_utils.prisma.tools import Toolbox

# ---------------------------------------------------------------------------------- attention by hand


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention (arXiv 1706.03762, equation 1): the result and the weights.

    q is (..., n, d), k (..., m, d), v (..., m, e); `mask` (n, m) is True where a query may look.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(dim=-1)
    return weights @ v, weights


def multi_head_attention(x: Tensor, module: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    """What `module` does to x (batch, n, width): project, split into heads, attend, join, project.

    Returns the result (batch, n, width) and the weights of every head (batch, heads, n, n).
    """
    q, k, v = F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    mixed, weights = attention(q, k, v)
    return module.out_proj(mixed.transpose(1, 2).flatten(-2)), weights


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 128) -> Tensor:
    """Attention without the n x n matrix, one block of keys at a time (as in arXiv 2205.14135).

    For every query it carries the largest score so far, the sum of exponentials, and the weighted
    sum of values; a new largest score rescales what was summed before. Shapes as in `attention`,
    without a mask.
    """
    top = q.new_full((*q.shape[:-1], 1), float("-inf"))
    total, result = torch.zeros_like(top), torch.zeros_like(q)
    for k_part, v_part in zip(k.split(block, dim=-2), v.split(block, dim=-2), strict=True):
        scores = q @ k_part.transpose(-2, -1) / math.sqrt(q.shape[-1])
        new_top = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
        old, part = (top - new_top).exp(), (scores - new_top).exp()
        total = total * old + part.sum(dim=-1, keepdim=True)
        result = result * old + part @ v_part
        top = new_top
    return result / total


# ---------------------------------------------------------------------------------- looking into models


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


def vision_attention(clip: nn.Module, pixels: Tensor) -> tuple[Tensor, float]:
    """Attention weights (layers, batch, heads, n, n) of an open_clip vision tower, and how far off they are.

    open_clip asks its blocks for no weights. So every block's input is caught and attention is done again by
    hand; the number is the largest difference between that and what the block itself gave. Token 0 is the
    class token.
    """
    found: list[Tensor] = []
    worst = 0.0

    def again(module: nn.MultiheadAttention, inputs: tuple, output: tuple) -> None:
        nonlocal worst
        mixed, weights = multi_head_attention(inputs[0], module)
        worst = max(worst, (mixed - output[0]).abs().max().item())
        found.append(weights.float().cpu())

    blocks = [m for m in clip.visual.modules() if isinstance(m, nn.MultiheadAttention)]
    hooks = [block.register_forward_hook(again) for block in blocks]
    try:
        with torch.no_grad():
            clip.encode_image(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found), worst


def rollout(maps: Tensor) -> Tensor:
    """Attention followed through all layers (arXiv 2005.00928): (layers, heads, n, n) to (n, n).

    Row i says how much of every input token is in token i at the top, if each layer mixes half of
    what it had (the residual connection) with half of what its heads brought, on average.
    """
    mixed = torch.eye(maps.shape[-1])
    for layer in maps.mean(dim=1):
        mixed = (0.5 * torch.eye(maps.shape[-1]) + 0.5 * layer) @ mixed
    return mixed


def head_roles(maps: Tensor) -> dict[str, Tensor]:
    """The share of attention that each head spends on three places: {place: (layers, heads)}.

    `maps` is (layers, heads, n, n) from a causal model. The first token is left out as a query: it sees only
    itself.
    """
    return {
        "itself": maps.diagonal(dim1=-2, dim2=-1)[..., 1:].mean(-1),
        "the token before": maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1),
        "the first token": maps[..., 1:, 0].mean(-1),
    }


def repeated_rows(tokenizer, words: Sequence[str], count: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of `count` different words, each row written twice: token ids (rows, 2 x length), and where copying is due.

    Only words are used that take as few tokens as the shortest, with the space before them. The second tensor holds
    the positions, in the second copy, after which a word comes that the model can know.
    """
    pieces = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    size = min(map(len, pieces))
    usable = torch.tensor([piece for piece in pieces if len(piece) == size])
    generator = torch.Generator().manual_seed(seed)
    picks = torch.stack([torch.randperm(len(usable), generator=generator)[:count] for _ in range(rows)])
    length = count * size
    asks = torch.arange(length + 2 * size - 2, 2 * length - 1, size)
    return usable[picks].flatten(1).repeat(1, 2), asks


def induction_scores(maps: Tensor, asks: Tensor) -> Tensor:
    """The share of attention that goes to the word which came next the last time: (layers, heads).

    `maps` is (layers, batch, heads, n, n) for rows that are written twice; `asks` are the places
    where copying is due. A head may look right there or up to one word earlier: the better counts.
    1 would be a head that does nothing else (Olsson et al. 2022, arXiv 2209.11895).
    """
    wanted = asks - maps.shape[-1] // 2 + 1
    word = int(asks[1] - asks[0])  # tokens a word, the space before it included
    looks = [maps[..., asks - back, wanted].mean(dim=(1, -1)) for back in range(word)]
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
        if which := [head for at, head in heads if at == index]:
            hooks.append(layer.self_attn.o_proj.register_forward_pre_hook(functools.partial(silence, which)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def copying(model: nn.Module, ids: Tensor, asks: Tensor) -> list[bool]:
    """For rows of `repeated_rows`: is each word of the second copy the model's first choice?"""
    with torch.inference_mode():
        guesses = model(input_ids=ids.to(model.device), use_cache=False).logits.argmax(-1).cpu()
    return (guesses[:, asks] == ids[:, asks + 1]).flatten().tolist()


# ---------------------------------------------------------------------------------- quantisation


def quantise(weights: Tensor, bits: int, group: int = 64) -> Tensor:
    """`weights` rounded to `bits` bits in groups that share a scale, and back to ordinary numbers.

    Two bits and more: whole numbers from -m to m with m = 2^(bits - 1) - 1; the largest weight of a
    group becomes m. One bit: the sign, times the mean size of the group (arXiv 1603.05279).
    """
    groups = weights.float().reshape(-1, group)
    if bits == 1:
        rounded = groups.sign() * groups.abs().mean(1, keepdim=True)
    else:
        most = 2 ** (bits - 1) - 1
        scale = groups.abs().amax(1, keepdim=True).clamp(min=1e-12) / most
        rounded = (groups / scale).round() * scale
    return rounded.reshape(weights.shape).to(weights.dtype)


def nf4(weights: Tensor) -> Tensor:
    """The same round trip through bitsandbytes' 4-bit NormalFloat (arXiv 2305.14314) in blocks of 64."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weights.float().contiguous(), blocksize=64, quant_type="nf4")
    return dequantize_4bit(packed, state).to(weights.dtype)


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The matrices inside the layers of a language model, by name: what quantisation shrinks."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lm_head" not in name
    }


def quantised_copy(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of `model` whose matrices went through `change`; embeddings and norms stay as they are."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for module in matrices(copied).values():
            module.weight.copy_(change(module.weight))
    return copied


def megabytes(model: nn.Module, bits: float) -> float:
    """Size in 10^6 bytes if the matrices take `bits` bits a weight, scales included, and the rest 16."""
    inside = sum(module.weight.numel() for module in matrices(model).values())
    everything = sum(p.numel() for p in model.parameters())
    return (inside * bits + (everything - inside) * 16) / 8e6


# ---------------------------------------------------------------------------------- fair measurements


def tool_tasks(n: int, seed: int) -> list[text.Example]:
    """`n` questions about a shop that no model was trained on, with the ReAct traces that answer them."""
    shop, rng = make_shop(seed), random.Random(seed)
    toolbox = Toolbox(open_database(shop))
    return [text.react(rng, toolbox, task, unreliable=0) for task in text.episodes(n, seed, shop)]


def sums(n: int, seed: int) -> list[text.Sum]:
    """`n` different shopping sums."""
    rng, found = random.Random(seed), {}
    while len(found) < n:
        made = text.shopping_sum(rng)
        found.setdefault(made.question, made)
    return list(found.values())


def sum_tasks(n: int, seed: int) -> list[text.Example]:
    """`n` shopping sums with their worked steps, to be scored like the tool tasks."""
    return [text.worked(random.Random(f"sum {seed} {i}")) for i in range(n)]


@dataclass(frozen=True)
class Score:
    """Perplexity on what the model has to write, and for each example whether it would write exactly that:
    whether the right token is its first choice at every step.
    """

    perplexity: float
    exact: list[bool]


def score(model: nn.Module, tokenizer, examples: Sequence[text.Example], batch: int = 16) -> Score:
    """Read every example once and compare each token to be written with the model's guess for it."""
    rows = [lm.encode(tokenizer, example) for example in examples]
    found = lm.read(model, rows, tokenizer.pad_token_id, batch, use_cache=False)
    return Score(lm.perplexity(found), [one.right for one in found])


def wrong_start(made: text.Sum, rng: random.Random) -> tuple[str, str]:
    """The first worked step of a sum with a slip in it, and the answer for one who believes the slip."""
    first, *rest = made.steps.split(". ")
    left, value = first.split(" = ")
    wrong = int(value) + rng.choice((-1, 1)) * rng.randint(1, 9)
    second = int(rest[0].split(" = ")[1])
    return f"{left} = {wrong}. ", str(wrong + second)


def last_number(reply: str) -> str:
    """The number in the final answer of a reply, or the last one in it; "" if there is none."""
    numbers = re.findall(r"\d+", text.final_answer(reply)) or re.findall(r"\d+", reply)
    return numbers[-1] if numbers else ""


# ---------------------------------------------------------------------------------- time and memory


class _Tracer(TorchDispatchMode):
    """Adds up the storages that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.live:
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = storage.nbytes()
                self.peak = max(self.peak, sum(self.live.values()))
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
        return result


def peak_mib(function: Callable, *inputs: Tensor) -> float:
    """MiB that `function` holds at most beyond its inputs, its result included.

    On CUDA the allocator counts. Elsewhere every tensor that an operator makes is counted; scratch space
    inside an operator is not seen.
    """
    with torch.no_grad():
        if inputs[0].is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            function(*inputs)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        known = {tensor.untyped_storage()._cdata: 0 for tensor in inputs}
        with _Tracer() as tracer:
            tracer.live.update(known)
            function(*inputs)
    return tracer.peak / 2**20


def milliseconds(function: Callable, *inputs: Tensor, rounds: int = 3) -> float:
    """The fastest of `rounds` runs after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            function(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])
