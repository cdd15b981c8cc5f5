"""A cache changes no number: in one piece, in pieces, and in the library, the model says the same."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.memory import formulas, shapes
from course_utils.research import kv_cache
from course_utils.research.attention_by_hand import attention

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    torch.manual_seed(7)
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, initializer_range=0.3, **sizes, **heads)).eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def test_read_in_pieces_it_is_the_library_reading_at_once(model, ids):
    cache = kv_cache.Cache()
    pieces = [kv_cache.forward(model, piece, cache) for piece in (ids[:, :5], ids[:, 5:6], ids[:, 6:])]
    library = model(ids, use_cache=True)
    torch.testing.assert_close(torch.cat(pieces, dim=1), library.logits, **CLOSE)
    for ours, theirs in zip(cache.keys, library.past_key_values.layers, strict=True):
        torch.testing.assert_close(ours, theirs.keys, **CLOSE)
    for ours, theirs in zip(cache.values, library.past_key_values.layers, strict=True):
        torch.testing.assert_close(ours, theirs.values, **CLOSE)


def test_a_step_is_the_last_row_of_attention_to_everything():
    torch.manual_seed(3)
    q, k, v = torch.randn(3, 1, 2, 9, 4)
    everything, _ = attention(q, k, v, torch.ones(9, 9, dtype=torch.bool).tril())
    new = [part[..., 6:, :] for part in (q, k, v)]
    result, keys, values = kv_cache.attend(*new, k[..., :6, :], v[..., :6, :])
    torch.testing.assert_close(result, everything[..., 6:, :], **CLOSE)
    assert torch.equal(keys, k) and torch.equal(values, v)


def test_a_step_for_one_token_serves_many_tokens_and_rows():
    from course_utils.exercises.unit_7_3.solutions import kv_cache_step

    torch.manual_seed(4)
    q, k, v = torch.randn(3, 2, 4, 3, 8)  # each (batch, heads, new, d)
    keys, values = torch.randn(2, 2, 4, 5, 8)
    wanted = kv_cache.attend(q, k, v, keys, values)
    for ours, theirs in zip(kv_cache.one_by_one(kv_cache_step)(q, k, v, keys, values), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_the_same_tokens_with_without_and_from_the_library(model, ids):
    kept = kv_cache.greedy(model, ids, 10, cached=True)
    anew = kv_cache.greedy(model, ids, 10, cached=False)
    library = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(kept, anew) and torch.equal(kept, library[:, 12:])


def test_a_step_that_forgets_is_noticed(model, ids):
    def forgets(q, k, v, keys, values):
        return attention(q, k, v)[0], torch.cat((keys, k), -2), torch.cat((values, v), -2)

    right = kv_cache.greedy(model, ids, 10, cached=True)
    assert not torch.equal(right, kv_cache.greedy(model, ids, 10, cached=True, step=forgets))


@torch.inference_mode()
def test_bytes_are_those_of_the_formula(model, ids):
    cache = kv_cache.Cache()
    assert (cache.tokens, cache.bytes) == (0, 0)
    kv_cache.forward(model, ids, cache)
    shape = shapes.from_config(model.config.to_dict())
    assert cache.tokens == 12
    assert cache.bytes == formulas.kv_cache_bytes(shape, seq=12, batch=2, bytes_per_number=4)


def test_heads_that_share_keys_are_refused(ids):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    shared = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_attention_heads=4, num_key_value_heads=2, **sizes))
    with pytest.raises(ValueError, match="share keys"):
        kv_cache.forward(shared, ids, kv_cache.Cache())


def test_times_come_in_pairs_and_leave_the_cache_alone(model, ids):
    with_cache, without = kv_cache.next_token_times(model, ids[:1], rounds=2)
    assert len(with_cache) == len(without) == 2
    assert min(with_cache + without) > 0
