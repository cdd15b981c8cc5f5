"""Routing, balance and experts by hand."""

import pytest
import torch

from course_utils.research import experts


def test_a_token_goes_to_its_best_experts_and_their_weights_add_up() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    routing = experts.route(scores, 2)
    assert routing.experts.tolist() == [[1, 3]]
    assert routing.weights.sum().item() == pytest.approx(1)
    single = experts.route(scores, 1)
    assert single.weights.item() == pytest.approx(scores.softmax(-1)[0, 1].item())  # so the router learns


def test_a_bias_changes_who_is_asked_and_not_how_much_the_answer_counts() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    routing = experts.route(scores, 1, bias=torch.tensor([2.0, 0.0, 0.0, 0.0]))
    assert routing.experts.tolist() == [[0]]
    assert routing.weights.item() == pytest.approx(scores.softmax(-1)[0, 0].item())


@pytest.mark.parametrize("k", [0, 5])
def test_more_experts_than_there_are_cannot_be_asked(k: int) -> None:
    with pytest.raises(ValueError, match="at most all"):
        experts.route(torch.zeros(3, 4), k)


def test_the_balance_loss_is_one_if_even_and_grows_if_not() -> None:
    even = experts.route(10 * torch.eye(4), 1)
    assert experts.balance_loss(even).item() == pytest.approx(1, abs=0.01)
    scores = torch.zeros(4, 4)
    scores[:, 2] = 20
    assert experts.balance_loss(experts.route(scores, 1)).item() == pytest.approx(4, abs=0.01)


def test_the_bias_rises_for_those_with_too_little() -> None:
    moved = experts.bias_step(torch.zeros(3), torch.tensor([0.6, 0.3, 0.1]), size=0.5)
    assert moved.tolist() == [-0.5, 0.5, 0.5]


@pytest.mark.parametrize("k", [1, 2])
def test_visiting_only_the_chosen_gives_the_same(k: int) -> None:
    torch.manual_seed(0)
    layer = experts.Experts(8, 4, 5, k)
    x = torch.randn(30, 8)
    result, routing = layer(x)
    assert torch.allclose(layer.visit(x, routing), result, atol=1e-5)
    assert routing.load.sum().item() == pytest.approx(1)


def test_active_parameters_leave_out_the_experts_that_are_not_asked() -> None:
    total, active = experts.Dictionary(4, 8, 6, hidden=3, count=5, k=2).counted()
    assert total - active == 3 * (6 * 3 + 3 * 6)


def test_each_language_has_each_word_once() -> None:
    pairs, answers = experts.dictionaries(3, 10, range(2))
    assert pairs.shape == (30, 2) and answers.shape == (2, 30)
    assert sorted(answers[1, 10:20].tolist()) == list(range(10))
    assert not torch.equal(answers[0], answers[1])
