"""A mixture of experts by hand: routing, balance, and small models with and without it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# How much all tokens have in common when training begins. In deep models that is a lot (arXiv 1909.00512), and it makes
# a router send all of them the same way.
IN_COMMON = 2.0


class Routing(NamedTuple):
    """Where tokens go. `shares`: (tokens, experts), what the router thinks; `experts`, `weights`: (tokens, k)."""

    shares: Tensor
    experts: Tensor
    weights: Tensor

    @property
    def load(self) -> Tensor:
        """The share of all visits that each expert gets: (experts,)."""
        count = self.shares.shape[-1]
        visits = F.one_hot(self.experts, count).sum(dim=(-3, -2))  # (experts,)
        return visits / visits.sum(-1, keepdim=True)


def route(scores: Tensor, k: int, bias: Tensor | None = None) -> Routing:
    """Send each token to the k experts with the best scores (tokens, experts); ValueError if there
    are fewer than k.

    A `bias` (experts,) is added where experts are *chosen*, and not where their answers are weighed
    (arXiv 2408.15664). Of one expert the weight is its share, so that the router gets a gradient
    (arXiv 2101.03961); the weights of several add up to 1.
    """
    count = scores.shape[-1]
    if not 1 <= k <= count:
        raise ValueError(f"{k} of {count} experts: choose at least one, and at most all of them.")
    shares = scores.softmax(-1)  # (tokens, experts)
    wanted = shares if bias is None else shares + bias
    chosen = wanted.topk(k, dim=-1).indices  # (tokens, k)
    weights = shares.gather(-1, chosen)
    if k > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    return Routing(shares, chosen, weights)


def balance_loss(routing: Routing) -> Tensor:
    """Switch's loss (arXiv 2101.03961, equation 4): 1 if all experts get the same, up to their
    number if one gets all.

    Where tokens went is counted and has no gradient; what the router thinks has one.
    """
    thought = routing.shares.mean(-2)  # (experts,)
    count = thought.shape[-1]
    return count * (routing.load * thought).sum(-1)


def bias_step(bias: Tensor, load: Tensor, size: float = 0.001) -> Tensor:
    """The bias after one step without any loss: up for experts with too little, down for the others
    (2408.15664).
    """
    even = load.mean(-1, keepdim=True)
    return bias + size * torch.sign(even - load)


class Experts(nn.Module):
    """Experts, each a small MLP of its own, in place of one MLP: (tokens, width) to (tokens, width)."""

    def __init__(self, width: int, hidden: int, count: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.router = nn.Linear(width, count, bias=False)
        self.up = nn.Parameter(torch.randn(count, width, hidden) / width**0.5)
        self.down = nn.Parameter(torch.randn(count, hidden, width) / hidden**0.5)
        self.register_buffer("bias", torch.zeros(count))  # the optimiser does not touch it

    def visit(self, x: Tensor, routing: Routing) -> Tensor:
        """Each expert computes for its own tokens and for no others: what a large model does."""
        result = torch.zeros_like(x)
        for expert, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            tokens, place = torch.where(routing.experts == expert)
            answer = torch.relu(x[tokens] @ up) @ down  # (its tokens, width)
            weighed = answer * routing.weights[tokens, place].unsqueeze(-1)
            result = result.index_add(0, tokens, weighed)
        return result

    def forward(self, x: Tensor) -> tuple[Tensor, Routing]:
        """The same numbers as `visit` with all experts for all tokens: faster for models as small
        as ours.
        """
        routing = route(self.router(x), self.k, self.bias)
        weights = torch.zeros_like(routing.shares).scatter(-1, routing.experts, routing.weights)
        middle = torch.relu(torch.einsum("tw,ewh->teh", x, self.up))
        answers = torch.einsum("teh,ehw->tew", middle, self.down)  # (tokens, experts, width)
        return (answers * weights.unsqueeze(-1)).sum(-2), routing


class Dictionary(nn.Module):
    """Translates words: (language, word) to one of `words`. With `count` experts, or one MLP if that is 1."""

    def __init__(self, languages: int, words: int, width: int, hidden: int, count: int = 1, k: int = 1) -> None:
        super().__init__()
        self.language = nn.Embedding(languages, width)
        self.word = nn.Embedding(words, width)
        self.common = nn.Parameter(IN_COMMON * torch.randn(width))
        self.norm = nn.RMSNorm(width)
        self.experts = Experts(width, hidden, count, k)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Routing]:
        """Logits (tokens, words) for pairs (tokens, 2) of a language and a word, and where each
        went.
        """
        x = self.language(pairs[:, 0]) + self.word(pairs[:, 1]) + self.common  # (tokens, width)
        answer, routing = self.experts(self.norm(x))
        return self.head(x + answer), routing

    def counted(self) -> tuple[int, int]:
        """Parameters in all, and those that one word uses."""
        total = sum(parameter.numel() for parameter in self.parameters())
        experts = self.experts
        of_one = experts.up[0].numel() + experts.down[0].numel()
        idle = len(experts.up) - experts.k
        return total, total - idle * of_one


def dictionaries(languages: int, words: int, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """All questions (languages x words, 2), and their answers for each seed (seeds, languages x words).

    In each language every word means another one, drawn at random: nothing can be known but by heart.
    """
    pairs = torch.cartesian_prod(torch.arange(languages), torch.arange(words))
    answers = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        columns = [torch.randperm(words, generator=generator) for _ in range(languages)]
        answers.append(torch.cat(columns))
    return pairs, torch.stack(answers)
