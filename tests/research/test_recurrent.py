"""Linear attention and state spaces: each form gives what the other gives; readers; their tasks; many seeds at once."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.research import recurrent, seeds


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_linear_attention_in_parallel_and_in_steps(generator: torch.Generator) -> None:
    q, k, v = torch.randn(3, 2, 30, 8, generator=generator)
    together = recurrent.linear_attention(q, k, v)
    assert torch.allclose(together, recurrent.linear_attention_stepwise(q, k, v), atol=1e-5)


def test_a_fading_memory_in_parallel_and_in_steps(generator: torch.Generator) -> None:
    q, k, v = torch.randn(3, 2, 30, 8, generator=generator)
    log_kept = -torch.rand(2, 30, generator=generator)
    together = recurrent.gated_linear_attention(q, k, v, log_kept)
    assert torch.allclose(together, recurrent.gated_linear_attention_stepwise(q, k, v, log_kept), atol=1e-5)
    forgetting = recurrent.gated_linear_attention(q, k, v, torch.full((2, 30), -50.0))
    own = (q * k).sum(-1, keepdim=True) * v
    assert torch.allclose(forgetting, own, atol=1e-5)  # nothing but the token itself is left


def test_a_selective_scan_in_parallel_and_as_a_convolution(generator: torch.Generator) -> None:
    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    n, channels, state = 21, 3, 4
    x, step, decay, writes, reads = (
        drawn(n, channels),
        drawn(n, channels),
        -drawn(channels, state),
        drawn(n, state),
        drawn(n, state),
    )
    slow = recurrent.selective_scan(x, step, decay, writes, reads)
    fast = recurrent.selective_scan_in_parallel(x, step, decay, writes, reads)
    assert torch.allclose(slow, fast, atol=1e-12)
    same = (step[0].expand(n, -1), decay, writes[0].expand(n, -1), reads[0].expand(n, -1))
    filtered = recurrent.as_convolution(x, step[0], decay, writes[0], reads[0])
    assert torch.allclose(recurrent.selective_scan(x, *same), filtered, atol=1e-12)
    assert not torch.allclose(slow, filtered, atol=1e-3)


@pytest.mark.parametrize("kind", recurrent.KINDS)
def test_readers_have_one_size_and_never_look_ahead(kind: str) -> None:
    torch.manual_seed(0)
    reader = recurrent.Reader([kind], 20)
    sizes = {sum(p.numel() for p in recurrent.Reader([other], 20).parameters()) for other in recurrent.KINDS}
    assert len(sizes) == 1
    ids = torch.randint(20, (2, 12))
    changed = ids.clone()
    changed[:, 8:] = (ids[:, 8:] + 1) % 20
    assert torch.allclose(reader(ids)[:, :8], reader(changed)[:, :8], atol=1e-6)
    assert not torch.allclose(reader(ids)[:, 8], reader(changed)[:, 8], atol=1e-3)


def test_an_unknown_kind_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="attention, linear attention, state space"):
        recurrent.Reader(["mamba"], 20)


def test_pairs_come_again_in_another_order(generator: torch.Generator) -> None:
    ids = recurrent.recall_rows(6, 5, 9, generator)
    assert ids.shape == (6, 20)
    for row in ids.tolist():
        told = set(zip(row[:10:2], row[1:10:2], strict=True))
        asked = set(zip(row[10::2], row[11::2], strict=True))
        assert told == asked and len(told) == 5
        assert all(key < 9 <= value for key, value in told)
    with pytest.raises(ValueError, match="at most 9"):
        recurrent.recall_rows(1, 10, 9, generator)


def test_a_status_holds_until_the_next(generator: torch.Generator) -> None:
    ids, now = recurrent.status_rows(4, 50, 8, 0.2, generator)
    for words, statuses in zip(ids.tolist(), now.tolist(), strict=True):
        current = None
        for word, status in zip(words, statuses, strict=True):
            current = word if word < 8 else current
            assert status == current
    with pytest.raises(ValueError, match="above 0"):
        recurrent.status_rows(1, 5, 8, 0, generator)


# --- many seeds at once


def line_loss(models: seeds.Seeds, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(1, 16, 3, generator=generator).expand(len(models), -1, -1)
    return F.mse_loss(models(x), x.sum(-1, keepdim=True), reduction="none").mean((1, 2))


def test_models_trained_together_are_those_trained_alone() -> None:
    both = seeds.build(lambda: nn.Linear(3, 1), [4, 5])
    alone = seeds.build(lambda: nn.Linear(3, 1), [5])
    losses = seeds.train(both, line_loss, 30, seed=1, rate=0.1)
    seeds.train(alone, line_loss, 30, seed=1, rate=0.1)
    assert torch.allclose(both.weights["weight"][1], alone.weights["weight"][0], atol=1e-5)
    assert not torch.allclose(both.weights["weight"][0], both.weights["weight"][1], atol=1e-6)
    assert max(losses[-1]) < 0.2 * min(losses[0]) and both.parameters == 4


def test_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        seeds.build(lambda: nn.Linear(3, 1), [])
