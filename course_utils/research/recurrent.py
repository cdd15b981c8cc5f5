"""Linear attention and state-space models by hand, and small readers that differ in nothing else.

Every way of mixing tokens here takes queries q and keys k (..., n, state) and values v (..., n, width), and gives
(..., n, width). The recurrent ones hold a state (state, width) however long the text is; attention holds all keys
and values.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("attention", "linear attention", "state space")


def positive(x: Tensor) -> Tensor:
    """The feature map of linear attention (arXiv 2006.16236, equation 7): no number stays negative."""
    return F.elu(x) + 1


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Linear attention, all tokens at once: no softmax, so that the weights are plain products
    (arXiv 2006.16236).
    """
    weights = positive(q) @ positive(k).transpose(-2, -1)  # (..., n, n)
    weights = weights.tril()  # nobody looks into the future
    return weights @ v / weights.sum(dim=-1, keepdim=True)


def linear_attention_stepwise(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, token by token, with a state that does not grow (arXiv 2006.16236, equations 18 to
    20).
    """
    state = v.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])  # (..., state, width)
    total = torch.zeros_like(k[..., 0, :])  # (..., state)
    results = []
    for t in range(q.shape[-2]):
        asks, offers, brings = positive(q[..., t, :]), positive(k[..., t, :]), v[..., t, :]
        state = state + offers.unsqueeze(-1) * brings.unsqueeze(-2)
        total = total + offers
        mixed = (asks.unsqueeze(-2) @ state).squeeze(-2)  # (..., width)
        weight = (asks * total).sum(-1, keepdim=True)
        results.append(mixed / weight)
    return torch.stack(results, dim=-2)


# ---------------------------------------------------------------- state space, Mamba's first version


def selective_scan(x: Tensor, step: Tensor, decay: Tensor, writes: Tensor, reads: Tensor) -> Tensor:
    """A selective state space, token by token (arXiv 2312.00752, algorithm 2): (n, channels).

    x, step: (n, channels), the steps above 0; decay: (channels, state), below 0; writes, reads: (n,
    state). Steps, writes and reads were worked out from the tokens: that is what makes it
    *selective*.
    """
    state = torch.zeros_like(decay)  # (channels, state)
    results = []
    for t in range(len(x)):
        kept = (step[t].unsqueeze(-1) * decay).exp()  # (channels, state), from 0 to 1
        written = (step[t] * x[t]).unsqueeze(-1) * writes[t]  # (channels, state)
        state = kept * state + written
        results.append(state @ reads[t])  # (channels,)
    return torch.stack(results)


def parallel_scan(kept: Tensor, written: Tensor) -> Tensor:
    """All states of s[t] = kept[t] s[t-1] + written[t] at once, in log2(n) rounds: (n, ...), as
    both inputs.

    After each round an entry sums up twice as many tokens. Two neighbours join to one: first (a,
    b), then (c, d), is together (a c, b c + d). (Hillis and Steele 1986; Mamba's kernel scans in
    the same spirit.)
    """
    reach = 1
    while reach < len(kept):
        earlier = written[:-reach]
        passed_on = kept[reach:] * earlier
        written = torch.cat([written[:reach], written[reach:] + passed_on])
        kept = torch.cat([kept[:reach], kept[reach:] * kept[:-reach]])
        reach *= 2
    return written


def selective_scan_in_parallel(x: Tensor, step: Tensor, decay: Tensor, writes: Tensor, reads: Tensor) -> Tensor:
    """What `selective_scan` gives, from all tokens at once: (n, channels)."""
    kept = (step.unsqueeze(-1) * decay).exp()  # (n, channels, state)
    written = (step * x).unsqueeze(-1) * writes.unsqueeze(1)  # (n, channels, state)
    states = parallel_scan(kept, written)
    return (states * reads.unsqueeze(1)).sum(-1)


def as_convolution(x: Tensor, step: Tensor, decay: Tensor, writes: Tensor, reads: Tensor) -> Tensor:
    """The same where nothing depends on the token: one filter along the text (arXiv 2111.00396), (n, channels).

    x: (n, channels); step: (channels,); decay: (channels, state); writes, reads: (state,).
    """
    n = len(x)
    ages = torch.arange(n, dtype=x.dtype)  # how long ago a token was
    rates = step.unsqueeze(-1) * decay  # (channels, state)
    kept = (ages.view(-1, 1, 1) * rates).exp()  # (n, channels, state)
    filters = (kept * writes * reads).sum(-1) * step  # (n, channels)
    padded = F.pad(x.T, (n - 1, 0))  # (channels, 2 n - 1): nothing before the text
    newest_last = filters.T.flip(-1)  # (channels, n)
    mixed = F.conv1d(padded.unsqueeze(0), newest_last.unsqueeze(1), groups=x.shape[1])
    return mixed.squeeze(0).T


# ---------------------------------------------------------------- state space, Mamba's second version


def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, log_kept: Tensor) -> Tensor:
    """A selective state space with one decay for the whole state, as attention (Mamba-2, arXiv
    2405.21060).

    log_kept: (..., n), the logarithm of the share of the state that each token leaves in place, at
    most 0. A weight is the product of query and key, times what all tokens between them have kept.
    """
    since_start = log_kept.cumsum(-1)  # (..., n)
    between = since_start.unsqueeze(-1) - since_start.unsqueeze(-2)  # (..., n, n)
    future = torch.ones_like(between, dtype=torch.bool).triu(1)
    kept = between.masked_fill(future, float("-inf")).exp()  # (..., n, n)
    weights = (q @ k.transpose(-2, -1)) * kept
    return weights @ v


def gated_linear_attention_stepwise(q: Tensor, k: Tensor, v: Tensor, log_kept: Tensor) -> Tensor:
    """The same, token by token, with a state that does not grow."""
    state = v.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1])  # (..., state, width)
    results = []
    for t in range(q.shape[-2]):
        kept = log_kept[..., t, None, None].exp()
        state = kept * state + k[..., t, :, None] * v[..., t, None, :]
        mixed = q[..., t, None, :] @ state  # (..., 1, width)
        results.append(mixed.squeeze(-2))
    return torch.stack(results, dim=-2)


def recent_attention(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    """Softmax attention that prefers what is near: `slope` off a score for each token between (arXiv 2108.12409)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., n, n)
    places = torch.arange(q.shape[-2])
    distance = places.unsqueeze(-1) - places  # (n, n)
    scores = scores - slope * distance
    return scores.masked_fill(distance < 0, float("-inf")).softmax(-1) @ v


# ---------------------------------------------------------------- small readers


class Mixer(nn.Module):
    """One layer that mixes tokens in the way `kind` says; all else is the same for every kind.

    As in Mamba, a short filter lets each token see the three before it. Attention learns how much it prefers what is
    near, the state space how much each token erases. All kinds have the parameters of both, and ignore what is not
    theirs, so that their sizes are equal.
    """

    def __init__(self, kind: str, width: int, state: int) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"There is no way {kind!r} to mix tokens here. Take one of {', '.join(KINDS)}.")
        self.kind = kind
        self.sizes = (state, state, width)
        self.project = nn.Linear(width, 2 * state + width, bias=False)
        self.filter = nn.Parameter(torch.randn(4, 2 * state + width) / 2)
        self.gate = nn.Linear(width, 1)
        nn.init.constant_(self.gate.bias, -3.0)  # at first a token leaves most of the state in place
        self.slope = nn.Parameter(torch.tensor(-3.0))  # of attention, through a softplus
        self.norm = nn.RMSNorm(width)
        self.join = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x and result: (batch, n, width)."""
        projected = self.project(x)  # (batch, n, 2 state + width)
        n = x.shape[-2]
        padded = F.pad(projected, (0, 0, 3, 0))
        seen = sum(padded[..., back : back + n, :] * self.filter[back] for back in range(4))
        q, k, v = F.silu(seen).split(self.sizes, dim=-1)
        if self.kind == "attention":
            mixed = recent_attention(q, k, v, F.softplus(self.slope))
        elif self.kind == "linear attention":
            mixed = linear_attention(q, k, v)
        else:
            step = F.softplus(self.gate(x))  # (batch, n, 1): how much this token writes, and erases
            mixed = gated_linear_attention(q, k, step * v, -step.squeeze(-1))
        return self.join(self.norm(mixed))


class Reader(nn.Module):
    """A small language model: one `Mixer` for each name in `kinds`."""

    def __init__(self, kinds: Sequence[str], words: int, width: int = 32, state: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        nn.init.normal_(self.embed.weight, std=0.5)
        self.mixers = nn.ModuleList(Mixer(kind, width, state) for kind in kinds)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in kinds)
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, words, bias=False))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, n, words) for token ids (batch, n)."""
        x = self.embed(ids)  # (batch, n, width)
        for mixer, norm in zip(self.mixers, self.norms, strict=True):
            x = x + mixer(norm(x))
        return self.head(x)


# ---------------------------------------------------------------- what the readers learn


def recall_rows(rows: int, pairs: int, keys: int, generator: torch.Generator) -> Tensor:
    """Pairs to remember, then the same in another order: ids (rows, 4 pairs), as in Zoology (arXiv 2312.04927).

    A key is one of the words 0 to `keys` - 1 and stands once, a value one of the `keys` words behind them. ValueError
    for more pairs than keys.
    """
    if not 1 <= pairs <= keys:
        raise ValueError(f"{pairs} pairs of {keys} different keys: take at least one and at most {keys}.")
    names = torch.rand(rows, keys, generator=generator).argsort(-1)[:, :pairs]
    values = torch.randint(keys, 2 * keys, (rows, pairs), generator=generator)
    order = torch.rand(rows, pairs, generator=generator).argsort(-1)
    told = torch.stack([names, values], dim=-1)  # (rows, pairs, 2)
    asked = told.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat([told, asked], dim=1).flatten(1)


def status_rows(rows: int, n: int, words: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reports of a status among other words: ids (rows, n), and the status that holds at each token (rows, n).

    A token is a new status, one of the words 0 to `words` - 1, with the probability `share`, and else one of the
    `words` behind them, which means nothing (a flip-flop with more values, arXiv 2306.00946). The first is a status.
    """
    if not 0 < share <= 1:
        raise ValueError(f"A share of {share}: take one above 0 and up to 1.")
    new = torch.rand(rows, n, generator=generator) < share
    new[:, 0] = True
    status = torch.randint(words, (rows, n), generator=generator)
    other = torch.randint(words, 2 * words, (rows, n), generator=generator)
    places = torch.arange(n)
    last = torch.where(new, places, 0).cummax(-1).values  # (rows, n): where the newest status stands
    return torch.where(new, status, other), status.gather(1, last)
