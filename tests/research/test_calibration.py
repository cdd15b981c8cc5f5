"""Confidence, reliability, temperature scaling and selective answers, on cases that can be counted by hand."""

import math

import pytest
import torch

from course_utils.models import bundled
from course_utils.prisma import lm
from course_utils.research import calibration, decoding


def test_the_confidence_of_a_reply_is_its_probability() -> None:
    model, tokenizer = lm.load(bundled.folder("prisma-lm"))
    prompt = tokenizer("Our small red cube is 12 euros. ")["input_ids"]
    (best,) = decoding.beam_search(model, prompt, 1, 8)
    logits = calibration.reply_logits(model, prompt, best.tokens)
    assert logits.shape == (8, len(tokenizer))
    assert calibration.confidence(logits, best.tokens) == pytest.approx(math.exp(best.log_prob), rel=1e-4)


def test_a_higher_temperature_makes_less_sure_of_the_likeliest() -> None:
    logits = torch.tensor([[3.0, 0.0], [2.0, 0.0]])
    sure = [calibration.confidence(logits, [0, 0], temperature) for temperature in (0.5, 1, 2, 1000)]
    assert sure == sorted(sure, reverse=True) and sure[-1] == pytest.approx(0.25, abs=1e-2)
    with pytest.raises(ValueError, match="above 0"):
        calibration.confidence(logits, [0, 0], 0.0)


def test_agreement_counts_equal_answers() -> None:
    assert calibration.agreement(["5", "5", "7", ""], "5") == 0.5
    with pytest.raises(ValueError, match="at least one"):
        calibration.agreement([], "5")


def test_bins_and_their_error() -> None:
    sure, right = [0.95, 0.95, 0.15, 0.15, 1.0], [True, False, False, False, True]
    low, high = calibration.reliability(sure, right)
    assert (low.n, low.right, high.n) == (2, 0.0, 3)
    assert high.right == pytest.approx(2 / 3)
    expected = (2 * 0.15 + 3 * abs(2.9 / 3 - 2 / 3)) / 5
    assert calibration.calibration_error(sure, right) == pytest.approx(expected)
    assert calibration.calibration_error([1.0, 0.0], [True, False]) == 0.0


def test_the_error_comes_with_an_interval_around_it() -> None:
    measure = calibration.calibration_measure([0.9] * 40, [True] * 20 + [False] * 20)
    assert measure.low < measure.value < measure.high and measure.value == pytest.approx(0.4)


def test_surprise_is_the_logarithm_of_the_chance() -> None:
    assert calibration.surprises([0.5, 0.9], [False, True]) == pytest.approx([math.log(2), -math.log(0.9)])


@pytest.mark.parametrize(("sure", "right"), [([], []), ([0.5], []), ([1.2], [True]), ([-0.1], [True])])
def test_what_is_no_confidence_is_refused(sure: list, right: list) -> None:
    with pytest.raises(ValueError, match="confidence"):
        calibration.reliability(sure, right)


def test_a_temperature_is_found_that_was_put_in() -> None:
    """Two tokens, the first always chosen; it is right as often as its logits say at temperature 3."""
    gaps = torch.linspace(0.5, 9, 400)
    logits = [torch.tensor([[gap.item(), 0.0]]) for gap in gaps]
    generator = torch.Generator().manual_seed(1)
    right = (torch.rand(400, generator=generator) < (gaps / 3).sigmoid()).tolist()
    found = calibration.fit_temperature(logits, [[0]] * 400, right)
    assert 2.2 < found < 4.2


def test_answers_are_given_where_the_model_is_surest() -> None:
    sure, right = [0.9, 0.1, 0.8, 0.5], [True, False, True, False]
    assert calibration.most_confident(sure, right, 0.5) == [True, True]
    assert calibration.most_confident(sure, right, 0.01) == [True]
    assert len(calibration.most_confident(sure, right, 1.0)) == 4
    with pytest.raises(ValueError, match="above 0"):
        calibration.most_confident(sure, right, 0.0)


def test_a_calibrated_forecast_has_a_small_error_and_a_bold_one_has_not() -> None:
    torch.manual_seed(0)
    chances = torch.rand(5000)
    outcomes = (torch.rand(5000) < chances).tolist()
    honest = calibration.calibration_error(chances.tolist(), outcomes, 5)
    bold = calibration.calibration_error((chances > 0.5).float().tolist(), outcomes, 5)
    assert honest < 0.04 and bold > 0.15


def test_forecasts_without_an_outcome_each_are_refused() -> None:
    with pytest.raises(ValueError, match="one each is needed"):
        calibration.reliability([0.0, 0.0], [True, False, True])
