"""Right answers to the exercises of Unit 7.3 in many styles. All of them have to pass."""

import cmath
import heapq
import math
from collections import Counter, OrderedDict
from fractions import Fraction
from functools import partial, reduce
from itertools import chain

import torch
from torch import Tensor, einsum, nn
from torch.nn import functional as F

INF = float("-inf")

# --- rotary


def rotary_halves(x, positions, base=10000.0):
    """As in transformers."""
    d = x.shape[-1]
    inv_freq = 1.0 / (base ** (torch.arange(0, d, 2).float() / d))
    freqs = torch.outer(positions.float(), inv_freq)
    emb = torch.cat((freqs, freqs), dim=-1)
    rotated = torch.cat((-x[..., d // 2 :], x[..., : d // 2]), dim=-1)
    return x * emb.cos() + rotated * emb.sin()


def rotary_complex(x, positions, base=10000.0):
    half = x.shape[-1] // 2
    points = torch.complex(x[..., :half], x[..., half:])
    angles = positions.unsqueeze(1) * torch.pow(base, -torch.arange(half) / half)
    turned = points * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def rotary_loops(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    result = x.clone()
    d = x.shape[-1]
    for n, position in enumerate(positions.tolist()):
        for i in range(d // 2):
            angle = position / base ** (2 * i / d)
            a, b = x[..., n, i], x[..., n, i + d // 2]
            result[..., n, i] = a * math.cos(angle) - b * math.sin(angle)
            result[..., n, i + d // 2] = a * math.sin(angle) + b * math.cos(angle)
    return result


def rotary_matrix(x, positions, base=10000.0):
    d = x.shape[-1]
    rows = []
    for n, position in enumerate(positions):
        turn = torch.zeros(d, d)
        for i in range(d // 2):
            c, s = torch.cos(position * base ** (-2 * i / d)), torch.sin(position * base ** (-2 * i / d))
            turn[i, i] = turn[i + d // 2, i + d // 2] = c
            turn[i, i + d // 2], turn[i + d // 2, i] = -s, s
        rows.append(x[..., n, :] @ turn.T)
    return torch.stack(rows, dim=-2)


def rotary_unflatten(x, positions, base=10000.0):
    a, b = x.unflatten(-1, (2, -1)).unbind(-2)
    t = einsum("n,i->ni", positions.double(), base ** -torch.linspace(0, 1, a.shape[-1] + 1).double()[:-1])
    return torch.stack([a * t.cos() - b * t.sin(), a * t.sin() + b * t.cos()], -2).flatten(-2).float()


def rotary_cmath(x, positions, base=10000.0):
    half = x.shape[-1] // 2
    columns = []
    for i in range(half):
        turns = torch.tensor([cmath.exp(1j * p * base ** (-i / half)) for p in positions.tolist()])
        columns.append(torch.complex(x[..., i], x[..., i + half]) * turns.to(torch.complex64))
    turned = torch.stack(columns, -1)
    return torch.cat([turned.real, turned.imag], -1)


class Rotary(nn.Module):
    def forward(self, x, positions, base=10000.0):
        half = x.shape[-1] // 2
        log_speeds = -math.log(base) * torch.arange(half) / half
        angle = positions.view(-1, 1) * log_speeds.exp()
        a, b = torch.split(x, half, dim=-1)
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def rotary_in_place(x, positions, base=10000.0):
    out = torch.empty_like(x)
    half = x.size(-1) // 2
    theta = positions[:, None] / base ** (torch.arange(half) / half)
    out[..., :half] = x[..., :half] * theta.cos()
    out[..., :half] -= x[..., half:] * theta.sin()
    out[..., half:] = x[..., half:] * theta.cos()
    out[..., half:] += x[..., :half] * theta.sin()
    return out


# --- alibi


def alibi_loops(heads, n):
    bias = torch.full((heads, n, n), INF)
    for h in range(heads):
        slope = 2 ** (-8 * (h + 1) / heads)
        for i in range(n):
            for j in range(i + 1):
                bias[h, i, j] = slope * (j - i)
    return bias


def alibi_tril(heads, n):
    slopes = torch.tensor([2 ** (-8 / heads * (h + 1)) for h in range(heads)])
    steps = torch.arange(n).view(1, n) - torch.arange(n).view(n, 1)
    mask = torch.full((n, n), INF).triu(1)
    return slopes.view(-1, 1, 1) * steps.tril() + mask


def alibi_geometric(heads, n):
    """As in the authors' code: a start and a ratio."""
    start = 2 ** (-8 / heads)
    slopes = [start * start**i for i in range(heads)]
    table = [[[m * (j - i) if j <= i else INF for j in range(n)] for i in range(n)] for m in slopes]
    return torch.tensor(table)


def alibi_where(heads, n):
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    slopes = torch.logspace(-8 / heads, -8, heads, base=2)
    return torch.where(j > i, INF, slopes[:, None, None] * (j - i))


def alibi_einsum(heads, n):
    slopes = torch.exp2(-8 * torch.arange(1, heads + 1) / heads)
    places = torch.arange(n, dtype=torch.float32)
    bias = einsum("h,ij->hij", slopes, places[None] - places[:, None])
    bias[:, torch.ones(n, n).triu(1).bool()] = INF
    return bias


def alibi_cumulative(heads, n):
    falling = torch.ones(n, n).tril(-1).flip(1).cumsum(1).flip(1)
    return torch.stack([-falling * 2 ** (-8 * h / heads) for h in range(1, heads + 1)]) + torch.full((n, n), INF).triu(
        1
    )


def alibi_rows(heads: int, n: int) -> Tensor:
    rows = []
    for i in range(n):
        seen = torch.arange(-i, 1).float()
        rows.append(torch.cat([seen, torch.full((n - i - 1,), INF)]))
    return torch.stack(rows) * torch.tensor(2.0).pow(-torch.arange(8, 8 * heads + 8, 8) / heads)[:, None, None]


def alibi_abs(heads, n):
    d = torch.arange(n)[:, None] - torch.arange(n)
    return (-d.abs()[None] / (2.0 ** (torch.arange(1, heads + 1) * 8 / heads))[:, None, None]).masked_fill(d < 0, INF)


# --- kv_cache_step


def cache_einsum(q, k, v, keys, values):
    keys = torch.cat((keys, k.unsqueeze(1)), 1)
    values = torch.cat((values, v.unsqueeze(1)), 1)
    weights = (einsum("hd,htd->ht", q, keys) / math.sqrt(k.size(-1))).softmax(-1)
    return einsum("ht,hte->he", weights, values), keys, values


def cache_sdpa(q, k, v, keys, values):
    keys, values = torch.cat((keys, k[:, None]), 1), torch.cat((values, v[:, None]), 1)
    return F.scaled_dot_product_attention(q[:, None], keys, values)[:, 0], keys, values


def cache_heads(q, k, v, keys, values):
    results, new_keys, new_values = [], [], []
    for head in range(len(q)):
        new_keys.append(torch.vstack([keys[head], k[head]]))
        new_values.append(torch.vstack([values[head], v[head]]))
        scores = new_keys[-1] @ q[head] / q.shape[1] ** 0.5
        results.append(F.softmax(scores, 0) @ new_values[-1])
    return torch.stack(results), torch.stack(new_keys), torch.stack(new_values)


def cache_bmm(q, k, v, keys, values):
    keys = torch.concat([keys, k.view(len(k), 1, -1)], dim=1)
    values = torch.concat([values, v.view(len(v), 1, -1)], dim=1)
    scores = torch.bmm(q[:, None], keys.mT) * q.shape[-1] ** -0.5
    return torch.bmm(torch.softmax(scores, -1), values).squeeze(1), keys, values


def cache_room(q, k, v, keys, values):
    heads, t, d = keys.shape
    all_keys, all_values = keys.new_empty(heads, t + 1, d), values.new_empty(heads, t + 1, v.shape[-1])
    all_keys[:, :t], all_keys[:, t] = keys, k
    all_values[:, :t], all_values[:, t] = values, v
    weights = torch.exp(F.log_softmax((all_keys * q[:, None]).sum(-1) / d**0.5, dim=1))
    return (weights.unsqueeze(2) * all_values).sum(1), all_keys, all_values


def cache_running(q, k, v, keys, values):
    """The new token apart, joined with the old ones by their sums."""
    root = math.sqrt(q.shape[-1])
    new = (q * k).sum(-1, keepdim=True) / root
    old = (keys * q[:, None]).sum(-1) / root
    top = torch.cat([old, new], 1).amax(1, keepdim=True)
    a, b = (old - top).exp(), (new - top).exp()
    mixed = (a[..., None] * values).sum(1) + b * v
    return mixed / (a.sum(1, keepdim=True) + b), torch.cat([keys, k[:, None]], 1), torch.cat([values, v[:, None]], 1)


class Cache:
    def __call__(self, q, k, v, keys, values):
        self.keys, self.values = (torch.cat([a, b[:, None]], 1) for a, b in ((keys, k), (values, v)))
        return self.result(q), self.keys, self.values

    def result(self, q):
        weights = torch.matmul(self.keys, q.unsqueeze(-1)).div(q.shape[-1] ** 0.5).softmax(1)
        return torch.matmul(weights.mT, self.values).squeeze(1)


def cache_transposed(q, k, v, keys, values):
    keys = torch.cat([keys.transpose(0, 1), k[None]]).transpose(0, 1)
    values = torch.cat([values.transpose(0, 1), v[None]]).transpose(0, 1)
    weights = ((keys / math.sqrt(q.shape[-1])) @ q[..., None])[..., 0].softmax(1)
    return (weights[:, None] @ values)[:, 0], keys.contiguous(), values.contiguous()


# --- induction


def induction_diagonal(maps, period):
    return maps[:, :, period:].diagonal(1, dim1=-2, dim2=-1)[..., :period].mean(-1)


def induction_loop(maps, period):
    score = torch.zeros(maps.shape[:2])
    for query in range(period, 2 * period):
        score += maps[:, :, query, query - period + 1]
    return score / period


def induction_gather(maps, period):
    second = maps[..., period:, :]
    index = torch.arange(1, period + 1)[:, None].expand(*second.shape[:-1], 1)
    return second.gather(-1, index).squeeze(-1).mean(-1)


def induction_mask(maps, period):
    mask = torch.zeros(2 * period, 2 * period)
    for i in range(period):
        mask[period + i, i + 1] = 1 / period
    return (maps * mask).sum((-2, -1))


def induction_heads(maps: Tensor, period: int) -> Tensor:
    rows = [[sum(head[period + i, i + 1] for i in range(period)) / period for head in layer] for layer in maps]
    return torch.stack([torch.stack(row) for row in rows])


def induction_einsum(maps, period):
    return einsum("lhij,ij->lh", maps, torch.diag_embed(torch.ones(period + 1), 1 - period)[: 2 * period, : 2 * period]
                  * (torch.arange(2 * period) >= period)[:, None]) / period  # fmt: skip


def induction_stack(maps, period):
    return torch.stack([maps[..., q, q + 1 - period] for q in range(period, 2 * period)]).mean(0)


class Induction:
    def __call__(self, maps, period):
        block = maps[..., period:, 1 : period + 1]
        return torch.diagonal(block, dim1=2, dim2=3).sum(-1).div(period)


# --- majority_vote


def vote_counter(answers):
    votes = Counter(filter(None, answers))
    return votes.most_common(1)[0][0] if votes else ""


def vote_count(answers):
    given = [answer for answer in answers if answer != ""]
    return max(given, key=given.count, default="")


def vote_sorted(answers):
    given = [a for a in answers if a]
    return sorted(given, key=lambda a: (-given.count(a), given.index(a)))[0] if given else ""


def vote_loop(answers):
    best, most = "", 0
    for answer in answers:
        if answer and answers.count(answer) > most:
            best, most = answer, answers.count(answer)
    return best


def vote_dict(answers):
    tally = {}
    for answer in answers:
        if not answer:
            continue
        tally.setdefault(answer, []).append(1)
    winner = ""
    for answer, marks in tally.items():
        if not winner or len(marks) > len(tally[winner]):
            winner = answer
    return winner


def vote_reduce(answers):
    given = list(dict.fromkeys(a for a in answers if a))
    return reduce(lambda a, b: b if answers.count(b) > answers.count(a) else a, given, given[0] if given else "")


def vote_heap(answers):
    heap = [(-answers.count(a), answers.index(a), a) for a in set(answers) - {""}]
    return heapq.nsmallest(1, heap)[0][2] if heap else ""


class Vote:
    def __call__(self, answers):
        self.votes = OrderedDict()
        for answer in answers:
            self.votes[answer] = self.votes.get(answer, 0) + 1
        self.votes.pop("", None)
        most = max(self.votes.values(), default=0)
        return next((answer for answer, n in self.votes.items() if n == most), "")


# --- beam_over_thoughts


def beam_recursive(start, propose, value, width, depth, beam=None):
    beam = [start] if beam is None else beam
    if depth == 0:
        return beam
    level = list(dict.fromkeys(chain.from_iterable(propose(one) or [one] for one in beam)))
    best = sorted(level, key=lambda one: -value(one))[:width]
    return beam_recursive(start, propose, value, width, depth - 1, best)


def beam_seen(start, propose, value, width, depth):
    beam = [start]
    for _ in range(depth):
        level, seen = [], set()
        for state in beam:
            steps = propose(state)
            if len(steps) == 0:
                steps = [state]
            for step in steps:
                if step not in seen:
                    seen.add(step)
                    level.append((value(step), len(level), step))
        level.sort(key=lambda one: (-one[0], one[1]))
        beam = [step for _, _, step in level[:width]]
    return beam


def beam_heap(start, propose, value, width, depth):
    beam = [start]
    for _ in range(depth):
        level = {}
        for state in beam:
            for step in propose(state) or (state,):
                level.setdefault(step, value(step))
        beam = heapq.nlargest(width, level, key=level.get)
    return beam


def beam_while(start, propose, value, width, depth):
    beam, level = [start], 0
    while level < depth:
        following = []
        for state in beam:
            steps = propose(state)
            following.extend(steps if steps else [state])
        unique = [one for i, one in enumerate(following) if one not in following[:i]]
        unique.sort(key=value, reverse=True)
        beam = unique[:width]
        level += 1
    return beam


def beam_select(start, propose, value, width, depth):
    beam = [start]
    for _ in range(depth):
        rest = list(dict.fromkeys(step for state in beam for step in (propose(state) or [state])))
        beam = []
        while rest and len(beam) < width:
            best = max(rest, key=value)
            rest.remove(best)
            beam.append(best)
    return beam


def beam_reduce(start, propose, value, width, depth):
    def level(beam, _):
        steps = sum((propose(state) or [state] for state in beam), [])
        return sorted(dict.fromkeys(steps), key=value, reverse=True)[:width]

    return reduce(level, range(depth), [start])


class Beam:
    def __init__(self):
        self.values = {}

    def worth(self, state, value):
        if state not in self.values:
            self.values[state] = value(state)
        return self.values[state]

    def __call__(self, start, propose, value, width, depth):
        states = [start]
        for _ in range(depth):
            states = [step for state in states for step in (propose(state) or [state])]
            states = sorted(dict.fromkeys(states), key=partial(self.worth, value=value), reverse=True)[:width]
        return states


def beam_generator(start, propose, value, width, depth):
    def steps(states):
        for state in states:
            yield from propose(state) or [state]

    beam = [start]
    for _ in range(depth):
        beam = sorted(dict.fromkeys(steps(beam)), key=lambda s: value(s), reverse=True)
        del beam[width:]
    return beam


# --- distillation_loss


def distil_kl_div(student, teacher, labels, temperature, alpha):
    with torch.no_grad():
        target = F.softmax(teacher / temperature, dim=-1)
    soft = F.kl_div(F.log_softmax(student / temperature, dim=-1), target, reduction="batchmean") * temperature**2
    return alpha * soft + (1.0 - alpha) * F.cross_entropy(student, labels)


def distil_by_hand(student, teacher, labels, temperature, alpha):
    p = (teacher.detach() / temperature).softmax(1)
    log_p, log_q = p.log(), (student / temperature).log_softmax(1)
    soft = (p * (log_p - log_q)).sum(1).mean() * temperature * temperature
    hard = -student.log_softmax(1)[torch.arange(len(labels)), labels].mean()
    return alpha * soft + (1 - alpha) * hard


def distil_log_target(student, teacher, labels, temperature, alpha):
    a = F.log_softmax(student / temperature, -1)
    b = F.log_softmax(teacher.detach() / temperature, -1)
    return alpha * temperature**2 * F.kl_div(a, b, reduction="batchmean", log_target=True) + (
        1 - alpha
    ) * F.cross_entropy(student, labels)


def distil_entropy(student, teacher, labels, temperature, alpha):
    """Cross-entropy with soft targets, less the teacher's entropy."""
    target = (teacher / temperature).softmax(-1).detach()
    cross = F.cross_entropy(student / temperature, target)
    entropy = torch.distributions.Categorical(probs=target).entropy().mean()
    return alpha * temperature**2 * (cross - entropy) + (1 - alpha) * F.cross_entropy(student, labels)


def distil_modules(student, teacher, labels, temperature, alpha):
    divergence, cross = nn.KLDivLoss(reduction="batchmean"), nn.CrossEntropyLoss()
    soft = divergence(nn.LogSoftmax(1)(student / temperature), nn.Softmax(1)(teacher.detach() / temperature))
    return alpha * soft * temperature**2 + (1 - alpha) * cross(student, labels)


def distil_distributions(student, teacher, labels, temperature, alpha):
    guess = torch.distributions.Categorical(logits=student / temperature)
    truth = torch.distributions.Categorical(logits=teacher.detach() / temperature)
    soft = torch.distributions.kl_divergence(truth, guess).mean()
    hard = -torch.distributions.Categorical(logits=student).log_prob(labels).mean()
    return torch.lerp(hard, temperature**2 * soft, alpha)


def distil_rows(student, teacher, labels, temperature, alpha):
    losses = []
    for s, t, label in zip(student, teacher.detach(), labels, strict=True):
        p, q = (t / temperature).softmax(0), (s / temperature).softmax(0)
        losses.append(alpha * temperature**2 * (p * (p / q).log()).sum() - (1 - alpha) * s.log_softmax(0)[label])
    return torch.stack(losses).mean()


class Distil(nn.Module):
    def forward(self, student, teacher, labels, temperature, alpha):
        target = (teacher.clone().detach() / temperature).softmax(-1)
        soft = F.kl_div((student / temperature).log_softmax(-1), target, reduction="sum") / len(student)
        return alpha * temperature**2 * soft + (1 - alpha) * F.nll_loss(student.log_softmax(-1), labels)


# --- blockwise_softmax


def block_where(top, total, result, scores, values):
    new = torch.maximum(top, scores.max(-1).values)
    safe = torch.where(torch.isinf(new), torch.zeros_like(new), new)
    old = torch.exp(top - safe)
    part = torch.exp(scores - safe.unsqueeze(-1))
    return new, total * old + part.sum(-1), result * old.unsqueeze(-1) + part @ values


def block_nan(top, total, result, scores, values):
    new = torch.maximum(top, scores.amax(1))
    old = (top - new).exp().nan_to_num(0.0)
    part = (scores - new[:, None]).exp().nan_to_num(0.0)
    return new, old * total + part.sum(1), torch.addmm(old[:, None] * result, part, values)


def block_rows(top, total, result, scores, values):
    rows = []
    for t, n, r, s in zip(top, total, result, scores, strict=True):
        new = max(t, s.max())
        if new == INF:
            rows.append((t, n, r))
            continue
        part = (s - new).exp()
        old = (t - new).exp()
        rows.append((new, n * old + part.sum(), r * old + part @ values))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def block_keys(top, total, result, scores, values):
    """One key after the other."""
    for j, value in enumerate(values):
        score = scores[:, j]
        new = torch.maximum(top, score)
        safe = new.clamp(min=-1e30)
        old, part = (top - safe).exp(), (score - safe).exp()
        total = old * total + part
        result = old[:, None] * result + part[:, None] * value
        top = new
    return top, total, result


def block_joined(top, total, result, scores, values):
    """What was seen counts as one more key."""
    all_scores = torch.cat([top[:, None], scores], 1)
    new = all_scores.amax(1)
    weights = (all_scores - new.masked_fill(new.isinf(), 0)[:, None]).exp()
    n = weights[:, 0] * total + weights[:, 1:].sum(1)
    return new, n, weights[:, :1] * result + weights[:, 1:] @ values


def block_logsumexp(top, total, result, scores, values):
    new = torch.stack([top, scores.amax(-1)]).amax(0)
    base = torch.where(new == INF, 0.0, new)
    weights = torch.exp(scores - base[:, None])
    block_total = torch.exp(torch.logsumexp(scores - base[:, None], -1))
    shrink = torch.exp(top - base)
    return new, shrink * total + block_total, torch.einsum("n,ne->ne", shrink, result) + weights.mm(values)


class Blocks:
    def __call__(self, top, total, result, scores, values):
        new = top.max(scores.amax(dim=-1))
        part = self.weight(scores, new[:, None])
        old = self.weight(top, new)
        return new, old * total + part.sum(dim=-1), old[:, None] * result + torch.matmul(part, values)

    @staticmethod
    def weight(score, top):
        return torch.where(score == INF, 0.0, (score - top).exp())


def block_double(top, total, result, scores, values):
    t, n, r, s, v = (part.double() for part in (top, total, result, scores, values))
    new = torch.maximum(t, s.amax(-1))
    base = new.nan_to_num(neginf=0.0)
    old, part = (t - base).exp(), (s - base[:, None]).exp()
    return new.float(), (old * n + part.sum(-1)).float(), (old[:, None] * r + part @ v).float()


# --- nucleus


def nucleus_transformers(logits, p):
    """As in transformers: the unlikely ones first."""
    ranked, order = torch.sort(logits, descending=False)
    gone = ranked.softmax(-1).cumsum(-1) <= 1 - p
    gone[-1:] = False
    return logits.masked_fill(gone.scatter(0, order, gone), INF).softmax(-1)


def nucleus_loop(logits, p):
    probabilities = F.softmax(logits, dim=0)
    chosen, mass = torch.zeros_like(probabilities), 0.0
    for token in torch.argsort(probabilities, descending=True):
        chosen[token] = probabilities[token]
        mass += probabilities[token].item()
        if mass >= p:
            break
    return chosen / chosen.sum()


def nucleus_shifted(logits, p):
    ranked, order = logits.softmax(0).sort(descending=True)
    gone = ranked.cumsum(0) >= p
    gone = torch.cat([torch.tensor([False]), gone[:-1]])
    kept = ranked.masked_fill(gone, 0)
    return (kept / kept.sum())[order.argsort()]


def nucleus_threshold(logits, p):
    shares = logits.softmax(-1)
    ranked = shares.sort(descending=True).values
    last = ranked[int((ranked.cumsum(0) < p).sum())]
    kept = torch.where(shares >= last, shares, 0.0)
    return kept / kept.sum()


def nucleus_search(logits, p):
    ranked, order = logits.softmax(-1).sort(descending=True, stable=True)
    count = int(torch.searchsorted(ranked.cumsum(-1), p)) + 1
    mask = torch.full_like(logits, INF)
    mask[order[:count]] = 0
    return (logits + mask).softmax(-1)


def nucleus_python(logits, p):
    weights = [math.exp(x - float(logits.max())) for x in logits.tolist()]
    whole = sum(weights)
    result, mass = [0.0] * len(weights), 0.0
    for token in sorted(range(len(weights)), key=lambda i: -weights[i]):
        if mass / whole >= p:
            break
        result[token] = weights[token]
        mass += weights[token]
    return torch.tensor(result) / mass


class Nucleus:
    def __call__(self, logits, p):
        probabilities = torch.exp(logits - logits.logsumexp(-1))
        values, indices = probabilities.topk(len(logits))
        kept = values * ((values.cumsum(-1) - values) < p)
        return torch.zeros_like(values).index_add(0, indices, kept / kept.sum())


def nucleus_before(logits, p):
    """Whoever has less than p before it stays."""
    shares = logits.softmax(-1)
    before = (shares[None] * (shares[None] > shares[:, None])).sum(1)
    kept = shares * (before < p)
    return kept / kept.sum()


# --- speculative_accept


def accept_ratio(draft, target, drafted, chances):
    for i in range(len(drafted)):
        token = drafted[i]
        if chances[i] >= target[i, token] / draft[i, token]:
            rest = torch.relu(target[i] - draft[i])
            return i, rest / rest.sum()
    return len(drafted), target[len(drafted)]


def accept_gather(draft, target, drafted, chances):
    p = target[:-1].gather(1, drafted[:, None])[:, 0]
    q = draft.gather(1, drafted[:, None])[:, 0]
    n = int((chances < p / q).int().cumprod(0).sum())
    if n == drafted.numel():
        return n, target[n]
    rest = (target[n] - draft[n]).clamp_min(0)
    return n, rest / rest.sum()


def accept_nonzero(draft, target, drafted, chances):
    rows = torch.arange(drafted.shape[0])
    refused = (chances >= target[rows, drafted] / draft[rows, drafted]).nonzero()
    if refused.numel() == 0:
        return drafted.shape[0], target[-1]
    first = int(refused[0])
    rest = torch.maximum(target[first] - draft[first], torch.tensor(0.0))
    return first, F.normalize(rest, p=1, dim=0)


def accept_padded(draft, target, drafted, chances):
    """A row of zeros as the draft of what follows: so both ends are one case."""
    padded = torch.cat([draft, torch.zeros(1, target.shape[1])])
    count = 0
    for i, token in enumerate(drafted):
        if not chances[i] < torch.clamp(target[i, token] / draft[i, token], max=1):
            break
        count += 1
    rest = torch.clamp(target[count] - padded[count], min=0)
    return count, rest / rest.sum()


def accept_recursive(draft, target, drafted, chances):
    if len(drafted) == 0:
        return 0, target[0]
    token = int(drafted[0])
    if float(chances[0]) * float(draft[0, token]) < float(target[0, token]):
        count, following = accept_recursive(draft[1:], target[1:], drafted[1:], chances[1:])
        return count + 1, following
    rest = (target[0] - draft[0]).clamp(0)
    return 0, rest / rest.sum()


def accept_python(draft, target, drafted, chances):
    for i, (q, p, token, u) in enumerate(
        zip(draft.tolist(), target.tolist(), drafted.tolist(), chances.tolist(), strict=False)
    ):
        if u >= p[token] / q[token]:
            rest = [max(0.0, a - b) for a, b in zip(p, q, strict=True)]
            return i, torch.tensor([part / sum(rest) for part in rest])
    return len(drafted), target[len(drafted)]


def accept_fractions(draft, target, drafted, chances):
    i = 0
    while i < len(drafted):
        p, q = Fraction(float(target[i, drafted[i]])), Fraction(float(draft[i, drafted[i]]))
        if Fraction(float(chances[i])) >= p / q:
            rest = torch.where(target[i] > draft[i], target[i] - draft[i], 0.0)
            return i, rest.div(rest.sum())
        i += 1
    return i, target[i]


class Accept:
    def __call__(self, draft, target, drafted, chances):
        rows = list(zip(target, draft, drafted, chances, strict=False))
        place = next((i for i, row in enumerate(rows) if not self.stays(*row)), len(rows))
        return place, target[place] if place == len(rows) else self.rest(target[place], draft[place])

    @staticmethod
    def stays(p, q, token, chance):
        return bool(chance < p[token] / q[token])

    @staticmethod
    def rest(p, q):
        missing = p - torch.minimum(p, q)
        return missing / missing.sum()


STYLES = {
    "7.3.rotary": [
        rotary_halves,
        rotary_complex,
        rotary_loops,
        rotary_matrix,
        rotary_unflatten,
        rotary_cmath,
        Rotary(),
        rotary_in_place,
    ],
    "7.3.alibi": [
        alibi_loops,
        alibi_tril,
        alibi_geometric,
        alibi_where,
        alibi_einsum,
        alibi_cumulative,
        alibi_rows,
        alibi_abs,
    ],
    "7.3.kv_cache_step": [
        cache_einsum,
        cache_sdpa,
        cache_heads,
        cache_bmm,
        cache_room,
        cache_running,
        Cache(),
        cache_transposed,
    ],
    "7.3.induction": [
        induction_diagonal,
        induction_loop,
        induction_gather,
        induction_mask,
        induction_heads,
        induction_einsum,
        induction_stack,
        Induction(),
    ],
    "7.3.majority_vote": [
        vote_counter,
        vote_count,
        vote_sorted,
        vote_loop,
        vote_dict,
        vote_reduce,
        vote_heap,
        Vote(),
    ],
    "7.3.beam_over_thoughts": [
        beam_recursive,
        beam_seen,
        beam_heap,
        beam_while,
        beam_select,
        beam_reduce,
        Beam(),
        beam_generator,
    ],
    "7.3.distillation_loss": [
        distil_kl_div,
        distil_by_hand,
        distil_log_target,
        distil_entropy,
        distil_modules,
        distil_distributions,
        distil_rows,
        Distil(),
    ],
    "7.3.blockwise_softmax": [
        block_where,
        block_nan,
        block_rows,
        block_keys,
        block_joined,
        block_logsumexp,
        Blocks(),
        block_double,
    ],
    "7.3.nucleus": [
        nucleus_transformers,
        nucleus_loop,
        nucleus_shifted,
        nucleus_threshold,
        nucleus_search,
        nucleus_python,
        Nucleus(),
        nucleus_before,
    ],
    "7.3.speculative_accept": [
        accept_ratio,
        accept_gather,
        accept_nonzero,
        accept_padded,
        accept_recursive,
        accept_python,
        accept_fractions,
        Accept(),
    ],
}
