"""Filters, sampling and beam search by hand give what transformers gives."""

import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_utils.models import bundled
from course_utils.prisma import lm, text
from course_utils.prisma.shop import make_shop
from course_utils.research import decoding

OPENING = "Our small red cube is 12 euros. "


@pytest.fixture(scope="module")
def chat():
    model, tokenizer = lm.load(bundled.folder("prisma-lm"))
    return SimpleNamespace(model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
@pytest.mark.parametrize(
    ("by_hand", "library"),
    [
        (partial(decoding.temperature, t=0.7), TemperatureLogitsWarper(0.7)),
        (partial(decoding.top_k, k=5), TopKLogitsWarper(5)),
        (partial(decoding.top_k, k=10_000), TopKLogitsWarper(10_000)),
        (partial(decoding.nucleus, p=0.3), TopPLogitsWarper(0.3)),
        (partial(decoding.nucleus, p=0.9), TopPLogitsWarper(0.9)),
        (partial(decoding.nucleus, p=0.001), TopPLogitsWarper(0.001)),
        (partial(decoding.min_p, share=0.1), MinPLogitsWarper(0.1)),
    ],
)
def test_filters_are_the_librarys(spread: float, by_hand, library) -> None:
    logits = spread * torch.randn(16, 300)
    ids = torch.zeros(16, 3, dtype=torch.long)
    theirs = library(ids, logits.clone()).softmax(-1)
    torch.testing.assert_close(by_hand(logits).softmax(-1), theirs, atol=1e-5, rtol=0)


def test_the_repetition_penalty_is_the_librarys() -> None:
    logits, ids = 3 * torch.randn(8, 50), torch.randint(0, 50, (8, 20))
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits.clone())
    torch.testing.assert_close(decoding.repetition_penalty(logits, ids, 1.3), theirs)


def test_a_nucleus_keeps_the_token_that_crosses_the_line() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert (decoding.nucleus(logits, 0.6) > decoding.NEVER).tolist() == [[True, True, False, False]]
    assert (decoding.nucleus(logits, 1.0) > decoding.NEVER).all()


@pytest.mark.parametrize(
    "wrong",
    [
        partial(decoding.temperature, t=0.0),
        partial(decoding.top_k, k=0),
        partial(decoding.nucleus, p=0.0),
        partial(decoding.nucleus, p=1.1),
        partial(decoding.min_p, share=-0.1),
        partial(decoding.repetition_penalty, ids=torch.zeros(1, 1, dtype=torch.long), penalty=0.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="above 0|at least|share"):
        wrong(torch.zeros(1, 4))


@pytest.mark.parametrize(("beams", "steps"), [(1, 8), (3, 12), (4, 24)])
def test_beam_search_is_the_librarys(chat, beams: int, steps: int) -> None:
    task = text.shopping_sum(random.Random(3))
    for prompt in (OPENING, text.prompt("direct", task.question)):
        mine = decoding.beam_search(chat.model, chat.tokenizer(prompt)["input_ids"], beams, steps)
        if beams == 1:  # then transformers decodes greedily, and keeps no score
            (theirs,) = decoding.generate(chat, [prompt], steps, do_sample=False)
            assert decoding.until(list(mine[0].tokens), chat.tokenizer.eos_token_id) == theirs
            continue
        texts, scores = decoding.library_beams(chat, prompt, beams, steps)
        assert [decoding.until(list(one.tokens), chat.tokenizer.eos_token_id) for one in mine] == texts
        assert [one.score for one in mine] == pytest.approx(scores, abs=1e-5)


def test_no_beam_is_refused(chat) -> None:
    with pytest.raises(ValueError, match="at least one"):
        decoding.beam_search(chat.model, [1], 0, 5)


def test_a_sample_of_the_likeliest_token_is_greedy_and_a_seed_repeats(chat) -> None:
    prompt = chat.tokenizer(OPENING)["input_ids"]
    (greedy,) = decoding.generate(chat, [OPENING], 12, do_sample=False)
    only_one = [partial(decoding.top_k, k=1)]
    assert decoding.sample(chat.model, prompt, 2, 12, only_one) == [greedy, greedy]
    first, again = (decoding.sample(chat.model, prompt, 3, 8, seed=4) for _ in range(2))
    assert first == again and len(set(map(tuple, first))) > 1


def test_the_log_probability_of_greedy_tokens_is_the_sum_of_the_largest(chat) -> None:
    prompt = chat.tokenizer(OPENING)["input_ids"]
    (best,) = decoding.beam_search(chat.model, prompt, 1, 6)
    assert decoding.log_prob(chat.model, prompt, best.tokens) == pytest.approx(best.log_prob, abs=1e-4)
    guesses = decoding.next_tokens(chat.model, [*prompt, *best.tokens])
    assert tuple(guesses[len(prompt) - 1 : -1]) == best.tokens


def test_measures_of_diversity() -> None:
    assert decoding.distinct([["a", "b"], ["a", "b"]], 2) == 0.5
    assert decoding.distinct([["a"]], 2) == 0.0
    alike = decoding.self_bleu(["the red cube is here"] * 3)
    different = decoding.self_bleu(["the red cube is here", "where did you go", "nobody has seen it yet"])
    assert min(alike) > 99 and max(different) < 20
    with pytest.raises(ValueError, match="at least two"):
        decoding.self_bleu(["alone"])


def test_a_loop_is_a_run_that_comes_twice() -> None:
    assert decoding.loops([1, 2, 3, 4] * 4, 8) and not decoding.loops(range(40), 8)
    assert not decoding.loops([1, 2, 3], 8)


def test_every_sentence_of_the_shops_prose_is_a_sentence() -> None:
    rng = random.Random(1)
    shop = make_shop(5)
    for _ in range(200):
        said = text.prose(rng, shop).text.removesuffix("<|end|>")
        for sentence in said.split(". "):
            whole = sentence.removesuffix(".") + "."
            assert decoding.is_sentence(whole), whole
    for wrong in ("Our small red cube is euros.", "The parcel was blue.", "", "There are 3 left. There are 3 left."):
        assert not decoding.is_sentence(wrong)
    assert decoding.first_sentence(" There are 3 left. And") == "There are 3 left."
    assert decoding.first_sentence("no end ") == "no end"
