"""A scaling law: models trained side by side are models trained alone, and the fit finds a law that is known."""

import random

import pytest
import torch

from course_utils.research import scaling


@pytest.fixture(scope="module")
def data():
    return scaling.letters(300)


def test_held_out_letters_are_not_trained_on(data) -> None:
    assert data.held_out.shape == (scaling.HELD_OUT, scaling.LENGTH + 1)
    assert len(data.train) > 2 * data.held_out.numel()
    assert int(data.held_out.max()) < len(data.alphabet)
    joined = scaling.letters(300)
    assert torch.equal(joined.train, data.train)


def test_models_side_by_side_know_nothing_of_each_other(data) -> None:
    model = scaling.Transformers(3, len(data.alphabet), 16, seed=4)
    rows = data.held_out[:6].view(3, 2, -1)
    together = scaling.losses(model, rows)
    together[1].backward()
    for part in model.parameters():
        assert part.grad[0].abs().max() == 0 and part.grad[2].abs().max() == 0
        assert part.grad[1].abs().max() > 0
    other = rows.clone()
    other[0] = 0
    assert torch.allclose(scaling.losses(model, other)[1:], together[1:])


def test_no_letter_sees_what_comes_after_it(data) -> None:
    model = scaling.Transformers(1, len(data.alphabet), 16, seed=4)
    rows = data.held_out[None, :1, :-1]
    changed = rows.clone()
    changed[..., 40:] = 3
    with torch.no_grad():
        before, after = model(rows), model(changed)
    assert torch.allclose(before[:, :, :40], after[:, :, :40], atol=1e-5)
    assert not torch.allclose(before[:, :, 40:], after[:, :, 40:], atol=1e-2)


def test_parameters_are_counted_without_embeddings() -> None:
    model = scaling.Transformers(2, 80, 16, seed=0)
    assert model.parameters_each == 2 * 12 * 16**2


def test_training_lowers_the_loss_and_is_the_same_again(data) -> None:
    first = scaling.train(data, 8, (2, 40))
    assert max(first.losses[40]) < min(first.losses[2]) - 0.3
    assert scaling.train(data, 8, (2, 40)).losses == first.losses
    assert len(set(first.losses[40])) == 2  # two seeds


SIZES = [1500, 6000, 14000, 25000, 55000]


def made_up(law: scaling.Law, noise: float, seed: int) -> tuple[list[int], list[float]]:
    """Two losses of each size, with noise."""
    rng = random.Random(seed)
    numbers = [size for size in SIZES for _ in range(2)]
    return numbers, [law.predict(size) + rng.gauss(0, noise) for size in numbers]


@pytest.mark.parametrize(("floor", "factor", "steepness"), [(0.5, 20.0, 0.3), (1.0, 300.0, 0.7), (0.0, 8.0, 0.16)])
def test_a_law_without_noise_is_found_again(floor: float, factor: float, steepness: float) -> None:
    law = scaling.Law(floor, factor, steepness)
    found = scaling.fit(*made_up(law, 0.0, 1))
    assert found.steepness == pytest.approx(steepness, abs=1e-6)
    assert found.floor == pytest.approx(floor, abs=1e-3)
    assert found.predict(1e5) == pytest.approx(law.predict(1e5), abs=1e-4)


def test_the_floor_never_lies_below_zero() -> None:
    bent = [3.0, 2.9, 2.6, 2.2, 1.0]
    assert scaling.fit(SIZES, bent).floor == 0


def test_prediction_intervals_hold_new_trainings_about_as_often_as_they_say() -> None:
    law, inside, trials = scaling.Law(0.5, 10.0, 0.22), 0, 40
    for seed in range(trials):
        numbers, values = made_up(law, 0.04, seed)
        foretold = scaling.prediction(numbers, values, 1e5, rounds=80, seed=seed)
        came = law.predict(1e5) + random.Random(1000 + seed).gauss(0, 0.04)
        inside += foretold.low <= came <= foretold.high
    assert 0.75 * trials <= inside  # 95 % are promised; a bootstrap over ten points gives a little less


def test_chinchilla_from_gophers_operations() -> None:
    parameters, tokens = scaling.compute_optimal(5.76e23)
    assert parameters == pytest.approx(69.3e9, rel=0.01) and tokens == pytest.approx(1.39e12, rel=0.01)
    assert 6 * parameters * tokens == pytest.approx(5.76e23)


def test_bad_input_gets_a_sentence(data) -> None:
    with pytest.raises(ValueError, match="three sizes"):
        scaling.fit([1, 1, 2], [1.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="nothing over"):
        scaling.prediction([1, 2, 3], [3.0, 2.0, 1.5], 4)
    with pytest.raises(ValueError, match="multiple of 8"):
        scaling.Transformers(1, 10, 12, seed=0)
    with pytest.raises(ValueError, match="at least one number"):
        scaling.train(data, 8, ())
    with pytest.raises(ValueError, match="ask for more"):
        scaling.letters(20)
