"""Positions by hand are the libraries' to 1e-5, and say what they should say."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

from course_utils.research import positions

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.mark.parametrize("length, width", [(1, 2), (50, 6), (1000, 64)])
def test_sinusoidal_positions_equal_a_published_table(length, width):
    theirs = torch.empty(length, width)
    create_sinusoidal_embeddings(length, width, theirs)
    torch.testing.assert_close(positions.sinusoidal(length, width), theirs, **CLOSE)


@pytest.mark.parametrize("heads, width, base", [(1, 4, 10_000.0), (8, 32, 10_000.0), (4, 16, 500_000.0)])
def test_rotary_equals_llamas(heads, width, base):
    q, k = torch.randn(2, 2, heads, 900, width)
    rope = {"rope_type": "default", "rope_theta": base}
    config = LlamaConfig(hidden_size=heads * width, num_attention_heads=heads, rope_parameters=rope)
    places = torch.arange(900)
    cos, sin = LlamaRotaryEmbedding(config)(q, places[None])
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    torch.testing.assert_close(positions.rotary(q, places, base), theirs[0], **CLOSE)
    torch.testing.assert_close(positions.rotary(k, places, base), theirs[1], **CLOSE)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 16).double()

    def score(query_at: int, key_at: int) -> float:
        return (positions.rotary(q, torch.tensor([query_at])) @ positions.rotary(k, torch.tensor([key_at])).T).item()

    assert score(9, 2) == pytest.approx(score(509, 502), abs=1e-9)
    assert score(9, 2) != pytest.approx(score(9, 3), abs=1e-3)


def test_rotary_turns_without_stretching_and_leaves_position_0():
    x = torch.randn(3, 5, 8)
    turned = positions.rotary(x, torch.arange(5))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, 0], x[:, 0])


def test_half_precision_keeps_its_type_and_exact_angles():
    x = torch.randn(1, 700, 8)
    half = positions.rotary(x.bfloat16(), torch.arange(700))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), positions.rotary(x, torch.arange(700)), atol=0.05, rtol=0.02)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="even"):
        positions.rotary(torch.randn(2, 5), torch.arange(2))
