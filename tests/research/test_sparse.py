"""Masks, windows in blocks, what can be reached, and a ring of devices."""

import pytest
import torch

from course_utils.research import sparse


def test_a_window_sees_itself_and_what_is_near_and_the_first() -> None:
    mask = sparse.window_mask(6, 2, first=1)
    assert mask[4].tolist() == [True, False, False, True, True, False]
    assert torch.equal(sparse.window_mask(5, 5), torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize(("window", "first"), [(0, 0), (2, -1)])
def test_a_window_that_sees_nothing_is_refused(window: int, first: int) -> None:
    with pytest.raises(ValueError, match="take 1 or more"):
        sparse.window_mask(6, window, first)


def test_blocks_see_themselves_the_one_before_and_the_first() -> None:
    mask = sparse.block_sparse_mask(32, 4, chosen=0)
    assert mask[31].nonzero().flatten().tolist() == [*range(4), *range(24, 32)]
    assert not mask.triu(1).any()
    assert sparse.block_sparse_mask(32, 4, chosen=2).sum() > mask.sum()
    with pytest.raises(ValueError, match="whole number of blocks"):
        sparse.block_sparse_mask(30, 4)


def test_a_window_in_blocks_gives_what_the_mask_gives() -> None:
    q, k, v = torch.randn(3, 2, 40, 8, generator=torch.Generator().manual_seed(1))
    expected = sparse.masked_attention(q, k, v, 10)
    assert torch.allclose(sparse.windowed_attention(q, k, v, 10), expected, atol=1e-5)
    assert not torch.allclose(sparse.masked_attention(q, k, v, 9), expected, atol=1e-3)
    with pytest.raises(ValueError, match="fill the text up"):
        sparse.windowed_attention(q, k, v, 9)


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_a_ring_gives_what_one_device_gives(devices: int) -> None:
    q, k, v = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(1))
    ring = sparse.ring_attention(q, k, v, devices)
    assert torch.allclose(ring.result, sparse.masked_attention(q, k, v, 40), atol=1e-5)
    assert ring.busy == list(range(devices, 0, -1))
    assert ring.held == (40 // devices) ** 2 and ring.sent == (devices - 1) * 2 * (40 // devices) * 8


def test_a_text_that_cannot_be_shared_is_refused() -> None:
    q = torch.randn(10, 4)
    with pytest.raises(ValueError, match="3 devices"):
        sparse.ring_attention(q, q, q, 3)


def test_a_trained_model_knows_nothing_of_what_is_beyond_its_reach() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(30, (2, 16))
    mask = sparse.window_mask(16, 4)  # reach: 2 x 3 tokens
    before = sparse.logits_behind(model, ids, mask)[:, -1]
    for back, same in ((6, False), (7, True)):
        changed = ids.clone()
        changed[:, -1 - back] = (ids[:, -1 - back] + 1) % 30
        assert torch.equal(sparse.logits_behind(model, changed, mask)[:, -1], before) == same
    assert sparse.surprise(model, ids, mask).shape == (2, 15)
    everything = sparse.logits_behind(model, ids, sparse.window_mask(16, 16))
    assert torch.allclose(everything, model(input_ids=ids).logits, atol=1e-5)
