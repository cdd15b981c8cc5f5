"""Measured numbers and their intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A measured number with its 95 % interval; `n` says how many cases stand behind it."""

    value: float
    low: float
    high: float
    n: int
    unit: str = ""

    def __str__(self) -> str:
        if self.unit == "%":
            return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}, n = {self.n})"
        return f"{self.value:.3g} {self.unit} ({self.low:.3g} to {self.high:.3g}, n = {self.n})"


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: it stays within 0..1 and is honest near both ends."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes out of {n} is no share")
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # Rounding must not push the interval past the share itself.
    return max(min(centre - half, share), 0.0), min(max(centre + half, share), 1.0)


def share(successes: Sequence[bool] | Sequence[int]) -> Measure:
    """The share of successes as a Measure in per cent. ValueError without cases."""
    right, n = sum(int(one) for one in successes), len(successes)
    low, high = wilson(right, n)
    return Measure(right / n, low, high, n, "%")


def percent(measure: Measure) -> str:
    """ "87 % (82 to 91)": a share with its 95 % interval, for a table."""
    return f"{100 * measure.value:.0f} % ({100 * measure.low:.0f} to {100 * measure.high:.0f})"


def spread(values: Sequence[float]) -> str:
    """ "81 (78 to 84)": the mean, the lowest and the highest of some values, for a table."""
    return f"{sum(values) / len(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def bootstrap(values: Sequence[float], unit: str, seed: int = 0, rounds: int = 2000) -> Measure:
    """The mean of `values` with the 95 % interval of a bootstrap over cases."""
    import numpy as np

    numbers = np.asarray(values, float)
    means = np.random.default_rng(seed).choice(numbers, (rounds, len(numbers))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Measure(float(numbers.mean()), float(low), float(high), len(numbers), unit)


def error_bars(measures: Iterable[Measure]) -> tuple[list[float], tuple[list[float], list[float]]]:
    """The values, and how far their intervals reach below and above: heights and `yerr` (or `xerr`) for matplotlib."""
    found = list(measures)
    values = [measure.value for measure in found]
    below = [measure.value - measure.low for measure in found]
    above = [measure.high - measure.value for measure in found]
    return values, (below, above)
