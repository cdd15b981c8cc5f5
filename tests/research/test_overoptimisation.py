"""The alignment lab's small writer: chances, exact distances, a reward from comparisons, a policy gradient."""

import pytest
import torch

from course_utils.measures import over_seeds
from course_utils.research import overoptimisation as over

ITEMS, LONGEST = 3, 4


@pytest.fixture(scope="module")
def writer() -> torch.Tensor:
    replies = [[0], [0, 1], [0, 2], [1], [1, 2, 2]]
    return over.imitate(over.rows(replies, ITEMS, LONGEST), ITEMS, smooth=0.5)


def test_the_writer_does_what_it_has_read(writer: torch.Tensor) -> None:
    drawn = over.draw(writer, 4000, seed=1)
    begins = (drawn[:, 0] == 0).float().mean()
    wanted = 3.5 / 7  # three of five replies and half a one for each of four choices
    assert abs(float(begins) - wanted) < 0.03


def test_nothing_stands_behind_the_end(writer: torch.Tensor) -> None:
    drawn = over.draw(writer, 500, seed=2)
    ended = (drawn == ITEMS).cumsum(1) > 0
    assert bool((drawn[ended] == ITEMS).all())


def test_the_chances_of_all_replies_add_up_to_one(writer: torch.Tensor) -> None:
    every = torch.cartesian_prod(*[torch.arange(ITEMS + 1)] * LONGEST)
    open_again = ((every[:, :-1] == ITEMS) & (every[:, 1:] != ITEMS)).any(1)
    total = over.log_prob(writer, every[~open_again]).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_the_exact_distance_is_the_sampled_one(writer: torch.Tensor) -> None:
    torch.manual_seed(0)
    policy = writer + torch.randn_like(writer)
    drawn = over.draw(policy, 20000, seed=3)
    sampled = (over.log_prob(policy, drawn) - over.log_prob(writer, drawn)).mean()
    assert over.divergence(policy, writer) == pytest.approx(float(sampled), rel=0.05)
    assert over.divergence(writer, writer) == pytest.approx(0.0, abs=1e-6)


def test_bradley_terry_finds_the_values_that_decided() -> None:
    torch.manual_seed(0)
    values = torch.tensor([2.0, -1.0, 0.0])
    differences = torch.randn(4000, 3)
    wins = torch.rand(4000) < (differences @ values).sigmoid()
    sign = 2.0 * wins.float() - 1
    found = over.bradley_terry(sign[:, None] * differences)
    assert torch.allclose(found, values, atol=0.2)


def test_a_penalty_keeps_the_policy_near(writer: torch.Tensor) -> None:
    seen = torch.eye(ITEMS)
    wanted = torch.tensor([0.0, 0.0, 1.0])

    def reward(replies: torch.Tensor) -> torch.Tensor:
        return over.features(replies, seen) @ wanted

    free = over.optimise(writer, reward, 0.01, seed=1, steps=60)
    held = over.optimise(writer, reward, 5.0, seed=1, steps=60)
    assert free[-1].reward > free[0].reward + 0.5
    assert held[-1].kl < 0.3 * free[-1].kl
    best = over.best_of(writer, reward, 16, seed=1)
    assert float(reward(best).mean()) > free[0].reward + 0.5


def test_few_seeds_have_a_wide_interval_and_a_share_stays_a_share() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, -0.484, 4.484), abs=0.01)
    assert over_seeds([0.0, 0.02, 0.0], "%").low == 0


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ValueError, match="room for 4"):
        over.rows([[0] * 5], ITEMS, LONGEST)
    with pytest.raises(ValueError, match="from 0 to 2"):
        over.rows([[3]], ITEMS, LONGEST)
    with pytest.raises(ValueError, match="no reply"):
        over.imitate(torch.zeros(0, 4, dtype=torch.long), ITEMS)
    with pytest.raises(ValueError, match="no pair"):
        over.bradley_terry(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="one seed"):
        over_seeds([1.0])
