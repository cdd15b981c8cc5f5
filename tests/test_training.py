"""What the recipes of the three Prisma models share."""

import itertools

import pytest
import torch

from course_utils.prisma import training
from course_utils.prisma.training import Checkpoint, Deadline, MuonAdamW, learning_rate, share, wilson


def test_wilson_matches_published_values_and_refuses_nonsense():
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert low == pytest.approx(0.2553, abs=1e-4) and high == pytest.approx(0.3662, abs=1e-4)
    assert wilson(0, 20)[0] == pytest.approx(0) and wilson(20, 20)[1] == pytest.approx(1)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)
    assert str(share([True, True, False, True])).startswith("75.0% (")
    with pytest.raises(ValueError, match="0 successes out of 0"):
        share([])


def test_the_learning_rate_warms_up_and_fades():
    rates = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0, abs=0.01) and rates[-1] == pytest.approx(0.02)
    with pytest.raises(ValueError, match="minutes"):
        Deadline(0)


def test_a_run_stops_at_its_last_step_and_keeps_its_state(capsys):
    kept, state = [], {"step": 0, "spent": 0.0}
    learn = lambda batch, step, part: float(batch + step)  # noqa: E731
    training.run("toy", itertools.count(), learn, Deadline(5), state, lambda s: kept.append(dict(s)), most=3)
    assert state["step"] == 3 and [one["step"] for one in kept] == [3]
    over = Deadline(1, spent=61)
    assert training.run("toy", itertools.count(), learn, over, state, lambda s: None)["step"] == 3


def test_a_run_keeps_its_state_each_minute_and_says_how_it_goes(monkeypatch, capsys):
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    clock = itertools.count(step=5.0)
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    kept = []
    learn = lambda batch, step, part: 0.5  # noqa: E731
    training.run(
        "toy", itertools.count(), learn, Deadline(5), {"step": 0, "spent": 0.0}, lambda s: kept.append(dict(s))
    )
    assert len(kept) >= 4 and "loss 0.500" in capsys.readouterr().out


def test_a_checkpoint_of_something_else_is_refused_with_a_cure(tmp_path):
    point, other = Checkpoint(tmp_path), torch.nn.Linear(2, 2)
    assert point.load(other, None) == {}
    point.save(other, torch.optim.SGD(other.parameters(), 0.1), step=1)
    with pytest.raises(ValueError, match="train afresh"):
        point.load(torch.nn.Linear(3, 3), None)


def test_muon_takes_the_inner_matrices_and_adamw_the_rest():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimiser = MuonAdamW(model, 0.1, lambda name, p: name == "0.weight")
    muon, adamw = ([p for group in part.param_groups for p in group["params"]] for part in optimiser.parts)
    assert muon == [model[0].weight] and len(adamw) == 3
    model(torch.ones(1, 4)).sum().backward()
    before = model[0].weight.clone()
    optimiser.step(0.5)
    assert not torch.equal(before, model[0].weight) and model[0].weight.grad is None


def test_a_learner_warms_up_fades_and_leaves_the_frozen_alone():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1))
    model[0].requires_grad_(False)
    frozen, x, y = model[0].weight.clone(), torch.randn(32, 3), torch.randn(32, 1)
    learner, losses, rates = training.Learner(model, 0.05, 40), [], []
    for _ in range(40):
        rates.append(learner.plan.get_last_lr()[0])
        losses.append(learner.step(1000 * (model(x) - y).square().mean()))
    length = sum(p.grad.square().sum() for p in learner.weights).sqrt().item()
    assert losses[-1] < losses[0] and length < 1.001  # a gradient a thousand times as long was cut
    assert torch.equal(model[0].weight, frozen) and len(learner.weights) == 2
    assert rates.index(max(rates)) == 3 and max(rates) == pytest.approx(0.05) and rates[-1] < 1e-3
    assert training.Learner(model, 0.05, 4).plan.get_last_lr()[0] < 0.05  # short runs warm up, too


def test_a_share_in_a_table_is_a_whole_percentage_with_its_interval():
    assert training.percent(training.share([True] * 87 + [False] * 13)) == "87 % (79 to 92)"
