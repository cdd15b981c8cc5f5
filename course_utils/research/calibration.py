"""How sure a model is, and whether it should be: calibration, temperature scaling, selective answers (Unit 7.3)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.measures import Measure


@torch.inference_mode()
def reply_logits(model: nn.Module, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    """The logits (t, vocabulary) from which each of the reply's t tokens was chosen; both are token ids."""
    ids = torch.tensor([[*prompt, *reply]], device=next(model.parameters()).device)  # (1, all)
    logits = model(input_ids=ids, use_cache=False).logits[0].float().cpu()  # (all, vocabulary)
    return logits[len(prompt) - 1 : -1]


def confidence(logits: Tensor, reply: Sequence[int], temperature: float = 1.0) -> float:
    """The probability of the whole reply: the product over its tokens, with the logits divided by
    `temperature`.

    logits: (t, vocabulary), from `reply_logits`. ValueError for a temperature of 0 or less.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature}: it has to be above 0.")
    chances = (logits / temperature).log_softmax(-1)  # (t, vocabulary)
    each = chances.gather(-1, torch.tensor(reply)[:, None])  # (t, 1)
    return each.sum().exp().item()


def agreement(answers: Sequence[str], answer: str) -> float:
    """The share of sampled answers that equal `answer`. ValueError without samples."""
    if not answers:
        raise ValueError("Agreement needs at least one sampled answer.")
    return Counter(answers)[answer] / len(answers)


@dataclass(frozen=True)
class Bin:
    """The answers of like confidence: their mean confidence, the share that is right, and how many they are."""

    confidence: float
    right: float
    n: int


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Answers sorted into bins of equal width by their confidence (0 to 1); empty bins are left out.

    ValueError if there are not as many confidences as answers, or one is not from 0 to 1.
    """
    sure, marks = np.asarray(confidences, float), np.asarray(right, float)
    if len(sure) != len(marks) or not len(sure):
        raise ValueError(f"{len(sure)} confidences for {len(marks)} answers: one each is needed.")
    if sure.min() < 0 or sure.max() > 1 + 1e-9:
        raise ValueError("A confidence is a probability, from 0 to 1.")
    places = np.minimum((sure * bins).astype(int), bins - 1)
    found = []
    for place in range(bins):
        here = places == place
        if here.any():
            mean, successes = sure[here].mean(), marks[here].mean()
            found.append(Bin(float(mean), float(successes), int(here.sum())))
    return found


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """ECE, the expected calibration error (arXiv 1706.04599): how far confidence and success lie
    apart, on average.
    """
    found = reliability(confidences, right, bins)
    gaps = np.array([one.confidence - one.right for one in found])
    sizes = np.array([one.n for one in found])
    return float(np.average(np.abs(gaps), weights=sizes))


def calibration_measure(
    confidences: Sequence[float],
    right: Sequence[bool],
    bins: int = 10,
    seed: int = 0,
    rounds: int = 1000,
) -> Measure:
    """ECE with the 95 % interval of a bootstrap over answers.

    ECE adds up distances, so chance alone makes it larger than 0, the more the fewer answers there are.
    """
    sure, marks = np.asarray(confidences, float), np.asarray(right, bool)
    value = calibration_error(sure, marks, bins)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(sure), (rounds, len(sure)))
    drawn = [calibration_error(sure[pick], marks[pick], bins) for pick in picks]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Measure(value, float(low), float(high), len(sure))


def surprises(confidences: Sequence[float], right: Sequence[bool]) -> list[float]:
    """The surprise (nats) at each answer's being right or wrong, for one who believes the confidences.

    It is the negative natural logarithm of the chance that was given to what happened; lower is better.
    """
    sure = np.clip(np.asarray(confidences, float), 1e-6, 1 - 1e-6)
    marks = np.asarray(right, bool)
    chances = np.where(marks, sure, 1 - sure)
    return (-np.log(chances)).tolist()


def fit_temperature(
    logits: Sequence[Tensor],
    replies: Sequence[Sequence[int]],
    right: Sequence[bool],
    grid: Sequence[float] = (),
) -> float:
    """The temperature at which the confidences of these replies surprise least (temperature scaling, 1706.04599)."""
    tried = list(grid) or np.geomspace(0.25, 8, 41).tolist()

    def cost(temperature: float) -> float:
        pairs = zip(logits, replies, strict=True)
        sure = [confidence(one, reply, temperature) for one, reply in pairs]
        return sum(surprises(sure, right))

    return min(tried, key=cost)


def most_confident(confidences: Sequence[float], right: Sequence[bool], share: float) -> list[bool]:
    """Whether the answers are right that a model gives if it answers only the `share` of which it is most sure.

    At least one answer. ValueError unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share {share}: it has to be above 0 and at most 1.")
    order = sorted(range(len(right)), key=lambda place: -confidences[place])
    answered = order[: max(1, round(share * len(order)))]
    return [bool(right[place]) for place in answered]
