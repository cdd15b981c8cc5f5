"""Measured numbers and their intervals."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


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
    share = successes / n
    spread = z * z / n
    centre = (share + spread / 2) / (1 + spread)
    variance = share * (1 - share) / n + spread / (4 * n)
    half = z / (1 + spread) * math.sqrt(variance)
    # Rounding must not push the interval past the share itself.
    low = min(centre - half, share)
    high = max(centre + half, share)
    return max(low, 0.0), min(high, 1.0)


def share(successes: Sequence[bool] | Sequence[int]) -> Measure:
    """The share of successes as a Measure in per cent. ValueError without cases."""
    n = len(successes)
    right = sum(int(success) for success in successes)
    low, high = wilson(right, n)
    return Measure(right / n, low, high, n, "%")


def pooled(runs: Iterable[Sequence[bool]]) -> Measure:
    """The share of successes of several runs taken together. ValueError without cases."""
    cases: list[bool] = []
    for run in runs:
        cases += run
    return share(cases)


def matches(answers: Sequence[Any], truth: Sequence[Any]) -> list[bool]:
    """Which answers equal the true ones, place by place: what `share` counts. ValueError if their numbers differ."""
    if len(answers) != len(truth):
        raise ValueError(f"{len(answers)} answers for {len(truth)} questions: one each is needed")
    return [answer == true for answer, true in zip(answers, truth, strict=True)]


def percent(measure: Measure) -> str:
    """ "87 % (82 to 91)": a share with its 95 % interval, for a table."""
    value = 100 * measure.value
    low = 100 * measure.low
    high = 100 * measure.high
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


def one_by_one(runs: Iterable[Sequence[bool]]) -> str:
    """ "81%, 84%": the share of successes of each run on its own, for a table."""
    shares = [share(run) for run in runs]
    return ", ".join(f"{measure.value:.0%}" for measure in shares)


def spread(values: Sequence[float]) -> str:
    """ "81 (78 to 84)": the mean, the lowest and the highest of some values, for a table."""
    mean = sum(values) / len(values)
    return f"{mean:.0f} ({min(values):.0f} to {max(values):.0f})"


def bootstrap(values: Sequence[float], unit: str, seed: int = 0, rounds: int = 2000) -> Measure:
    """The mean of `values` with the 95 % interval of a bootstrap over cases."""
    import numpy as np

    numbers = np.asarray(values, float)
    n = len(numbers)
    rng = np.random.default_rng(seed)
    means = rng.choice(numbers, (rounds, n)).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Measure(float(numbers.mean()), float(low), float(high), n, unit)


def bootstrap_sums(
    cases: Sequence[Sequence[float]], statistic: Callable[[Any], float], unit: str, seed: int = 0, rounds: int = 1000
) -> Measure:
    """`statistic` of what the cases (n, k) add up to, (k,), with the 95 % interval of a bootstrap over cases.

    For ratios of sums, such as errors over words: a long case counts more than a short one.
    """
    import numpy as np

    counted = np.array(cases)
    n = len(counted)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, n, (rounds, n))
    resampled = [statistic(counted[pick].sum(0)) for pick in picks]
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = statistic(counted.sum(0))
    return Measure(float(value), float(low), float(high), n, unit)


def error_bars(measures: Iterable[Measure]) -> tuple[list[float], tuple[list[float], list[float]]]:
    """The values, and how far their intervals reach below and above: heights and `yerr` (or `xerr`) for matplotlib."""
    found = list(measures)
    values = [measure.value for measure in found]
    below = [measure.value - measure.low for measure in found]
    above = [measure.high - measure.value for measure in found]
    return values, (below, above)


def medians(groups: Iterable[Sequence[float]]) -> tuple[list[float], tuple[list[float], list[float]]]:
    """The median of each group, and how far its lowest and highest lie from it: heights and `yerr` for matplotlib."""
    found = list(groups)
    middles = [statistics.median(group) for group in found]
    below = [middle - min(group) for middle, group in zip(middles, found, strict=True)]
    above = [max(group) - middle for middle, group in zip(middles, found, strict=True)]
    return middles, (below, above)


def over_seeds(values: Sequence[float], unit: str = "") -> Measure:
    """The mean over seeds with the 95 % interval of Student's t: they are few, so a bootstrap would be too narrow."""
    from scipy import stats

    n = len(values)
    if n < 2:
        raise ValueError("one seed has no interval: run two at least")
    mean = statistics.mean(values)
    error = statistics.stdev(values) / math.sqrt(n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    low, high = mean - half, mean + half
    if unit == "%":  # a share stays within 0..1
        low, high = max(low, 0.0), min(high, 1.0)
    return Measure(mean, low, high, n, unit)


def majority(answers: Iterable[str]) -> str:
    """The most frequent answer that is not empty; of equally frequent ones the first. "" if there is none."""
    counted = Counter(answer for answer in answers if answer)
    return counted.most_common(1)[0][0] if counted else ""
