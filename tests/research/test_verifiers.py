"""Unit 7.3: the checker of steps is exact, states are read where a step ends, a verifier learns what can be learned."""

import pytest
import torch

from course_utils.models.loaders import load
from course_utils.prisma import lm, text
from course_utils.research import reasoning, verifiers

QUESTION = "Ada buys 3 cubes for 12 euros each and 4 balls for 7 euros each. What is the total?"
RIGHT = "3 * 12 = 36. 4 * 7 = 28. 36 + 28 = 64. Answer: 64"


def holding(reply: str) -> list[bool]:
    return [step.holds for step in verifiers.check_steps(QUESTION, reply)]


@pytest.mark.parametrize(
    ("reply", "holds"),
    [
        (RIGHT, [True, True, True]),
        (RIGHT.replace("36", "37", 1), [False, True, False]),  # 36 is known no more
        ("3 * 12 = 37. 4 * 7 = 28. 37 + 28 = 65. Answer: 65", [False, True, True]),  # true on a wrong basis
        ("3 * 13 = 39. ", [False]),  # true, but 13 stands nowhere
        ("3 * 12 = 36. I like toys. ", [True, False]),
        ("3 * 12 = 36 = 36. ", [False]),
        ("12 - 3 = 9. ", [True]),
        ("Answer: 3 * 12 = 36.", []),
        ("", []),
    ],
)
def test_steps_are_checked_exactly(reply, holds) -> None:
    assert holding(reply) == holds


@pytest.mark.parametrize("made", reasoning.sums(20, seed=9), ids=lambda made: made.answer)
def test_right_steps_are_flawless_and_a_slip_is_not(made) -> None:
    reply = f"{made.steps}Answer: {made.answer}"
    assert verifiers.flawless(made.question, reply)
    assert not verifiers.flawless(made.question, reply + "0")
    assert not verifiers.flawless(made.question, f"Answer: {made.answer}")


@pytest.fixture(scope="module")
def chat():
    return load("chat", tier="bundled", say=lambda line: None)


def test_states_are_those_at_the_ends_of_steps(chat) -> None:
    prompt = text.prompt("steps", QUESTION)
    alone, beside, empty = verifiers.see(chat.model, chat.tokenizer, [prompt] * 3, [RIGHT, RIGHT + " " * 9, ""])
    assert alone.steps.shape == (3, 512) and alone.end.shape == (512,) and len(empty.steps) == 0
    torch.testing.assert_close(alone.steps, beside.steps, atol=1e-4, rtol=1e-4)  # padding changes nothing
    # The last state of the first step, from a pass that ends there.
    ids = chat.tokenizer(prompt + "3 * 12 = 36.", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = chat.model(input_ids=ids, output_hidden_states=True).hidden_states
    expected = torch.cat([states[3][0, -1], states[-1][0, -1]])
    torch.testing.assert_close(alone.steps[0], expected, atol=1e-4, rtol=1e-4)


def test_a_right_reply_is_likelier_than_a_wrong_one(chat) -> None:
    prompt = text.prompt("steps", QUESTION)
    right, wrong = verifiers.see(chat.model, chat.tokenizer, [prompt] * 2, [RIGHT, RIGHT.replace("28", "91")])
    assert right.log_probability > wrong.log_probability + 0.1
    ids = chat.tokenizer(prompt + RIGHT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        chances = lm.token_log_probs(chat.model(input_ids=ids).logits, ids)[0]
    length = len(chat.tokenizer(RIGHT)["input_ids"])
    assert right.log_probability == pytest.approx(chances[-length:].mean().item(), abs=1e-4)


def test_prompts_and_replies_have_to_match(chat) -> None:
    with pytest.raises(ValueError, match="2 prompts for 1 replies"):
        verifiers.see(chat.model, chat.tokenizer, ["a", "b"], ["c"])


def test_a_verifier_learns_what_can_be_learned_and_is_the_same_again() -> None:
    torch.manual_seed(0)
    states = torch.randn(400, 8)
    right = (states[:, 0] > 0).tolist()
    verifier = verifiers.train_verifier(states[:300], right[:300], seed=1)
    scores = verifier(states[300:])
    assert verifiers.told_apart(scores.tolist(), right[300:]) > 0.9
    again = verifiers.train_verifier(states[:300], right[:300], seed=1)
    assert torch.equal(again(states), verifier(states))


def test_a_verifier_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="right and wrong"):
        verifiers.train_verifier(torch.randn(4, 8), [True] * 4, seed=1)
    with pytest.raises(ValueError, match="both have to be there"):
        verifiers.told_apart([0.1, 0.2], [False, False])


def test_a_process_is_as_good_as_its_worst_step() -> None:
    first = lambda states: states[:, 0]  # noqa: E731
    steps = torch.tensor([[0.9, 0.0], [0.2, 0.0]])
    seen = [verifiers.Seen(steps, torch.tensor([0.7, 0.0]), -1.0), verifiers.Seen(steps[:0], steps[0], -1.0)]
    assert verifiers.process_scores(first, seen) == pytest.approx([0.2, 0.0])
    assert verifiers.outcome_scores(first, seen) == pytest.approx([0.7, 0.9])


def test_told_apart_counts_pairs() -> None:
    assert verifiers.told_apart([3, 1, 2], [True, False, False]) == 1
    assert verifiers.told_apart([1, 1], [True, False]) == 0.5
    assert verifiers.told_apart([0, 2, 1], [True, False, True]) == 0
