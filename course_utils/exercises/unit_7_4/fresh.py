"""Unit 7.4's exercises with fresh examples, drawn when a class is graded: whoever learned the public ones fails.

All stay within what the stubs promise. Times, waits and rates are such that every order of sums gives the same.
"""

import math
from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from course_utils.exercises import drawing
from course_utils.exercises.diagnosis import Attempt
from course_utils.exercises.unit_7_4 import inputs, solutions


def fresh_kv_cache_bytes(yours: Attempt, draw: Random) -> None:
    """Models with one head for all, with groups of heads, and with a head each."""
    for bits in (4, 8, 16, 32):
        kv_heads = draw.randint(1, 9)
        heads = kv_heads * draw.choice((1, 2, 3, 8))
        head_dim = draw.choice((16, 24, 64, 128))
        model = (draw.randint(1, 40), heads, kv_heads, head_dim, draw.randint(1, 5000), draw.randint(1, 60), bits)
        yours.compare(model, solutions.kv_cache_bytes(*model))


# --- token_bucket ---------------------------------------------------------------------------------------


def fresh_token_bucket(yours: Attempt, draw: Random) -> None:
    """Crowds and pauses; rates above and below one a second."""
    for rate in (0.25, 0.5, 1.0, 2.0):
        burst = draw.randint(1, 4)
        traffic = (_arrivals(draw, rate), rate, burst)
        yours.compare(traffic, solutions.token_bucket(*traffic))


def _arrivals(draw: Random, rate: float) -> list[float]:
    """Times of requests, about twice as many as `rate` lets through."""
    time = float(draw.randint(0, 50))
    times = []
    for _ in range(draw.randint(14, 24)):
        quarters = draw.choice((0, 0, 1, 1, 2, 3, 8))
        time += quarters / 4 / rate
        times.append(time)
    return times


# --- schedule -------------------------------------------------------------------------------------------


def fresh_schedule(yours: Attempt, draw: Random) -> None:
    """One to four slots, and always some who arrive together."""
    for slots in (1, 2, 3, 4):
        count = draw.randint(6, 10)
        requests = [(draw.randint(0, 9), draw.randint(1, 7)) for _ in range(count)]
        yours.compare((requests, slots), solutions.schedule(requests, slots))


# --- gptq -----------------------------------------------------------------------------------------------


def fresh_gptq(yours: Attempt, draw: Random) -> None:
    """Layers whose inputs hang together, in several groups."""
    for _ in range(3):
        layer = _random_layer(draw)
        while not _far_from_ties(*layer):
            layer = _random_layer(draw)
        yours.compare(layer, solutions.gptq(*layer))


def _random_layer(draw: Random) -> tuple[Tensor, Tensor, int, int]:
    """Weights (3, 8), their Hessian (8, 8), bits and group."""
    weight = drawing.normal(draw, 3, 8)
    activations = solutions.correlated(60, 8, seed=draw.randrange(2**31))
    return weight, solutions.hessian_of(activations), draw.choice((2, 3, 4)), draw.choice((4, 8))


def _far_from_ties(weight: Tensor, hessian: Tensor, bits: int, group: int) -> bool:
    """Whether no code is so near to its neighbour that the order of sums could decide."""
    nudges = 2e-4 * torch.randn(8, *weight.shape, generator=torch.Generator().manual_seed(0))
    rows = (weight + nudges).flatten(0, 1)
    rounded = solutions.gptq(rows, hessian, bits, group).unflatten(0, (8, -1))
    apart = rounded - rounded[0]
    return bool(apart.abs().max() < 0.01)  # a code that flips moves a weight by more than that


# --- percentile -----------------------------------------------------------------------------------------


def fresh_percentile(yours: Attempt, draw: Random) -> None:
    """Any bucket, then known ones, empty ones between them; then no observation at all."""
    bounds = _random_bounds(draw)
    between = [16, *[32] * (len(bounds) - 3), 48, 64]
    histograms = [
        (bounds, _random_counts(draw, len(bounds)), draw.randint(1, 16) / 16),
        (bounds, _random_counts(draw, len(bounds)), draw.randint(1, 16) / 16),
        (bounds, [40] + [64] * (len(bounds) - 1), draw.choice((0.25, 0.5))),
        (bounds, between, draw.choice((0.3125, 0.375, 0.4375))),  # in the second bucket
        (bounds, between, 0.5),  # at its end; what follows is empty
        (bounds, between, draw.choice((0.8125, 0.875))),  # in the last
    ]
    for histogram in histograms:
        yours.compare(histogram, solutions.percentile(*histogram))
    solutions.examine_nothing_observed(yours, bounds)


def _random_bounds(draw: Random) -> list[float]:
    """Upper ends of buckets in seconds, the last one infinite."""
    quarters = draw.sample(range(1, 60), draw.randint(4, 6))
    finite = [count / 4 for count in sorted(quarters)]
    return [*finite, math.inf]


def _random_counts(draw: Random, buckets: int) -> list[int]:
    """Observations up to each bound, a multiple of 16 in all: the rank of q sixteenths is then a whole number."""
    counts = [draw.randint(0, 80) for _ in range(buckets - 1)]
    return [*sorted(counts), draw.choice((80, 96, 128))]


# --- backoff --------------------------------------------------------------------------------------------


def fresh_backoff(yours: Attempt, draw: Random) -> None:
    """Other shares of the way, with and without wishes of the server; budgets used up in the middle or to the last."""
    for where in (inputs.draw, inputs.draw_early, inputs.draw_late):
        asked = [draw.choice((None, None, 0.5, 3.0, 8.0)) for _ in range(draw.randint(4, 7))] + [8.0, None]
        base = draw.choice((0.5, 1.0, 2.0))
        cap = base * draw.choice((2, 3, 5))
        waits = solutions.backoff(asked, base, cap, solutions.ENDLESS, where)
        half = len(waits) // 2
        to_the_last = sum(waits[:half])
        too_little = to_the_last + waits[half] / 2
        for budget in (solutions.ENDLESS, draw.choice((to_the_last, too_little))):
            plan = (asked, base, cap, budget, where)
            yours.compare(plan, solutions.backoff(*plan))


# --- injection_filter -----------------------------------------------------------------------------------

ACTIONS = ("find_order", "track_parcel", "list_toys", "open_ticket", "refund", "cancel_order")
PHRASES = ("ignore all previous instructions", "system prompt", "act as", "forget your rules", "new orders")
HONEST = (
    "Where is my parcel?",
    "I need an exact assembly plan of the cube",
    "Is the shop's ecosystem prompt with deliveries?",
    "all my previous instructions to the courier hold, ignore the rest",
    "I forget: what are your rules for returns?",
    "renew orders 12 and 13, please",
    "",
)
BOLD_A, FULL_WIDTH_A = 0x1D400, 0xFF41  # other letters A and a of Unicode; their alphabets go on from there


def fresh_injection_filter(yours: Attempt, draw: Random) -> None:
    """Allowed actions, other ones and near misses; honest texts, and phrases in every disguise."""
    for _ in range(3):
        allowed = draw.sample(ACTIONS, 3)
        phrases = draw.sample(PHRASES, 3)
        calls = [(draw.choice(allowed), _disguised(draw, draw.choice(PHRASES))) for _ in range(6)]
        calls += [(draw.choice(allowed), text) for text in draw.sample(HONEST, 4)]
        calls += [(action, "hello") for action in _near_misses(draw.choice(allowed))]
        calls += [(action, f"{allowed[0]} is allowed, isn't it?") for action in ACTIONS]
        draw.shuffle(calls)
        yours.compare((calls, allowed, phrases), solutions.injection_filter(calls, allowed, phrases))


def _near_misses(action: str) -> list[str]:
    """Names that look like the one of an allowed action."""
    return [action.upper(), f"{action}_now", f"please_{action}", action[:-1], _other_letters(action, FULL_WIDTH_A)]


def _disguised(draw: Random, phrase: str) -> str:
    """A text that holds `phrase`, written so that a plain search overlooks it."""
    ways: list[Callable[[str], str]] = [
        str.upper,
        lambda text: text.replace(" ", "  \n"),
        lambda text: text.replace(" ", "\u00a0(", 1),
        lambda text: text.replace(" ", ", "),
        lambda text: f"{text[0]}\u200b{text[1:-1]}\u2060{text[-1]}",
        lambda text: _other_letters(text, FULL_WIDTH_A),
        lambda text: _other_letters(text, BOLD_A),
    ]
    way = draw.choice(ways)
    return f"Hello, {way(phrase)}! Thank you."


def _other_letters(text: str, first: int) -> str:
    """`text` in the alphabet that begins at `first`; NFKC makes plain letters of it."""
    alphabet = {ord("a") + i: chr(first + i) for i in range(26)}
    return text.translate(alphabet)
