"""The solutions of Unit 7.3's exercises against the libraries, and what they promise."""

import importlib
import random
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from course_utils.exercises import check, diagnosis, registry
from course_utils.exercises.unit_7_3 import solutions as reference

# --- results of several parts


def test_several_results_are_compared_part_by_part_and_up_to_rounding() -> None:
    wanted = (2, torch.tensor([0.5, 0.25]))
    assert diagnosis.near((2, torch.tensor([0.5 + 1e-6, 0.25])), wanted)
    assert not diagnosis.near((3, torch.tensor([0.5, 0.25])), wanted)
    assert not diagnosis.near((2, torch.tensor([0.5, 0.5])), wanted)
    assert not diagnosis.near((2,), wanted)
    assert not diagnosis.near([2, torch.tensor([0.5, 0.25])], wanted)


@pytest.mark.parametrize(
    ("came", "words"),
    [
        ((torch.zeros(2),), "returns 1 things. 2 are wanted"),
        ((torch.zeros(3), torch.zeros(2)), "At place 0 of your results (the first is 0): Your result has the shape"),
        ((torch.zeros(2), None), "At place 1 of your results (the first is 0): Your function returns there nothing"),
        ((torch.zeros(2), torch.ones(2)), ""),
    ],
)
def test_what_is_wrong_with_one_of_several_results_is_said_with_its_place(came, words: str) -> None:
    assert words in diagnosis.kind_fault(came, (torch.zeros(2), torch.zeros(2)))


# --- positions


def test_rotary_is_llamas() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64)
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 4, 9, 16)  # each (batch, heads, n, d)
    positions = torch.arange(5, 14)
    cos, sin = LlamaRotaryEmbedding(config)(q, positions[None])
    for ours, theirs in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        assert torch.allclose(reference.rotary(ours, positions), theirs, atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 16, dtype=torch.float64)
    near = reference.rotary(q, torch.tensor([7])) @ reference.rotary(k, torch.tensor([3])).T
    far = reference.rotary(q, torch.tensor([107])) @ reference.rotary(k, torch.tensor([103])).T
    assert torch.allclose(near, far, atol=1e-4)


@pytest.mark.parametrize("heads", [2, 4, 8, 16])
def test_alibi_is_blooms_up_to_a_constant_in_each_row(heads: int) -> None:
    """BLOOM adds slope x key position, which differs from slope x (key - query) by a number that softmax forgets."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    n = 7
    theirs = build_alibi_tensor(torch.ones(1, n), heads, torch.float32).view(heads, 1, n)
    future = torch.ones(n, n).triu(1).bool()
    masked = theirs.expand(heads, n, n).masked_fill(future, float("-inf"))
    assert torch.allclose(reference.alibi(heads, n).softmax(-1), masked.softmax(-1), atol=1e-5)


# --- the cache and the copying heads


def test_steps_with_the_cache_are_causal_attention() -> None:
    torch.manual_seed(2)
    q, k, v = torch.randn(3, 3, 10, 8)
    keys, values = torch.zeros(3, 0, 8), torch.zeros(3, 0, 8)
    steps = []
    for t in range(10):
        result, keys, values = reference.kv_cache_step(q[:, t], k[:, t], v[:, t], keys, values)
        steps.append(result)
    whole = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-5)
    assert torch.equal(keys, k) and torch.equal(values, v)


def test_the_induction_score_is_the_notebooks_for_words_of_one_token() -> None:
    from course_utils.research import inside

    torch.manual_seed(3)
    maps = torch.randn(2, 3, 12, 12).softmax(-1)
    asks = torch.arange(6, 12)
    ours = reference.induction(maps, 6)
    assert torch.allclose(ours, inside.induction_scores(maps[:, None], asks), atol=1e-6)


# --- votes and beams


def test_the_winner_has_most_votes_and_was_first_of_those() -> None:
    rng = random.Random(4)
    draws = 0
    for _ in range(400):
        answers = rng.choices(["1", "2", "3", ""], k=rng.randrange(9))
        winner = reference.majority_vote(answers)
        given = [answer for answer in answers if answer]
        if not given:
            assert winner == ""
            continue
        most = max(map(given.count, given))
        best = [answer for answer in given if given.count(answer) == most]
        draws += len(set(best)) > 1
        assert winner == best[0]
    assert draws > 50


def test_a_beam_as_wide_as_the_tree_finds_the_best_leaf() -> None:
    rng = random.Random(5)
    for _ in range(20):
        worth = {"".join(letters): rng.random() for n in range(4) for letters in product("ab", repeat=n)}

        def propose(state: str) -> list[str]:
            return [state + "a", state + "b"]

        found = reference.beam_over_thoughts("", propose, worth.get, 8, 3)
        assert found == sorted((one for one in worth if len(one) == 3), key=worth.get, reverse=True)


# --- losses, blocks, decoding


def test_a_student_that_agrees_has_only_the_hard_part() -> None:
    torch.manual_seed(6)
    logits, labels = torch.randn(5, 7), torch.arange(5)
    loss = reference.distillation_loss(logits, logits + 3, labels, 4.0, 0.3)
    assert torch.isclose(loss, 0.7 * F.cross_entropy(logits, labels), atol=1e-6)


def test_the_soft_gradient_hardly_depends_on_the_temperature() -> None:
    """What the factor temperature squared is for (arXiv 1503.02531, section 2.1)."""
    torch.manual_seed(7)
    student, teacher = torch.randn(2, 4, 6)
    sizes = []
    for temperature in (20.0, 40.0):
        logits = student.clone().requires_grad_()
        reference.distillation_loss(logits, teacher, torch.zeros(4).long(), temperature, 1.0).backward()
        sizes.append(logits.grad.norm())
    assert torch.isclose(*sizes, rtol=0.1)


@pytest.mark.parametrize("block", [1, 3, 8, 20])
def test_blocks_together_are_a_softmax(block: int) -> None:
    torch.manual_seed(8)
    scores, values = 40 * torch.randn(6, 20), torch.randn(20, 5)
    future = torch.ones(6, 20).triu(3).bool()
    scores = scores.masked_fill(future, float("-inf"))
    state = (torch.full((6,), float("-inf")), torch.zeros(6), torch.zeros(6, 5))
    for part, value in zip(scores.split(block, 1), values.split(block), strict=True):
        state = reference.blockwise_softmax(*state, part, value)
    _, total, result = state
    assert torch.allclose(result / total[:, None], scores.softmax(-1) @ values, atol=1e-5)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_the_nucleus_is_that_of_transformers(p: float) -> None:
    from transformers.generation.logits_process import TopPLogitsWarper

    torch.manual_seed(9)
    for logits in 2 * torch.randn(20, 100):
        theirs = TopPLogitsWarper(top_p=p)(torch.zeros(1, 1).long(), logits[None])[0].softmax(-1)
        assert torch.allclose(reference.nucleus(logits, p), theirs, atol=1e-5)


def test_accepted_and_replaced_tokens_have_the_targets_distribution() -> None:
    """Summed exactly over every drafted token: q min(1, p / q) + (refused) x missing = p (arXiv 2211.17192, A.1)."""
    torch.manual_seed(10)
    draft, target = torch.randn(1, 6).softmax(-1).double(), torch.randn(2, 6).softmax(-1).double()
    total = torch.zeros(6, dtype=torch.float64)
    for token in range(6):
        stays = min(1.0, float(target[0, token] / draft[0, token]))
        drafted = torch.tensor([token])
        assert reference.speculative_accept(draft, target, drafted, torch.tensor([stays - 1e-6]))[0] == 1
        total[token] += draft[0, token] * stays
        if stays < 1:
            count, missing = reference.speculative_accept(draft, target, drafted, torch.tensor([stays + 1e-6]))
            assert count == 0
            total += draft[0, token] * (1 - stays) * missing
    assert torch.allclose(total, target[0], atol=1e-9)


# --- what does not count


def test_calling_the_courses_own_solution_does_not_count(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def borrowed(answers):
        return reference.majority_vote(answers)

    assert check("7.3.majority_vote", borrowed) is registry.exercise("7.3.majority_vote").reference
    assert "calls the course's own solution" in " ".join(capsys.readouterr().out.split())


ELSEWHERE = [
    ("7.3.rotary", "research.positions", lambda module, *inputs: module.rotary(*inputs)),
    ("7.3.kv_cache_step", "research.kv_cache", lambda module, *inputs: module.attend(*inputs)),
    (
        "7.3.induction",
        "research.inside",
        lambda module, maps, period: module.induction_scores(maps[:, None], torch.arange(period, 2 * period)),
    ),
    ("7.3.majority_vote", "measures", lambda module, answers: module.majority(answers)),
    (
        "7.3.majority_vote",
        "research.graph_of_thoughts",
        lambda module, answers: module.best_value([answer or None for answer in answers])[0] or "",
    ),
    ("7.3.nucleus", "research.decoding", lambda module, *inputs: module.nucleus(*inputs)),
]


@pytest.mark.parametrize(("name", "place", "line"), ELSEWHERE)
def test_what_the_course_computes_elsewhere_does_not_count(name, place, line, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def borrowed(*inputs):
        return line(importlib.import_module(f"course_utils.{place}"), *inputs)

    assert check(name, borrowed) is registry.exercise(name).reference
    assert "calls the course's own solution" in " ".join(capsys.readouterr().out.split())


def test_of_several_results_the_one_that_differs_is_shown(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", "off")

    def turned_for_many_heads(q, k, v, keys, values):
        result, keys, values = kv_steps(q, k, v, keys, values)
        return result.flip(0), keys, values

    check("7.3.kv_cache_step", turned_for_many_heads)
    assert "the result at place 0 (the first is 0) is another:" in " ".join(capsys.readouterr().out.split())


def kv_steps(q, k, v, keys, values):
    keys, values = torch.cat([keys, k[:, None]], 1), torch.cat([values, v[:, None]], 1)
    return F.scaled_dot_product_attention(q[:, None], keys, values)[:, 0], keys, values


def test_the_unit_has_its_exercises_and_quizzes() -> None:
    assert sum(name.startswith("7.3.") for name in registry.exercises()) == 10
    assert sum(name.startswith("7.3.") for name in registry.quizzes()) == 22
