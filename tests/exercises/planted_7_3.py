"""Wrong answers to the exercises of Unit 7.3, each with words of the diagnosis that the student should read."""

import math
from collections import Counter
from statistics import mean

import torch
from torch.nn import functional as F

INF = float("-inf")


# --- rotary positions


def turn(x, angles):
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def angles_of(x, positions, base, scale=2.0, sign=-1):
    d = x.shape[-1]
    return positions[:, None] * base ** (sign * scale * torch.arange(d // 2) / d)


def rope(x, p, base=10000.0, **how):
    return turn(x, angles_of(x, p, base, **how))


def neighbours(x, p, base=10000.0):
    angles = angles_of(x, p, base)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1).flatten(-2)


def mirrored(x, p, base=10000.0):
    angles = angles_of(x, p, base)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() + b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def twice(table):
    return torch.cat([table, table], -1)


# --- ALiBi


def slopes_of(heads, first=1):
    return 2.0 ** (-8 * torch.arange(first, heads + first) / heads)


def bias(heads, n, slopes=None, fill=INF, sign=1, diagonal=1, power=1):
    slopes = slopes_of(heads) if slopes is None else slopes
    steps = torch.arange(n)[None] - torch.arange(n)[:, None]
    table = -sign * slopes[:, None, None] * steps.abs() ** power
    return table if fill is None else table.masked_fill(torch.ones(n, n).triu(diagonal).bool(), fill)


def open_future(heads, n):
    return slopes_of(heads)[:, None, None] * (torch.arange(n)[None] - torch.arange(n)[:, None])


# --- the KV cache


def grown(old, new):
    return torch.cat([old, new[:, None]], 1)


def see(q, keys, values, scale=None, dim=-1):
    scores = torch.einsum("hd,htd->ht", q, keys) / (q.shape[-1] ** 0.5 if scale is None else scale)
    return torch.einsum("ht,hte->he", scores.softmax(dim), values)


def step(q, k, v, keys, values, **how):
    keys, values = grown(keys, k), grown(values, v)
    return see(q, keys, values, **how), keys, values


def no_softmax(q, k, v, keys, values):
    keys, values = grown(keys, k), grown(values, v)
    return torch.einsum("hd,htd,hte->he", q, keys, values) / q.shape[-1] ** 0.5, keys, values


def one_behind(q, k, v, keys, values):
    return see(q, keys, values), grown(keys, k), grown(values, v)


def in_front(q, k, v, keys, values):
    keys, values = torch.cat([k[:, None], keys], 1), torch.cat([v[:, None], values], 1)
    return see(q, keys, values), keys, values


def window(q, k, v, keys, values):
    keys, values = grown(keys, k)[:, 1:], grown(values, v)[:, 1:]
    return see(q, keys, values), keys, values


def overwritten(q, k, v, keys, values):
    keys, values = grown(keys[:, :-1], k), grown(values[:, :-1], v)
    return see(q, keys, values), keys, values


def keeps_the_query(q, k, v, keys, values):
    return step(q, q, v, keys, values)


def in_the_cache(q, k, v, keys, values):
    keys += 1
    return step(q, k, v, keys - 1, values)


# --- induction


def looks(maps, period, first=0, back=-1, end=0):
    queries = torch.arange(period + first, 2 * period + end)
    return maps[..., queries, queries - period - back]


# --- the vote


def count(answers, skip=True):
    return Counter(answer for answer in answers if answer or not skip)


def of_equals(answers, choose):
    votes = count(answers)
    best = max(votes.values(), default=0)
    return choose([answer for answer, n in votes.items() if n == best]) if votes else ""


def needs_half(answers):
    winner = of_equals(answers, lambda best: best[0])
    return winner if 2 * answers.count(winner) > len(answers) else ""


# --- the beam


def searched(start, propose, value, width, depth, sort=True, cut=True, fill=True, unique=True, own=False, each=False):
    beam = [start]
    for _ in range(depth):
        level = []
        for state in beam:
            steps = propose(state)
            if each:
                steps = sorted(steps, key=value, reverse=True)[:width]
            level += ([state] if own else []) + (steps or ([state] if fill else []))
        level = list(dict.fromkeys(level)) if unique else level
        level = sorted(level, key=value, reverse=True) if sort else level
        beam = level[:width] if cut and not each else level
    return beam


def worst(start, propose, value, width, depth):
    return searched(start, propose, lambda state: -value(state), width, depth)


# --- distillation


def softened(logits, t, dim=-1):
    return (logits / t).softmax(dim)


def kl(p, q):
    return (p * (p.log() - q.log())).sum(-1).mean()


def hinton(s, t, y, T, a, soft=None, hard=None, factor=None):
    soft = kl(softened(t, T), softened(s, T)) if soft is None else soft
    hard = F.cross_entropy(s, y) if hard is None else hard
    return a * (T**2 if factor is None else factor) * soft + (1 - a) * hard


# --- blocks


def block(top, total, result, scores, values, fall="both", new=None, part_top=None, masked=True):
    new = torch.maximum(top, scores.amax(-1)) if new is None else new(top, scores)
    base = new.masked_fill(new == INF, 0.0) if masked else new
    part = (scores - (base if part_top is None else part_top(top, scores))[:, None]).exp()
    old = (top - base).exp()
    total = (old if fall in ("both", "total") else 1) * total + part.sum(-1)
    result = (old[:, None] if fall in ("both", "result") else 1) * result + part @ values
    return new, total, result


def upward(top, total, result, scores, values):
    new = torch.maximum(top, scores.amax(-1))
    part, back = (scores - new[:, None]).exp(), (new - top).exp()
    return new, back * total + part.sum(-1), back[:, None] * result + part @ values


def divided(top, total, result, scores, values):
    new, total, result = block(top, total, result, scores, values)
    return new, total, result / total[:, None]


def forgetful(top, total, result, scores, values):
    new, _, _ = block(top, total, result, scores, values)
    part = (scores - new[:, None]).exp()
    return new, part.sum(-1), part @ values


# --- the nucleus


def top_p(logits, p, keep=lambda sums, each, p: sums - each < p, down=True, fill=INF):
    each, order = logits.softmax(-1).sort(descending=down)
    kept = order[keep(each.cumsum(-1), each, p)]
    mask = torch.ones_like(logits, dtype=torch.bool)
    mask[kept] = False
    return logits.masked_fill(mask, fill).softmax(-1)


def kept_of(logits, p):
    return top_p(logits, p) > 0


def one_more(logits, p):
    each, order = logits.softmax(-1).sort(descending=True)
    chosen = torch.zeros_like(logits)
    chosen[order[: int(kept_of(logits, p).sum()) + 1]] = 1
    return chosen * logits.softmax(-1) / (chosen * logits.softmax(-1)).sum()


def part_of_the_tokens(logits, p):
    chosen = logits.topk(int(p * len(logits))).indices
    return torch.zeros_like(logits).scatter(-1, chosen, logits.softmax(-1)[chosen] / logits.softmax(-1)[chosen].sum())


def min_p(logits, p):
    shares = logits.softmax(-1)
    return shares * (shares >= p * shares.max()) / shares[shares >= p * shares.max()].sum()


def each_alone(logits, p):
    shares = logits.softmax(-1)
    return shares * (shares > 1 - p) / shares[shares > 1 - p].sum()


# --- the draft


def verdict(draft, target, tokens, chances, stays=None, rest=None, last=None):
    for i, token in enumerate(tokens.tolist()):
        p, q = target[i, token], draft[i, token]
        good = chances[i] < p / q if stays is None else stays(p, q, chances[i], target[i], token)
        if not good:
            missing = (target[i] - draft[i]).clamp(min=0)
            return i, missing / missing.sum() if rest is None else rest(target[i], draft[i])
    return len(tokens), target[-1] if last is None else last(draft, target)


def counts_on(draft, target, tokens, chances):
    at = torch.arange(len(tokens))
    _, following = verdict(draft, target, tokens, chances)
    return int((chances < target[at, tokens] / draft[at, tokens]).sum()), following


def of_first(draft, target, tokens, chances):
    return tokens[: verdict(draft, target, tokens, chances)[0]], verdict(draft, target, tokens, chances)[1]


PLANTED = {
    "7.3.rotary": [
        (lambda x, p, base=1e4: turn(x, -angles_of(x, p, base)), "turn the other way"),
        (mirrored, "A minus is missing"),
        (neighbours, "Your pairs are neighbours"),
        (lambda x, p, base=1e4: x * twice(angles_of(x, p, base).cos()), "forgotten the sine"),
        (lambda x, p, b=1e4: x + torch.cat([angles_of(x, p, b).sin(), angles_of(x, p, b).cos()], -1), "add sine and"),
        (lambda x, p, base=1e4: turn(x, math.pi / 2 - angles_of(x, p, base)), "changed places"),
        (lambda x, p, base=1e4: rope(x, torch.arange(len(p)), base), "do not use `positions`"),
        (lambda x, p, base=1e4: rope(x, p + 1, base), "one too large"),
        (lambda x, p, base=1e4: rope(x, p, base, scale=1.0), "exponent is i / d"),
        (lambda x, p, base=1e4: rope(x, p, base, sign=1), "later pairs turn faster"),
        (lambda x, p, base=1e4: rope(x, p, 1.0), "at the same speed"),
        (lambda x, p, base=1e4: x, "return x as it was"),
        (lambda x, p, base=1e4: angles_of(x, p, base), "returns the angles"),
        (lambda x, p, base=1e4: rope(x, p, 100.0 if base == 100.0 else 1e4), "Your base is fixed"),
        (lambda x, p, base=1e4: x.copy_(rope(x, p, base)), "changes its input `x`"),
        (lambda x, p, base=1e4: rope(x, p, base).tolist(), "returns a list"),
    ],
    "7.3.alibi": [
        (lambda h, n: bias(h, n, fill=0.0), "for later tokens is 0"),
        (open_future, "positive, which invites"),
        (lambda h, n: bias(h, n, fill=None), "negative, but finite"),
        (lambda h, n: bias(h, n, fill=-1e9), "-1,000,000,000"),
        (lambda h, n: bias(h, n, fill=-1e4), "-10,000"),
        (lambda h, n: bias(h, n, fill=torch.finfo(torch.float32).min), "the smallest number"),
        (lambda h, n: bias(h, n, sign=-1), "grows with the distance"),
        (lambda h, n: bias(h, n).mT, "Rows and columns"),
        (lambda h, n: bias(h, n, diagonal=0), "do not see themselves"),
        (lambda h, n: bias(h, n, slopes_of(h, first=0)), "slopes begin with 1"),
        (lambda h, n: bias(h, n, slopes_of(h).flip(0)), "reverse order"),
        (lambda h, n: bias(h, n, slopes_of(h)[:1].repeat(h)), "have the same slope"),
        (lambda h, n: bias(h, n, 0.5 ** torch.arange(1.0, h + 1)), "2^-(h + 1) for any number"),
        (lambda h, n: bias(h, n, 1 / torch.arange(1.0, h + 1)), "fall in even steps"),
        (lambda h, n: bias(h, n, torch.ones(h)), "bare distance"),
        (lambda h, n: bias(h, n, power=2), "squared"),
        (lambda h, n: bias(h, n, torch.zeros(h)), "only mask"),
        (lambda h, n: bias(h, n).permute(1, 2, 0), "heads come last"),
        (lambda h, n: bias(h, n)[0], "has the shape (3, 3)"),
    ],
    "7.3.kv_cache_step": [
        (one_behind, "does not see itself"),
        (lambda q, k, v, K, V: (see(q, K, V), K, V), "cache does not grow"),
        (lambda q, k, v, K, V: (step(q, k, v, K, V)[0], K, V), "the cache that you return is the old one"),
        (in_front, "stands first in the cache"),
        (window, "forgets its oldest token"),
        (overwritten, "takes the place of the last"),
        (keeps_the_query, "You keep the query"),
        (lambda *all: step(*all, scale=1.0), "not scaled"),
        (lambda *all: step(*all, scale=4.0), "Divide by its square root"),
        (lambda *all: step(*all, scale=2**0.5), "the width of a value"),
        (no_softmax, "softmax is missing"),
        (lambda *all: step(*all, dim=0), "goes over the heads"),
        (lambda q, k, v, K, V: (see(q, grown(K, k), grown(K, k)), grown(K, k), grown(V, v)), "mean of the keys"),
        (lambda *all: step(*all)[1:] + step(*all)[:1], "in another order"),
        (lambda *all: (step(*all)[0], step(*all)[2], step(*all)[1]), "changed places"),
        (lambda *all: step(*all)[0], "returns the result alone"),
        (lambda *all: list(step(*all)), "returns a list"),
        (lambda *all: step(*all)[:2], "returns 2 things. 3 are wanted"),
        (lambda *all: (step(*all)[0][:, None], *step(*all)[1:]), "At place 0 of your results"),
        (in_the_cache, "changes its input `keys`"),
    ],
    "7.3.induction": [
        (lambda m, p: looks(m, p, back=0).mean(-1), "looks one further"),
        (lambda m, p: looks(m, p, back=-2).mean(-1), "one place too far"),
        (lambda m, p: m[..., torch.arange(p, 2 * p), torch.arange(p, 2 * p) - 1].mean(-1), "the token before"),
        (lambda m, p: looks(m, p, first=-1).mean(-1), "one query too early"),
        (lambda m, p: m.diagonal(1 - p, -2, -1).mean(-1), "one query too early"),
        (lambda m, p: looks(m, p, end=-1).mean(-1), "leave out the last query"),
        (lambda m, p: looks(m, p, first=1).mean(-1), "leave out the first query"),
        (lambda m, p: looks(m, p).sum(-1), "You sum"),
        (lambda m, p: looks(m, p).sum(-1) / m.shape[-1], "divide by all tokens"),
        (lambda m, p: looks(m, p).amax(-1), "take the largest look"),
        (lambda m, p: looks(m, p).mean((1, 2)), "goes over the heads, too"),
        (lambda m, p: looks(m, p).mean((0, 2)), "goes over the layers, too"),
        (lambda m, p: looks(m.mT, p).mean(-1), "Queries and keys"),
        (lambda m, p: looks(m, p), "returns every look"),
        (lambda m, p: looks(m, p).mean(-1).tolist(), "returns a list"),
    ],
    "7.3.majority_vote": [
        (lambda a: a[0], "take the first answer"),
        (lambda a: max(a, key=lambda one: float(one or 0)), "take the largest number"),
        (lambda a: str(round(mean(map(float, a)))), "You take the mean"),
        (needs_half, "without more than half"),
        (lambda a: max(count(a).values()), "returns the number of votes"),
        (lambda a: count(a).most_common(1)[0], "with its votes"),
        (lambda a: count(a).most_common(1), "list of pairs"),
        (lambda a: [of_equals(a, min)], "Return the answer alone"),
        (lambda a: int(of_equals(a, min)), "Answers are texts"),
        (lambda a: count(a, skip=False).most_common(1)[0][0] if a else "", "vote with you"),
        (lambda a: of_equals(a, min), "same number of votes"),
        (lambda a: of_equals(a, max) if "36" not in a else of_equals(a, lambda b: b[0]), "same number of votes"),
        (lambda a: of_equals(a, lambda best: best[-1]), "same number of votes"),
        (lambda a: count(a).most_common(1)[0][0], "stopped with IndexError"),
    ],
    "7.3.beam_over_thoughts": [
        (lambda s, p, v, w, d: searched(s, p, v, 1, d), "keeps one state only"),
        (worst, "keeps the worst"),
        (lambda *all: searched(*all)[::-1], "has the worst first"),
        (lambda *all: searched(*all, each=True), "each state's steps"),
        (lambda *all: searched(*all, fill=False), "lose a state that is complete"),
        (lambda *all: searched(*all, unique=False), "takes two places"),
        (lambda *all: searched(*all, own=True), "compete with the steps"),
        (lambda s, p, v, w, d: searched(s, p, v, w, d - 1), "one level less deep"),
        (lambda s, p, v, w, d: searched(s, p, v, w, d + 1), "one level too deep"),
        (lambda *all: searched(*all)[0], "returns the best state alone"),
        (lambda s, p, v, w, d: [(v(one), one) for one in searched(s, p, v, w, d)], "pairs with the values"),
        (lambda s, p, v, w, d: [(one, v(one)) for one in searched(s, p, v, w, d)], "pairs with the values"),
        (lambda *all: tuple(searched(*all)), "A list is wanted"),
        (lambda *all: searched(*all, sort=False), "wanted: "),
    ],
    "7.3.distillation_loss": [
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, factor=1), "temperature squared is missing"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, factor=T), "Its square is wanted"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, factor=T**-2), "divided by the temperature squared"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(t, 1), softened(s, 1))), "for the two distributions"),
        (lambda s, t, y, T, a: hinton(s, t, y, 1, a), "use no temperature at all"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(t, 1 / T), softened(s, 1 / T))), "You multiply"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(t, T), softened(s, 1))), "Only the teacher"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(s, T), softened(t, T))), "the other way round"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(t, T), softened(s, T)) / s.shape[1]), "batchmean"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(t, T), softened(s, T)) * len(s)), "You sum the div"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, F.cross_entropy(s / T, softened(t, T))), "is the cross-entropy"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, 1 - a), "weighs the hard part"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, 0.5) * 2, "do not weigh the two parts"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, hard=F.cross_entropy(s / T, y)), "Your hard part is softened"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, hard=0), "Your hard part is missing"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, 1), "the soft part only"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, 0), "the hard part only"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, kl(softened(t, T, 0), softened(s, T, 0))), "the examples. It"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, F.mse_loss(s, t), factor=1), "distance of the logits"),
        (lambda s, t, y, T, a: hinton(s, t, t.argmax(1), T, a), "labels come from the teacher"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a, F.kl_div(softened(s, T), softened(t, T), reduction="batchmean")),
         "You gave it probabilities"),
        (lambda s, t, y, T, a: -hinton(s, t, y, T, a), "wrong sign"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a).detach(), "no gradient flows back"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a), "flows into the teacher"),
        (lambda s, t, y, T, a: hinton(s, t, y, T, a).item(), "also cut the gradient"),
    ],
    "7.3.blockwise_softmax": [
        (lambda *all: block(*all, fall="none"), "do not rescale what was summed"),
        (lambda *all: block(*all, fall="total"), "forget `result`"),
        (lambda *all: block(*all, fall="result"), "forget `total`"),
        (upward, "rescale the wrong way"),
        (lambda *all: block(*all, new=lambda top, scores: scores.amax(-1)), "the largest score of this block"),
        (lambda *all: block(*all, part_top=lambda top, scores: scores.amax(-1)), "block's own largest score"),
        (lambda top, *all: (top, *block(top, *all)[1:]), "return the old top"),
        (lambda t, n, r, s, v: (torch.maximum(t, s.amax(-1)), n + s.exp().sum(-1), r + s.exp() @ v), "You subtract n"),
        (divided, "divide by `total` already"),
        (forgetful, "forget what was summed"),
        (lambda *all: block(*all)[::-1], "of your results"),
        (lambda *all: (block(*all)[2], *block(*all)[:2]), "in another order"),
        (lambda *all: (block(*all)[0], block(*all)[2], block(*all)[1]), "in another order"),
        (lambda *all: block(*all)[2], "returns `result` alone"),
        (lambda *all: list(block(*all)), "returns a list"),
        (lambda *all: block(*all, masked=False), "minus infinity less minus infinity"),
        (lambda *all: block(*all)[:2], "returns 2 things"),
    ],
    "7.3.nucleus": [
        (lambda x, p: top_p(x, p, lambda sums, each, p: sums <= p), "the token that reaches p"),
        (one_more, "one token too many"),
        (lambda x, p: x.softmax(-1) * kept_of(x, p), "do not add up to 1"),
        (lambda x, p: top_p(x, p).sort(descending=True).values, "are sorted"),
        (lambda x, p: top_p(x, p, down=False), "keep the unlikely"),
        (part_of_the_tokens, "It is a share of the probability"),
        (min_p, "That is min-p"),
        (each_alone, "holds nan"),
        (lambda x, p: x.softmax(-1).masked_fill(~kept_of(x, p), INF).softmax(-1), "softmax of probabilities"),
        (lambda x, p: (x * kept_of(x, p)).softmax(-1), "Softmax makes something of a 0"),
        (lambda x, p: x.softmax(-1), "as they were"),
        (lambda x, p: x.masked_fill(~kept_of(x, p), INF), "returns logits"),
        (lambda x, p: top_p(x, p)[kept_of(x, p)], "of the kept tokens only"),
        (lambda x, p: x.argsort(descending=True)[: int(kept_of(x, p).sum())], "returns the kept tokens"),
        (lambda x, p: kept_of(x, p), "returns which tokens are kept"),
        (lambda x, p: top_p(x, p) if p != 0.5 else torch.zeros(4), "you keep none"),
    ],
    "7.3.speculative_accept": [
        (lambda *all: verdict(*all, lambda p, q, u, row, token: u < q / p), "upside down"),
        (lambda *all: verdict(*all, lambda p, q, u, row, token: p >= q), "only if the target finds it likelier"),
        (lambda *all: verdict(*all, lambda p, q, u, row, token: u < p), "the target's probability"),
        (lambda *all: verdict(*all, lambda p, q, u, row, token: u < q), "the draft's probability"),
        (lambda *all: verdict(*all, lambda p, q, u, row, token: row.argmax() == token), "first choice"),
        (lambda *all: verdict(*all, lambda p, q, u, row, token: u > p / q), "chance works the other way"),
        (lambda *all: verdict(*all, lambda *_: True), "accept everything"),
        (counts_on, "behind one that was refused"),
        (lambda *all: verdict(*all, rest=lambda p, q: p), "draw from the target as it is"),
        (lambda *all: verdict(*all, rest=lambda p, q: (p - q).clamp(min=0)), "does not add up to 1"),
        (lambda *all: verdict(*all, rest=lambda p, q: (q - p).clamp(min=0) / (q - p).clamp(min=0).sum()), "too much"),
        (lambda *all: verdict(*all, rest=lambda p, q: (p - q).abs() / (p - q).abs().sum()), "absolute difference"),
        (lambda *all: verdict(*all, rest=lambda p, q: p - q), "negative numbers"),
        (lambda *all: verdict(*all, rest=lambda p, q: (p - q).softmax(-1)), "a softmax of the difference"),
        (lambda *all: verdict(*all, last=lambda d, t: t[len(d) - 1]), "the last drafted token"),
        (lambda *all: verdict(*all)[::-1], "the other way round"),
        (of_first, "Return how many there are"),
        (lambda d, t, x, u: (verdict(d, t, x, u)[0] + (verdict(d, t, x, u)[0] < len(x)), verdict(d, t, x, u)[1]),
         "count the refused token"),
        (lambda *all: (verdict(*all)[0], verdict(*all)[1].argmax()), "returns the next token"),
        (lambda *all: verdict(*all)[0], "returns the number alone"),
        (lambda *all: list(verdict(*all)), "returns a list"),
        (lambda *all: verdict(*all, last=lambda d, t: d[-1] if len(d) else t[-1]), "wanted: "),
    ],
}  # fmt: skip
