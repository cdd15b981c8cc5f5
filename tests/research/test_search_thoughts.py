"""Unit 7.3: samples, votes and the search over steps, on prisma-lm and on made-up judges."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest

from course_utils.measures import majority
from course_utils.models.loaders import load
from course_utils.prisma import text
from course_utils.research import reasoning, search_thoughts


@pytest.fixture(scope="module")
def chat():
    return load("chat", tier="bundled", say=lambda line: None)


@pytest.fixture(scope="module")
def prompts():
    return [text.prompt("steps", made.question) for made in reasoning.sums(2, seed=5)]


def test_samples_come_in_groups_and_again(chat, prompts) -> None:
    drawn = search_thoughts.samples(chat, prompts, 3, temperature=1.5, seed=1, new=16)
    assert [len(group) for group in drawn] == [3, 3]
    assert drawn == search_thoughts.samples(chat, prompts, 3, temperature=1.5, seed=1, new=16)
    # Each group belongs to its prompt: the first number of the steps is the question's.
    for prompt, group in zip(prompts, drawn, strict=True):
        assert sum(reply.split(" ")[0] in prompt for reply in group) >= 2


@pytest.mark.parametrize(("n", "temperature"), [(0, 1.0), (2, 0.0)])
def test_samples_refuse_what_gives_none(chat, prompts, n, temperature) -> None:
    with pytest.raises(ValueError, match="temperature above 0"):
        search_thoughts.samples(chat, prompts, n, temperature, seed=1)
    with pytest.raises(ValueError, match="a prompt"):
        search_thoughts.samples(chat, [], 2, 1.0, seed=1)


def test_the_end_mark_counts_as_a_token(chat) -> None:
    assert search_thoughts.tokens_of(chat.tokenizer, ["", "12"]) == [1, 3]


@pytest.mark.parametrize(
    ("answers", "winner"), [(["1", "2", "2"], "2"), (["", "", "3"], "3"), (["4", "5"], "4"), ([], ""), ([""], "")]
)
def test_majority(answers, winner) -> None:
    assert majority(answers) == winner


def test_a_vote_of_all_is_the_majority_and_a_vote_of_one_is_a_sample() -> None:
    answers = ["7"] * 6 + ["8"] * 4
    assert search_thoughts.voted_right(answers, "7", 10, seed=1) == 1
    assert search_thoughts.voted_right(answers, "8", 10, seed=1) == 0
    assert 0.2 < search_thoughts.voted_right(answers, "8", 1, seed=1, draws=400) < 0.6
    with pytest.raises(ValueError, match="vote of 11"):
        search_thoughts.voted_right(answers, "7", 11, seed=1)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_chosen_of_is_the_mean_over_all_choices(n) -> None:
    scores, worth = [0.3, 0.9, 0.1, 0.5, 0.7], [1, 0, 1, 0, 1]
    choices = list(itertools.combinations(range(5), n))
    best = [worth[max(choice, key=lambda i: scores[i])] for choice in choices]
    assert search_thoughts.chosen_of(scores, worth, n) == pytest.approx(sum(best) / len(best))


def test_chosen_of_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="no best of 3"):
        search_thoughts.chosen_of([1, 2], [0, 1], 3)
    with pytest.raises(ValueError, match="1 worths"):
        search_thoughts.chosen_of([1, 2], [0], 1)


class Digits:
    """A made-up chat: after any text it proposes the steps "1. ", "2. ", ... in turn, and ends after three."""

    def __init__(self):
        self.tokenizer = lambda texts, **_: {"input_ids": [list(one) for one in texts]}
        self.model = SimpleNamespace(device="cpu")


def proposing(chat, texts, n, temperature, seed, new):
    """n steps for each text: digits from 1 on; "Answer: x" without an end once three steps stand there."""
    groups = []
    for one in texts:
        full = one.count(". ") >= 3
        groups.append(["Answer: x"] * n if full else [f"{digit}. and more" for digit in range(1, n + 1)])
    return groups


def test_a_beam_keeps_what_its_value_prefers(monkeypatch) -> None:
    monkeypatch.setattr(search_thoughts, "samples", proposing)
    digits = lambda texts: [sum(map(int, filter(str.isdigit, one))) for one in texts]  # noqa: E731
    high, low = search_thoughts.beam(Digits(), ["a:", "b:"], digits, width=2, children=3)
    assert high.reply == low.reply == "3. 3. 3. Answer: x"
    (least,) = search_thoughts.beam(Digits(), ["a:"], lambda texts: [-one for one in digits(texts)], 2, 3)
    assert least.reply == "1. 1. 1. Answer: x"
    # 3 + 6 + 6 steps of 3 characters, and the answers of the last round with their end
    assert high.tokens == 15 * 3 + 6 * 10


def test_a_beam_ends_at_its_depth(monkeypatch) -> None:
    monkeypatch.setattr(search_thoughts, "samples", proposing)
    (result,) = search_thoughts.beam(Digits(), ["a:"], lambda texts: [0.0] * len(texts), depth=2)
    assert result.reply == "1. 1. "


def test_a_search_with_the_real_model_writes_its_steps(chat, prompts) -> None:
    results = search_thoughts.beam(replace(chat), prompts[:1], lambda texts: [0.0] * len(texts), 1, 1)
    assert results[0].reply.count(" = ") == 3 and "Answer:" in results[0].reply
