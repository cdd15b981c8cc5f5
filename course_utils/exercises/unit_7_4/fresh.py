"""Unit 7.4's exercises with fresh examples, drawn when a class is graded: whoever learned the public ones fails.

All stay within what the stubs promise. Times, waits and rates are such that every order of sums gives the same.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.exercises.diagnosis import Attempt, near
from course_utils.exercises.unit_7_4 import inputs, solutions


def fresh_kv_cache_bytes(yours: Attempt, draw: random.Random) -> None:
    """Models with one head for all, with groups of heads, and with a head each."""
    for bits in (4, 8, 16, 32):
        kv_heads = draw.randint(1, 9)
        heads = kv_heads * draw.choice((1, 2, 3, 8))
        head_dim = draw.choice((16, 24, 64, 128))
        model = (draw.randint(1, 40), heads, kv_heads, head_dim, draw.randint(1, 5000), draw.randint(1, 60), bits)
        yours.compare(model, solutions.kv_cache_bytes(*model))


# --- token_bucket ---------------------------------------------------------------------------------------


def fresh_token_bucket(yours: Attempt, draw: random.Random) -> None:
    """Crowds and pauses; rates above and below one a second."""
    for rate in (0.25, 0.5, 1.0, 2.0):
        burst = draw.randint(1, 4)
        traffic = (arrivals(draw, rate), rate, burst)
        yours.compare(traffic, solutions.token_bucket(*traffic))


def arrivals(draw: random.Random, rate: float) -> list[float]:
    """Times of requests, about twice as many as `rate` lets through."""
    time = float(draw.randint(0, 50))
    times = []
    for _ in range(draw.randint(14, 24)):
        quarters = draw.choice((0, 0, 1, 1, 2, 3, 8))
        time += quarters / 4 / rate
        times.append(time)
    return times


# --- schedule -------------------------------------------------------------------------------------------


def fresh_schedule(yours: Attempt, draw: random.Random) -> None:
    """One to four slots, and always some who arrive together."""
    for slots in (1, 2, 3, 4):
        count = draw.randint(6, 10)
        requests = [(draw.randint(0, 9), draw.randint(1, 7)) for _ in range(count)]
        yours.compare((requests, slots), solutions.schedule(requests, slots))


# --- gptq -----------------------------------------------------------------------------------------------


def fresh_gptq(yours: Attempt, draw: random.Random) -> None:
    """Layers whose inputs hang together, in several groups."""
    for _ in range(3):
        layer = random_layer(draw)
        while not far_from_ties(*layer):
            layer = random_layer(draw)
        yours.compare(layer, solutions.gptq(*layer))


def random_layer(draw: random.Random) -> tuple[Tensor, Tensor, int, int]:
    """Weights (3, 8), their Hessian (8, 8), bits and group."""
    seed = draw.randrange(2**31)
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
    activations = solutions.correlated(60, 8, seed=seed)
    return weight, solutions.hessian_of(activations), draw.choice((2, 3, 4)), draw.choice((4, 8))


def far_from_ties(weight: Tensor, hessian: Tensor, bits: int, group: int) -> bool:
    """Whether no code is so near to its neighbour that the order of sums could decide."""
    wanted = solutions.gptq(weight, hessian, bits, group)
    nudges = torch.Generator().manual_seed(0)
    for _ in range(8):
        nudged = weight + 2e-4 * torch.randn(weight.shape, generator=nudges)
        came = solutions.gptq(nudged, hessian, bits, group)
        if not near(came, wanted, tolerance=0.01):  # a code that flips moves a weight by more than that
            return False
    return True


# --- percentile -----------------------------------------------------------------------------------------


def fresh_percentile(yours: Attempt, draw: random.Random) -> None:
    """Any bucket, then known ones, empty ones between them; then no observation at all."""
    bounds = random_bounds(draw)
    between = [16, *[32] * (len(bounds) - 3), 48, 64]
    histograms = [
        (bounds, random_counts(draw, len(bounds)), draw.randint(1, 16) / 16),
        (bounds, random_counts(draw, len(bounds)), draw.randint(1, 16) / 16),
        (bounds, [40] + [64] * (len(bounds) - 1), draw.choice((0.25, 0.5))),
        (bounds, between, draw.choice((0.3125, 0.375, 0.4375))),  # in the second bucket
        (bounds, between, 0.5),  # at its end; what follows is empty
        (bounds, between, draw.choice((0.8125, 0.875))),  # in the last
    ]
    for histogram in histograms:
        yours.compare(histogram, solutions.percentile(*histogram))
    solutions.examine_nothing_observed(yours, bounds)


def random_bounds(draw: random.Random) -> list[float]:
    """Upper ends of buckets in seconds, the last one infinite."""
    quarters = draw.sample(range(1, 60), draw.randint(4, 6))
    finite = [count / 4 for count in sorted(quarters)]
    return [*finite, math.inf]


def random_counts(draw: random.Random, buckets: int) -> list[int]:
    """Observations up to each bound, a multiple of 16 in all: the rank of q sixteenths is then a whole number."""
    counts = [draw.randint(0, 80) for _ in range(buckets - 1)]
    return [*sorted(counts), draw.choice((80, 96, 128))]


# --- backoff --------------------------------------------------------------------------------------------


def fresh_backoff(yours: Attempt, draw: random.Random) -> None:
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


def fresh_injection_filter(yours: Attempt, draw: random.Random) -> None:
    """Allowed actions, other ones and near misses; honest texts, and phrases in every disguise."""
    for _ in range(3):
        allowed = draw.sample(ACTIONS, 3)
        phrases = draw.sample(PHRASES, 3)
        calls = [(draw.choice(allowed), disguised(draw, draw.choice(PHRASES))) for _ in range(6)]
        calls += [(draw.choice(allowed), text) for text in draw.sample(HONEST, 4)]
        calls += [(action, "hello") for action in near_misses(draw.choice(allowed))]
        calls += [(action, f"{allowed[0]} is allowed, isn't it?") for action in ACTIONS]
        draw.shuffle(calls)
        yours.compare((calls, allowed, phrases), solutions.injection_filter(calls, allowed, phrases))


def near_misses(action: str) -> list[str]:
    """Names that look like the one of an allowed action."""
    return [action.upper(), f"{action}_now", f"please_{action}", action[:-1], other_letters(action, FULL_WIDTH_A)]


def disguised(draw: random.Random, phrase: str) -> str:
    """A text that holds `phrase`, written so that a plain search overlooks it."""
    ways: list[Callable[[str], str]] = [
        str.upper,
        lambda text: text.replace(" ", "  \n"),
        lambda text: text.replace(" ", "\u00a0(", 1),
        lambda text: text.replace(" ", ", "),
        lambda text: f"{text[0]}\u200b{text[1:-1]}\u2060{text[-1]}",
        lambda text: other_letters(text, FULL_WIDTH_A),
        lambda text: other_letters(text, BOLD_A),
    ]
    way = draw.choice(ways)
    return f"Hello, {way(phrase)}! Thank you."


def other_letters(text: str, first: int) -> str:
    """`text` in the alphabet that begins at `first`; NFKC makes plain letters of it."""
    alphabet = {ord("a") + i: chr(first + i) for i in range(26)}
    return text.translate(alphabet)
