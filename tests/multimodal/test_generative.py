"""The generative labs' helpers: the toys, the networks, the judge and the distances."""

import math

import numpy as np
import pytest
import torch
from lessons import written_in
from torch import nn

from course_utils.multimodal import generative
from course_utils.prisma import clip
from course_utils.prisma.shop import COLOURS, SHAPES


@pytest.fixture(scope="module")
def toys():
    return generative.toys(96, seed=0)


@pytest.fixture(scope="module")
def judge(toys):
    torch.manual_seed(0)
    return generative.Judge(clip.build(), toys)


def test_toys_come_from_their_seed_and_stand_on_plain_grey(toys):
    assert toys.pixels.shape == (96, 3, 16, 16) and len(toys) == 96
    assert toys.pixels.min() >= -1 and toys.pixels.max() <= 1
    again, other = generative.toys(96, seed=0), generative.toys(96, seed=1)
    assert torch.equal(toys.pixels, again.pixels) and not torch.equal(toys.shape, other.shape)
    corners = toys.pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners - (2 * generative.GROUND - 1)).abs().median() < 1e-6
    assert set(toys.colour.tolist()) == set(range(8)) == set(toys.shape.tolist())


def test_toys_have_the_colour_that_their_label_says():
    red = generative.toys(40, seed=2, colours=("red",))
    assert set(red.colour.tolist()) == {COLOURS.index("red")}
    middle = red.pixels[red.shape != SHAPES.index("ring")][:, :, 7:9, 7:9].mean((0, 2, 3))
    assert middle[0] > middle[1] + 0.5 and middle[0] > middle[2] + 0.5
    for colours in (("pink",), ()):
        with pytest.raises(ValueError, match="Prisma's colours"):
            generative.toys(3, seed=0, colours=colours)


def test_a_part_of_the_toys_is_toys(toys):
    part = toys[torch.tensor([5, 3])]
    assert torch.equal(part.pixels[1], toys.pixels[3]) and part.shape.tolist() == toys.shape[[5, 3]].tolist()


def test_batches_repeat_with_their_seed(toys):
    one, two, other = (
        [part.colour.tolist() for part in generative.batches(toys, 3, s, "", size=16)] for s in (0, 0, 1)
    )
    assert one == two != other and len(one) == 3 and len(one[0]) == 16


def test_a_strip_holds_pictures_side_by_side(toys):
    drawn = generative.strip(toys.pixels[:6])
    assert drawn.shape == (16, 96, 3)
    assert torch.allclose(drawn[:, 64:80], (toys.pixels[4].permute(1, 2, 0) + 1) / 2, atol=1e-6)


def test_rows_are_shown_with_a_description(toys, capsys):
    generative.show_rows({"drawn": toys.pixels[:4], "again": toys.pixels[:4]}, alt="Four toys, drawn twice.")
    assert "Four toys, drawn twice." in capsys.readouterr().out


def test_the_networks_fit_together(toys):
    read, paint, doubt = generative.encoder(12), generative.decoder(6), generative.critic()
    assert read(toys.pixels).shape == (96, 12)
    painted = paint(torch.randn(5, 6))
    assert painted.shape == (5, 3, 16, 16) and painted.abs().max() <= 1
    assert doubt(toys.pixels).shape == (96, 1)


def test_a_critic_may_see_the_crowd(toys):
    torch.manual_seed(0)
    same, mixed = toys.pixels[:1].expand(16, -1, -1, -1), toys.pixels[:16]
    told = generative.Crowd()(torch.cat([same, mixed]))
    assert told.shape == (32, 4, 16, 16)
    assert not told[:16, 3].any() and told[16:, 3].unique().numel() == 1 and told[16, 3, 0, 0] > 0.1
    assert generative.critic(crowd=False)(toys.pixels[:5]).shape == (5, 1)
    with pytest.raises(ValueError, match="crowds of 16"):
        generative.critic()(toys.pixels[:5])


def test_translators_keep_the_size_and_only_one_can_see_far(toys):
    torch.manual_seed(0)
    free, local = generative.translator().eval(), generative.LocalTranslator()
    moved = toys.pixels[:8].clone()
    moved[:, :, 0, 0] += 1
    for net, reach in ((free, 8), (local, 4)):
        assert net(moved).shape == (8, 3, 16, 16) and net(moved).abs().max() <= 1
        changed = (net(moved) - net(toys.pixels[:8])).abs().amax((0, 1)) > 1e-6
        assert changed[:reach, :reach].any() and changed[4:, 4:].any() == (net is free)


def test_an_untrained_denoiser_says_nothing_and_learns_where_a_patch_is(toys):
    torch.manual_seed(0)
    net = generative.Denoiser(width=32, layers=1)
    when, none = torch.rand(96), torch.full((96,), generative.NONE)
    assert not net(toys.pixels, when, none, none).any()  # zeros: a blank start (adaLN-zero)
    nn.init.normal_(net.write.weight, std=0.1)
    moved = toys.pixels.clone()
    moved[:, :, :4, :4] += 1  # adaLN-zero: at the start no patch looks at another one
    changed = (net(moved, when, none, none) - net(toys.pixels, when, none, none)).abs().amax((0, 1)) > 1e-6
    assert changed[:4, :4].all() and not changed[4:, :].any() and not changed[:, 4:].any()


def test_the_denoisers_hear_time_and_labels(toys):
    torch.manual_seed(0)
    net = generative.Denoiser(width=32, layers=1)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    x, zero = toys.pixels[:4], torch.zeros(4)
    label, none = torch.zeros(4).long(), torch.full((4,), generative.NONE)
    plain = net(x, zero, none, none)
    for other in (net(x, zero + 0.5, none, none), net(x, zero, label, none), net(x, zero, none, label)):
        assert not torch.allclose(plain, other, atol=1e-3)
    small = generative.LatentDenoiser(6)
    z = torch.randn(4, 6)
    assert small(z, zero).shape == (4, 6) and not torch.allclose(small(z, zero), small(z, zero + 0.5), atol=1e-3)


def test_waves_tell_times_apart():
    told = generative.waves(torch.linspace(0, 1, 50), 32)
    assert told.shape == (50, 32)
    apart = torch.cdist(told, told) + 10 * torch.eye(50)
    assert apart.min() > 0.1


def test_a_descent_goes_down_and_slows_at_the_end():
    torch.manual_seed(0)
    line = nn.Linear(3, 1)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    descent = generative.Descent([line], 0.05, 150)
    losses = [descent.step(((line(x) - y) ** 2).mean()) for _ in range(150)]
    assert losses[-1] < 0.01 * losses[0] and descent.done == 150 and descent.seconds > 0
    assert descent.optimiser.param_groups[0]["lr"] < 0.0015


def test_fast_gives_nearly_the_same_product():
    a = torch.randn(8, 8)
    with generative.fast():
        product = a @ a
    assert torch.allclose(product.float(), a @ a, atol=0.1, rtol=0.05)


def test_the_judge_reads_what_it_was_shown(judge, toys):
    seen = judge.features(toys.pixels)
    assert seen.shape == (96, 128) and judge.features(toys.pixels[:1]).shape == (1, 128)
    colour, shape = judge.name(seen)
    assert (colour == toys.colour).float().mean() > 0.9  # even untrained towers see colour
    assert (shape == toys.shape).float().mean() > 2 / 8
    assert not any(weight.requires_grad and weight.grad is not None for weight in judge.tower.parameters())


def test_the_frechet_distance_of_gaussians_is_the_textbook_one():
    torch.manual_seed(0)
    a = torch.randn(20000, 3) * torch.tensor([1.0, 2.0, 0.5])
    b = torch.randn(20000, 3) * torch.tensor([2.0, 2.0, 0.5]) + torch.tensor([0.0, 3.0, 0.0])
    assert generative.frechet(a, b) == pytest.approx(9 + 1, rel=0.05)  # mean 3 apart, deviations 1 and 2
    assert generative.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert generative.frechet(a, b) == pytest.approx(generative.frechet(b, a), rel=1e-6)


def test_the_frechet_distance_agrees_with_a_general_matrix_root():
    torch.manual_seed(1)
    a, b = torch.randn(500, 6) @ torch.randn(6, 6), torch.randn(400, 6) @ torch.randn(6, 6) + 1
    first, second = torch.cov(a.T.double()), torch.cov(b.T.double())
    root = torch.linalg.eigvals(first @ second).sqrt().real.sum()  # the trace of the root of A B
    gap = ((a.double().mean(0) - b.double().mean(0)) ** 2).sum()
    assert generative.frechet(a, b) == pytest.approx(float(gap + first.trace() + second.trace() - 2 * root), rel=1e-5)
    for bad in (a[:1], a[:, :3]):
        with pytest.raises(ValueError, match="two rows"):
            generative.frechet(a, bad)


def test_the_distance_shows_its_spread():
    torch.manual_seed(0)
    real = torch.randn(900, 4)
    near, far = generative.distance(torch.randn(600, 4), real), generative.distance(torch.randn(600, 4) + 1, real)
    assert near.low <= near.value <= near.high < far.low and near.n == 600
    assert far.value == pytest.approx(4, rel=0.2)


def test_coverage_and_entropy_know_a_collapse():
    even, one = torch.arange(80) % 8, torch.zeros(80).long()
    assert generative.covered(even) == 8 and generative.entropy(even) == pytest.approx(3)
    assert generative.covered(one) == 1 and generative.entropy(one) == 0
    rare = torch.cat([torch.zeros(78).long(), torch.ones(2).long()])  # 2 of 80: less than a quarter of 10
    assert generative.covered(rare) == 1
    assert generative.entropy(rare) == pytest.approx(-(78 * math.log2(78 / 80) + 2 * math.log2(2 / 80)) / 80)


def test_information_forgives_a_renaming_and_no_loss():
    shape = torch.arange(64) % 8
    assert generative.information(shape, shape) == pytest.approx(3, abs=1e-5)
    assert generative.information(shape, (shape + 3) % 8) == pytest.approx(3, abs=1e-5)
    assert generative.information(shape, shape // 2) == pytest.approx(2, abs=1e-5)
    assert generative.information(shape, torch.arange(64) // 8) == pytest.approx(0, abs=1e-5)


def test_a_line_begins_and_ends_where_it_should():
    start, end = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])
    points = generative.line(start, end, 5)
    assert torch.equal(points[0], start) and torch.equal(points[-1], end)
    assert torch.allclose(points.diff(dim=0), torch.tensor([0.25, 0.5]).expand(4, 2))


def test_toys_are_named_by_what_they_show():
    toys = generative.toys(8, 0, ("green",))
    names = [toys.name(i) for i in range(8)]
    assert names == [f"green {SHAPES[shape]}" for shape in toys.shape]


# --- the lesson's own code


@pytest.fixture(scope="module")
def taught() -> dict:
    return written_in(
        "7.1_lab_generative_families", "T", "part", "angle", "kept", torch=torch, Tensor=torch.Tensor, nn=nn, np=np
    )


def test_the_bound_is_that_of_torch_distributions(taught):
    torch.manual_seed(0)
    pixels, code = torch.rand(5, 3, 4, 4), torch.randn(5, 2 * 6)
    again, kl, z = taught["elbo"](
        pixels, lambda x: code, lambda z: z.sum(1)[:, None, None, None].expand(-1, 3, 4, 4), 0.3
    )
    mean, deviation = code[:, :6], (code[:, 6:] / 2).exp()
    likely = torch.distributions.Normal(z.sum(1)[:, None, None, None].expand(-1, 3, 4, 4), 0.3).log_prob(pixels)
    assert torch.allclose(again, likely.sum((1, 2, 3)), rtol=1e-4)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(kl, theirs.sum(1), atol=1e-5)
    drawn = torch.stack([taught["elbo"](pixels, lambda x: code, lambda z: pixels, 0.3)[2] for _ in range(4000)])
    assert torch.allclose(drawn.mean(0), mean, atol=0.3) and torch.allclose(drawn.std(0), deviation, rtol=0.1)


@pytest.mark.parametrize("t", [1, 100, 250, 398])
def test_a_step_back_is_ddpms_posterior(taught, t):
    """Mean and deviation of x at t - 1, given x at t and the clean picture (arXiv 2006.11239, equations 6 and 7)."""
    torch.manual_seed(0)
    clean, noise, kept = torch.rand(1, 3, 4, 4) - 0.5, torch.randn(1, 3, 4, 4), taught["kept"]
    x = taught["noised"](clean, torch.tensor([t]), noise)
    made = taught["step_back"](x.expand(20_000, -1, -1, -1), noise, t, t - 1)
    now, then = kept[t], kept[t - 1]
    alpha = now / then
    mean = (then.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - then) * x) / (1 - now)
    deviation = ((1 - then) / (1 - now) * (1 - alpha)).sqrt()
    assert (made.mean(0) - mean[0]).abs().max() < 5 * deviation / 20_000**0.5 + 1e-4
    assert torch.allclose(made.std(0), deviation, rtol=0.03)


def test_the_last_step_gives_the_clean_picture(taught):
    clean, noise = torch.rand(2, 3, 4, 4) - 0.5, torch.randn(2, 3, 4, 4)
    x = taught["noised"](clean, torch.tensor([200, 200]), noise)
    assert torch.allclose(taught["step_back"](x, noise, 200, -1), clean, atol=1e-4)
