"""The labs on preferences: the task and its judge, raters and planted faults, DPO and GRPO equal to TRL's."""

import copy
import inspect
import random

import pytest
import torch
from lessons import text_of
from torch import nn

from course_utils import compat
from course_utils.finetuning import preferences as prefs
from course_utils.finetuning.preferences import RUDE, THANKS, Drawn, Pair, Rater
from course_utils.models import hardware, loaders


@pytest.fixture(scope="module")
def chat():
    found = loaders.load("chat", tier="bundled", say=lambda text: None)
    found.model.set_attn_implementation("eager")
    return found


@pytest.fixture(scope="module")
def some():
    """Twelve cases, and two of staff's replies to each."""
    rng, asked = random.Random(1), prefs.cases(12, 1)
    return asked, [(prefs.staff_reply(rng, case), prefs.staff_reply(rng, case)) for case in asked]


@pytest.fixture
def adapted(chat):
    """The model with an adapter that changes what it says."""
    policy = prefs.with_adapter(chat, 0)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    return policy


# --- the task and the judge


def test_cases_are_drawn_from_their_seed():
    assert prefs.cases(500, 1) == prefs.cases(500, 1) != prefs.cases(500, 2)
    numbers = [case.order.number for case in prefs.cases(400, 1)]
    assert len(set(numbers)) == 400
    assert {case.kind for case in prefs.cases(50, 1)} == set(prefs.QUESTIONS)


def test_the_best_reply_has_all_points_and_each_fault_costs():
    case = prefs.cases(1, 3)[0]
    best = f"{THANKS} {case.fact}"
    wrong = prefs.wrong_fact(random.Random(0), case)
    assert prefs.points(case, best) == 4 and all(prefs.checks(case, best).values())
    assert prefs.points(case, case.fact) == 3
    assert prefs.points(case, f"{THANKS} {wrong}") == 2
    assert not prefs.checks(case, f"{best} {wrong}")["fact"]  # a second fact would be unchecked
    assert not prefs.checks(case, f"{best} {RUDE[0]}")["courtesy"]
    assert not prefs.checks(case, f"{best} We like. We like.")["courtesy"]
    assert not prefs.checks(case, f"{best} {' '.join(prefs.EXTRAS)}")["brevity"]
    assert prefs.points(case, "") == 1


def test_a_set_of_replies_is_summed_up_by_rules_points_and_words():
    asked = prefs.cases(3, 3)
    best, bare = f"{THANKS} {asked[0].fact}", asked[1].fact
    wrong = f"{THANKS} {prefs.wrong_fact(random.Random(0), asked[2])}"
    replies = [best, bare, wrong]
    kept = prefs.rules_kept(asked, replies)
    passed = {rule: round(3 * measure.value) for rule, measure in kept.items()}
    assert passed == {"fact": 2, "courtesy": 2, "brevity": 3, "all three": 1}
    assert prefs.mean_points(asked, replies) == (4 + 3 + 2) / 3
    assert prefs.mean_words(["one", "two words", "three words here"]) == 2
    with pytest.raises(ValueError, match="shorter"):
        prefs.mean_points(asked, replies[:2])
    for summary in (prefs.rules_kept, prefs.mean_points):
        with pytest.raises(ValueError, match="no reply to judge"):
            summary([], [])


def test_wrong_facts_are_wrong_and_staff_is_what_the_lab_says():
    rng, asked = random.Random(0), prefs.cases(2000, 5)
    assert all(prefs.wrong_fact(rng, case) != case.fact for case in asked)
    passed = [prefs.checks(case, prefs.staff_reply(rng, case)) for case in asked]
    shares = {name: sum(one[name] for one in passed) / len(passed) for name in passed[0]}
    assert 0.66 < shares["fact"] < 0.74 and 0.31 < shares["courtesy"] < 0.39


# --- raters, and faults in their labels


def test_raters_prefer_what_they_value(some):
    asked, written = some
    case, rng = asked[0], random.Random(0)
    good, bad = f"{THANKS} {case.fact}", f"{prefs.wrong_fact(rng, case)} {RUDE[0]}"
    said = [Rater("A").compare(rng, case, bad, good).chosen for _ in range(50)]
    turned = [Rater("B", upside_down=True).compare(rng, case, bad, good).chosen for _ in range(50)]
    assert said.count(good) >= 48 and turned.count(bad) >= 48
    longer = f"{good} {prefs.EXTRAS[0]}"
    said = [Rater("A", length=2.0).compare(rng, case, good, longer).chosen for _ in range(200)]
    assert said.count(longer) > 150  # length alone has a value for them
    assert {pair.rater for pair in prefs.rated(asked, written, 1)} == set("ABCDE")


def test_agreement_finds_the_rater_who_is_upside_down():
    rng, asked = random.Random(2), prefs.cases(150, 2)
    written = [(prefs.staff_reply(rng, case), prefs.staff_reply(rng, case)) for case in asked]
    same = prefs.agreement(asked, written, 1)
    others = [(same[i].sum() - 1).item() / 4 for i in range(5)]
    names = [rater.name for rater in prefs.RATERS]
    assert names[others.index(min(others))] == "C" and min(others) < 0.5
    assert sorted(others)[1] > 0.55 and torch.equal(same, same.T) and same.diag().eq(1).all()


def test_balancing_leaves_length_no_say():
    case = prefs.cases(1, 1)[0]
    pairs = [Pair(case, "a b c", "a")] * 5 + [Pair(case, "a", "a b c")] * 2 + [Pair(case, "a b", "a")] * 3
    kept = prefs.balanced([*pairs, Pair(case, "a", "b")])
    assert sorted(pair.longer for pair in kept) == [-2, -2, 0, 2, 2]


def test_alike_and_flips(some):
    case = some[0][0]
    assert prefs.alike(Pair(case, "a b c d", "a b c d"))
    assert not prefs.alike(Pair(case, f"{THANKS} {case.fact}", case.fact))
    pairs = [Pair(case, str(i), "other") for i in range(10)]
    turned = prefs.with_flips(pairs, 0.3, 1)
    assert sum(a != b for a, b in zip(pairs, turned, strict=True)) == 3
    assert [pair.flipped for pair in prefs.with_flips(pairs, 1.0, 1)] == pairs


def test_win_rate_counts_ties_half():
    asked = prefs.cases(4, 1)
    best = [f"{THANKS} {case.fact}" for case in asked]
    bare = [case.fact for case in asked]
    assert prefs.win_rate(asked, best, bare).value == 1.0 and prefs.win_rate(asked, bare, best).value == 0.0
    tied = prefs.win_rate(asked, best, best)
    assert tied.value == 0.5 and tied.low < 0.5 < tied.high and tied.n == 4


# --- tokens


def test_masks_hold_the_reply_and_its_end(chat, some):
    asked, written = some
    replies = [two[0] for two in written]
    ids, mask = prefs.encode(chat, asked, replies)
    for row, on, case, reply in zip(ids, mask.bool(), asked, replies, strict=True):
        assert chat.tokenizer.decode(row[on]) == reply + chat.tokenizer.eos_token
        assert chat.tokenizer.decode(row[: int(on.nonzero()[0])]) == chat.prompt(case.messages)


def test_log_probs_are_those_of_the_model(chat, some):
    ids, mask = prefs.encode(chat, some[0][:1], [some[1][0][0]])
    with torch.no_grad():
        ours = prefs.token_log_probs(chat.model, ids, mask)
        with hardware.autocast("cpu"):  # between bfloat16 and float32 single tokens differ by up to half a nat
            logits = chat.model(ids).logits[0, :-1].float().log_softmax(-1)
    theirs = [logits[i, ids[0, i + 1]].item() * mask[0, i + 1].item() for i in range(ids.shape[1] - 1)]
    assert torch.allclose(ours[0], torch.tensor(theirs), atol=1e-5)
    assert ours[0][mask[0, 1:] == 0].eq(0).all()


def test_drawn_tokens_are_the_drawn_texts(chat, some):
    drawn = prefs.draw(chat, some[0], seed=1, room=12)
    for row, on, text in zip(drawn.ids, drawn.mask.bool(), drawn.texts, strict=True):
        assert chat.tokenizer.decode(row[on], skip_special_tokens=True) == text
    assert drawn.texts == prefs.draw(chat, some[0], seed=1, room=12).texts
    assert drawn.texts != prefs.draw(chat, some[0], seed=2, room=12).texts


def test_batches_use_each_row_once_before_any_again():
    first = torch.cat(list(prefs.batches(12, 4, 3, seed=0)))
    assert sorted(first.tolist()) == list(range(12))
    few = list(prefs.batches(3, 8, 2, seed=0))  # fewer rows than a batch: some come again within it
    assert [len(one) for one in few] == [8, 8] and set(few[0].tolist()) == {0, 1, 2}


def test_no_pairs_are_refused_with_a_cure(chat):
    for use in (prefs.encode_pairs, prefs.learn_reward):
        with pytest.raises(ValueError, match="clean the pairs less strictly"):
            use(chat, [])


# --- losses by hand


def test_dpo_loss_is_trls(chat, some, tmp_path):
    """The same batch through TRL's trainer and through ours, in fp32, to 1e-5."""
    pairs = prefs.rated(*some, seed=1)[:4]
    settings = compat.dpo_config(
        tmp_path, batch=4, steps=1, learning_rate=1e-3, beta=0.3, max_length=256, cpu=True, seed=0,
        bf16=False, fp16=False,
    )  # fmt: skip
    rows = prefs.preference_rows(pairs)
    trainer = compat.dpo_trainer(copy.deepcopy(chat.model), settings, rows, chat.tokenizer, compat.lora_config(4, 8))
    for name, weight in trainer.model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)  # else policy and reference are the same, and the loss is log 2
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
        with trainer.model.disable_adapter():
            reference = _log_probs(trainer.model, batch)
        policy = _log_probs(trainer.model, batch)
    ours = prefs.dpo_loss(policy[:4], policy[4:], reference[:4], reference[4:], beta=0.3)
    assert abs(ours - theirs) < 1e-5 and abs(ours - 0.6931) > 1e-3
    learned = {
        chat.tokenizer.decode(row[on.bool()])
        for row, on in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    }
    assert learned == {text + chat.tokenizer.eos_token for pair in pairs for text in (pair.chosen, pair.rejected)}


def _log_probs(model, batch) -> torch.Tensor:
    """Whole replies, in fp32, written a second time without the module's autocast."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    log_probs = logits[:, :-1].log_softmax(-1)
    picked = log_probs.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return (picked * batch["completion_mask"][:, 1:]).sum(1)


def test_grpo_loss_and_advantages_are_trls(adapted, some, tmp_path):
    """TRL's trainer draws, scores and weighs; its loss of that batch is ours."""
    asked, _ = some
    settings = compat.grpo_config(
        tmp_path, groups=2, size=4, steps=1, learning_rate=1e-3, beta=0.1, room=8, cpu=True, seed=0,
        bf16=False, fp16=False,
    )  # fmt: skip
    lengths = []

    def reward(completions, **_):
        lengths.extend(float(len(one[0]["content"])) for one in completions)
        return lengths[-len(completions) :]

    rows = [{"prompt": case.messages} for case in asked]
    trainer = compat.grpo_trainer(adapted.model, settings, rows, reward, adapted.tokenizer, None)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # which TRL sets when training begins
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    ours = prefs.advantages(torch.tensor(lengths).view(-1, 4)).flatten()
    assert torch.allclose(ours.sort().values, batch["advantages"].sort().values, atol=1e-5)
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        room = batch["completion_ids"].shape[1]
        logits = trainer.model(input_ids=ids, attention_mask=seen).logits[:, -room - 1 : -1].log_softmax(-1)
        new = logits.gather(-1, batch["completion_ids"][..., None]).squeeze(-1)
    old = batch["old_per_token_logps"]
    loss = prefs.grpo_loss(
        new,
        new if old is None else old,
        batch["ref_per_token_logps"],
        batch["advantages"],
        batch["completion_mask"],
        0.1,
    )
    assert abs(loss - theirs) < 1e-5


def test_grpo_clips_and_pulls_towards_the_reference():
    mask, old = torch.ones(1, 1), torch.zeros(1, 1)
    gain = torch.ones(1)

    def slope(new: float, reference: float, beta: float, advantage=gain) -> float:
        at = torch.tensor([[new]], requires_grad=True)
        prefs.grpo_loss(at, old, torch.tensor([[reference]]), advantage, mask, beta).backward()
        return at.grad.item()

    assert slope(0.0, 0.0, 0.0) == pytest.approx(-1.0)  # more of what was good
    assert slope(0.5, 0.0, 0.0) == 0.0  # far enough: a ratio of 1.65 is clipped at 1.2
    assert slope(0.5, 0.0, 0.0, -gain) > 0  # but a bad one is pushed down from wherever it is
    assert slope(0.5, 0.0, 1.0) > 0  # the divergence pulls back


def test_bradley_terry_is_dpos_loss_with_rewards():
    a, b = torch.randn(2, 5)
    zero = torch.zeros(5)
    assert torch.allclose(prefs.bradley_terry_loss(a, b), prefs.dpo_loss(a, b, zero, zero, beta=1.0))


@pytest.mark.parametrize(
    "notebook, shown",
    [
        ("7.5_lab_dpo", [prefs.dpo_loss]),
        ("7.5_lab_reinforcement_learning", [prefs.advantages, prefs.grpo_loss]),
    ],
)
def test_the_notebooks_show_this_very_code(notebook, shown):
    source = text_of(notebook)
    for function in shown:
        assert inspect.getsource(function) in source, f"{function.__name__} differs from the notebook's copy"


# --- learning


def test_imitating_staff_gives_staffs_replies_and_leaves_the_model_alone(chat):
    before = copy.deepcopy(chat.model.state_dict())
    learned = prefs.imitate(chat, seed=1, steps=25, batch=12)
    after = chat.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    texts = prefs.sample(learned, prefs.cases(40, 2), seed=1)
    assert sum(text.startswith(("Order", "Thank you")) for text in texts) > 30


def test_dpo_moves_towards_the_chosen(chat, some):
    pairs = prefs.rated(*some, seed=1)[:8]
    policy = prefs.dpo(chat, pairs, beta=0.3, seed=0, steps=8, batch=4)
    ids, mask = prefs.encode_pairs(chat, pairs)
    moved = prefs.reply_log_probs(policy.model, ids, mask) - prefs.reply_log_probs(chat.model, ids, mask)
    assert (moved[:8] - moved[8:]).mean() > 0.5
    with policy.model.disable_adapter():
        back = prefs.reply_log_probs(policy.model, ids, mask)
    assert torch.allclose(back, prefs.reply_log_probs(chat.model, ids, mask))


def test_grpo_raises_its_reward(chat):
    """A reward that is easy to reach from any model: fewer tokens."""

    def short(asked, drawn: Drawn):
        return -drawn.mask.sum(1)

    small = prefs.Round(groups=2, size=6, room=12, rate=4e-3)
    policy, log = prefs.grpo(chat, short, steps=12, seed=0, beta=0.0, each=small)
    rewards = [row["reward"] for row in log]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 1  # 4.6, 7.0 and 3.4 for three seeds
    assert len(log) == 12
    assert abs(log[0]["kl"]) < 1e-6 < log[-1]["kl"]
    assert any(weight.abs().sum() > 0 for name, weight in policy.model.named_parameters() if "lora_B" in name)


def test_a_reward_model_learns_what_raters_like(chat):
    rng, asked = random.Random(3), prefs.cases(60, 3)
    pairs = [Pair(case, f"{THANKS} {case.fact}", f"{case.fact} {rng.choice(RUDE)}") for case in asked]
    model = prefs.learn_reward(chat, pairs[:40])
    assert prefs.told_apart(model, chat, pairs[40:]).value > 0.9
    assert prefs.told_apart(model, chat, [pair.flipped for pair in pairs[40:]]).value < 0.1
