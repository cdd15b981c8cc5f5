"""prisma-lm: its tokenizer, chat template, curriculum, recipe and shipped weights."""

import itertools
import random
from functools import partial

import pytest
import torch

from course_utils.models import bundled
from course_utils.prisma import lm, text
from course_utils.prisma.shop import make_shop, open_database
from course_utils.prisma.tools import Toolbox, schemas
from course_utils.training import Deadline, MuonAdamW, run


@pytest.fixture(scope="module")
def tokenizer():
    return lm.build_tokenizer()


def test_words_digits_and_spaces_are_tokens_of_their_own(tokenizer):
    for word in text.LEXICON:
        assert len(tokenizer(word)["input_ids"]) == 1, word
    assert tokenizer.tokenize("red 482") == ["red", "Ġ", "4", "8", "2"]
    assert tokenizer.tokenize('"red"')[1] == "red"


def test_any_text_survives_the_tokenizer(tokenizer):
    for sentence in ("Überraschung, größer! 🙂", "#E1 = orders[1234]\n\ttabs", ""):
        assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence


def test_chat_template_writes_the_trained_format(tokenizer):
    step = text.Step("", "orders", "1234", "")
    call = {"name": "orders", "arguments": {"number": 1234}}
    messages = [
        {"role": "user", "content": "Where is order 1234?"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": "order 1234: shipped"},
    ]
    written = tokenizer.apply_chat_template(messages, tools=schemas(), tokenize=False, add_generation_prompt=True)
    assert written == (
        text.turn("system", text.tool_system([s["function"]["name"] for s in schemas()]))
        + text.turn("user", "Where is order 1234?")
        + text.turn("assistant", text.call_text(step.tool, step.argument))
        + text.turn("tool", "order 1234: shipped")
        + "<|assistant|>"
    )


def test_chat_template_keeps_a_system_line_without_tools(tokenizer):
    messages = [{"role": "system", "content": text.SYSTEM["steps"]}, {"role": "user", "content": "2 + 2?"}]
    written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert written == text.prompt("steps", "2 + 2?")


def test_loss_falls_on_the_models_own_words_alone(tokenizer):
    shop = make_shop(1)
    trace = text.react(random.Random(1), Toolbox(open_database(shop)), text.episode(random.Random(1), shop, "status"))
    ids, labels = lm.encode(tokenizer, trace)
    learned = tokenizer.decode([label for label in labels if label != -100])
    assert tokenizer.decode(ids) == trace.text
    assert "Thought:" in learned and "Answer:" in learned
    assert "order " in trace.text and "<|user|>" not in learned and " for " not in learned


def test_batches_are_padded_and_of_the_promised_size(tokenizer):
    batch = next(lm.batches(tokenizer, 1, text.SHARES))
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].numel() <= lm.BATCH_TOKENS
    padded = batch["attention_mask"] == 0
    assert (batch["labels"][padded] == -100).all()


def test_reading_is_the_models_own_loss_and_first_choices(tokenizer):
    model = lm.build(tokenizer).eval()
    texts = (("<|user|>Hello.<|end|><|assistant|>", "order 1234 is packed.<|end|>"), ("red cube", " and a blue ball"))
    rows = [lm.encode(tokenizer, text.Example("any", ((asked, False), (reply, True)))) for asked, reply in texts]
    with torch.no_grad():  # what it would say by itself is right, and with another end it is not
        ids = model.generate(torch.tensor([rows[1][0]]), max_new_tokens=5, do_sample=False, pad_token_id=0)[0].tolist()
    own = (ids, [lm.IGNORED] * len(rows[1][0]) + ids[len(rows[1][0]) :])
    rows += [own, (own[0][:-1] + [(ids[-1] + 1) % len(tokenizer)], own[1][:-1] + [(ids[-1] + 1) % len(tokenizer)])]
    found = lm.read(model, rows, pad=0, batch=3)
    assert [one.right for one in found][2:] == [True, False] and lm.read(model, [], pad=0) == []
    for one, (ids, labels) in zip(found, rows, strict=True):
        with torch.no_grad():
            loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
            said = lm.token_log_probs(model(torch.tensor([ids])).logits, torch.tensor([ids]))[0]
        assert one.tokens == sum(label != lm.IGNORED for label in labels[1:])
        assert one.loss == pytest.approx(loss * one.tokens, rel=1e-4)
        assert -said[-one.tokens :].sum().item() == pytest.approx(one.loss, rel=1e-4)


def test_token_rows_repeat_three_times_and_grow(tokenizer):
    rows = lm.token_rows(500, 1, lambda: 0.0)
    for batch in itertools.islice(rows, 20):
        n = batch["input_ids"].shape[1] // 3
        assert 3 <= n <= 8
        assert torch.equal(batch["input_ids"][:, :n], batch["input_ids"][:, n : 2 * n])
        assert (batch["labels"][:, :n] == -100).all()
    lengths = {b["input_ids"].shape[1] // 3 for b in itertools.islice(lm.token_rows(500, 1, lambda: 1.0), 60)}
    assert max(lengths) > 16


def small(tokenizer, monkeypatch):
    monkeypatch.setattr(lm, "BATCH_TOKENS", 512)
    model = lm.build(tokenizer)
    return model, MuonAdamW(model, lm.PEAK, lm.is_inner)


def test_a_killed_run_goes_on_from_its_checkpoint(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr("course_utils.training.BUILD", tmp_path)
    monkeypatch.setattr(lm, "BATCH_TOKENS", 512)
    point = lm.checkpoint(lm.NAME)
    model, optimiser = small(tokenizer, monkeypatch)
    keep = lambda state: point.save(model, optimiser, **state)  # noqa: E731
    lesson, learn = lm.lessons(tokenizer, 1, lambda: 0.0), partial(lm.step, model, optimiser)
    run(lm.NAME, lesson, learn, Deadline(5), {"step": 0, "spent": 0.0}, keep, most=3)
    again, fresh = small(tokenizer, monkeypatch)
    state = point.load(again, fresh)
    assert state["step"] == 3 and state["spent"] > 0
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    deadline, learn = Deadline(5, state["spent"]), partial(lm.step, again, fresh)
    assert run(lm.NAME, lesson, learn, deadline, state, lambda s: None, most=5)["step"] == 5


def test_training_lowers_the_loss(tokenizer, monkeypatch):
    model, optimiser = small(tokenizer, monkeypatch)
    batch = next(lm.batches(tokenizer, 1, {"prose": 1.0}))
    losses = [lm.step(model, optimiser, batch, 50, 0.1) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_learning_rate_warms_up_and_ends_at_zero():
    assert lm.rate(0.0, 0) < 0.05
    assert lm.rate(0.3, 1000) == 1.0
    assert lm.rate(1.0, 9000) == 0.0


def test_save_and_load_give_the_same_answers(tokenizer, tmp_path):
    model = lm.build(tokenizer).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    lm.save(model, tokenizer, tmp_path)
    loaded, again = lm.load(tmp_path)
    ids = again("Where is order 1234?", return_tensors="pt")["input_ids"]
    assert torch.equal(ids, tokenizer("Where is order 1234?", return_tensors="pt")["input_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, loaded(ids).logits)


def test_the_shipped_model_answers_with_tools():
    from course_utils.agents import react, success
    from course_utils.models import loaders

    chat, shop = loaders.load("chat", tier="bundled"), make_shop(99)
    tasks = text.episodes(24, 99, shop)
    traces = react.run_many(chat, Toolbox(open_database(shop)), [task.question for task in tasks])
    assert success.success(tasks, traces).value >= 0.7


def test_the_shipped_tokenizer_is_the_recipes(tokenizer):
    shipped = lm.load(bundled.verify("prisma-lm"))[1]
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.chat_template == tokenizer.chat_template
