"""The lab on other ways to tune: by hand equals PEFT, the tasks are what they say, marks equal generation."""

import copy
import json

import pytest
import torch
from lessons import written_in
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils import compat
from course_utils.finetuning import peft_methods as pm
from course_utils.finetuning.lora_by_hand import parameters
from course_utils.prisma import conversations, lm, text
from course_utils.settings import MODELS


@pytest.fixture(scope="module")
def tokenizer():
    return lm.load(MODELS / lm.NAME)[1]


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rows(tokenizer):
    return pm.encode(tokenizer, pm.labels(12, 0))


@pytest.fixture(scope="module")
def lesson():
    """The methods as the notebook writes them."""
    return written_in("7.5_lab_other_peft", torch=torch, nn=nn, lm=lm)


def batch(rows):
    """Rows of several lengths, so that there is padding."""
    cut = [(ids[: len(ids) - i], kept[: len(kept) - i]) for i, (ids, kept) in enumerate(rows[:3])]
    return lm.collate(cut, pad=0)


# --- the methods


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_vectors_by_hand_equal_pefts(lesson, model, rows, kind):
    words, inputs = pm.random_words(model, 5, 1), batch(rows)
    if kind == "prompt":
        start = model.get_input_embeddings()(words)[0]
        ours, flat = lesson["SoftPrompt"](copy.deepcopy(model), start), start
    else:
        start = pm.keys_and_values(model, words)
        ours, flat = lesson["Prefix"](copy.deepcopy(model), start), start.permute(3, 0, 1, 2, 4).flatten(1)
    theirs = compat.add_virtual_tokens(copy.deepcopy(model), 5, every_layer=kind == "prefix").eval()
    (vectors,) = [p for p in theirs.parameters() if p.requires_grad]
    vectors.data.copy_(flat)
    a, b = ours(**inputs), theirs(**inputs)
    kept = inputs["attention_mask"].bool()
    longest = inputs["input_ids"].shape[1]
    assert a.logits.shape[1] == longest
    assert torch.allclose(a.logits[kept], b.logits[:, -longest:][kept], atol=1e-5)
    assert torch.allclose(a.loss, b.loss, atol=1e-5)
    assert (a.logits - model(**inputs).logits)[kept].abs().max() > 1e-3
    assert list(pm.trained(ours)) == ["vectors"]


def test_vectors_that_are_words_do_what_these_words_do(lesson, model, rows):
    words, inputs = pm.random_words(model, 4, 2), batch(rows)
    ids = torch.cat([words.expand(3, -1), inputs["input_ids"]], 1)
    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), inputs["attention_mask"]], 1)
    wanted = model(ids, attention_mask=mask).logits[:, 4:]
    kept = inputs["attention_mask"].bool()
    soft = lesson["SoftPrompt"](copy.deepcopy(model), model.get_input_embeddings()(words)[0])
    prefix = lesson["Prefix"](copy.deepcopy(model), pm.keys_and_values(model, words))
    for ours in (soft, prefix):
        assert torch.allclose(ours(inputs["input_ids"], inputs["attention_mask"]).logits[kept], wanted[kept], atol=1e-5)


def test_a_bottleneck_is_its_equation_and_starts_as_nothing(lesson):
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 8)
    layer, x = lesson["Bottleneck"](base, 3), torch.randn(5, 6)
    assert torch.equal(layer(x), base(x))
    torch.nn.init.normal_(layer.up.weight)
    y = base(x)
    hidden = torch.nn.functional.gelu(y @ layer.down.weight.T + layer.down.bias)
    assert torch.allclose(layer(x), y + hidden @ layer.up.weight.T + layer.up.bias, atol=1e-6)
    assert not base.weight.requires_grad


def test_bottlenecks_sit_behind_attention_and_network_of_each_layer(lesson, model, rows):
    before = model(**batch(rows)).logits
    adapted = lesson["add_bottlenecks"](model, 4)
    assert torch.equal(adapted(**batch(rows)).logits, before)
    # For each of 2 layers two bottlenecks: down 32 x 4 + 4, up 4 x 32 + 32.
    assert parameters(adapted)["trained"] == 2 * 2 * (32 * 4 + 4 + 4 * 32 + 32)


def test_ia3_trains_one_factor_for_each_key_value_and_hidden_unit(model):
    assert parameters(compat.add_ia3(model))["trained"] == 2 * (32 + 32 + 64)


# --- tasks


def test_calls_name_the_tool_that_answers():
    made = pm.calls(40, 3)
    assert len(made) == 40 and made == pm.calls(40, 3) != pm.calls(40, 4)
    for one in made:
        call = json.loads(one.pieces[1][0].removeprefix("<|call|>").removesuffix("<|end|>"))
        assert set(call["arguments"]) == {text.SIGNATURES[call["name"]][0]}
        assert "<|" not in pm.request(one)


def test_tickets_hide_the_topic_that_they_ask_for():
    talks = conversations.make_conversations(60)
    for talk, one in zip(talks, pm.tickets(talks), strict=True):
        assert "(topic:" in talk.message and "(topic:" not in pm.request(one)
        assert one.pieces[1][0] == f"{talk.intent} {talk.number}<|end|>"


def test_labels_and_notices_answer_the_same_requests():
    label, notice = pm.labels(30, 5), pm.notices(30, 5)
    assert [pm.request(a) for a in label] == [pm.request(b) for b in notice]
    assert all(a.pieces[1] != b.pieces[1] for a, b in zip(label, notice, strict=True))
    name = label[0].pieces[1][0].split(" - ")[0]
    assert notice[0].pieces[1][0].startswith(f"Dear {name}, the ")


def test_long_examples_are_left_out(tokenizer):
    made = pm.calls(40, 3)
    some = pm.encode(tokenizer, made, 40)
    assert 0 < len(some) < len(pm.encode(tokenizer, made, 100)) == 40
    assert all(len(ids) <= 40 for ids, _ in some)


# --- learning and measuring


def test_fit_learns_repeats_itself_and_leaves_the_frozen_alone(lesson, model, rows):
    runs, kept = [], copy.deepcopy(model.state_dict())
    for _ in range(2):
        start = model.get_input_embeddings()(pm.random_words(model, 3, 0))[0]
        ours = lesson["SoftPrompt"](copy.deepcopy(model), start)
        runs.append(pm.fit(ours, rows, 12, 0.1, seed=1, batch=4))
        assert all(torch.equal(value, kept[name]) for name, value in ours.model.state_dict().items())
    assert runs[0].losses == runs[1].losses and runs[0].losses[-1] < runs[0].losses[0]
    assert runs[0].seconds > 0 and not ours.training


def test_fit_takes_all_rows_if_there_are_few_and_wants_one_at_least(model, rows):
    assert len(pm.fit(copy.deepcopy(model), rows[:2], 3, 1e-3, seed=0, batch=8).losses) == 3
    with pytest.raises(ValueError, match="no row to learn from.*raise its limit"):
        pm.fit(model, [], 3, 1e-3, seed=0)


def test_right_says_what_generation_says(tokenizer):
    """prisma-lm itself: it knows function calls after its own prompt, and it does not know tickets."""
    prisma = lm.load(MODELS / lm.NAME)[0]
    system = tokenizer(text.turn("system", text.tool_system(list(text.SIGNATURES)))).input_ids
    known = [(system + ids, [lm.IGNORED] * len(system) + kept) for ids, kept in pm.encode(tokenizer, pm.calls(3, 1))]
    rows = known + pm.encode(tokenizer, pm.tickets(conversations.make_conversations(3)), 90)[:2]
    written = []
    for ids, kept in rows:
        start = next(i for i, label in enumerate(kept) if label != lm.IGNORED)
        prompt = torch.tensor([ids[:start]])
        more = {"max_new_tokens": len(ids) - start, "do_sample": False, "pad_token_id": 0}
        out = prisma.generate(prompt, attention_mask=torch.ones_like(prompt), **more)
        written.append(out[0, start:].tolist() == ids[start:])
    assert pm.right(prisma, rows) == written == [True] * len(known) + [False] * 2


def test_only_what_is_trained_is_stored(lesson, model, tmp_path):
    ours = lesson["add_bottlenecks"](model, 4)
    size = pm.stored(ours, tmp_path / "one.safetensors")
    read = load_file(tmp_path / "one.safetensors")
    assert set(read) == set(pm.trained(ours)) and all("down.w" in n or "up." in n or "down.b" in n for n in read)
    assert 4 * parameters(ours)["trained"] < size < 4 * parameters(ours)["trained"] + 4000


def test_adapters_are_loaded_side_by_side_and_blended(model, rows, tmp_path):
    for seed, name in enumerate(("one", "two")):
        tuned = compat.add_peft_lora(copy.deepcopy(model), rank=2, alpha=4)
        torch.manual_seed(seed)
        for key, parameter in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.1)
        tuned.save_pretrained(tmp_path / name)
    shop = compat.load_loras(copy.deepcopy(model), {n: tmp_path / n for n in ("one", "two")}).eval()
    compat.blend_loras(shop, "sum", {"one": 1.0, "two": 0.5}, "cat")
    layer = shop.base_model.model.model.layers[0].self_attn.q_proj
    change = {name: layer.get_delta_weight(name) for name in ("one", "two", "sum")}
    assert torch.allclose(change["sum"], change["one"] + 0.5 * change["two"], atol=1e-5)
    assert change["one"].abs().max() > 1e-3
    inputs = {k: v for k, v in batch(rows).items() if k != "labels"}
    with torch.no_grad():
        both = shop(**inputs, adapter_names=["one", "two", "sum"]).logits
        for i, name in enumerate(("one", "two", "sum")):
            shop.set_adapter(name)
            assert torch.allclose(shop(**inputs).logits[i], both[i], atol=1e-4)
