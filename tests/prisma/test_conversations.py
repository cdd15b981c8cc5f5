"""The support conversations: the same from the same seed, no leak between splits, a grader that sees faults."""

import json
import random
import re
from collections import Counter

import pytest

from course_utils.prisma import conversations as C
from course_utils.prisma.shop import make_shop, open_database
from course_utils.prisma.text import SKILLS, mixture
from course_utils.prisma.tools import Toolbox


@pytest.fixture(scope="module")
def talks():
    return C.make_conversations()


@pytest.fixture(scope="module")
def parts(talks):
    return C.by_split(talks)


def test_the_same_seed_gives_the_same_conversations(talks):
    assert C.make_conversations(50, seed=3) == C.make_conversations(50, seed=3)
    assert C.make_conversations(50, seed=3) != C.make_conversations(50, seed=4)
    assert len(talks) == 2000


@pytest.mark.parametrize("n", [1, 10, 99, 2000])
def test_as_many_as_asked_for_with_the_intents_in_balance(n):
    made = C.make_conversations(n)
    assert len(made) == n
    for split, share in C.SPLITS.items():
        counts = Counter(c.intent for c in made if c.split == split)
        assert abs(sum(counts.values()) - share * n) <= 2
        assert max(counts.values(), default=0) <= share * n / len(C.INTENTS) + 1


def test_each_status_that_an_intent_answers_comes_as_often_as_the_others(parts):
    for split in parts.values():
        counts = Counter((c.intent, c.facts[0].rpartition(", ")[2]) for c in split)
        for kind, intent in C.INTENTS.items():
            found = [counts[kind, status] for reply in intent.replies for status in reply.statuses]
            assert sum(found) == len(split) / len(C.INTENTS) and max(found) - min(found) <= len(found)


def test_the_first_conversations_are_as_mixed_as_all(parts):
    hard = ("status", "late", "cancel")  # an order of any status fits one of them, so without shuffling they come early
    for split in parts.values():
        early = sum(c.intent in hard for c in split[: len(split) // 2])
        assert abs(early / len(split) - 0.15) < 0.05


@pytest.mark.parametrize("n", [0, -1, 3001])
def test_impossible_numbers_are_refused(n):
    with pytest.raises(ValueError, match="1 to 3,000"):
        C.make_conversations(n)


def test_nothing_leaks_from_training_into_the_test(parts):
    for split in ("validation", "test"):
        train, held = parts["train"], parts[split]
        assert not {c.number for c in train} & {c.number for c in held}
        assert not {c.message for c in train} & {c.message for c in held}
        assert not {c.required["name"] for c in train} & {c.required["name"] for c in held}
    assert len({c.number for part in parts.values() for c in part}) == 2000


def test_pairs_of_sentences_belong_to_one_split():
    for intent in C.INTENTS.values():
        train, *held = (C.wordings(intent, split) for split in C.SPLITS)
        assert len({*train, *held[0], *held[1]}) == len(train) + len(held[0]) + len(held[1]) == 30
        assert all(any(first in pair for pair in train) for first in intent.first)
        assert all(any(pair.endswith(second) for pair in train) for second in intent.second)


def test_the_base_model_never_saw_the_house_style():
    """The mixture that prisma-lm learns from has neither the sign-off nor a sentence of feeling."""
    stream, last = mixture(11), mixture(11, SKILLS)
    seen = " ".join(next(source).text for source in (stream, last) for _ in range(2000))
    assert C.SIGN_OFF not in seen and C.SYSTEM not in seen
    assert not any(intent.feeling in seen for intent in C.INTENTS.values())


def test_every_fact_can_be_read_in_the_prompt(talks):
    """No reply needs a number or a product that the model was not given."""
    for talk in talks:
        prompt = " ".join(m["content"] for m in talk.prompt)
        assert set(re.findall(r"\d+", talk.reply)) <= set(re.findall(r"\d+", prompt))
        product = re.search(r"order \d+: \d+ (\w+ \w+ \w+) for (\w+), (\w+)", prompt)
        assert talk.required["name"] == f"{product[2]},"


def test_facts_come_from_the_shops_own_tools():
    shop = make_shop(5)
    toolbox = Toolbox(open_database(shop))
    order = next(o for o in shop.orders.values() if o.status == "shipped")
    talk = C.conversation(random.Random(1), order, toolbox, "cancel")
    assert toolbox.orders(str(order.number)).text in talk.facts
    assert toolbox.policy("returns").text in talk.facts
    assert "can not cancel" in talk.required["fact"]
    assert f"{shop.policies['returns']} days" in talk.required["step"]


def test_a_request_that_makes_no_sense_is_refused():
    shop = make_shop(5)
    order = next(o for o in shop.orders.values() if o.status == "ordered")
    with pytest.raises(ValueError, match="nobody writes about 'thanks'"):
        C.conversation(random.Random(1), order, Toolbox(open_database(shop)), "thanks")


def test_no_slot_is_left_open(talks):
    assert not any("{" in text["content"] or "}" in text["content"] for t in talks for text in t.messages)


def test_ten_seeds_one_for_each_intent():
    seeds = C.seeds()
    assert [s.intent for s in seeds] == list(C.INTENTS)
    assert all(C.graded(s, s.reply) for s in seeds)


# --- the grader ---


def test_the_grader_accepts_every_reference(talks):
    assert all(C.graded(t, t.reply) and all(C.parts_right(t, t.reply).values()) for t in talks)
    assert C.graded(talks[0], f"  {talks[0].reply.replace('. ', '.  ')}\n")  # spaces do not matter


def _other(talks, talk, part):
    """The same part of another conversation where it reads differently."""
    return next(t.required[part] for t in talks if t.required[part] != talk.required[part])


@pytest.mark.parametrize("part", ["topic", "name", "feeling", "fact", "step"])
def test_the_grader_rejects_the_part_of_another_conversation(parts, part):
    """A wrong name, the feeling of another intent, another order's fact, another next step."""
    for talk in parts["test"]:
        wrong = talk.reply.replace(talk.required[part], _other(parts["test"], talk, part))
        assert not C.graded(talk, wrong)
        assert not C.parts_right(talk, wrong)[part]


@pytest.mark.parametrize("part", ["topic", "name", "feeling", "fact", "step", "sign-off"])
def test_the_grader_rejects_a_missing_part(parts, part):
    for talk in parts["test"]:
        without = talk.reply.replace(talk.required[part], "")
        assert not C.graded(talk, without)
        assert [name for name, fine in C.parts_right(talk, without).items() if not fine] == [part]


def test_the_grader_rejects_a_wrong_digit(parts):
    for talk in parts["test"]:
        digit = re.search(r"\d", talk.reply)
        if digit:
            changed = str((int(digit[0]) + 1) % 10)
            wrong = talk.reply[: digit.start()] + changed + talk.reply[digit.end() :]
            assert not C.graded(talk, wrong)


@pytest.mark.parametrize("extra", [" Our kind regards, the toy shop team", " You get 50 euros.", " order"])
def test_the_grader_rejects_what_comes_on_top(talks, extra):
    assert not C.graded(talks[0], talks[0].reply + extra)


def test_the_grader_rejects_parts_in_the_wrong_order(talks):
    talk = talks[0]
    turned = " ".join(talk.required[part] for part in ("topic", "name", "feeling", "step", "fact", "sign-off"))
    assert not C.graded(talk, turned) and not all(C.parts_right(talk, turned).values())


@pytest.mark.parametrize("reply", ["", "Answer: shipped", "Ada,", "Our kind regards, the toy shop team"])
def test_the_grader_rejects_what_an_untrained_model_says(talks, reply):
    assert not any(C.graded(t, reply) for t in talks)


# --- formats and the sample ---


def test_formats_carry_the_same_conversation(talks):
    talk = talks[0]
    chat, alpaca, sharegpt = C.chat_row(talk), C.alpaca_row(talk), C.sharegpt_row(talk)
    assert chat["prompt"] + chat["completion"] == talk.messages
    assert [m["role"] for m in talk.messages] == ["system", "user", "assistant"]
    assert alpaca["output"] == sharegpt["conversations"][-1]["value"] == talk.reply
    assert alpaca["input"].endswith(talk.message) and alpaca["instruction"] == C.SYSTEM
    assert [turn["from"] for turn in sharegpt["conversations"]] == ["system", "human", "gpt"]


def test_the_sample_in_data_is_what_the_generator_writes(tmp_path):
    fresh = C.write_sample(tmp_path / "sample.jsonl")
    assert fresh.read_text("utf-8") == C.SAMPLE.read_text("utf-8")
    rows = [json.loads(line) for line in fresh.read_text("utf-8").splitlines()]
    assert Counter(row["kind"] for row in rows) == {"seed": 10, "grown": 50}
