"""Patches put in what they should and nothing else; attributions add up; the lens ends in the model."""

import contextlib

import pytest
import torch
from transformers import LlamaForCausalLM

from course_utils.prisma import lm
from course_utils.research import patching


@pytest.fixture(scope="module")
def tokenizer():
    return lm.build_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer) -> LlamaForCausalLM:
    """prisma-lm's shape with random weights."""
    return lm.build(tokenizer).eval()


@pytest.fixture(scope="module")
def twins():
    return patching.twins(6, seed=1)


def test_twins_differ_in_the_status_of_the_order_asked_for(twins, tokenizer):
    for clean, other in twins:
        assert clean.other == other.other
        assert len({clean.answer, other.answer, clean.other}) == 3
        assert clean.said.replace(f", {clean.answer}.", f", {other.answer}.") == other.said
    ids = patching.encoded(tokenizer, [clean for clean, _ in twins])
    bad = patching.encoded(tokenizer, [other for _, other in twins])
    rows, places = (ids != bad).nonzero().T
    assert rows.tolist() == list(range(6)) and len(places.unique()) == 1
    assert twins == patching.twins(6, seed=1) != patching.twins(6, seed=2)


def test_prompts_of_different_lengths_are_refused(tokenizer):
    cases = [patching.Case("one", "packed", "shipped"), patching.Case("one two", "packed", "shipped")]
    with pytest.raises(ValueError, match="place by place"):
        patching.encoded(tokenizer, cases)


def test_a_word_of_several_tokens_is_refused(tokenizer):
    assert patching.word_ids(tokenizer, ["packed", "shipped"]).shape == (2,)
    with pytest.raises(ValueError, match="tokens here"):
        patching.word_ids(tokenizer, ["packed and shipped"])


@torch.inference_mode()
def test_the_lens_on_top_is_the_model(model):
    ids = torch.randint(7, 200, (2, 9))
    found = patching.states(model, ids)
    assert found.shape == (7, 2, 9, 256)
    torch.testing.assert_close(found[0], model.model.embed_tokens(ids))
    torch.testing.assert_close(patching.logit_lens(model, found[-1]), model(ids).logits, atol=1e-5, rtol=1e-4)
    assert not any(place._forward_pre_hooks for place in patching.stations(model))


@torch.inference_mode()
def test_a_patch_of_every_token_is_the_other_run_and_goes_away(model):
    first, second = torch.randint(7, 200, (2, 1, 4))
    donor = patching.states(model, first)
    normal = model(second).logits
    for layer in (0, 3, 6):
        with contextlib.ExitStack() as patches:
            for place in range(4):
                patches.enter_context(patching.patched(model, layer, place, donor[layer, :, place]))
            torch.testing.assert_close(model(second).logits, model(first).logits, atol=1e-5, rtol=1e-4)
    assert torch.equal(model(second).logits, normal)


@torch.inference_mode()
def test_a_patch_changes_nothing_before_its_place(model):
    ids = torch.randint(7, 200, (1, 6))
    normal = model(ids).logits
    with patching.patched(model, 2, 3, torch.randn(1, 256)):
        changed = model(ids).logits
    torch.testing.assert_close(changed[:, :3], normal[:, :3])
    assert (changed[:, 3:] - normal[:, 3:]).abs().amax(-1).min() > 1e-4


def test_a_layer_that_is_not_there_is_an_error(model):
    with pytest.raises(IndexError), patching.patched(model, 7, 0, torch.zeros(1, 256)):
        pass


def test_brought_back_is_0_without_and_1_with_everything():
    low, high = torch.tensor([-3.0, 1.0]), torch.tensor([5.0, 2.0])
    assert patching.brought_back(low, low, high).tolist() == [0, 0]
    assert patching.brought_back(high, low, high).tolist() == [1, 1]


def test_integrated_gradients_add_up(model):
    ids, wanted = torch.randint(7, 200, (2, 8)), torch.tensor([20, 30])
    with torch.no_grad():
        there = model.model.embed_tokens(ids)
        nothing = model.model.embed_tokens(torch.full_like(ids, 9))
        gained = patching.log_probability(model, there, wanted) - patching.log_probability(model, nothing, wanted)
    shares = patching.integrated_gradients(model, there, nothing, wanted, steps=64)
    assert shares.shape == (2, 8)
    torch.testing.assert_close(shares.sum(1), gained, atol=0.02, rtol=0.02)
    unchanged = patching.integrated_gradients(model, there, there, wanted, steps=2)
    assert unchanged.abs().max() == 0


def test_gradient_times_input_is_exact_only_for_a_straight_line(model):
    ids, wanted = torch.randint(7, 200, (1, 5)), torch.tensor([20])
    there = model.model.embed_tokens(ids).detach()
    near = there + 1e-3 * torch.randn_like(there)
    with torch.no_grad():
        gained = patching.log_probability(model, there, wanted) - patching.log_probability(model, near, wanted)
    shares = patching.gradient_times_input(model, there, near, wanted)
    torch.testing.assert_close(shares.sum(1), gained, atol=2e-3, rtol=0.1)
