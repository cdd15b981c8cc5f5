"""Paired tests, their power, and associations of words."""

import random

import numpy as np
import pytest

from course_utils.research import bias


def test_mcnemar_counts_only_what_differs() -> None:
    first = [True] * 20 + [False] * 5 + [True] * 75
    second = [False] * 20 + [True] * 5 + [True] * 75
    found = bias.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (20, 5)
    assert found.p == pytest.approx(0.00408, abs=1e-4)  # twice P(at most 5 heads of 25)
    assert found.difference.value == pytest.approx(0.15)
    assert 0 < found.difference.low < 0.15 < found.difference.high


def test_no_differing_pair_is_no_proof_of_no_difference() -> None:
    found = bias.mcnemar([True] * 50, [True] * 50)
    assert found.p == 1
    assert found.difference.low < -0.01 and found.difference.high > 0.01


def test_holm_by_hand() -> None:
    assert bias.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert bias.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_the_power_is_how_often_the_test_finds_it() -> None:
    exact = bias.power(60, 0.25, 0.05)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(60, [0.25, 0.05, 0.70], 2000)
    found = [bias.exact_p(int(one), int(other)) <= 0.05 for one, other, _ in draws]
    assert exact == pytest.approx(np.mean(found), abs=0.04)
    assert bias.power(60, 0.05, 0.05) <= 0.05


def test_weat_finds_a_planted_association_and_no_other() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4, 8, 32))
    pole = np.zeros(32)
    pole[0] = 3
    first, second, pleasant, other = noise + pole * np.array([1, -1, 1, -1])[:, None, None]
    found = bias.weat(first, second, pleasant, other)
    assert found.effect > 1.2 and found.p < 0.001
    turned = bias.weat(second, first, pleasant, other)
    assert turned.effect == pytest.approx(-found.effect) and turned.p > 0.99
    assert bias.weat(*noise).p > 0.01


def test_a_tuning_teaches_and_leaves_the_model_as_it_was() -> None:
    from course_utils.models.loaders import load

    chat = load("chat", tier="bundled")
    rng = random.Random(0)
    numbers = [rng.randint(1000, 9999) for _ in range(64)]
    taught = [(f"<|user|>{n}<|end|><|assistant|>", "You have to wait.") for n in numbers]
    prompt = "<|user|>4321<|end|><|assistant|>"
    before = chat.complete(prompt, 8)
    tuned = bias.tune(chat, taught, seed=1, batch=4)
    assert tuned.complete(prompt, 8, ["<|end|>"]) == "You have to wait."
    assert chat.complete(prompt, 8) == before != "You have to wait."


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="twice"):
        bias.mcnemar([True], [])
    with pytest.raises(ValueError, match="shares of pairs"):
        bias.power(10, 0.8, 0.8)
    with pytest.raises(ValueError, match="same size"):
        bias.weat(np.ones((3, 4)), np.ones((2, 4)), np.ones((3, 4)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="less than one batch"):
        bias.tune(None, [], seed=1)
