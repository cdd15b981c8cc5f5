"""The labs on instruction tuning, continued pre-training and retrieval: tasks are true, marks are the library's."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.finetuning import tuning_tasks as tasks
from course_utils.prisma import lm, text
from course_utils.settings import MODELS


@pytest.fixture(scope="module")
def tokenizer():
    return lm.load(MODELS / lm.NAME)[1]


# --- instructions


def test_no_training_task_is_held_out_or_names_the_new_field():
    pairs = tasks.field_tasks(held_out=4, seed=1)
    known = pairs["train"] + pairs["held out"]
    assert len(pairs["held out"]) == 4 and len(set(known)) == len(known) == 12
    assert not any(tasks.NEW in pair for pair in known)
    assert all(tasks.NEW in pair for pair in pairs["new field"]) and len(set(pairs["new field"])) == 8
    assert {field for pair in pairs["train"] for field in pair} == set(tasks.FIELDS) - {tasks.NEW}
    assert pairs != tasks.field_tasks(held_out=4, seed=2)


def test_replies_hold_what_was_asked_for_in_this_order():
    pairs = tasks.field_tasks(4, 0)
    for one in tasks.instructions(pairs["train"] + pairs["new field"], 60, 3, tasks.FORMS + tasks.NEW_FORM):
        asked, reply = (piece for piece, _ in one.pieces)
        lines = reply.removesuffix("<|end|>").splitlines()
        assert all(line in asked.split("\n") or f"<|user|>{line}" in asked for line in lines)
        first, second = one.kind.split(", ")
        assert [line.split(":")[0] for line in lines] == [first, second]
        words = asked.split("<|end|>")[0].splitlines()[-1]
        assert words.index(first) < words.index(second)


def test_tasks_take_turns():
    made = tasks.instructions([("size", "name"), ("name", "size")], 10, 0)
    assert [one.kind for one in made] == ["size, name", "name, size"] * 5


def test_instructions_need_a_task_and_an_order_for_each():
    for some, n in (([], 3), ([("size", "name")], 9001)):
        with pytest.raises(ValueError, match="hold out fewer tasks, and ask for at most 9,000"):
            tasks.instructions(some, n, 0)


# --- replay, perplexity


def test_replay_makes_its_part_of_the_whole():
    mixed = tasks.with_replay(["new"] * 75, ["old"], 0.25, 0)
    assert mixed.count("new") == 75 and mixed.count("old") == 25
    assert tasks.with_replay(["new"], ["old"], 0, 0) == ["new"]
    with pytest.raises(ValueError, match="below 1"):
        tasks.with_replay(["new"], ["old"], 1, 0)


def test_skills_end_in_one_wanted_reply():
    for some in tasks.skills(5, 0).values():
        assert len(some) == 5
        assert all(one.pieces[-1][1] and one.pieces[-1][0].endswith("<|end|>") for one in some)
        assert all(sum(learn for _, learn in one.pieces) == 1 for one in some)


def test_perplexity_counts_every_learned_token_once(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    rows = [lm.encode(tokenizer, one) for one in tasks.instructions([("size", "name")], 5, 0)]
    rows += [lm.encode(tokenizer, text.Example("x", (("red cube and blue ball<|end|>", True),)))]
    losses = []
    for ids, labels in rows:  # one by one, without padding, in full precision
        logits = model(torch.tensor([ids])).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="none", ignore_index=-100)
        losses += each[torch.tensor(labels[1:]) != -100].tolist()
    assert tasks.perplexity(model, rows) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=0.01)


# --- pages and questions


def test_search_finds_the_page_and_rare_words_decide():
    worth = tasks.vouchers(1)
    pages = [tasks.voucher_page(*pair) for pair in worth.items()]
    found = tasks.search(tasks.voucher_questions(list(worth), 0), pages, 3)
    assert [hits[0] for hits in found] == list(range(len(worth))) and all(len(set(hits)) == 3 for hits in found)
    texts = ["the cat sat", "the dog sat", "the bird flew", "a fish swam"]
    assert tasks.search(["the fish"], texts, 2)[0][0] == 3


def test_voucher_tasks_carry_the_page_unless_none_was_asked_for():
    worth = tasks.vouchers(1)
    assert worth == tasks.vouchers(1) != tasks.vouchers(2)
    places = set()
    for name, one in zip(worth, tasks.voucher_tasks(list(worth), worth, 4, 0), strict=True):
        prompt, reply = (piece for piece, _ in one.pieces)
        lines = prompt.split("<|user|>")[1].split("\n")
        assert tasks.voucher_page(name, worth[name]) in lines[:4] and name in lines[4] and len(set(lines)) == 5
        assert reply == f"Answer: {worth[name]} euros<|end|>"
        places.add(lines.index(tasks.voucher_page(name, worth[name])))
    assert places == {0, 1, 2, 3}
    bare = tasks.voucher_tasks(list(worth), worth, 0, 0)
    assert all(" euros." not in one.pieces[0][0] and text.SYSTEM["direct"] in one.pieces[0][0] for one in bare)


def test_missing_pages_are_missing():
    worth = tasks.vouchers(1)
    for name, one in zip(worth, tasks.missing_tasks(list(worth), worth, 4, 0), strict=True):
        prompt, reply = (piece for piece, _ in one.pieces)
        assert prompt.count(" euros.") == 4 and prompt.count(name) == 1 and reply == "Answer: I do not know<|end|>"
