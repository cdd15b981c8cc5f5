"""The lab on data: wordings and their placeholders, the controls of growth, the mail room that judges grown data."""

import dataclasses
import re

import pytest
import torch

from course_utils.finetuning import growing as G
from course_utils.finetuning.data_quality import jaccard, shingles
from course_utils.finetuning.growing import Wording
from course_utils.models import loaders, roles
from course_utils.models.hardware import Hardware
from course_utils.prisma.conversations import INTENTS

LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=8, ram_free_gb=4, cores=2)


@pytest.fixture(scope="module")
def chat():
    return loaders.load("chat", LAPTOP, "bundled")


@pytest.fixture(scope="module")
def seeds():
    return G.by_hand(each=1)


@pytest.fixture(scope="module")
def trained(chat, seeds):
    """prisma-lm after a few steps as a mail room, and the tickets that it learned."""
    taught = G.tickets(seeds[:4], 4, seed=1)
    return G.fit(chat, [G.encode(chat.tokenizer, t.message, t.filed) for t in taught], 20, seed=1, batch=4), taught


# --- wordings and tickets


def test_wordings_by_hand(seeds):
    assert [one.topic for one in seeds] == list(INTENTS)
    assert len(G.by_hand()) == 180 and len(G.by_hand("test")) == 60 and len(G.by_hand(each=4)) == 40
    assert not {one.text for one in G.by_hand()} & {one.text for one in G.by_hand("test")}
    assert set(seeds) <= set(G.by_hand(each=5)) <= set(G.by_hand())
    assert not any("{" in one.text for one in G.by_hand() + G.letters())
    for each in (0, 19):
        with pytest.raises(ValueError, match="18 wordings per topic"):
            G.by_hand(each=each)


def test_tickets_are_filled_from_top_to_toe(seeds):
    made = G.tickets(G.by_hand() + G.letters(), 560, seed=3)
    assert (
        made == G.tickets(G.by_hand() + G.letters(), 560, seed=3) != G.tickets(G.by_hand() + G.letters(), 560, seed=4)
    )
    marks = "".join(G.PLACEHOLDERS.values())
    for one in made:
        topic, number = one.filed.split()
        assert topic in INTENTS and (number in one.message or not re.search(r"\d{4}", one.message))
        assert not set(re.findall(rf"\b[{marks}]\b", one.message)) - {"I"}
    assert len({one.message for one in G.tickets(seeds, 50, seed=1)}) > 40
    with pytest.raises(ValueError, match="no wording to fill"):
        G.tickets([], 5, seed=1)


# --- training and marking


def test_only_the_answer_and_its_end_are_learned(chat):
    ids, labels = G.encode(chat.tokenizer, "Where is order 4821?", "status 4821")
    learned = [i for i, label in zip(ids, labels, strict=True) if label != -100]
    assert chat.tokenizer.decode(ids) == "<|user|>Where is order 4821?<|end|><|assistant|>status 4821<|end|>"
    assert chat.tokenizer.decode(learned) == "status 4821<|end|>"


def test_training_leaves_the_original_alone_and_repeats_itself(chat, trained):
    model, taught = trained
    rows = [G.encode(chat.tokenizer, t.message, t.filed) for t in taught]
    again = G.fit(chat, rows, 20, seed=1, batch=4)
    pairs = list(zip(model.model.parameters(), again.model.parameters(), chat.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
    assert not any(G.right(chat, taught)) and all(G.right(model, taught))


def test_one_pass_marks_what_greedy_decoding_writes(trained, seeds):
    model, taught = trained
    asked = taught + G.tickets(seeds[:4], 12, seed=2)
    written = model.complete_many([f"<|user|>{t.message}<|end|><|assistant|>" for t in asked], 12)
    marks = [text == t.filed for text, t in zip(written, asked, strict=True)]
    assert G.right(model, asked) == marks
    assert 4 <= sum(marks) < len(marks)  # both kinds occur, so the comparison means something


# --- growth


@pytest.mark.parametrize(
    "text, bad",
    [
        ("Please cancel order N.", False),
        ("Where is N, my P?", False),
        ("Please cancel the order.", True),
        ("Cancel N, I mean N.", True),
        ("please cancel order N.", True),
        ("Please cancel order N", True),
        ("Please please cancel order N.", False),
        ("The the parcel N is late.", False),
        ("I wait wait for N.", True),
        ("Order N is late.<|end|>", True),
        ("", True),
    ],
)
def test_malformed_messages(text, bad):
    assert G.malformed(text) is bad


def test_the_judge_knows_the_seeds_and_errs_less_when_it_is_sure(seeds):
    archive = G.by_hand()
    guess = G.TopicGuess(seeds, [one.text for one in archive])
    assert all(guess(one.text)[0] == one.topic and guess(one.text)[1] > 0.3 for one in seeds)
    assert guess("Stop it, cancel N now.")[0] == "cancel"
    assert guess("Hello N.")[1] == 0
    right = {
        lead: [g[0] == one.topic for one in archive for g in [guess(one.text)] if g[1] >= lead] for lead in (0, 0.2)
    }
    assert sum(right[0]) / 180 > 0.7
    assert sum(right[0.2]) / len(right[0.2]) > sum(right[0]) / 180 + 0.05


def test_one_topic_leaves_nothing_to_guess(seeds):
    for some in ([], seeds[:1]):
        with pytest.raises(ValueError, match="at least two topics"):
            G.control(["Please cancel my order N now."], some)


def test_controls_refuse_and_count(seeds):
    texts = [
        "Please cancel order N.",
        "Please cancel my order N now, today.",
        "Hello N.",
        "cancel N",
        "The order N is gone.",
    ]
    kept, refused = G.control(texts, seeds)
    assert kept == [Wording("cancel", "Please cancel my order N now, today.")]
    assert refused["not new"] == 1 and refused["form"] == 1 and refused["topic unclear"] == 2
    many = [one.text for one in G.by_hand()]
    kept, refused = G.control(many, seeds, lead=0.0, limit=0.6)
    assert len(kept) + refused.total() == len(many)
    pairs = [shingles(one.text, 2) for one in [*seeds, *kept]]
    assert all(jaccard(a, b) < 0.6 for i, a in enumerate(pairs[10:], 10) for b in pairs[:i])


def test_writing_is_asked_for_in_the_model_s_own_way(chat, seeds):
    asked = []

    class Listening(roles.Chat):
        def complete_many(self, prompts, *args, **kwargs):
            asked.extend(prompts)
            return [' "Please cancel N." '] * len(prompts)

    model = Listening(chat.model, chat.tokenizer, "any", "small")
    assert G.teach_writing(model, G.by_hand(), 5, seed=1) is model  # a large model has read enough
    assert G.write(model, seeds, 11, 0.9, seed=1) == ["Please cancel N."] * 11
    assert all(one.text in prompt for one, prompt in zip([*seeds, seeds[0]], asked, strict=True))
    assert "Keep N" in asked[0] and asked[0].endswith("<|assistant|>")
    asked.clear()
    G.write(dataclasses.replace(model, tier="bundled"), seeds, 2, 0.9, seed=1)
    assert asked == [f"<|user|>{G.ASKED}<|end|><|assistant|>"] * 2


def test_distinct_n():
    assert G.distinct(["a b a b"], 1) == 0.5 and G.distinct(["a b a b"], 2) == 2 / 3
    assert G.distinct(["a"], 2) == 0.0
