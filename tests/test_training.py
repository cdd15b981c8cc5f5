"""What the recipes of the three Prisma models share."""

import itertools
import math

import pytest
import torch

from course_utils import measures, settings, training
from course_utils.measures import Measure, bootstrap_sums, error_bars, share, wilson
from course_utils.training import Checkpoint, Deadline, MuonAdamW, learning_rate


def test_the_quick_pace_takes_a_tenth_of_the_steps(monkeypatch):
    monkeypatch.delenv("COURSE_PACE", raising=False)
    assert settings.paced(80) == 80
    monkeypatch.setenv("COURSE_PACE", "quick")
    assert [settings.paced(steps) for steps in (400, 80, 4)] == [40, 16, 4]
    assert settings.paced(8, least=2) == 2
    monkeypatch.setenv("COURSE_PACE", "fast")
    with pytest.raises(ValueError, match="no COURSE_PACE 'fast'. Unset it, or set it to quick"):
        settings.paced(80)


def test_error_bars_reach_to_the_ends_of_the_intervals():
    values, (below, above) = error_bars([Measure(0.5, 0.4, 0.8, 10), Measure(1.0, 0.9, 1.0, 10)])
    assert values == [0.5, 1.0]
    assert below == pytest.approx([0.1, 0.1]) and above == pytest.approx([0.3, 0.0])


def test_wilson_matches_published_values_and_refuses_nonsense():
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert low == pytest.approx(0.2553, abs=1e-4) and high == pytest.approx(0.3662, abs=1e-4)
    assert wilson(0, 20)[0] == pytest.approx(0) and wilson(20, 20)[1] == pytest.approx(1)
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)
    with pytest.raises(ValueError, match="0 successes out of 0"):
        share([])
    assert str(share([True, True, False, True])).startswith("75.0% (")


def test_the_learning_rate_warms_up_and_fades():
    rates = [learning_rate(i / 100, 1.0) for i in range(101)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(1.0, abs=0.01) and rates[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf])
def test_a_time_that_does_not_end_is_refused(minutes):
    with pytest.raises(ValueError, match=f"minutes above 0, not {minutes}"):
        Deadline(minutes)


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


@pytest.fixture
def saved(tmp_path):
    """A checkpoint after step 2, and the one before it, with a model whose bias is the step."""
    point, model = Checkpoint(tmp_path), torch.nn.Linear(2, 2)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in (1, 2):
        torch.nn.init.constant_(model.bias, step)
        point.save(model, optimiser, step=step)
    return point


def loaded(point):
    """What is read back, and the bias of the model that it was put into."""
    model = torch.nn.Linear(2, 2)
    state = point.load(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    return state, model.bias[0].item()


def in_its_place(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "half": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "empty": lambda path: path.write_bytes(b""),
    "HTML": lambda path: path.write_bytes(b"<html>not found</html>"),
    "a pickle that runs code": lambda path: path.write_bytes(b"cos\nsystem\n(S'true'\ntR."),
    "a list": lambda path: torch.save([1, 2], path),
    "without weights": lambda path: torch.save({"step": 3}, path),
    "a folder": in_its_place,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_falls_back_to_the_one_before(saved, damage, capsys):
    assert loaded(saved) == ({"step": 2}, 2)
    DAMAGES[damage](saved.path)
    assert loaded(saved) == ({"step": 1}, 1)
    assert "state.pt is damaged: it is now state-damaged-1.pt" in capsys.readouterr().out
    assert (saved.folder / "state-damaged-1.pt").exists() and not saved.path.exists()
    DAMAGES["empty"](saved.before)
    assert loaded(saved)[0] == {}
    assert "training starts anew" in capsys.readouterr().out
    assert loaded(saved)[0] == {} and capsys.readouterr().out == ""


def test_killed_between_its_two_renames_a_state_is_not_lost(saved):
    saved.path.rename(saved.before)
    assert loaded(saved) == ({"step": 2}, 2)


def test_muon_takes_the_inner_matrices_and_adamw_the_rest():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimiser = MuonAdamW(model, 0.1, lambda name, p: name == "0.weight")
    muon, adamw = ([p for group in part.param_groups for p in group["params"]] for part in optimiser.parts)
    assert muon == [model[0].weight] and len(adamw) == 3
    model(torch.ones(1, 4)).sum().backward()
    before = model[0].weight.clone()
    optimiser.step(0.5)
    assert not torch.equal(before, model[0].weight) and model[0].weight.grad is None


@pytest.mark.parametrize("clip", [math.inf, 0.1])
def test_a_learner_is_torchs_adamw_and_schedule_written_out(clip):
    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        made = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        made[0].bias.requires_grad_(False)
        return made

    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    ours, theirs = net(), net()
    learner = training.Learner(ours, 0.05, 20, decay=0.1, rising=0.2, clip=clip)
    weights = [weight for weight in theirs.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=0.05, weight_decay=0.1)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.05, total_steps=20, pct_start=0.2)
    for _ in range(20):
        told = learner.step((ours(x) - x[:, :1] * 5).square().mean())
        loss = (theirs(x) - x[:, :1] * 5).square().mean()
        optimiser.zero_grad()
        loss.backward()
        if clip < math.inf:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        optimiser.step()
        plan.step()
        assert told == loss.item()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(ours[0].bias, net()[0].bias) and not torch.equal(ours[2].bias, net()[2].bias)


def test_a_learner_trains_more_than_the_model_if_told_to():
    more = torch.nn.Parameter(torch.tensor(1.0))
    learner = training.Learner(torch.nn.Linear(2, 1), 0.1, 5, more=[more])
    learner.step(more**2)
    assert len(learner.weights) == 3 and more.item() < 1


def test_seeds_in_a_table_are_mean_lowest_and_highest():
    assert measures.spread([84, 78, 81.4]) == "81 (78 to 84)"


def test_several_runs_are_pooled_or_shown_one_by_one():
    runs = [[True, True, False, True], [True, False]]
    both = measures.pooled(runs)
    assert both.value == pytest.approx(4 / 6) and both.n == 6
    assert measures.one_by_one(runs) == "75%, 50%"
    with pytest.raises(ValueError, match="0 successes out of 0"):
        measures.pooled([])


def test_whiskers_reach_from_the_median_to_the_lowest_and_the_highest():
    middles, (below, above) = measures.medians([[3.0, 1.0, 10.0], [2.0, 2.0]])
    assert middles == [3.0, 2.0]
    assert below == [2.0, 0.0] and above == [7.0, 0.0]


def test_answers_match_the_truth_place_by_place_or_are_refused():
    assert measures.matches(["a", "b", "c"], ("a", "x", "c")) == [True, False, True]
    assert measures.matches([("red", "cube")], [("red", "cube")]) == [True]
    with pytest.raises(ValueError, match="2 answers for 3 questions"):
        measures.matches("ab", "abc")


def test_a_share_in_a_table_is_a_whole_percentage_with_its_interval():
    assert measures.percent(measures.share([True] * 87 + [False] * 13)) == "87 % (79 to 92)"


def test_a_ratio_of_sums_weighs_long_cases_more():
    equal = bootstrap_sums([(1, 4), (2, 8), (3, 12)], lambda sums: sums[0] / sums[1], "%")
    assert (equal.value, equal.low, equal.high, equal.n) == (0.25, 0.25, 0.25, 3)
    uneven = bootstrap_sums([(0, 10), (10, 10), (0, 80)], lambda sums: sums[0] / sums[1], "%")
    assert uneven.value == pytest.approx(0.1)  # the mean of the three rates would be a third
    assert uneven.low == 0 and 0.3 < uneven.high <= 1
