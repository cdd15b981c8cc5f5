"""Steering: the vector is the difference of means, the edit is what it says, and both are taken back."""

import pytest
import torch

from course_utils.models.roles import Chat
from course_utils.prisma import lm, text
from course_utils.research import steering

QUESTIONS = ["What is 7 * 13?", "Where is order 7305?"]


@pytest.fixture(scope="module")
def chat():
    """A model of prisma-lm's shape with random weights."""
    torch.manual_seed(7)
    tokenizer = lm.build_tokenizer()
    return Chat(lm.build(tokenizer).eval(), tokenizer, "random", "bundled")


def prompts(mode):
    return [text.prompt(mode, question) for question in QUESTIONS]


def logits(chat, prompt):
    with torch.inference_mode():
        return chat.model(input_ids=steering.prompt_ids(chat.tokenizer, prompt)).logits


def test_a_direction_is_a_difference_of_means_and_turns_around(chat):
    there = steering.direction(chat, prompts("steps"), prompts("direct"), 1)
    back = steering.direction(chat, prompts("direct"), prompts("steps"), 1)
    assert torch.allclose(there, -back, atol=1e-5) and there.norm() > 0
    same = steering.direction(chat, prompts("steps"), prompts("steps"), 1)
    assert same.norm() == 0
    noise = steering.random_like(there, 1)
    assert torch.isclose(noise.norm(), there.norm()) and not torch.allclose(noise, there)


def test_steering_ends_with_its_block(chat):
    prompt = prompts("direct")[0]
    before = logits(chat, prompt)
    vector = torch.ones(chat.model.config.hidden_size)
    with steering.steered(chat.model, 2, vector):
        assert not torch.allclose(logits(chat, prompt), before)
    with steering.steered(chat.model, 2, 0 * vector):
        assert torch.equal(logits(chat, prompt), before)
    assert torch.equal(logits(chat, prompt), before)


@pytest.mark.parametrize(("layer", "width", "words"), [(6, 256, "layers 0 to 5"), (-1, 256, "layers"), (0, 3, "256")])
def test_a_layer_or_a_vector_that_does_not_fit(chat, layer, width, words):
    with pytest.raises(ValueError, match=words), steering.steered(chat.model, layer, torch.ones(width)):
        pass


def test_a_prompt_without_the_mark(chat):
    with pytest.raises(ValueError, match="no token"):
        steering.direction(chat, ["7 * 13 ="], prompts("steps"), 1)


def test_an_edit_gives_its_address_the_new_output_has_rank_one_and_is_taken_back(chat):
    moment = steering.second_moment(steering.keys(chat, prompts("steps"), 1))
    edit = steering.fact_edit(chat, ["7 * 13 ="], " 58.", 1, moment, steps=2)
    key = steering.keys(chat, ["7 * 13 ="], 1)[-1]
    assert torch.allclose(edit.added @ key, edit.change[:, 0], atol=1e-3)
    assert torch.linalg.matrix_rank(edit.added) == 1
    before = steering.matrix(chat.model, 1).detach().clone()
    with steering.edited(chat.model, [edit, edit]):
        assert torch.allclose(steering.matrix(chat.model, 1) - before, 2 * edit.added, atol=1e-4)
    assert torch.equal(steering.matrix(chat.model, 1), before)


def test_the_change_makes_the_new_answer_likelier(chat):
    row = torch.cat([steering.prompt_ids(chat.tokenizer, part) for part in ("7 * 13 =", " 58.")], dim=1)
    moment = steering.second_moment(steering.keys(chat, prompts("steps"), 1))
    edit = steering.fact_edit(chat, ["7 * 13 ="], " 58.", 1, moment, steps=10, rate=0.02)

    def loss():
        result = chat.model(input_ids=row).logits[0, -5:-1]
        return torch.nn.functional.cross_entropy(result, row[0, -4:]).item()

    before = loss()
    with steering.edited(chat.model, [edit]):
        assert loss() < before - 0.1
