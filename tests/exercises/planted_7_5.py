"""Wrong answers to the exercises of Unit 7.5, each with words of the diagnosis that the student should read."""

import torch
from torch.nn import functional as F

# --- LoRA


def lora(x, weight, A, B, scale):
    return x @ weight.T + scale * (x @ A.T @ B.T)


def lora_on_top(x, weight, A, B, alpha):
    y = x @ weight.T
    return y + alpha / len(A) * (y @ A.T @ B.T)


def into_the_weight(x, weight, A, B, alpha):
    weight += alpha / len(A) * B @ A
    return x @ weight.T


# --- NF4


def scaled(weights, block, largest=None):
    blocks = weights.reshape(-1, block)
    return blocks / (blocks.abs().amax(1, keepdim=True) if largest is None else largest(blocks))


def nearest(numbers, levels):
    return (numbers.flatten()[:, None] - levels).abs().argmin(1)


def packed(codes):
    return (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)


def quantised(weights, levels, block=64, largest=None, find=nearest, pack=packed):
    return pack(find(scaled(weights, block, largest), levels))


def with_clamp(weights, levels, block=64, pack=packed):
    """Right, but for the packing."""
    return quantised(
        weights, levels, block, lambda blocks: blocks.abs().amax(1, keepdim=True).clamp(min=1e-9), pack=pack
    )


def above_or_below(side):
    """The next level on one side."""
    below = {"below": 1, "above": 0}[side]
    return lambda numbers, levels: torch.searchsorted(levels, numbers.flatten(), right=bool(below)) - below


def evenly(numbers, levels):
    return nearest(numbers, torch.linspace(-1, 1, 16))


def farthest(numbers, levels):
    return (numbers.flatten()[:, None] - levels).abs().argmax(1)


def the_wrong_way_round(codes):
    return packed(codes.view(-1, 2).flip(1).flatten())


def halves(codes):
    return codes[: len(codes) // 2] * 16 + codes[len(codes) // 2 :]


def by_columns(weights, levels, block=64):
    columns = weights.view(block, -1)
    return packed(nearest(columns / columns.abs().amax(0), levels))


def opened(packed_codes, order=1):
    halves = [packed_codes // 16, packed_codes % 16]
    return torch.stack(halves[::order], dim=1).flatten().long()


# --- the filter


def jaccard(a, b):
    return len(a & b) / len(a | b)


def words_of(text, size=3, lower=True):
    words = (text.lower() if lower else text).split()
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def filtered(texts, test, limit, alike=jaccard, runs=words_of, whole=False):
    taken, kept = list(map(runs, test)), []
    for i, text in enumerate(texts):
        stays = all(alike(runs(text), other) < limit for other in taken)
        kept += [i] * stays
        taken += [runs(text)] * (stays or whole)
    return kept


def the_later_one(texts, test, limit):
    backwards = filtered(list(reversed(texts)), test, limit)
    return sorted(len(texts) - 1 - i for i in backwards)


def neither(texts, test, limit):
    def alike(a, b):
        return jaccard(words_of(a), words_of(b)) >= limit

    others = [[*test, *texts[:i], *texts[i + 1 :]] for i in range(len(texts))]
    return [i for i, text in enumerate(texts) if not any(alike(text, other) for other in others[i])]


def with_itself(texts, test, limit):
    everything = [words_of(text) for text in [*test, *texts]]
    return [i for i, text in enumerate(texts) if all(jaccard(words_of(text), other) < limit for other in everything)]


def naive_runs(text):
    words = text.lower().split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def of_the_shorter(a, b):
    return len(a & b) / min(len(a), len(b))


def or_nothing(a, b):
    return len(a & b) / max(1, len(a | b))


def above(texts, test, limit):
    return filtered(texts, test, limit, alike=lambda a, b: jaccard(a, b) if jaccard(a, b) > limit else 0)


def drops_from_the_input(texts, test, limit):
    texts.pop()
    return filtered(texts, test, limit)


# --- labels


def labelled(ids, opens, ends, open_too=False, end_too=True, nothing=-100, stop=True):
    labels, inside = torch.full_like(ids, nothing), False
    for i, token in enumerate(ids.tolist()):
        if (inside and (end_too or token != ends)) or (open_too and token == opens):
            labels[i] = token
        inside = token == opens or (inside and (token != ends or not stop))
    return labels


def one_late(ids, opens, ends):
    labels = labelled(ids, opens, ends)
    labels[1:][ids[:-1] == opens] = -100
    return labels


def first_reply(ids, opens, ends):
    labels, start = torch.full_like(ids, -100), ids.tolist().index(opens) + 1
    rest = ids[start:].tolist()
    stop = start + (rest.index(ends) + 1 if ends in rest else len(rest))
    labels[start:stop] = ids[start:stop]
    return labels


def last_reply(ids, opens, ends):
    labels, start = torch.full_like(ids, -100), max(i for i, token in enumerate(ids.tolist()) if token == opens) + 1
    rest = ids[start:].tolist()
    stop = start + (rest.index(ends) + 1 if ends in rest else len(rest))
    labels[start:stop] = ids[start:stop]
    return labels


def to_the_last_end(ids, opens, ends):
    tokens = ids.tolist()
    start, stop = tokens.index(opens) + 1, max(i for i, token in enumerate(tokens) if token == ends) + 1
    return torch.tensor([token if start <= i < stop else -100 for i, token in enumerate(tokens)])


def needs_an_end(ids, opens, ends):
    labels = labelled(ids, opens, ends)
    tokens = ids.tolist()
    return labels if ends in tokens[len(tokens) - 1 - tokens[::-1].index(opens) :] else torch.full_like(ids, -100)


# --- DPO


def dpo(margins, beta):
    return -F.logsigmoid(beta * margins).mean()


def margins(c, r, cb, rb, total=lambda x: x.sum(1)):
    return (total(c) - total(cb)) - (total(r) - total(rb))


def by_length(x):
    return x.sum(1) / (x != 0).sum(1)


# --- merge


def merged(weight, A, B, alpha):
    """Right."""
    return (weight.float() + alpha / len(A) * (B @ A)).to(weight.dtype)


PLANTED = {
    "7.5.lora_forward": [
        (lambda x, w, A, B, a: x @ w.T, "the frozen layer's alone"),
        (lambda x, w, A, B, a: a / len(A) * (x @ A.T @ B.T), "the change alone"),
        (lambda x, w, A, B, a: lora(x, w, A, B, 1), "not scaled"),
        (lambda x, w, A, B, a: lora(x, w, A, B, a), "multiply by alpha. Divide"),
        (lambda x, w, A, B, a: lora(x, w, A, B, len(A) / a), "upside down"),
        (lambda x, w, A, B, a: lora(x, w, A, B, a / A.shape[1]), "by the width of x"),
        (lambda x, w, A, B, a: lora(x, w, A, B, a / len(A) ** 0.5), "rsLoRA"),
        (lambda x, w, A, B, a: a / len(A) * lora(x, w, A, B, 1), "You scale the sum"),
        (lambda x, w, A, B, a: lora(x, w, A, B, -a / len(A)), "subtract the change"),
        (lambda x, w, A, B, a: lora(x, w.T, A, B, a / len(A)), "PyTorch stores (outputs, inputs)"),
        (lambda x, w, A, B, a: x @ w.T + a / len(A) * (x @ (B @ A)), "B A is not transposed"),
        (lambda x, w, A, B, a: x @ w.T + a / len(A) * (x @ A @ B), "stopped with RuntimeError"),
        (lambda x, w, A, B, a: lora(x, w, A, B, a / len(A)).detach(), "no gradient flows back to A and B"),
        (lambda x, w, A, B, a: lora(x[0], w, A, B, a / len(A)), "has the shape (3,)"),
        (lora_on_top, "Your A reads what the frozen layer gives"),
        (into_the_weight, "changes its input `weight`"),
    ],
    "7.5.nf4_quantise": [
        (lambda w, v, block=64: packed(nearest(w, v)), "not scaled"),
        (lambda w, v, block=64: packed(nearest(w / w.abs().max(), v)), "divide all blocks by one number"),
        (lambda w, v, block=64: quantised(w, v, block, lambda b: b.amax(1, keepdim=True)), "largest absolute value"),
        (lambda w, v, block=64: quantised(w, v, block, pack=the_wrong_way_round), "wrong halves"),
        (lambda w, v, block=64: quantised(w, v, block, find=above_or_below("below")), "next level below"),
        (lambda w, v, block=64: quantised(w, v, block, find=above_or_below("above")), "next one above"),
        (lambda w, v, block=64: quantised(w, v, block, find=evenly), "even distances"),
        (lambda w, v, block=64: quantised(w, v, block, pack=lambda codes: codes), "not packed"),
        (lambda w, v, block=64: quantised(w, v, block, pack=halves), "Pack neighbours"),
        (lambda w, v, block=64: quantised(w, v, block, pack=lambda codes: v[codes]), "returns the levels"),
        (lambda w, v, block=64: quantised(w, v, block, find=farthest), "farthest level"),
        (by_columns, "blocks are columns"),
        (lambda w, v, block=64: with_clamp(w, v, block, lambda c: c[0::2] * 16 + c[1::2]), "stored as torch.int64"),
        (lambda w, v, block=64: quantised(w, v, 64), "shape '[-1, 64]' is invalid"),
        (lambda w, v, block=64: quantised(w, v, 4), "numbers differ, the first at"),
        (quantised, "0 / 0 is nan"),
    ],
    "7.5.nf4_dequantise": [
        (lambda p, s, v, block=64: v[opened(p, -1)] * s.repeat_interleave(block), "the wrong way round"),
        (lambda p, s, v, block=64: v[torch.cat([p >> 4, p & 15]).long()] * s.repeat_interleave(block), "stand in turn"),
        (lambda p, s, v, block=64: v[opened(p)], "returns levels between -1 and 1"),
        (lambda p, s, v, block=64: v[opened(p)] * s[0], "the first scale for all"),
        (lambda p, s, v, block=64: v[opened(p)] * s.max(), "the largest scale for all"),
        (lambda p, s, v, block=64: v[opened(p)] * s.repeat(block), "change from weight to weight"),
        (lambda p, s, v, block=64: v[opened(p)] / s.repeat_interleave(block), "divide by the scales"),
        (lambda p, s, v, block=64: opened(p) * s.repeat_interleave(block), "as if it were the number"),
        (lambda p, s, v, block=64: (opened(p) / 7.5 - 1) * s.repeat_interleave(block), "even distances"),
        (lambda p, s, v, block=64: v[p.long()], "stopped with IndexError"),
        (lambda p, s, v, block=64: (v[opened(p)].view(-1, block) * s[:, None]), "has the shape (2, 4)"),
    ],
    "7.5.without_copies": [
        (lambda t, test, limit: list(range(len(t))), "keeps every text"),
        (lambda t, test, limit: filtered(t, test, limit, lambda a, b: len(a & b) / (len(a) + len(b))), "counted once"),
        (the_later_one, "keep the later one"),
        (neither, "take out both"),
        (with_itself, "Nothing is left"),
        (lambda t, test, limit: [i for i in range(len(t)) if i not in filtered(t, test, limit)], "the places that go"),
        (lambda t, test, limit: [t[i] for i in filtered(t, test, limit)], "returns the texts"),
        (lambda t, test, limit: [i in filtered(t, test, limit) for i in range(len(t))], "True or False"),
        (lambda t, test, limit: filtered(t, [], limit), "does not look at `test`"),
        (lambda t, test, limit: filtered(t, test, limit, lambda a, b: a == b), "only texts that are equal"),
        (above, '"At least" includes the limit'),
        (lambda t, test, limit: filtered(t, test, limit, runs=lambda x: words_of(x, lower=False)), "Capital letters"),
        (lambda t, test, limit: filtered(t, test, limit, runs=lambda x: words_of(x, 1)), "sets of single words"),
        (lambda t, test, limit: filtered(t, test, limit, runs=lambda x: words_of(x, 2)), "have two words"),
        (lambda t, test, limit: filtered(t, test, limit, of_the_shorter), "of the shorter text"),
        (lambda t, test, limit: filtered(t, test, limit, whole=True), "texts that have gone already"),
        (lambda t, test, limit: filtered(t, test[:1], limit), "the first text of `test` only"),
        (lambda t, test, limit: filtered(t, test, limit, or_nothing, naive_runs), "fewer than three"),
        (lambda t, test, limit: filtered(t, test, limit, runs=naive_runs), "stopped with ZeroDivisionError"),
        (lambda t, test, limit: tuple(filtered(t, test, limit)), "returns a tuple. A list is wanted"),
        (drops_from_the_input, "changes its input `texts`"),
    ],
    "7.5.loss_labels": [
        (lambda ids, o, e: ids, "You learn every token"),
        (lambda ids, o, e: labelled(ids, o, e, stop=False), "You learn the padding"),
        (lambda ids, o, e: labelled(ids, o, e, open_too=True), "the mark that opens the reply"),
        (lambda ids, o, e: labelled(ids, o, e, end_too=False), "never learns to stop"),
        (one_late, "one place too late"),
        (lambda ids, o, e: labelled(ids, o, e).roll(-1), "You shift the labels by one"),
        (lambda ids, o, e: labelled(ids, o, e).roll(1), "You shift the labels the other way"),
        (lambda ids, o, e: ids.where(labelled(ids, o, e) == -100, -100), "everything but the reply"),
        (lambda ids, o, e: labelled(ids, o, e, nothing=0), "0 is a token like any other"),
        (lambda ids, o, e: labelled(ids, o, e) != -100, "returns which tokens are learned"),
        (lambda ids, o, e: ids[labelled(ids, o, e) != -100], "returns the tokens of the reply"),
        (lambda ids, o, e: labelled(ids, o, e).float(), "they are floats"),
        (lambda ids, o, e: labelled(ids, o, e).tolist(), "returns a list"),
        (first_reply, "the first reply only"),
        (last_reply, "the last reply only"),
        (to_the_last_end, "Between two replies you learn"),
        (needs_an_end, "a reply that has no end"),
        (lambda ids, o, e: ids.masked_fill_(labelled(ids, o, e) == -100, -100), "changes its input `ids`"),
    ],
    "7.5.dpo_loss": [
        (lambda c, r, cb, rb, beta: dpo(margins(r, c, rb, cb), beta), "prefers the rejected"),
        (lambda c, r, cb, rb, beta: dpo(margins(cb, rb, c, r), beta), "prefers the rejected"),
        (lambda c, r, cb, rb, beta: dpo(c.sum(1) - r.sum(1), beta), "forget where the model started"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, rb, cb) , beta), "the difference that was there before"),
        (lambda c, r, cb, rb, beta: beta * dpo(margins(c, r, cb, rb), 1), "beta stands outside"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb), 1), "does not use beta"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb), 1 / beta), "divide by beta"),
        (lambda c, r, cb, rb, beta: -dpo(margins(c, r, cb, rb), beta), "wrong sign"),
        (lambda c, r, cb, rb, beta: -(beta * margins(c, r, cb, rb)).sigmoid().mean(), "not -sigmoid"),
        (lambda c, r, cb, rb, beta: 1 - (beta * margins(c, r, cb, rb)).sigmoid().mean(), "not 1 - sigmoid"),
        (lambda c, r, cb, rb, beta: len(c) * dpo(margins(c, r, cb, rb), beta), "add the pairs up"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb).mean(), beta), "mean of the pairs' margins first"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb, lambda x: x.mean(1)), beta), "mean over the tokens"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb, by_length), beta), "divide by the length"),
        (lambda c, r, cb, rb, beta: dpo(c.sum(1) / cb.sum(1) - r.sum(1) / rb.sum(1), beta), "ratio of the log-prob"),
        (lambda c, r, cb, rb, beta: dpo(c.sum(1) - cb.sum(1), beta), "does not look at the rejected"),
        (lambda c, r, cb, rb, beta: dpo(rb.sum(1) - r.sum(1), beta), "does not look at the chosen"),
        (lambda c, r, cb, rb, beta: -(beta * margins(c, r, cb, rb)).sigmoid().log().mean(), "log 0 is minus infinity"),
        (lambda c, r, cb, rb, beta: -F.logsigmoid(beta * margins(c, r, cb, rb)), "has the shape (2,)"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb), beta).detach(), "no gradient flows back to the model"),
        (lambda c, r, cb, rb, beta: dpo(margins(c, r, cb, rb), beta).item(), "also cut the gradient"),
    ],
    "7.5.merge": [
        (lambda w, A, B, a: w, "returns the old weights"),
        (lambda w, A, B, a: a / len(A) * (B @ A), "the change alone"),
        (lambda w, A, B, a: w + B @ A, "not scaled"),
        (lambda w, A, B, a: w + a * B @ A, "multiply by alpha. Divide"),
        (lambda w, A, B, a: w + len(A) / a * B @ A, "upside down"),
        (lambda w, A, B, a: w + a / len(A) ** 0.5 * B @ A, "rsLoRA"),
        (lambda w, A, B, a: w + a / w.shape[1] * B @ A, "by the width"),
        (lambda w, A, B, a: w - a / len(A) * B @ A, "subtract the change"),
        (lambda w, A, B, a: w + a / len(A) * (B @ A).T, "is transposed"),
        (lambda w, A, B, a: a / len(A) * (w + B @ A), "scale the sum"),
        (lambda w, A, B, a: w @ (a / len(A) * B @ A), "multiply the weight by the change"),
        (lambda w, A, B, a: w + A @ B, "stopped with RuntimeError"),
        (lambda w, A, B, a: w + a / len(A) * (B @ A), "comes in 32 bits for a weight in 16"),
        (lambda w, A, B, a: merged(w, A, B, a).float(), "comes in 32 bits for a weight in 16"),
        (lambda w, A, B, a: w + (a / len(A) * B @ A).to(w.dtype), "round more than once"),
        (lambda w, A, B, a: w + a / len(A) * (B.to(w.dtype) @ A.to(w.dtype)), "round more than once"),
        (lambda w, A, B, a: w.add_(a / len(A) * (B @ A)), "changes its input `weight`"),
    ],
}  # fmt: skip
