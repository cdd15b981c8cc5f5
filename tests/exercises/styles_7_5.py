"""Right answers to the exercises of Unit 7.5 in many styles. All of them have to pass."""

import math
from bisect import bisect
from collections.abc import Iterator, Sequence
from functools import partial, reduce

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F

IGNORE = -100
WORDS = 3

# --- lora_forward


def lora_plain(x, weight, A, B, alpha):
    r = A.shape[0]
    return x @ weight.T + (alpha / r) * (x @ A.T) @ B.T


def lora_linear(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return F.linear(x, weight) + alpha / A.size(0) * F.linear(F.linear(x, A), B)


def lora_einsum(x, weight, A, B, alpha):
    frozen = einsum("...k,dk->...d", x, weight)
    change = einsum("...k,rk,dr->...d", x, A, B)
    return frozen + change * alpha / len(A)


def lora_merged(x, W, A, B, alpha):
    return x @ (W + alpha / len(A) * B @ A).T


def lora_steps(x, weight, A, B, alpha):
    down = torch.matmul(x, A.t())
    up = torch.matmul(down, B.t())
    return torch.add(torch.matmul(x, weight.t()), up, alpha=alpha / A.shape[0])


def lora_rows(x, weight, A, B, alpha):
    scale = alpha / len(A)
    rows = [weight @ row + scale * (B @ (A @ row)) for row in x.reshape(-1, x.shape[-1])]
    return torch.stack(rows).reshape(*x.shape[:-1], len(weight))


def lora_ranks(x, weight, A, B, alpha):
    """One rank after the other."""
    result = x @ weight.T
    for a, b in zip(A, B.T, strict=True):
        result = result + alpha / len(A) * (x @ a)[..., None] * b
    return result


class Adapted(nn.Module):
    def __init__(self, weight, A, B, alpha):
        super().__init__()
        self.weight, self.A, self.B, self.scale = weight, A, B, alpha / len(A)

    def forward(self, x):
        return x @ self.weight.T + self.scale * self.change(x)

    def change(self, x):
        return x @ self.A.T @ self.B.T


def lora_module(x, weight, A, B, alpha):
    return Adapted(weight, A, B, alpha)(x)


# --- nf4_quantise


def largest_of(blocks: Tensor) -> Tensor:
    return blocks.abs().max(dim=1, keepdim=True).values.clamp_min(1e-30)


def quantise_distances(weights, levels, block=64):
    scaled = weights.reshape(-1, block)
    scaled = scaled / largest_of(scaled)
    codes = (scaled.flatten()[:, None] - levels[None]).abs().argmin(dim=1)
    return ((codes[::2] << 4) | codes[1::2]).to(torch.uint8)


def quantise_middles(weights: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    blocks = weights.view(-1, block)
    middles = levels[:-1] + levels.diff() / 2
    codes = torch.bucketize(blocks / largest_of(blocks), middles).flatten()
    return (codes[0::2] * 16 + codes[1::2]).byte()


def nearest_code(x: float, levels: list[float]) -> int:
    return min(range(len(levels)), key=lambda i: abs(levels[i] - x))


def quantise_python(weights, levels, block=64):
    codes, levels = [], levels.tolist()
    for start in range(0, len(weights), block):
        numbers = weights[start : start + block].tolist()
        top = max(map(abs, numbers)) or 1.0
        codes += [nearest_code(number / top, levels) for number in numbers]
    return torch.tensor([16 * a + b for a, b in zip(codes[::2], codes[1::2], strict=True)], dtype=torch.uint8)


def quantise_bisect(weights, levels, block=64):
    steps = levels.tolist()
    middles = [(a + b) / 2 for a, b in zip(steps, steps[1:], strict=False)]
    result = torch.empty(len(weights) // 2, dtype=torch.uint8)
    for i in range(len(result)):
        base = 2 * i // block * block
        scale = float(weights[base : base + block].abs().max())
        upper, lower = (bisect(middles, float(weights[2 * i + k]) / scale) if scale else 7 for k in (0, 1))
        result[i] = upper * 16 + lower
    return result


def quantise_where(weights, levels, block=64):
    blocks = weights.unflatten(0, (-1, block))
    top = blocks.abs().amax(-1, keepdim=True)
    scaled = torch.where(top > 0, blocks / top, torch.zeros_like(blocks))
    pairs = (scaled[..., None] - levels).square().argmin(-1).view(-1, 2)
    return (pairs @ torch.tensor([16, 1])).to(torch.uint8)


def quantise_search(weights, levels, block=64):
    flat = (weights.reshape(-1, block) / largest_of(weights.reshape(-1, block))).reshape(-1)
    middles = (levels[1:] + levels[:-1]) * 0.5
    codes = torch.searchsorted(middles.contiguous(), flat).to(torch.uint8)
    return torch.bitwise_or(torch.bitwise_left_shift(codes[0::2], 4), codes[1::2])


def quantise_counting(weights, levels, block=64):
    scales = weights.reshape(-1, block).abs().amax(1).clamp(min=1e-38).repeat_interleave(block)
    codes = sum(((weights / scales) > (a + b) / 2).int() for a, b in zip(levels, levels[1:], strict=False))
    first, second = codes.reshape(-1, 2).unbind(1)
    return (first * 16 + second).type(torch.uint8)


def quantise_chunks(weights, levels, block=64):
    def one(chunk):
        chunk = chunk / chunk.abs().max().clamp(min=1e-20)
        return torch.cdist(chunk[:, None], levels[:, None]).argmin(1)

    codes = torch.cat([one(chunk) for chunk in weights.split(block)])
    return codes.view(-1, 2).mul(torch.tensor([16, 1])).sum(1).to(dtype=torch.uint8)


# --- nf4_dequantise


def dequantise_plain(packed, scales, levels, block=64):
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    return levels[codes.long()] * scales.repeat_interleave(block)


def dequantise_division(packed, scales, levels, block=64):
    codes = torch.stack((packed // 16, packed % 16), -1).reshape(-1, block).int()
    return (levels[codes] * scales.unsqueeze(1)).reshape(-1)


def dequantise_python(packed, scales, levels, block=64):
    numbers = []
    for byte in packed.tolist():
        for code in divmod(byte, 16):
            numbers.append(levels[code].item() * scales[len(numbers) // block].item())
    return torch.tensor(numbers)


def dequantise_filled(packed: Tensor, scales: Tensor, levels: Tensor, block: int = 64) -> Tensor:
    weights = torch.zeros(2 * len(packed))
    weights[0::2] = levels[(packed >> 4).long()]
    weights[1::2] = levels[(packed & 0xF).long()]
    for i, scale in enumerate(scales):
        weights[i * block : (i + 1) * block] *= scale
    return weights


def dequantise_table(packed, scales, levels, block=64):
    """A table of both numbers of each byte."""
    pairs = torch.cartesian_prod(levels, levels)
    return einsum("bn,b->bn", pairs[packed.long()].view(len(scales), block), scales).flatten()


def dequantise_onehot(packed, scales, levels, block=64):
    codes = torch.stack([packed.div(16, rounding_mode="floor"), packed.remainder(16)], 1).reshape(-1).long()
    return F.one_hot(codes, 16).float() @ levels * torch.kron(scales, torch.ones(block))


def dequantise_gathered(packed, scales, levels, block=64):
    shifts = torch.tensor([4, 0], dtype=torch.uint8)
    codes = packed[:, None].bitwise_right_shift(shifts).bitwise_and(15)
    return levels.take(codes.long()).reshape(-1, block).mul(scales[:, None]).ravel()


def dequantise_embedding(packed, scales, levels, block=64):
    numbers = torch.cat([(packed >> 4)[:, None], (packed & 15)[:, None]], dim=1).flatten().int()
    return F.embedding(numbers, levels[:, None])[:, 0] * scales[torch.arange(len(numbers)) // block]


# --- without_copies


def runs(text: str) -> set:
    words = text.lower().split()
    if len(words) < WORDS:
        return {tuple(words)}
    return {tuple(words[i : i + WORDS]) for i in range(len(words) - WORDS + 1)}


def jaccard(a: set, b: set) -> float:
    return len(a.intersection(b)) / len(a.union(b))


def copies_plain(texts, test, limit):
    seen, kept = [runs(t) for t in test], []
    for i, text in enumerate(texts):
        if any(jaccard(runs(text), other) >= limit for other in seen):
            continue
        seen.append(runs(text))
        kept.append(i)
    return kept


def copies_pairwise(texts: Sequence[str], test: Sequence[str], limit: float) -> list[int]:
    kept = []
    for i in range(len(texts)):
        others = list(test) + [texts[j] for j in kept]
        if max((jaccard(runs(texts[i]), runs(other)) for other in others), default=0) < limit:
            kept.append(i)
    return kept


def copies_strings(texts, test, limit):
    def grams(text):
        words = text.casefold().split()
        return frozenset(" ".join(words[i : i + 3]) for i in range(max(len(words) - 2, 1)))

    def alike(a, b):
        return len(a & b) >= limit * len(a | b)

    kept, sets = [], [grams(one) for one in test]
    for place, own in enumerate(map(grams, texts)):
        if not any(alike(own, other) for other in sets):
            kept, sets = kept + [place], sets + [own]
    return kept


def copies_for_else(texts, test, limit):
    result, pool = [], list(map(runs, test))
    for index, text in enumerate(texts):
        mine = runs(text)
        for theirs in pool:
            both = len(mine & theirs)
            if both / (len(mine) + len(theirs) - both) >= limit:
                break
        else:
            result.append(index)
            pool.append(mine)
    return result


def copies_generator(texts, test, limit):
    def places() -> Iterator[int]:
        pool = [runs(text) for text in test]
        for i, text in enumerate(texts):
            own = runs(text)
            if all(jaccard(own, other) < limit for other in pool):
                pool.append(own)
                yield i

    return list(places())


class Filter:
    def __init__(self, size=3):
        self.size = size

    def grams(self, text):
        words = text.lower().split()
        return set(zip(*(words[k:] for k in range(self.size)), strict=False)) or {tuple(words)}

    def __call__(self, texts, test, limit):
        self.taken = [self.grams(t) for t in test]
        return [i for i, text in enumerate(texts) if self.stays(self.grams(text), limit)]

    def stays(self, grams, limit):
        free = not any(len(grams & t) / len(grams | t) >= limit for t in self.taken)
        if free:
            self.taken.append(grams)
        return free


def copies_recursive(texts, test, limit, start=0):
    if start == len(texts):
        return []
    free = all(jaccard(runs(texts[start]), runs(other)) < limit for other in test)
    rest = copies_recursive(texts, [*test, texts[start]] if free else test, limit, start + 1)
    return [start, *rest] if free else rest


def copies_reduce(texts, test, limit):
    def step(state, item):
        kept, pool = state
        i, own = item[0], runs(item[1])
        return (kept + [i], pool + [own]) if all(jaccard(own, p) < limit for p in pool) else state

    return reduce(step, enumerate(texts), ([], [runs(t) for t in test]))[0]


# --- loss_labels


def labels_flag(ids, opens, ends):
    labels = torch.full_like(ids, IGNORE)
    inside = False
    for i, token in enumerate(ids):
        if inside:
            labels[i] = token
            if token == ends:
                inside = False
        elif token == opens:
            inside = True
    return labels


def labels_list(ids: Tensor, opens: int, ends: int) -> Tensor:
    out, learning = [], False
    for token in ids.tolist():
        out.append(token if learning else IGNORE)
        if token == opens:
            learning = True
        elif token == ends:
            learning = False
    return torch.tensor(out)


def labels_slices(ids, opens, ends):
    tokens, labels = ids.tolist(), [-100] * len(ids)
    start = 0
    while opens in tokens[start:]:
        first = tokens.index(opens, start) + 1
        last = tokens.index(ends, first) + 1 if ends in tokens[first:] else len(tokens)
        labels[first:last] = tokens[first:last]
        start = last
    return torch.tensor(labels, dtype=torch.long)


def labels_counting(ids, opens, ends):
    """Inside: since the last opening there was no end before this token."""
    place = torch.arange(len(ids))
    opened = torch.where(ids == opens, place, -1).cummax(0).values.roll(1)
    ended = torch.where(ids == ends, place, -1).cummax(0).values.roll(1)
    opened[0] = ended[0] = -1
    return torch.where(opened > ended, ids, -100)


def labels_masked(ids, opens, ends):
    mask, state = torch.ones_like(ids, dtype=torch.bool), 0
    for i in range(ids.numel()):
        mask[i] = state == 0
        value = ids[i].item()
        state = 1 if value == opens else 0 if value == ends else state
    return ids.clone().masked_fill(mask, -100)


def labels_generator(ids, opens, ends):
    def walk():
        tokens = iter(ids.tolist())
        for token in tokens:
            yield IGNORE
            if token == opens:
                for token in tokens:
                    yield token
                    if token == ends:
                        break

    return torch.tensor(list(walk()))


class Labeller:
    def __init__(self):
        self.on = False

    def label(self, token, opens, ends):
        before, self.on = self.on, token == opens or (self.on and token != ends)
        return token if before else -100

    def __call__(self, ids, opens, ends):
        self.on = False
        return ids.new_tensor([self.label(t, opens, ends) for t in ids.tolist()])


def labels_recursive(ids, opens, ends):
    def rest(tokens, inside):
        if not tokens:
            return []
        now = tokens[0] == opens or inside and tokens[0] != ends
        return [tokens[0] if inside else IGNORE] + rest(tokens[1:], now)

    return torch.LongTensor(rest(ids.tolist(), False))


# --- dpo_loss


def dpo_plain(chosen, rejected, chosen_before, rejected_before, beta):
    chosen_gain = chosen.sum(-1) - chosen_before.sum(-1)
    rejected_gain = rejected.sum(-1) - rejected_before.sum(-1)
    return -F.logsigmoid(beta * (chosen_gain - rejected_gain)).mean()


def dpo_softplus(c, r, cb, rb, beta):
    margin = (c - cb).sum(1) - (r - rb).sum(1)
    return F.softplus(-beta * margin).mean()


def dpo_ratios(chosen: Tensor, rejected: Tensor, chosen_before: Tensor, rejected_before: Tensor, beta: float) -> Tensor:
    policy = chosen.sum(1) - rejected.sum(1)
    frozen = chosen_before.sum(1) - rejected_before.sum(1)
    return torch.mean(-nn.LogSigmoid()(beta * (policy - frozen)))


def dpo_bce(c, r, cb, rb, beta):
    margin = beta * ((c.sum(1) - cb.sum(1)) - (r.sum(1) - rb.sum(1)))
    return F.binary_cross_entropy_with_logits(margin, torch.ones_like(margin))


def dpo_logaddexp(c, r, cb, rb, beta):
    c, r, cb, rb = (one.sum(dim=1) for one in (c, r, cb, rb))
    return torch.logaddexp(torch.zeros_like(c), -beta * (c - r - cb + rb)).mean()


def dpo_loop(chosen, rejected, chosen_before, rejected_before, beta):
    losses = []
    for c, r, cb, rb in zip(chosen, rejected, chosen_before, rejected_before, strict=True):
        margin = sum(c) - sum(cb) - sum(r) + sum(rb)
        losses.append(-F.logsigmoid(beta * margin))
    return sum(losses) / len(losses)


def dpo_cross_entropy(c, r, cb, rb, beta):
    """A choice between two: softmax over the gains."""
    gains = torch.stack([c.sum(1) - cb.sum(1), r.sum(1) - rb.sum(1)], dim=1)
    return F.cross_entropy(beta * gains, torch.zeros(len(c), dtype=torch.long))


class DPO(nn.Module):
    def gain(self, after, before):
        return torch.einsum("nt->n", after) - torch.einsum("nt->n", before)

    def forward(self, chosen, rejected, chosen_before, rejected_before, beta):
        margin = self.gain(chosen, chosen_before).sub(self.gain(rejected, rejected_before))
        return F.logsigmoid(margin.mul(beta)).mean().neg()


def dpo_stable(c, r, cb, rb, beta):
    x = beta * ((c.sum(1) - cb.sum(1)) - (r.sum(1) - rb.sum(1)))
    return (torch.log1p(torch.exp(-x.abs())) + (-x).clamp(min=0)).mean()


# --- merge


def merge_plain(weight, A, B, alpha):
    r = A.shape[0]
    return (weight.float() + alpha / r * (B @ A)).to(weight.dtype)


def merge_add(weight, A, B, alpha):
    return torch.add(weight.to(torch.float32), B.matmul(A), alpha=alpha / len(A)).type(weight.dtype)


def merge_addmm(W: Tensor, A: Tensor, B: Tensor, alpha: float) -> Tensor:
    return torch.addmm(W.float(), B, A, alpha=alpha / A.size(0)).to(dtype=W.dtype)


def merge_einsum(weight, A, B, alpha):
    change = einsum("dr,rk->dk", B, A) * (alpha / A.shape[0])
    return (weight.float() + change).type_as(weight)


def merge_ranks(weight, A, B, alpha):
    merged = weight.float().clone()
    for a, b in zip(A, B.T, strict=True):
        merged += alpha / len(A) * torch.outer(b, a)
    return merged.to(weight)


def merge_double(weight, A, B, alpha):
    """More digits than asked for do no harm."""
    return (weight.double() + alpha / len(A) * (B.double() @ A.double())).to(weight.dtype)


def merge_columns(weight, A, B, alpha):
    scale = alpha / len(A)
    columns = [weight[:, k].float() + scale * (B @ A[:, k]) for k in range(weight.shape[1])]
    return torch.stack(columns, dim=1).to(weight.dtype)


def merge_python(weight, A, B, alpha):
    (d, k), r = weight.shape, len(A)
    merged = torch.empty(d, k)
    for i in range(d):
        for j in range(k):
            change = math.fsum(float(B[i, n]) * float(A[n, j]) for n in range(r))
            merged[i, j] = float(weight[i, j]) + alpha / r * change
    return merged.to(weight.dtype)


@torch.no_grad()
def merge_without_gradient(weight, A, B, alpha):
    merged = torch.clone(weight).to(torch.float)
    merged.add_(B @ A, alpha=alpha / len(A))
    return merged.to(weight.dtype)


STYLES = {
    "7.5.lora_forward": [
        lora_plain,
        lora_linear,
        lora_einsum,
        lora_merged,
        lora_steps,
        lora_rows,
        lora_ranks,
        lora_module,
        lambda x, w, A, B, a: x @ w.T + x @ A.T @ B.T * a / len(A),
    ],
    "7.5.nf4_quantise": [
        quantise_distances,
        quantise_middles,
        quantise_python,
        quantise_bisect,
        quantise_where,
        quantise_search,
        quantise_counting,
        quantise_chunks,
    ],
    "7.5.nf4_dequantise": [
        dequantise_plain,
        dequantise_division,
        dequantise_python,
        dequantise_filled,
        dequantise_table,
        dequantise_onehot,
        dequantise_gathered,
        dequantise_embedding,
    ],
    "7.5.without_copies": [
        copies_plain,
        copies_pairwise,
        copies_strings,
        copies_for_else,
        copies_generator,
        Filter(),
        copies_recursive,
        copies_reduce,
        partial(Filter.__call__, Filter(3)),
    ],
    "7.5.loss_labels": [
        labels_flag,
        labels_list,
        labels_slices,
        labels_counting,
        labels_masked,
        labels_generator,
        Labeller(),
        labels_recursive,
    ],
    "7.5.dpo_loss": [
        dpo_plain,
        dpo_softplus,
        dpo_ratios,
        dpo_bce,
        dpo_logaddexp,
        dpo_loop,
        dpo_cross_entropy,
        DPO(),
        dpo_stable,
    ],
    "7.5.merge": [
        merge_plain,
        merge_add,
        merge_addmm,
        merge_einsum,
        merge_ranks,
        merge_double,
        merge_columns,
        merge_python,
        merge_without_gradient,
    ],
}
