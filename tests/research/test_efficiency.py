"""Smaller, faster, longer: what the notebook on efficiency computes agrees with the libraries, and refuses nonsense."""

import math

import lessons
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from course_utils.prisma import lm
from course_utils.research import checkpointing, distillation, pruning, rope_scaling

NOTEBOOK = "7.3_efficiency"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.fixture(scope="module")
def tokenizer():
    return lm.build_tokenizer()


def small_llama(vocabulary: int = 50, groups: int = 1) -> LlamaForCausalLM:
    """A Llama of two layers with four heads, `groups` of which share a key."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4 // groups,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def batch_of(vocabulary: int = 50) -> dict[str, Tensor]:
    ids = torch.randint(0, vocabulary, (2, 12))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


# --- pruning


def test_magnitude_takes_the_smallest_and_no_more():
    weights = torch.tensor([[3.0, -1.0, 0.5], [-4.0, 2.0, -0.1]])
    wanted = torch.tensor([[3.0, 0.0, 0.0], [-4.0, 2.0, 0.0]])
    assert torch.equal(pruning.magnitude(weights, 0.5), wanted)
    assert torch.equal(pruning.magnitude(weights, 0.0), weights)


def test_equal_weights_lose_exactly_the_share():
    assert (pruning.magnitude(torch.ones(4, 25), 0.3) == 0).sum() == 30


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match="cannot be taken away"):
        pruning.magnitude(torch.ones(4), share)
    with pytest.raises(ValueError, match="cannot be taken away"):
        pruning.least(torch.ones(2, 4), share)


def test_two_of_four_keeps_the_larger_two_of_each_four():
    weights = torch.randn(6, 8)
    kept = pruning.two_of_four(weights)
    fours = kept.reshape(-1, 4)
    assert ((fours != 0).sum(1) == 2).all()
    largest = weights.reshape(-1, 4).abs().topk(2, dim=1).values.sum(1)
    torch.testing.assert_close(fours.abs().sum(1), largest)


def test_a_part_that_is_cut_out_does_what_a_part_of_zeros_does():
    model = small_llama()
    cut = pruning.without(model, [[1], [0, 3]], [[5, 6], [0]])
    zeros = small_llama()
    with torch.no_grad():
        for layer, heads, channels in zip(zeros.model.layers, ([1], [0, 3]), ([5, 6], [0]), strict=True):
            for head in heads:
                layer.self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] = 0
            layer.mlp.down_proj.weight[:, channels] = 0
        ids = batch_of()["input_ids"]
        torch.testing.assert_close(cut(ids).logits, zeros(ids).logits)
        assert not torch.allclose(cut(ids).logits, model(ids).logits)
    assert pruning.weights_left(cut) == pruning.weights_left(model) - 4 * 3 * 8 * 32 - 3 * 3 * 32
    written = cut.generate(ids[:1, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert written.shape == (1, 7)


def test_a_layer_without_heads_is_refused():
    model = small_llama()
    with pytest.raises(ValueError, match="at least one head"):
        pruning.without(model, [[0, 1, 2, 3], []], [[], []])
    with pytest.raises(ValueError, match="parts 0 to 3"):
        pruning.without(model, [[4], []], [[], []])
    with pytest.raises(ValueError, match="share one key"):
        pruning.without(small_llama(groups=2), [[0], []], [[], []])


def test_importance_is_what_goes_missing_and_padding_does_not_count():
    model = small_llama()
    batch = batch_of()
    caught = []
    join = model.model.layers[1].self_attn.o_proj
    hook = join.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    found = pruning.importance(model, [batch])
    hook.remove()
    assert found.heads.shape == (2, 4) and found.channels.shape == (2, 48)
    (read,) = caught
    each = read[..., :8].unsqueeze(-2) * join.weight[:, :8]  # what each number of head 0 adds
    torch.testing.assert_close(found.heads[1, 0], each.square().sum())

    padded = {name: F.pad(tensor, (0, 3)) for name, tensor in batch.items()}
    again = pruning.importance(model, [padded])
    torch.testing.assert_close(again.heads, found.heads)
    assert not join._forward_pre_hooks
    with pytest.raises(ValueError, match="at least one batch"):
        pruning.importance(model, [])


def test_the_least_important_part_goes_first():
    scores = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, 2.0, 3.0, 0.0]])
    assert pruning.least(scores, 0.5) == [[1, 2], [3, 0]]
    assert pruning.least(scores, 0.0) == [[], []]


# --- distillation


def test_the_distillation_loss_is_the_divergence_and_zero_for_equals():
    student, teacher = torch.randn(2, 6, 10)
    for temperature in (1.0, 3.0):
        p = (teacher / temperature).softmax(-1)
        q = (student / temperature).softmax(-1)
        divergence = (p * (p.log() - q.log())).sum(-1).mean()
        found = distillation.distillation_loss(student, teacher, temperature)
        torch.testing.assert_close(found, temperature**2 * divergence)
    assert distillation.distillation_loss(teacher, teacher, 2.0).abs() < 1e-6
    shifted = teacher + 5  # logits have no zero point
    assert distillation.distillation_loss(shifted, teacher).abs() < 1e-5
    with pytest.raises(ValueError, match="above 0"):
        distillation.distillation_loss(student, teacher, 0.0)


def test_a_student_learns_its_teachers_distribution(tokenizer):
    teacher = small_llama(len(tokenizer))
    batches = distillation.lessons(tokenizer, distillation.guesses(8, seed=1), size=4)
    answers = distillation.taught(teacher, batches)
    student = distillation.fresh(teacher, layers=1, width=32, heads=2, seed=0)
    again = distillation.fresh(teacher, layers=1, width=32, heads=2, seed=0)
    pairs = zip(student.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)

    def soft(said: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
        assert len(said) == len(taught) == len(labels)
        return distillation.distillation_loss(said, taught)

    losses = distillation.train(student, batches, answers, soft, steps=20, rate=1e-2)
    assert losses[-1] < 0.5 * losses[0]
    with pytest.raises(ValueError, match="do not divide"):
        distillation.fresh(teacher, layers=1, width=30, heads=4, seed=0)


def test_guesses_are_fresh_and_repeatable():
    some = distillation.guesses(20, seed=3)
    assert len({example.text for example in some}) > 15
    assert [e.text for e in some] == [e.text for e in distillation.guesses(20, seed=3)]
    assert not {e.text for e in some} & {e.text for e in distillation.guesses(20, seed=4)}
    assert all("Answer: " in example.pieces[1][0] for example in some)


# --- attention in blocks


@pytest.fixture(scope="module")
def tiled():
    known = {"torch": torch, "math": math, "Tensor": Tensor, "F": F, "nn": nn}
    return lessons.written_in(NOTEBOOK, **known)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "size"), [(1, 128), (128, 128), (130, 64), (100, 7)])
def test_attention_in_blocks_is_pytorchs(tiled, causal, length, size):
    q, k, v = 3 * torch.randn(3, 2, 3, length, 16).double()
    ours = tiled["tiled_attention"](q, k, v, causal, size)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_attention_in_blocks_does_not_overflow(tiled):
    q, k, v = torch.randn(3, 1, 1, 50, 8)
    ours = tiled["tiled_attention"](1000 * q, k, v, True, 16)
    theirs = F.scaled_dot_product_attention(1000 * q, k, v, is_causal=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# --- checkpointing


@pytest.mark.parametrize("way", [checkpointing.again, checkpointing.by_pytorch])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_gradients_are_the_same_with_checkpoints(way, size):
    blocks = checkpointing.stack(depth=5, width=8, seed=1)
    x = torch.randn(6, 8, requires_grad=True)
    found = []
    for choice in (None, size):
        blocks.zero_grad()
        x.grad = None
        checkpointing.run(blocks, x, choice, way).square().sum().backward()
        found.append([x.grad, *(weight.grad for weight in blocks.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_checkpoints_hold_less_and_grow_more_slowly():
    x = torch.randn(256, 16)
    held = {}
    for depth in (4, 8):
        blocks = checkpointing.stack(depth, width=16, seed=1)
        for size in (None, 1):
            held[depth, size] = checkpointing.cost(blocks, x, size, rounds=1).mib
    assert held[8, 1] < 0.6 * held[8, None]
    assert held[8, 1] - held[4, 1] < 0.5 * (held[8, None] - held[4, None])


def test_checkpoints_refuse_what_would_learn_nothing():
    blocks = checkpointing.stack(depth=1, width=8, seed=1)
    with pytest.raises(ValueError, match="requires_grad_"):
        checkpointing.again(blocks, torch.randn(2, 8))
    with pytest.raises(ValueError, match="at least 1"):
        checkpointing.segments(blocks, 0)


# --- longer than the training


def library(kind: str, factor: float, trained: int, length: int | None = None) -> tuple[Tensor, float]:
    parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": factor}
    if kind == "yarn":
        parameters["original_max_position_embeddings"] = trained
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=8, max_position_embeddings=trained, rope_parameters=parameters
    )
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)


@pytest.mark.parametrize(("factor", "trained"), [(2.0, 128), (4.0, 128), (8.0, 4096)])
def test_scaled_positions_are_those_of_transformers(factor, trained):
    linear, _ = library("linear", factor, trained)
    torch.testing.assert_close(rope_scaling.linear(32, factor), linear, atol=1e-5, rtol=1e-5)
    ntk, _ = library("dynamic", 1.0, trained, int(factor * trained))
    torch.testing.assert_close(rope_scaling.ntk(32, factor), ntk, atol=1e-5, rtol=1e-5)
    yarn, sharp = library("yarn", factor, trained)
    torch.testing.assert_close(rope_scaling.yarn(32, factor, trained), yarn, atol=1e-5, rtol=1e-5)
    assert rope_scaling.sharpening(factor) == pytest.approx(sharp)


def test_the_slowest_pair_of_ntk_slows_by_the_factor_and_the_fastest_stays():
    against = rope_scaling.ntk(32, 4.0) / rope_scaling.plain(32)
    assert against[0] == 1 and against[-1].item() == pytest.approx(1 / 4)


def test_scaling_changes_a_model_for_a_while_only():
    model = small_llama()
    ids = batch_of()["input_ids"]
    with torch.no_grad():
        before = model(ids).logits
        with rope_scaling.scaled(model, rope_scaling.linear(8, 4.0)):
            assert not torch.allclose(model(ids).logits, before)
        assert torch.equal(model(ids).logits, before)
    with pytest.raises(ValueError, match="4 pairs"), rope_scaling.scaled(model, rope_scaling.plain(32)):
        pass


def test_a_needle_stands_once_in_its_haystack(tokenizer):
    ids, labels = rope_scaling.needle(tokenizer, 12, seed=1)
    wanted = tokenizer.decode([label for label in labels if label != lm.IGNORED])
    shown = tokenizer.decode(ids)
    assert shown.count("\n") == 13 and shown.endswith(wanted)
    question = shown.splitlines()[-1]
    assert shown.splitlines().count(question) == 2
    assert rope_scaling.needle(tokenizer, 12, seed=1) == (ids, labels)
    for pairs in (0, 10**6):
        with pytest.raises(ValueError, match="lines: take 1 to"):
            rope_scaling.needle(tokenizer, pairs, seed=1)
