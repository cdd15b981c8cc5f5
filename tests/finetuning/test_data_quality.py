"""The lab on data: each detector finds what was planted and leaves sound rows alone; the card says what is there."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from course_utils.finetuning import data_quality as D
from course_utils.prisma import conversations, manners
from course_utils.prisma.letters import LETTERS


@pytest.fixture(scope="module")
def rows():
    return D.rows_of(conversations.make_conversations())


@pytest.fixture(scope="module")
def planted(rows):
    return D.plant_faults(rows)


@pytest.fixture(scope="module")
def found(planted):
    return D.examine(planted[0])


# --- formats


def test_three_formats_become_the_same_conversation():
    talk = conversations.seeds()[0]
    assert D.to_messages({"messages": talk.messages}) == talk.messages
    assert D.to_messages(conversations.chat_row(talk)) == talk.messages
    assert D.to_messages(conversations.sharegpt_row(talk)) == talk.messages
    alpaca = D.to_messages(conversations.alpaca_row(talk))
    assert [m["role"] for m in alpaca] == ["system", "user", "assistant"]
    assert alpaca[2] == talk.messages[2] and talk.facts[0] in alpaca[1]["content"]  # facts and letter run together
    short = D.to_messages({"instruction": "Say hello.", "input": "", "output": "hello"})
    assert [m["role"] for m in short] == ["user", "assistant"]


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="answer.*question"):
        D.to_messages({"question": "a", "answer": "b"})
    with pytest.raises(ValueError, match="rename the turns from tool"):
        D.to_messages({"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]})


# --- near-duplicates


def test_jaccard_by_hand_on_small_sets():
    assert D.shingles("The red cube, the red cube!") == {"the red cube", "red cube the", "cube the red"}
    assert D.shingles("Hello") == {"hello"}
    assert D.jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5
    assert D.jaccard(set(), set()) == 1.0 and D.jaccard({"a"}, set()) == 0.0


def test_minhash_by_hand_is_the_library_s_bit_for_bit(rows):
    from datasketch import MinHash

    for row in rows[:5]:
        items = D.shingles(row.text)
        theirs = MinHash(num_perm=64, seed=3, scheme="legacy")
        theirs.update_batch([item.encode() for item in items])
        assert np.array_equal(D.minhash(items, *theirs.permutations), theirs.hashvalues)


def test_minhash_estimates_jaccard(rows):
    from datasketch import MinHash

    a, b = MinHash(num_perm=512, seed=3, scheme="legacy").permutations
    sets = [D.shingles(row.text) for row in rows[:12]]
    hashes = [D.minhash(one, a, b) for one in sets]
    pairs = [(i, j) for i in range(12) for j in range(i)]
    errors = [np.mean(hashes[i] == hashes[j]) - D.jaccard(sets[i], sets[j]) for i, j in pairs]
    assert np.abs(errors).max() < 4 / np.sqrt(512) and abs(np.mean(errors)) < 0.02


def test_the_index_finds_what_comparing_all_with_all_finds(planted):
    texts = [row.text for row in planted[0][1400:]]
    sets = [D.shingles(text) for text in texts]
    brute = {(i, j) for j in range(len(sets)) for i in range(j) if D.jaccard(sets[i], sets[j]) >= 0.8}
    index = {(i, j) for i, j, _ in D.similar_pairs(texts)}
    assert index <= brute and len(index) >= 0.95 * len(brute) > 0


@pytest.mark.parametrize("threshold", [0, 1.5])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        D.similar_pairs(["a"], threshold)


# --- all detectors


def test_nothing_is_found_in_the_course_s_own_conversations(rows):
    assert not any(D.examine(rows).values())


def test_most_of_what_was_planted_is_found_and_nothing_else(planted, found):
    truth = planted[1]
    assert Counter(truth.values()) == dict.fromkeys(D.DETECTORS, 20)
    for kind, reasons in found.items():
        hits = [id_ in reasons for id_, fault in truth.items() if fault == kind]
        assert sum(hits) >= 14, kind
        assert not set(reasons) - set(truth), kind
        assert all(reasons.values())
    assert sum(len(set(truth) & set(reasons)) for reasons in found.values()) >= 100


def test_scores_count_hits_and_false_alarms():
    truth = {1: "leak", 2: "leak", 3: "toxic"}
    leak, toxic = D.scores({"leak": {1: "", 3: "", 9: ""}, "toxic": {}}, truth)
    assert (leak["planted"], leak["found"], leak["false alarms"]) == (2, 1, 1)
    assert leak["recall"].startswith("50.0%") and leak["precision"].startswith("50.0%")
    assert toxic["recall"].startswith("0.0%") and toxic["precision"] == "-"


def test_planting_is_the_same_from_the_same_seed_and_changes_training_only(rows, planted):
    assert D.plant_faults(rows) == planted
    assert D.plant_faults(rows, seed=8)[1] != planted[1]
    splits = {row.id: row.split for row in planted[0]}
    assert {splits[id_] for id_ in planted[1]} == {"train"}
    before = {row.id: row for row in rows}
    assert all(before.get(row.id, row) == row for row in planted[0] if row.id not in planted[1])


def test_too_few_rows_to_plant_in(rows):
    with pytest.raises(ValueError, match="too few"):
        D.plant_faults(rows[:50])


def test_rows_with_the_same_id_are_refused(rows):
    with pytest.raises(ValueError, match="same id"):
        D.examine([rows[0], rows[0]])


def test_cleaning_takes_each_row_once_and_says_why(planted, found):
    bad, _ = planted
    kept, removed = D.clean(bad, found)
    assert len(kept) + len(removed) == len(bad)
    assert {line["row"] for line in removed} == {id_ for reasons in found.values() for id_ in reasons}
    assert all(line["reason"] and line["fault"] in D.DETECTORS for line in removed)
    again = D.examine(kept)
    assert not any(again.values())


# --- single detectors


def one(rows, **said):
    row = rows[0]
    for role, content in said.items():
        row = row.saying(role, content)
    return row


def test_broken_formats(rows):
    system, user, reply = rows[0].messages
    bad = {
        "empty": one(rows, user="  "),
        "wrong order": replace(rows[0], messages=(user, system, reply)),
        "no turns": replace(rows[0], messages=()),
        "marker": one(rows, assistant=reply["content"] + "<|end|>"),
        "before its end": one(rows, assistant=reply["content"][:-5]),
    }
    for reason, row in bad.items():
        assert reason in D.broken_format([row])[0]
    assert not D.broken_format([replace(rows[0], messages=(user, reply, user, reply))])


def test_where_nothing_is_said_nothing_but_the_format_is_wrong():
    assert not any(D.examine([]).values())
    found = D.examine([D.Row(3, "train", ({"role": "user", "content": " "},))])
    assert found.pop("broken format") == {3: "a turn is empty"} and not any(found.values())


def said(content):
    return {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": content}]}


UNREADABLE = {
    "null and not text": said(None),
    "a number and not text": said(7),
    "a truth value and not text": said(True),
    "1 of 2 parts that are not text": said([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": "x"}]),
    "lone surrogate": said("\ud800"),
    "turn 2 has no content": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}]},
    "turn 1 has no role": {"messages": [{"content": "a"}]},
    "the role of turn 1 is null": {"messages": [{"role": None, "content": "a"}]},
    "turn 1 is a text and not a message": {"messages": ["hello"]},
    "messages is null": {"messages": None},
    "completion is a number": {"prompt": "a", "completion": 3},
    "turn 1 has no value": {"conversations": [{"from": "human"}]},
    "rename the turns from ['gpt']": {"conversations": [{"from": ["gpt"], "value": "a"}]},
    "says is null": {"instruction": "a", "output": None},
    "and this one is null": None,
    "and this one is a list": ["a"],
    "and this one is a text": "hello",
    "nothing in it": {},
    "a row with 3, text": {"text": "a", 3: 4},
}


def test_rows_that_cannot_be_read_are_named_and_the_rest_is_examined(rows):
    good = [{"messages": list(row.messages), "split": row.split} for row in rows[:30]]
    mixed = D.rows_of([*good[:15], *UNREADABLE.values(), *good[15:], good[0]])
    found = D.examine(mixed)
    broken = found["broken format"]
    assert list(broken) == list(range(15, 15 + len(UNREADABLE)))
    for reason, told in zip(UNREADABLE, broken.values(), strict=True):
        assert reason in told
    assert list(found["duplicate"] or found["leak"]) == [len(mixed) - 1]
    others = [kind for kind, reasons in found.items() if reasons.keys() & broken.keys()]
    assert others == ["broken format"]
    for detect in D.DETECTORS.values():
        detect(mixed)
    kept, removed = D.clean(mixed, found)
    assert len(kept) == 30 and len(removed) == len(UNREADABLE) + 1


def test_a_row_that_is_repaired_has_no_fault(rows):
    (broken,) = D.rows_of([said(None)])
    assert not replace(broken, messages=rows[0].messages).fault


def test_text_in_other_shapes_is_read(rows):
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    parts = [{"type": "text", "text": "good "}, {"type": "text", "text": "day"}]
    share = [{"from": "human", "value": "hello"}, {"role": "assistant", "content": "good day"}]
    shapes = [said(parts), {"prompt": "hello", "completion": "good day"}, {"conversations": chat}]
    shapes += [{"conversations": share}, {"prompt": chat[:1], "completion": "good day"}]
    for row in D.rows_of(shapes):
        assert list(row.messages) == chat and not row.fault and row.split == "train"


def test_only_rows_are_examined():
    with pytest.raises(TypeError, match="rows_of"):
        D.examine([said("hello")])


def test_a_leak_is_taken_from_training_never_from_the_test(rows):
    held = next(row for row in rows if row.split == "test")
    copy = replace(held, id=9000, split="train")
    assert list(D.leaks([held, copy])) == list(D.leaks([copy, held])) == [9000]
    other = copy.saying("user", "another letter altogether").saying("assistant", "and another answer")
    assert "order" in D.leaks([held, other])[9000]
    assert not D.leaks([replace(held, split="train"), rows[0]])


def test_what_a_reply_may_not_say(rows):
    row = next(row for row in rows if D.record(row)["status"] == "shipped" and "status:" in row.says("assistant"))
    reply, known = row.says("assistant"), D.record(row)
    assert not D.untrue(row)
    for old, new, what in (
        (known["number"], "1234", "number"),
        (known["customer"], "Zoe" if "Zoe" in D.NAMES else "Ada" if known["customer"] != "Ada" else "Ben", "name"),
        ("is shipped", "is packed", "status"),
        (known["product"], "large red cube" if known["product"] != "large red cube" else "small red cube", "toy"),
    ):
        assert D.untrue(row.saying("assistant", reply.replace(old, new))).startswith(what)
    assert not D.untrue(row.saying("system", "no record here"))


def test_the_odd_one_out_is_a_contradiction(rows):
    cancel = [row for row in rows if D.policy(row)[0] == ("cancel", "shipped")]
    odd = cancel[0].saying("assistant", cancel[0].says("assistant").replace("can not cancel", "can cancel"))
    found = D.contradictions([odd, *cancel[1:]])
    assert list(found) == [odd.id] and "1 of" in found[odd.id]


def test_the_word_list_is_crude_and_the_classifier_less_so():
    rude, civil = manners.RUDE_TEST, manners.CIVIL_TEST
    tone = D.ToneClassifier(D.stock())
    listed = sum(bool(D.listed(t)) for t in rude) + sum(not D.listed(t) for t in civil)
    scored = (tone.rudeness(rude) > 0.5).sum() + (tone.rudeness(civil) <= 0.5).sum()
    assert scored > listed + 8 and scored >= 0.8 * (len(rude) + len(civil))
    assert not {*manners.RUDE, *manners.CIVIL} & {*rude, *civil}


def test_the_classifier_needs_to_see_how_this_shop_talks(rows):
    assert len(D.toxic(rows[:200], civil=())) > 10
    assert not D.toxic(rows[:200])


@pytest.mark.parametrize(
    "number, valid", [("4111 1111 1111 1111", True), ("4111 1111 1111 1112", False), ("5500-0000-0000-0004", True)]
)
def test_luhn(number, valid):
    assert D.luhn(number) is valid


@pytest.mark.parametrize(
    "said, what",
    [
        ("write to ada.lovelace+toys@mail.example.org please", "mail"),
        ("call +49 30 5550123 today", "telephone"),
        ("my card is 4111 1111 1111 1111.", "card"),
        ("my card is 4111 1111 1111 1112.", ""),
        ("order 4821, 12 pieces at 39 euros", ""),
    ],
)
def test_personal_data(rows, said, what):
    reason = D.personal_data([one(rows, user=said)]).get(0, "")
    assert reason.startswith(what) if what else not reason
    assert "4111 1111" not in reason and "lovelace" not in reason  # a report must not spread what it found


# --- the card


def test_the_shipped_card_is_that_of_the_shipped_generator(tmp_path):
    assert D.CARD.read_text(encoding="utf-8") == D.write_card(tmp_path / "card.md").read_text(encoding="utf-8")


def test_the_card_says_what_is_there(rows, planted, found):
    kept, removed = D.clean(planted[0], found)
    card = D.data_card(kept, "somewhere", ["knows toys only"], removed)
    for part in (
        "license: cc-by-4.0",
        "somewhere",
        "- knows toys only",
        f"| test | {200:,} | 200 | 4 |",
        D.fingerprint([row.split, row.messages] for row in kept),
    ):
        assert part in card
    assert f"Removed: {len(removed)} rows." in card
    with pytest.raises(ValueError, match="rows to describe"):
        D.data_card([], "", [])


def test_other_data_has_another_fingerprint():
    lines = [{"prompt": "a", "completion": "b"}, ["train", "c"]]
    same = [{"completion": "b", "prompt": "a"}, ("train", "c")]  # what JSON cannot tell apart
    assert D.fingerprint(lines) == D.fingerprint(same)
    others = ([], lines[:1], lines[::-1], [{"prompt": "a", "completion": "c"}, lines[1]])
    assert len({D.fingerprint(one) for one in (lines, *others)}) == 5


def test_letters_are_nobody_s_template():
    stock = {part for intent in conversations.INTENTS.values() for part in (*intent.first, *intent.second) if part}
    written = [text for some in LETTERS.values() for text in some]
    assert list(LETTERS) == list(conversations.INTENTS) and len(set(written)) == 100
    assert all("{n}" in text and text not in stock for text in written)
