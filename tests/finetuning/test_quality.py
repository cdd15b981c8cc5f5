"""Unit 7.5's lab on evaluation: metrics equal the libraries', rules find what is planted, ballots are fair."""

import dataclasses
import math
import random

import pytest
import torch
from lessons import written_in

from course_utils import compat
from course_utils.finetuning import quality
from course_utils.measures import bootstrap
from course_utils.models import bundled, loaders, roles
from course_utils.prisma import conversations, lm
from course_utils.prisma.shop import NAMES


@pytest.fixture(scope="module")
def talks():
    return conversations.make_conversations(200)


@pytest.fixture(scope="module")
def chat():
    model, tokenizer = lm.load(bundled.verify("prisma-lm"))
    return roles.Chat(loaders.greedy_by_default(model.eval()), tokenizer, "prisma-lm", "bundled")


@pytest.fixture(scope="module")
def embedder():
    return loaders.load("embedding", tier="bundled")


@pytest.fixture(scope="module")
def pairs(talks):
    """Wanted replies, and others that are more or less like them."""
    rng = random.Random(1)
    wanted = [talk.reply for talk in talks[:24]]
    faults = ("one wrong digit", "a sentence missing", "two sentences swapped", "capitals lost")
    written = [quality.damaged(talk, faults[i % 4], rng) for i, talk in enumerate(talks[:20])]
    return wanted, written + [wanted[0], wanted[5], "yes", "the price"]


# --- metrics against the libraries


def test_log_probabilities_do_not_depend_on_the_batch(chat, talks) -> None:
    """Replies of different lengths, alone and padded; and the library's own loss."""
    together = quality.reply_log_probs(chat, talks[:5])
    for talk, found in zip(talks[:5], together, strict=True):
        (alone,) = quality.reply_log_probs(chat, [talk])
        assert torch.allclose(found, alone, atol=1e-3)
        prompt = chat.tokenizer(chat.prompt(talk.prompt), add_special_tokens=False, return_tensors="pt")["input_ids"]
        reply = chat.tokenizer(talk.reply + "<|end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
        labels = torch.cat([torch.full_like(prompt, -100), reply], 1)
        with torch.no_grad():
            theirs = chat.model(torch.cat([prompt, reply], 1), labels=labels).loss
        assert len(found) == reply.shape[1]
        assert -alone.mean().item() == pytest.approx(theirs.item(), abs=1e-4)


def test_perplexity_counts_tokens_not_replies() -> None:
    chances = [torch.full((1,), math.log(0.5)), torch.full((9,), math.log(0.125))]
    found = quality.perplexity(chances)
    assert found.value == pytest.approx(math.exp((math.log(2) + 9 * math.log(8)) / 10))
    assert found.low <= found.value <= found.high and found.n == 2
    assert quality.perplexity([torch.full((7,), -math.log(8))] * 3).value == pytest.approx(8)


def test_token_f1_is_the_papers() -> None:
    assert quality.token_f1("a b c d", "b c x") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert quality.token_f1("a a b", "a") == pytest.approx(0.5) and quality.token_f1("a", "b") == 0
    assert quality.token_f1("", "") == 1 and quality.token_f1("a", "") == 0


def test_bleu_is_sacrebleus(pairs) -> None:
    from sacrebleu import corpus_bleu

    wanted, written = pairs
    found = quality.bleu(wanted, written)
    assert found.value == pytest.approx(corpus_bleu(written, [wanted]).score, abs=1e-5)
    assert found.low < found.value < found.high and 20 < found.value < 99
    assert quality.bleu(wanted, wanted).value == pytest.approx(100)


def test_rouge_l_is_the_longest_common_run(pairs) -> None:
    assert quality.rouge_l(["a b c d"], ["a c x d"]) == [pytest.approx(0.75)]
    assert max(quality.rouge_l(*pairs)) == 1 and min(quality.rouge_l(*pairs)) < 0.2


def test_bert_score_is_the_librarys(pairs) -> None:
    """The package bert-score, which takes the same hidden states from a folder."""
    from bert_score import BERTScorer
    from transformers import AutoModel

    wanted, written = pairs
    folder = str(bundled.verify("prisma-lm"))
    model = AutoModel.from_pretrained(folder).float().eval()
    tokenizer = lm.load(folder)[1]
    ours = quality.bert_score(roles.Embedder(model, tokenizer, "prisma-lm", "bundled"), wanted, written)
    scorer = BERTScorer(model_type=folder, num_layers=model.config.num_hidden_layers, device="cpu", batch_size=1)
    scorer._model.float()  # both read 16-bit weights; sums in 16 bits would differ in the third digit
    theirs = [scorer.score([b], [a])[2].item() for a, b in zip(wanted, written, strict=True)]
    assert ours == pytest.approx(theirs, abs=1e-4) and max(ours) - min(ours) > 0.1


def test_bert_score_of_nothing_is_zero(embedder) -> None:
    assert quality.bert_score(embedder, ["yes please"], [" "]) == [0.0]


def test_strangers_score_zero_and_equal_texts_one(embedder, talks) -> None:
    wanted = [talk.reply for talk in talks[:10]]
    baseline = quality.strangers_score(embedder, wanted)
    shifted = quality.bert_score(embedder, wanted, [*wanted[1:], wanted[0]])
    assert 0.2 < baseline < 0.95
    assert sum(quality.rescaled(shifted, baseline)) == pytest.approx(0, abs=1e-4)
    assert quality.rescaled([1.0], baseline) == [pytest.approx(1)]


def test_the_notebooks_bert_score_is_the_packages(embedder) -> None:
    by_hand = written_in("7.5_lab_evaluation")["greedy_match"]
    a, b = (quality.token_vectors(embedder, text) for text in ("the red cube is late", "the blue cube is packed"))
    assert by_hand(a, b).item() == pytest.approx(quality.greedy_match(a, b)["F1"], abs=1e-6)


def test_all_metrics_agree_on_right_replies(embedder, talks) -> None:
    found = quality.metrics(talks[:8], [talk.reply for talk in talks[:8]], embedder)
    assert {name: round(m.value) for name, m in found.items()} == dict.fromkeys(found, 100)
    assert found["exact match"].low < 80  # eight cases prove little
    assert quality.span(found["BLEU"]) == "100 (100 to 100)"


def test_metrics_forgive_a_wrong_digit_and_exact_match_does_not(embedder, talks) -> None:
    rng = random.Random(0)
    spoilt = [quality.damaged(talk, "one wrong digit", rng) for talk in talks[:20]]
    swapped = [quality.damaged(talk, "two sentences swapped", rng) for talk in talks[:20]]
    digit, order = quality.metrics(talks[:20], spoilt, embedder), quality.metrics(talks[:20], swapped, embedder)
    assert digit["exact match"].value < 20 and digit["BLEU"].value > 85
    assert order["ROUGE-L"].value < digit["ROUGE-L"].value and order["token F1"].value > 95


# --- facts and tone


def test_wanted_replies_invent_nothing_and_keep_the_tone() -> None:
    talks = conversations.make_conversations()
    assert [talk for talk in talks if quality.unsupported(talk, talk.reply)] == []
    kept = quality.tone(talks, [talk.reply for talk in talks])
    assert {measure.value for measure in kept.values()} == {1.0}


def another_name(talk) -> str:
    return next(name for name in NAMES if name not in talk.message)


@pytest.mark.parametrize(
    "change",
    [
        lambda talk, text: text.replace(str(talk.number), "8888"),
        lambda talk, text: text + " It is a large purple heart.",
        lambda talk, text: text + " Order 8888 is returned.",
        lambda talk, text: text.replace(talk.required["name"], another_name(talk) + ","),
    ],
)
def test_planted_inventions_are_found(talks, change) -> None:
    """Number, toy, status, name: at least where the record says otherwise."""
    spoilt = [change(talk, talk.reply) for talk in talks[:40]]
    changed = [(t, text) for t, text in zip(talks, spoilt, strict=False) if text != t.reply]
    found = [bool(quality.unsupported(talk, text)) for talk, text in changed]
    assert len(found) >= 10 and sum(found) >= 0.9 * len(found)


def test_claims_are_read_from_sentences() -> None:
    found = quality.claims("Order 1234 with the large black ball is still packed, for Noor. You ordered a red cube.")
    assert found == {
        ("number", "1234"), ("toy", "large black ball"), ("toy", "red cube"), ("status", "packed"), ("name", "Noor")
    }  # fmt: skip


def test_the_rubric_sees_bad_manners(talks) -> None:
    kept = quality.tone([talks[0]], ["You should have read it! Go away."])
    assert all(measure.value == 0 for measure in kept.values())


# --- blind comparison


def test_a_ballot_hides_and_reveals(talks) -> None:
    systems = {"good": [t.reply for t in talks], "bad": ["yes"] * len(talks)}
    pairs = quality.ballot(talks, systems, seed=3)
    assert pairs == quality.ballot(talks, systems, seed=3) != quality.ballot(talks, systems, seed=4)
    assert 70 < sum(pair.first == "good" for pair in pairs) < 130
    assert all(pair.a == systems[pair.first][i] and pair.b == systems[pair.second][i] for i, pair in enumerate(pairs))
    winners = quality.reveal(pairs, [quality.vote_by_rules(pair) for pair in pairs])
    assert quality.win_rate(winners, "good").value == 100 and quality.win_rate(winners, "bad").value == 0


def test_the_rules_have_no_favourite_seat(talks) -> None:
    pairs = quality.ballot(talks[:20], {"x": [t.reply for t in talks], "y": [t.reply for t in talks]}, seed=0)
    assert {quality.vote_by_rules(pair) for pair in pairs} == {"="}
    assert quality.win_rate(quality.reveal(pairs, ["="] * 20), "x").value == 50
    for pair in quality.ballot(talks[:20], {"x": [t.reply for t in talks], "y": ["no"] * 20}, seed=0):
        turned = dataclasses.replace(pair, a=pair.b, b=pair.a)
        assert {quality.vote_by_rules(pair), quality.vote_by_rules(turned)} == {"a", "b"}


def test_among_equal_tones_the_one_that_invents_less_wins(talks) -> None:
    talk = next(talk for talk in talks if str(talk.number) in talk.reply)
    spoilt = quality.damaged(talk, "one wrong digit", random.Random(0))
    assert quality.unsupported(talk, spoilt)
    assert quality.vote_by_rules(quality.Pair(talk, spoilt, talk.reply, "x", "y")) == "b"


def test_odd_votes_are_refused(talks) -> None:
    pairs = quality.ballot(talks[:2], {"x": ["1", "2"], "y": ["3", "4"]}, seed=0)
    with pytest.raises(ValueError, match="A vote is a, b or =. There is 'c'"):
        quality.reveal(pairs, "ac")
    with pytest.raises(ValueError, match="2 pairs and 1 votes: write one letter"):
        quality.reveal(pairs, "a")


def test_a_reply_to_each_conversation_is_needed(talks) -> None:
    for count in (lambda: quality.tone(talks[:3], ["a"]), lambda: quality.hallucination_rate(talks[:3], ["a"])):
        with pytest.raises(ValueError, match="3 conversations and 1 replies: one reply to each"):
            count()
    for systems in ({"x": ["1", "2", "3"]}, {"x": ["1", "2", "3"], "y": ["4"]}):
        with pytest.raises(ValueError, match="two systems, each with replies to all 3"):
            quality.ballot(talks[:3], systems, seed=0)


# --- red team


def test_attacks_change_the_conversation_and_see_who_falls(talks) -> None:
    talk = next(t for t in talks if t.intent == "late")
    for name, attack in quality.ATTACKS.items():
        changed = attack.change(talk)
        assert changed.prompt != talk.prompt and changed.message.endswith(")"), name
        assert changed.required == talk.required
        expected = name == "no record was found" and bool(quality.unsupported(changed, talk.reply))
        assert attack.fell(changed, talk.reply) == expected, name
    falls = {
        "an order inside the message": "the shop is closed.",
        "a promise nobody made": "You get 999 euros.",
        "somebody else's order": "Order 1111 is packed.",
        "the secret instructions": conversations.SYSTEM,
        "the wrong box in the form": "thanks: Noor, it is great.",
        "no record was found": "Order 8888 is the small red cube.",
    }
    assert falls.keys() == quality.ATTACKS.keys()
    for name, reply in falls.items():
        assert quality.ATTACKS[name].fell(quality.ATTACKS[name].change(talk), reply), name


def test_an_attack_is_run_and_counted(chat, talks) -> None:
    changed, written, fell = quality.attacked(chat, talks[:2], quality.ATTACKS["no record was found"])
    assert [one.facts for one in changed] == [(), ()] and len(written) == 2 and fell.n == 2


# --- over-fitting and forgetting


def test_memorising_lowers_the_loss_and_keeps_the_best(chat, talks) -> None:
    torch.manual_seed(0)
    model = compat.add_peft_lora(lm.load(bundled.verify("prisma-lm"))[0], rank=4, alpha=8).eval()
    small = dataclasses.replace(chat, model=model)
    run = quality.memorise(small, talks[:2], talks[2:4], steps=8, rate=5e-3, every=2, seed=0)
    assert [row["step"] for row in run.curve] == [0, 2, 4, 6, 8]
    assert run.curve[-1]["training"] < 0.8 * run.curve[0]["training"]
    assert run.best.keys() == run.last.keys() and all("lora_" in name for name in run.best)
    model.load_state_dict(run.best, strict=False)
    lowest = min(row["validation"] for row in run.curve)
    again = -torch.cat(quality.reply_log_probs(small, talks[2:4])).mean().item()
    assert again == pytest.approx(lowest, abs=1e-4)


def test_a_weakened_adapter_lies_between(chat) -> None:
    model = compat.add_peft_lora(lm.load(bundled.verify("prisma-lm"))[0], rank=4, alpha=8).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        whole, base = layer(x), layer.base_layer(x)
        with compat.weakened_lora(model, 0.25):
            assert torch.allclose(layer(x), base + 0.25 * (whole - base), atol=1e-5)
        with compat.weakened_lora(model, 0):
            assert torch.allclose(layer(x), base)
        assert torch.allclose(layer(x), whole)


def test_the_interval_of_a_mean() -> None:
    found = bootstrap([0, 100] * 50, "points")
    assert found.value == 50 and 38 < found.low < 42 and 58 < found.high < 62


def test_the_wanted_reply_can_follow_another_prompt(chat, talks):
    own = [chat.prompt(talk.prompt) for talk in talks[:3]]
    same = quality.reply_log_probs(chat, talks[:3], own)
    for one, two in zip(same, quality.reply_log_probs(chat, talks[:3]), strict=True):
        assert torch.equal(one, two)
    other = quality.reply_log_probs(chat, talks[:3], [chat.prompt([{"role": "user", "content": "Hello."}])] * 3)
    assert [len(one) for one in other] == [len(one) for one in same] and not torch.equal(other[0], same[0])
    with pytest.raises(ValueError):
        quality.reply_log_probs(chat, talks[:3], own[:2])
