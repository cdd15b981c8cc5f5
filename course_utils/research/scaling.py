"""A scaling law on small transformers: several sizes trained on the shop's letters, a power law, a prediction.

The models of one size differ in their seed and are trained side by side, as one tensor with a first axis `models`:
small matrices take little longer together than one alone.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.measures import Measure

LENGTH = 64  # letters that a model reads at once
BATCH = 8  # rows in a step
LAYERS = 2
HEAD = 8  # numbers of a head
HELD_OUT = 128  # rows that no model is trained on
STEEPNESSES = torch.linspace(0.02, 1.5, 149, dtype=torch.float64)  # exponents that the fit tries


# ---------------------------------------------------------------- letters


@dataclass(frozen=True)
class Letters:
    """Texts as numbers of letters: what is trained on (n,), and held-out rows (HELD_OUT, LENGTH + 1)."""

    alphabet: str
    train: Tensor
    held_out: Tensor


def letters(examples: int = 1200, seed: int = 777) -> Letters:
    """The shop's texts, letter by letter; the last rows are held out."""
    from course_utils.prisma import text

    mixture = text.mixture(seed, text.SKILLS)
    joined = "\n".join(example.text for example in itertools.islice(mixture, examples))
    alphabet = "".join(sorted(set(joined)))
    numbers = {letter: number for number, letter in enumerate(alphabet)}
    codes = torch.tensor([numbers[letter] for letter in joined])
    room = HELD_OUT * (LENGTH + 1)
    if len(codes) < 4 * room:
        raise ValueError(f"{examples} examples give {len(codes)} letters, and {4 * room} are needed: ask for more")
    return Letters(alphabet, codes[:-room], codes[-room:].view(HELD_OUT, LENGTH + 1))


# ---------------------------------------------------------------- models


class Transformers(nn.Module):
    """`models` small transformers of one size, each with weights of its own, as one module.

    Every tensor has the models first. Two layers, heads of 8 numbers, no biases, learned positions.
    """

    def __init__(self, models: int, vocabulary: int, width: int, seed: int) -> None:
        super().__init__()
        if width % HEAD:
            raise ValueError(f"a width of {width} cannot be cut into heads of {HEAD}: take a multiple of {HEAD}")
        self.models, self.vocabulary, self.width = models, vocabulary, width
        generator = torch.Generator().manual_seed(seed)

        def weights(rows: int, columns: int, spread: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(models, rows, columns, generator=generator) * spread)

        self.tokens = weights(vocabulary, width, 0.1)
        self.places = weights(LENGTH, width, 0.1)
        self.head = weights(width, vocabulary, width**-0.5)
        self.inner = nn.ParameterList()
        wide = 4 * width
        for _ in range(LAYERS):
            self.inner.append(weights(width, 3 * width, width**-0.5))  # queries, keys, values
            self.inner.append(weights(width, width, width**-0.5))  # after the attention
            self.inner.append(weights(width, wide, width**-0.5))
            self.inner.append(weights(wide, width, wide**-0.5))

    @property
    def parameters_each(self) -> int:
        """The weights of one model inside its layers: embeddings and head are not counted (as in arXiv 2001.08361)."""
        return sum(part[0].numel() for part in self.inner)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (models, batch, time) to logits (models, batch, time, vocabulary)."""
        first = torch.arange(self.models)[:, None, None] * self.vocabulary
        rows = self.tokens.flatten(0, 1)  # (models * vocabulary, width)
        x = rows[ids + first] + self.places[:, None, : ids.shape[2]]  # (models, batch, time, width)
        for layer in range(LAYERS):
            first_matrix = 4 * layer
            mix, out, up, down = self.inner[first_matrix : first_matrix + 4]
            mixed = times(self._normed(x), mix)  # (models, batch, time, 3 width)
            seen = self._attention(mixed)
            x = x + times(seen, out)
            wide = times(self._normed(x), up)  # (models, batch, time, 4 width)
            x = x + times(F.gelu(wide), down)
        normed = self._normed(x)
        return times(normed, self.head)

    def _normed(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,))

    def _attention(self, mixed: Tensor) -> Tensor:
        """Queries, keys and values (models, batch, time, 3 width) to (models, batch, time, width)."""
        parts = mixed.unflatten(-1, (3, -1, HEAD)).flatten(0, 1)  # (models * batch, time, 3, heads, 8)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (models * batch, heads, time, 8)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        joined = seen.transpose(1, 2).flatten(-2)  # (models * batch, time, width)
        return joined.unflatten(0, (self.models, -1))


def times(x: Tensor, weights: Tensor) -> Tensor:
    """x (models, batch, time, n) times each model's own weights (models, n, m): (models, batch, time, m)."""
    flat = x.flatten(1, 2)  # (models, batch * time, n)
    return torch.bmm(flat, weights).unflatten(1, x.shape[1:3])


def losses(model: Transformers, rows: Tensor) -> Tensor:
    """The mean loss (nats a letter) of each model on its rows (models, batch, time + 1): (models,)."""
    logits = model(rows[..., :-1])
    wanted = rows[..., 1:].flatten()
    each = F.cross_entropy(logits.flatten(0, 2), wanted, reduction="none")
    return each.unflatten(0, (model.models, -1)).mean(1)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Size:
    """A size: its weights, its losses on held-out rows {steps: one for each seed}, and the processor's seconds."""

    width: int
    parameters: int
    losses: dict[int, list[float]]
    seconds: float


def rate_of(width: int) -> float:
    """The peak learning rate of a width: it falls as 1 / width (the rule of arXiv 2203.03466 for hidden weights)."""
    return 0.32 / width


def train(
    data: Letters,
    width: int,
    marks: Sequence[int],
    *,
    seeds: int = 2,
    rate: float | None = None,
    seed: int = 0,
) -> Size:
    """Train `seeds` models of one width side by side, and test them after each number of steps in
    `marks`.

    The rate rises for 20 steps and then stays: with a rate that falls towards the end, a mark in
    the middle would not be a shorter training (arXiv 2203.15556, appendix B).
    """
    if not marks or min(marks) < 1:
        raise ValueError("say after how many steps to measure: at least one number, each 1 or more")
    began = time.process_time()
    model = Transformers(seeds, len(data.alphabet), width, seed)
    peak = rate_of(width) if rate is None else rate
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed + 1)
    found = {}
    for step in range(1, max(marks) + 1):
        optimiser.param_groups[0]["lr"] = peak * min(1.0, step / 20)
        rows = _drawn(data.train, seeds, generator)
        # The models share nothing: a sum trains each by itself.
        losses(model, rows).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        if step in marks:
            found[step] = _tested(model, data.held_out)
    return Size(width, model.parameters_each, found, time.process_time() - began)


def _drawn(train: Tensor, models: int, generator: torch.Generator) -> Tensor:
    """Random rows (models, BATCH, LENGTH + 1)."""
    starts = torch.randint(len(train) - LENGTH, (models, BATCH, 1), generator=generator)
    return train[starts + torch.arange(LENGTH + 1)]


def _tested(model: Transformers, held_out: Tensor) -> list[float]:
    with torch.inference_mode():
        return losses(model, held_out.expand(model.models, -1, -1)).tolist()


# ---------------------------------------------------------------- the law


@dataclass(frozen=True)
class Law:
    """loss = floor + factor / parameters ** steepness: E, A and a of arXiv 2203.15556."""

    floor: float
    factor: float
    steepness: float

    def predict(self, parameters: float) -> float:
        """The loss of a model with so many parameters (nats)."""
        return self.floor + self.factor / parameters**self.steepness


def fit(parameters: Sequence[float], values: Sequence[float]) -> Law:
    """The law with the least squared error. ValueError with fewer than three sizes: it has three numbers.

    For a given steepness the law is a straight line in N ** -a. So: try every steepness, draw the best line, keep
    the best of all. A floor below zero is no loss that a model could have: it is set to zero.
    """
    if len(set(parameters)) < 3:
        raise ValueError("a law with three numbers needs at least three sizes")
    sizes = torch.tensor(parameters, dtype=torch.float64)  # (n,)
    loss = torch.tensor(values, dtype=torch.float64)  # (n,)
    x = sizes ** -STEEPNESSES[:, None]  # (steepnesses, n)
    middle = x.mean(1)
    around = x - middle[:, None]
    slope = _slope(around, loss)  # (steepnesses,)
    floor = loss.mean() - slope * middle
    slope = torch.where(floor < 0, _slope(x, loss), slope)
    floor = floor.clamp(min=0)
    lines = floor[:, None] + slope[:, None] * x  # (steepnesses, n)
    errors = (lines - loss).square()
    best = int(errors.sum(1).argmin())
    return Law(float(floor[best]), float(slope[best]), float(STEEPNESSES[best]))


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """The best slope of a line through zero, for each row of x."""
    together = x * y
    return together.sum(1) / x.square().sum(1)


def leftovers(parameters: Sequence[float], values: Sequence[float]) -> Tensor:
    """What the fitted law leaves over at each point (n,), a little enlarged.

    A fit with three free numbers comes closer to its points than the truth does: by a factor of about
    the root of (n - 3) / n. ValueError for three points or fewer: nothing would be left over.
    """
    n = len(values)
    if n < 4:
        raise ValueError(f"{n} points leave nothing over from three numbers: train more sizes or seeds")
    law = fit(parameters, values)
    fitted = [law.predict(size) for size in parameters]
    rest = torch.tensor(values) - torch.tensor(fitted)
    too_close = (n - 3) / n
    return rest / too_close**0.5


def refits(parameters: Sequence[float], values: Sequence[float], rounds: int = 500, seed: int = 0) -> list[Law]:
    """Laws of a bootstrap: what was left over by the fit is dealt out anew to the points, and the law fitted again."""
    law = fit(parameters, values)
    fitted = torch.tensor([law.predict(size) for size in parameters])
    rest = leftovers(parameters, values)
    n = len(rest)
    generator = torch.Generator().manual_seed(seed)
    laws = []
    for _ in range(rounds):
        picks = torch.randint(n, (n,), generator=generator)
        again = fitted + rest[picks]
        laws.append(fit(parameters, again.tolist()))
    return laws


def interval(values: Sequence[float], value: float, n: int, unit: str = "") -> Measure:
    """`value` with the middle 95 % of `values`; `n` trainings stand behind it."""
    spread = torch.tensor(values, dtype=torch.float64)
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Measure(value, min(low, value), max(high, value), n, unit)


def prediction(
    parameters: Sequence[float],
    values: Sequence[float],
    size: float,
    rounds: int = 500,
    seed: int = 0,
) -> Measure:
    """The loss that the law foretells for one more training of a size, with its 95 % prediction interval (nats).

    Two things can go wrong: the law may be another (bootstrap), and one training differs from the next (what the
    fit left over).
    """
    law = fit(parameters, values)
    rest = leftovers(parameters, values)
    generator = torch.Generator().manual_seed(seed + 1)
    picks = torch.randint(len(rest), (rounds,), generator=generator)
    chances = rest[picks].tolist()
    laws = refits(parameters, values, rounds, seed)
    drawn = []
    for other, chance in zip(laws, chances, strict=True):
        drawn.append(other.predict(size) + chance)
    return interval(drawn, law.predict(size), len(values), "nats")


def compute_optimal(operations: float, tokens_a_parameter: float = 20.0) -> tuple[float, float]:
    """Parameters and tokens that spend so many operations, C = 6 N D, at so many tokens a parameter.

    About 20 after Chinchilla (arXiv 2203.15556, table 3: 67 billion parameters, 1.5 trillion tokens).
    """
    parameters = (operations / (6 * tokens_a_parameter)) ** 0.5
    return parameters, tokens_a_parameter * parameters
