"""Unit 7.3: by hand equals the library, maps are what the model computes, scores mean what they say."""

import inspect
import random
from types import SimpleNamespace

import pytest
import torch
from lessons import text_of
from torch import nn
from torch.nn import functional as F

from course_utils.memory import formulas, shapes
from course_utils.models.layers import linear_layers
from course_utils.prisma import clip, lm, text
from course_utils.research import attention_by_hand, cost, inside, quantisation, reasoning


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.fixture(scope="module")
def tokenizer():
    return lm.build_tokenizer()


@pytest.fixture(scope="module")
def llama(tokenizer):
    """A model of prisma-lm's shape with random weights."""
    return lm.build(tokenizer).eval()


# --- attention by hand ---


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 3, 17, 8), (1, 8, 64, 32)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_pytorch(shape, causal):
    q, k, v = torch.randn(3, *shape)
    mask = torch.ones(shape[-2], shape[-2]).tril().bool() if causal else None
    ours, weights = attention_by_hand.attention(q, k, v, mask)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, mask), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:-1]))


def test_attention_across_two_sequences():
    q, k, v = torch.randn(2, 5, 8), torch.randn(2, 9, 8), torch.randn(2, 9, 6)
    ours, weights = attention_by_hand.attention(q, k, v)
    assert ours.shape == (2, 5, 6) and weights.shape == (2, 5, 9)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width, heads", [(16, 1), (64, 4), (160, 5)])
def test_multi_head_attention_equals_pytorch(width, heads):
    module, x = nn.MultiheadAttention(width, heads, batch_first=True).eval(), torch.randn(2, 11, width)
    nn.init.normal_(module.in_proj_bias)
    ours, weights = attention_by_hand.multi_head_attention(x, module)
    theirs, their_weights = module(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights, their_weights, atol=1e-5, rtol=1e-5)


# --- looking into models ---


def test_attention_maps_are_the_models_own(llama):
    ids = torch.randint(7, llama.config.vocab_size, (2, 12))
    maps = inside.attention_maps(llama, ids)
    assert maps.shape == (6, 2, 8, 12, 12)
    torch.testing.assert_close(maps.sum(-1), torch.ones(6, 2, 8, 12))
    assert maps.triu(1).abs().max() == 0
    # The first layer's weights, worked out by hand from the model's parts.
    layer, x = llama.model.layers[0], llama.model.embed_tokens(ids)
    states = layer.input_layernorm(x)
    q, k, v = (
        p(states).unflatten(-1, (8, -1)).transpose(1, 2)
        for p in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
    )
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    q, k = apply_rotary_pos_emb(q, k, *llama.model.rotary_emb(x, torch.arange(12)[None]))
    _, weights = attention_by_hand.attention(q, k, v, torch.ones(12, 12).tril().bool())
    torch.testing.assert_close(maps[0], weights, atol=1e-5, rtol=1e-4)


def test_fused_attention_is_back_afterwards_even_after_an_error(llama):
    before = llama.config._attn_implementation
    with pytest.raises(RuntimeError, match="planned"), inside.eager(llama):
        assert llama.config._attn_implementation == "eager"
        raise RuntimeError("planned")
    assert llama.config._attn_implementation == before != "eager"


def test_vision_attention_proves_itself():
    model, pixels = clip.build().eval(), torch.randn(2, 3, 64, 64)
    before = model.encode_image(pixels)
    maps, difference = inside.vision_attention(model, pixels)
    assert maps.shape == (5, 2, 5, 65, 65)
    assert difference < 1e-5
    torch.testing.assert_close(maps.sum(-1), torch.ones(5, 2, 5, 65))
    assert not any(m._forward_hooks for m in model.modules())
    torch.testing.assert_close(model.encode_image(pixels), before)


def test_vision_attention_would_notice_wrong_weights(monkeypatch):
    unscaled = lambda q, k, v, mask=None: ((w := (q @ k.transpose(-2, -1)).softmax(-1)) @ v, w)  # noqa: E731
    monkeypatch.setattr(attention_by_hand, "attention", unscaled)
    _, difference = inside.vision_attention(clip.build().eval(), torch.randn(1, 3, 64, 64))
    assert difference > 1e-4


def test_rollout():
    n = 6
    nothing = torch.eye(n).expand(3, 2, n, n)
    torch.testing.assert_close(inside.rollout(nothing), torch.eye(n))
    maps = torch.rand(3, 2, n, n).softmax(-1)
    torch.testing.assert_close(inside.rollout(maps).sum(-1), torch.ones(n))
    first = torch.zeros(1, 1, n, n)
    first[..., 0] = 1
    assert inside.rollout(first)[3].tolist() == [0.5, 0, 0, 0.5, 0, 0]


def test_heads_are_ranked_by_their_scores_and_equal_ones_stay_in_order():
    scores = torch.tensor([[0.1, 0.7, 0.1], [0.9, 0.1, 0.4]])
    assert inside.ranked_heads(scores) == [(1, 0), (0, 1), (1, 2), (0, 0), (0, 2), (1, 1)]


def test_the_largest_difference_counts_both_directions():
    ones = torch.ones(2, 3)
    other = ones.clone()
    other[0, 1], other[1, 2] = 1.5, -1.0
    assert inside.largest_difference(ones, other) == inside.largest_difference(other, ones) == 2.0


def test_head_roles_tell_made_up_heads_apart():
    n = 10
    before = torch.zeros(n, n).index_put((torch.arange(1, n), torch.arange(n - 1)), torch.tensor(1.0))
    before[0, 0] = 1
    first = torch.zeros(n, n).index_fill(1, torch.tensor([0]), 1.0)
    roles = inside.head_roles(torch.stack([torch.eye(n), before, first])[None])
    assert roles["itself"][0, 0] == 1 and roles["itself"][0, 1] == 0
    assert roles["the token before"][0, 1] == 1 and roles["the token before"][0, 0] == 0
    assert roles["the first token"][0, 2] == 1


def test_repeated_rows_repeat_and_ask_for_words(tokenizer):
    words = ["red", "blue", "cube", "star", "7", "order"]
    ids, asks = inside.repeated_rows(tokenizer, words, count=5, rows=4, seed=1)
    assert ids.shape == (4, 20)  # a space is a token of its own here
    first, second = tokenizer.decode(ids[0][:10]).split(), tokenizer.decode(ids[0][10:]).split()
    assert first == second and len(set(first)) == 5
    assert [tokenizer.decode([i]) for i in ids[0][asks]] == [" "] * 4
    # The first word of the second copy can't be known, all others can.
    assert [tokenizer.decode([i]) for i in ids[0][asks + 1]] == second[1:]
    assert torch.equal(ids, inside.repeated_rows(tokenizer, words, 5, 4, seed=1)[0])
    assert not torch.equal(ids, inside.repeated_rows(tokenizer, words, 5, 4, seed=2)[0])


def test_repeated_rows_of_a_tokenizer_that_joins_spaces_to_words():
    joined = SimpleNamespace(encode=lambda w, add_special_tokens: [ord(w[1])] * (2 if len(w) > 2 else 1))
    ids, asks = inside.repeated_rows(joined, ["a", "b", "c", "long"], count=3, rows=2, seed=0)
    assert ids.shape == (2, 6) and ord("l") not in ids
    assert asks.tolist() == [3, 4]


def test_induction_score_of_a_perfect_head_is_one():
    length = 8
    perfect, previous = torch.zeros(2 * length, 2 * length), torch.zeros(2 * length, 2 * length)
    for i in range(length, 2 * length):
        perfect[i, i - length + 1] = 1  # where the same token stood, and one further
        previous[i, i - 1] = 1
    maps = torch.stack([perfect, previous])[None, None]  # one layer, one row, two heads
    assert inside.induction_scores(maps, torch.arange(length, 2 * length - 1)).tolist() == [[1.0, 0.0]]


def test_induction_may_look_one_word_ahead_of_time():
    early = torch.zeros(16, 16)
    for ask in (10, 12, 14):  # two tokens a word; from the word before, to the word that is due
        early[ask - 1, ask - 8 + 1] = 1
    maps = torch.stack([early, torch.eye(16)])[None, None]
    assert inside.induction_scores(maps, torch.tensor([10, 12, 14])).tolist() == [[1.0, 0.0]]


def test_heads_can_be_switched_off_and_on(llama):
    ids = torch.randint(7, 200, (1, 9))
    with torch.no_grad():
        normal = llama(ids).logits
        with inside.without_heads(llama, [(0, 1), (0, 2), (5, 7)]):
            fewer = llama(ids).logits
        with inside.without_heads(llama, [(layer, head) for layer in range(6) for head in range(8)]):
            none = llama(ids).logits
        back = llama(ids).logits
        hidden = llama.model.embed_tokens(ids)
        for layer in llama.model.layers:  # no heads at all: only the MLPs are left
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        mlps = llama.lm_head(llama.model.norm(hidden))
    assert torch.equal(normal, back)
    assert (normal - fewer).abs().max() > 1e-4
    torch.testing.assert_close(none, mlps, atol=1e-5, rtol=1e-4)


class Oracle(nn.Module):
    """Predicts the next token of whatever it is given perfectly, except at the places told."""

    def __init__(self, vocabulary: int, wrong_at: tuple[int, int] | None = None):
        super().__init__()
        self.vocabulary, self.wrong_at, self.device = vocabulary, wrong_at, torch.device("cpu")
        self.nothing = nn.Parameter(torch.zeros(0))  # says where the model is

    def forward(self, input_ids, **_):
        following = input_ids.roll(-1, dims=1)
        if self.wrong_at:
            row, place = self.wrong_at
            following[row, place] = (following[row, place] + 1) % self.vocabulary
        return SimpleNamespace(logits=30.0 * F.one_hot(following, self.vocabulary).float())


def test_copying_counts_first_choices():
    ids, asks = torch.arange(10).repeat(3, 2), torch.arange(10, 19)
    assert inside.copying(Oracle(40), ids, asks) == [True] * 27
    one_off = inside.copying(Oracle(40, wrong_at=(1, 12)), ids, asks)
    assert one_off.index(False) == 11 and one_off.count(False) == 1


# --- quantisation ---


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_quantised_weights_use_few_levels(bits):
    weights = torch.randn(4, 128)
    for group in quantisation.quantise(weights, bits).reshape(-1, 64):
        assert len(group.unique()) <= 2**bits
    again = quantisation.quantise(weights, bits)
    torch.testing.assert_close(quantisation.quantise(again, bits), again)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_quantisation_error_is_at_most_half_a_step(bits):
    weights = torch.randn(8, 64)
    step = weights.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((quantisation.quantise(weights, bits) - weights).abs() <= step / 2 + 1e-6).all()


def test_fewer_bits_mean_more_error_and_nf4_beats_even_steps():
    weights = torch.randn(256, 256)
    errors = [(quantisation.quantise(weights, b) - weights).pow(2).mean().item() for b in (8, 4, 3, 2)]
    assert errors == sorted(errors) and errors[1] > 10 * errors[0]
    assert (quantisation.nf4(weights) - weights).pow(2).mean() < errors[1]


def test_quantising_zeros_gives_zeros():
    for bits in (1, 2, 4):
        assert torch.equal(quantisation.quantise(torch.zeros(2, 64), bits), torch.zeros(2, 64))


def test_a_quantised_copy_changes_the_matrices_only(llama):
    before = {name: p.clone() for name, p in llama.state_dict().items()}
    copied = quantisation.quantised_copy(llama, lambda w: quantisation.quantise(w, 2))
    changed = {name for name, p in copied.state_dict().items() if not torch.equal(p, before[name])}
    assert changed == {f"{name}.weight" for name in linear_layers(llama)}
    assert len(changed) == 6 * 7
    assert all(torch.equal(p, before[name]) for name, p in llama.state_dict().items())


def test_sizes_agree_with_the_memory_estimates(llama):
    shape = shapes.from_config(llama.config.to_dict())
    assert quantisation.megabytes(llama, 16) == pytest.approx(formulas.weight_bytes(shape, "fp16") / 1e6)
    assert quantisation.megabytes(llama, formulas.NF4_BITS) == pytest.approx(formulas.weight_bytes(shape, "nf4") / 1e6)


# --- measurements ---


def test_tool_tasks_are_fresh_and_true():
    tasks = reasoning.tool_tasks(40, seed=3)
    assert len({task.text for task in tasks}) == 40
    assert all("Observation:" in task.text and "Answer: " in task.text for task in tasks)
    assert "error" not in "".join(task.text for task in tasks)
    assert [t.text for t in tasks] == [t.text for t in reasoning.tool_tasks(40, seed=3)]


def test_score_of_an_oracle_and_of_one_slip(tokenizer):
    tasks = reasoning.tool_tasks(5, seed=3)
    perfect = reasoning.score(Oracle(len(tokenizer)), tokenizer, tasks)
    assert perfect.exact == [True] * 5 and perfect.perplexity == pytest.approx(1, abs=1e-3)
    longest = max(range(5), key=lambda i: len(lm.encode(tokenizer, tasks[i])[0]))
    end = len(lm.encode(tokenizer, tasks[longest])[0]) - 2  # predicts the last token to be written
    slipped = reasoning.score(Oracle(len(tokenizer), wrong_at=(4, end)), tokenizer, tasks)
    assert [i for i, exact in enumerate(slipped.exact) if not exact] == [longest]
    assert slipped.perplexity > 1.1


def test_score_of_a_random_model_is_chance(llama, tokenizer):
    result = reasoning.score(llama, tokenizer, reasoning.tool_tasks(4, seed=3))
    assert not any(result.exact)
    assert len(tokenizer) / 3 < result.perplexity < len(tokenizer) * 3


def test_sums_are_different_and_right():
    made = reasoning.sums(50, seed=1)
    assert len({s.question for s in made}) == 50
    for s in made:
        assert s.steps.rstrip(". ").endswith(f"= {s.answer}")


def test_a_wrong_start_is_wrong_and_its_answer_follows_from_it():
    made = text.Sum("?", "3 * 12 = 36. 4 * 7 = 28. 36 + 28 = 64. ", "64")
    for seed in range(20):
        start, believed = reasoning.wrong_start(made, random.Random(seed))
        value = int(start.removeprefix("3 * 12 = ").removesuffix(". "))
        assert value != 36 and int(believed) == value + 28


@pytest.mark.parametrize(
    "reply, number",
    [
        ("Answer: 64", "64"),
        ("3 * 2 = 6. Answer: 12 euros.", "12"),
        ("I think 5, no, 7", "7"),
        ("no idea", ""),
    ],
)
def test_last_number(reply, number):
    assert reasoning.last_number(reply) == number


def test_peak_memory_sees_the_square():
    by_hand = lambda q, k, v: attention_by_hand.attention(q, k, v)[0]  # noqa: E731
    small, large = (
        [cost.peak_mib(f, *torch.randn(3, 1, 1, n, 16)) for f in (by_hand, F.scaled_dot_product_attention)]
        for n in (256, 1024)
    )
    assert large[0] >= 2 * 1024 * 1024 * 4 / 2**20  # scores and weights, 32 bits each
    assert large[0] > 12 * small[0]
    assert large[1] < large[0] / 3 and large[1] < 8 * small[1]


def test_milliseconds_takes_the_fastest_round():
    calls = []
    assert cost.milliseconds(lambda x: calls.append(x), torch.ones(1), rounds=2) < 1000
    assert len(calls) == 3


def test_the_notebook_shows_the_code_that_runs_here():
    source = text_of("7.3_research_directions")
    for function in (
        attention_by_hand.attention,
        attention_by_hand.multi_head_attention,
        inside.rollout,
    ):
        assert inspect.getsource(function) in source, f"{function.__name__} differs from the notebook's copy"
