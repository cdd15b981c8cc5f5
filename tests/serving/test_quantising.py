"""Rounding, GPTQ and AWQ by hand: against slower ways to the same numbers, and where each has to win."""

from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.serving import quantising
from course_utils.serving.quantising import awq, gptq, inputs_from, output_error, round_to_nearest


def layer(outputs: int = 6, inputs: int = 16, tokens: int = 200, seed: int = 1):
    """Weights, and what they read: inputs that depend on each other, as those of a model do."""
    made = torch.Generator().manual_seed(seed)
    weights = torch.randn(outputs, inputs, generator=made)
    mixing = torch.randn(inputs, inputs, generator=made)
    read = torch.randn(tokens, inputs, generator=made) @ mixing
    return weights, inputs_from(read)


def by_obq(weights, inputs, bits, group):
    """Optimal Brain Quantizer (arXiv 2208.11580; GPTQ's equations 2 and 3), the columns in order, in double precision.

    After each column the explicit inverse of the Hessian loses that column: no Cholesky factor is used.
    """
    left = weights.double().clone()
    hessian = inputs.hessian.double()
    size = len(hessian)
    damped = hessian + quantising.DAMP * hessian.diagonal().mean() * torch.eye(size).double()
    inverse = torch.linalg.inv(damped)
    for i in range(size):
        if i % group == 0:
            scale, zero = quantising.grid(left[:, i : i + group], bits)
        fixed = quantising.on_grid(left[:, i : i + 1], scale, zero, bits)
        lost = (left[:, i : i + 1] - fixed) / inverse[i, i]
        left[:, i:] -= lost * inverse[i, i:]
        inverse = inverse - inverse[:, i : i + 1] * inverse[i : i + 1] / inverse[i, i]
        left[:, i : i + 1] = fixed
    return left


@pytest.mark.parametrize(("bits", "group"), [(4, 16), (3, 8), (2, 4)])
def test_gptq_is_obq_in_a_fixed_order(bits, group) -> None:
    weights, inputs = layer()
    expected = by_obq(weights, inputs, bits, group)
    assert (gptq(weights, inputs, bits, group).double() - expected).abs().max() < 1e-5
    assert (round_to_nearest(weights, bits, group) - expected).abs().max() > 0.01  # the test can tell


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gptq_moves_the_weights_more_and_the_outputs_less(bits, seed) -> None:
    weights, inputs = layer(32, 64, 400, seed)
    nearest = round_to_nearest(weights, bits)
    rounded = gptq(weights, inputs, bits)
    assert output_error(weights, rounded, inputs) < 0.7 * output_error(weights, nearest, inputs)
    assert (rounded - weights).norm() > (nearest - weights).norm()


def test_where_inputs_do_not_depend_on_each_other_gptq_is_rounding() -> None:
    weights, _ = layer()
    alone = quantising.Inputs(torch.eye(16), torch.ones(16))
    assert torch.allclose(gptq(weights, alone, 3, 16), round_to_nearest(weights, 3, 16), atol=1e-6)


def test_awq_saves_the_weights_that_large_inputs_meet() -> None:
    weights, _ = layer(32, 64)
    read = torch.randn(400, 64, generator=torch.Generator().manual_seed(5))
    read[:, 3] *= 40
    inputs = inputs_from(read)
    nearest = output_error(weights, round_to_nearest(weights, 3), inputs)
    assert output_error(weights, awq(weights, inputs, 3), inputs) < 0.5 * nearest
    assert quantising.awq_power(weights, inputs, 3) > 0


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_awq_is_never_worse_than_rounding_on_its_own_text(bits) -> None:
    weights, inputs = layer(32, 64)
    nearest = output_error(weights, round_to_nearest(weights, bits), inputs)
    assert output_error(weights, awq(weights, inputs, bits), inputs) <= nearest


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_a_group_has_no_more_levels_than_its_bits_allow(bits) -> None:
    weights, inputs = layer(4, 64)
    for rounded in (round_to_nearest(weights, bits), gptq(weights, inputs, bits)):
        assert all(len(row.unique()) <= 2**bits for row in rounded)
    assert round_to_nearest(torch.zeros(2, 64), bits).eq(0).all()


def test_rounding_keeps_0_and_moves_no_weight_by_more_than_half_a_step() -> None:
    weights = torch.cat([torch.linspace(-1, 2, 63), torch.zeros(1)])[None]
    rounded = round_to_nearest(weights, 2)
    assert rounded[0, -1] == 0
    assert rounded.unique().tolist() == [-1, 0, 1, 2]
    assert (rounded - weights).abs().max() <= 0.5 + 1e-6


def test_bits_in_a_file_count_scale_and_zero() -> None:
    assert quantising.stored_bits(4) == 4 + (16 + 4) / 64
    assert quantising.stored_bits(2, 128) == 2 + 18 / 128


def test_what_cannot_be_quantised_is_told() -> None:
    weights, inputs = layer()
    with pytest.raises(ValueError, match="Rows of 16 weights do not divide into groups of 10"):
        round_to_nearest(weights, 4, 10)
    with pytest.raises(ValueError, match="divide into groups of 64"):
        gptq(weights, inputs, 4)
    silent = inputs_from(torch.zeros(5, 16))
    with pytest.raises(ValueError, match="all zero: GPTQ needs a text"):
        gptq(weights, silent, 4, 16)


# ---------------------------------------------------------------- a whole model


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(3)
    return LlamaForCausalLM(config).eval()


IDS = torch.arange(60).reshape(3, 20) % 50


def test_matrices_that_read_the_same_share_what_is_known(llama) -> None:
    read = quantising.what_is_read(llama.model.layers[1], partial(llama.model, IDS))
    assert read.keys() == {name for names in quantising.READ_TOGETHER for name in names}
    assert read["mlp.gate_proj"] is read["mlp.up_proj"]
    assert read["mlp.down_proj"].hessian.shape == (128, 128)
    assert not llama.model.layers[1].mlp.down_proj._forward_pre_hooks


def test_a_method_that_changes_nothing_gives_the_same_model(llama) -> None:
    copied = quantising.calibrated_copy(llama, IDS, lambda weights, inputs: weights)
    with torch.no_grad():
        assert torch.equal(copied(IDS).logits, llama(IDS).logits)


def test_each_layer_is_judged_by_what_the_changed_layers_before_it_hand_on(llama) -> None:
    seen = []

    def nothing(weights, inputs):
        seen.append(inputs)
        return torch.zeros_like(weights)

    copied = quantising.calibrated_copy(llama, IDS, nothing)
    before = quantising.what_is_read(llama.model.layers[1], partial(llama.model, IDS))
    # Layer 0 is silent now: layer 1 reads the embeddings alone.
    after = quantising.what_is_read(copied.model.layers[1], partial(copied.model, IDS))
    name = "self_attn.q_proj"
    assert torch.allclose(seen[4].hessian, after[name].hessian, rtol=1e-4)
    assert not torch.allclose(seen[4].hessian, before[name].hessian, rtol=1e-2)
    assert llama.model.layers[0].mlp.up_proj.weight.abs().sum() > 0  # the original is as it was


def test_a_whole_model_moves_less_by_gptq(llama) -> None:
    with torch.no_grad():
        whole = llama(IDS).logits
        moved = {}
        for method in (gptq, lambda weights, inputs, bits: round_to_nearest(weights, bits)):
            copied = quantising.calibrated_copy(llama, IDS, partial(method, bits=2))
            moved[method is gptq] = (copied(IDS).logits - whole).norm()
    assert moved[True] < 0.9 * moved[False]
