"""Unit 7.5: LoRA by hand equals PEFT, 4 bits behave, training learns and resumes, memory is respected."""

import copy
import dataclasses
import inspect
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import killed
import numpy as np
import pytest
import torch
from lessons import text_of
from torch import nn

from course_utils import compat, faster
from course_utils.finetuning import checkpoints, four_bit, lora_by_hand, qlora, scoring, sft
from course_utils.finetuning.lora_by_hand import LoRALinear
from course_utils.finetuning.qlora import Recipe
from course_utils.memory import formulas, shapes, simulate
from course_utils.models import loaders, roles
from course_utils.models.hardware import Hardware, usable_dtype
from course_utils.prisma import conversations, lm

LAPTOP = Hardware("cpu", "float32", "", ram_total_gb=8, ram_free_gb=4, cores=2)
CARD = Hardware("cuda", "bfloat16", "", ram_total_gb=8, ram_free_gb=4, cores=2, gpu="card", gpu_free_gb=20)


@pytest.fixture(scope="module")
def tokenizer():
    return lm.build_tokenizer()


@pytest.fixture(scope="module")
def tiny(tokenizer, tmp_path_factory):
    """A folder with an untrained model of prisma-lm's kind, a quarter as wide and two layers deep."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, initializer_range=0.2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    lm.save(LlamaForCausalLM(config), tokenizer, folder)
    return folder


@pytest.fixture
def chat(tiny, tokenizer):
    loaders.quiet_libraries()
    model = compat.load_nf4(tiny, torch.float32, "cpu", "eager")
    return roles.Chat(loaders.greedy_by_default(model.eval()), tokenizer, "tiny", "bundled")


@pytest.fixture(scope="module")
def talks():
    parts = conversations.by_split(conversations.make_conversations(200))
    return parts | {"validation": parts["validation"][:8]}  # evaluated often: keep it short


def ids(tokenizer, n=40):
    return torch.randint(10, len(tokenizer), (2, n))


# --- LoRA by hand ---


def with_peft(model, seed=0):
    """The model with PEFT's LoRA, whose B matrices are not zero, so that it changes something."""
    peft_model = compat.add_peft_lora(copy.deepcopy(model), 8, 16).eval()
    torch.manual_seed(seed)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return peft_model


@pytest.fixture(scope="module")
def pair(tiny, tokenizer):
    """The plain model, PEFT's and ours with the same adapters."""
    plain, _ = lm.load(tiny)
    peft_model, ours = with_peft(plain), copy.deepcopy(plain)
    lora_by_hand.copy_from_peft(peft_model, lora_by_hand.add_lora(ours, 8, 16))
    return plain, peft_model, ours


def test_lora_by_hand_equals_peft(pair, tokenizer):
    plain, peft_model, ours = pair
    x = ids(tokenizer)
    with torch.no_grad():
        expected, got, before = peft_model(x).logits, ours(x).logits, plain(x).logits
    assert (expected - got).abs().max() < 1e-5
    assert (expected - before).abs().max() > 1e-2  # the adapters do something


def test_lora_gradients_equal_pefts(pair, tokenizer):
    _, peft_model, ours = pair
    x = ids(tokenizer)
    for model in (peft_model, ours):
        model.zero_grad()
        model(input_ids=x, labels=x).loss.backward()
    theirs = dict(peft_model.base_model.model.named_modules())
    for name, layer in ours.named_modules():
        if isinstance(layer, LoRALinear):
            for mine, other in ((layer.A, theirs[name].lora_A), (layer.B, theirs[name].lora_B)):
                assert (mine.grad - other["default"].weight.grad).abs().max() < 1e-5
            assert layer.base.weight.grad is None


def test_merged_weights_give_the_same_outputs(pair, tokenizer):
    _, peft_model, ours = pair
    x, merged = ids(tokenizer), copy.deepcopy(ours)
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, LoRALinear):
            merged.set_submodule(name, layer.merge())
    assert not any(isinstance(m, LoRALinear) for m in merged.modules())
    with torch.no_grad():
        beside = ours(x).logits
        rounding = 1e-5 * beside.abs().max()  # it grows with the numbers
        assert (merged(x).logits - beside).abs().max() < rounding
        theirs = copy.deepcopy(peft_model).merge_and_unload()
        assert (theirs(x).logits - merged(x).logits).abs().max() < rounding


def test_untrained_lora_changes_nothing(tiny, tokenizer):
    plain, _ = lm.load(tiny)
    ours = copy.deepcopy(plain)
    added = lora_by_hand.add_lora(ours, 4, 8)
    x = ids(tokenizer)
    with torch.no_grad():
        assert torch.equal(plain(x).logits, ours(x).logits)
    assert len(added) == 14 and not any("lm_head" in name for name in added)


def test_parameters_are_counted_as_the_formula_says(tiny, chat):
    plain, _ = lm.load(tiny)
    shape = shapes.architecture(tiny)
    assert lora_by_hand.parameters(plain)["all"] == shapes.parameter_count(shape)
    lora_by_hand.add_lora(plain, 16, 32)
    counted = lora_by_hand.parameters(plain)
    assert counted["trained"] == shapes.lora_count(shape, 16)
    assert lora_by_hand.parameters(chat.model)["all"] == shapes.parameter_count(shape)  # in 4 bits too


def test_the_notebook_shows_this_very_code():
    source = text_of("7.5_finetuning")
    for thing in (LoRALinear, four_bit.evenly_quantised):
        assert inspect.getsource(thing) in source, f"{thing.__name__} differs from the notebook's copy"


# --- 4 bits ---


def first_layer(chat):
    return chat.model.model.layers[0].mlp.up_proj


def test_nf4_is_close_and_closer_than_even_levels(chat, tiny):
    plain, _ = lm.load(tiny)
    exact = plain.model.layers[0].mlp.up_proj.weight.data
    nf4 = four_bit.dequantised(first_layer(chat)).float()
    even = four_bit.evenly_quantised(exact)

    def error(quantised):
        return ((quantised - exact).norm() / exact.norm()).item()

    assert 0.05 < error(nf4) < 0.12
    assert error(nf4) < 0.95 * error(even)
    assert len(torch.unique(nf4[0, :64])) <= 16


def test_even_levels_keep_what_lies_on_them():
    levels = torch.arange(-7, 8) / 7
    weights = torch.cat([levels, levels, levels, levels, levels[:4]])
    assert torch.allclose(four_bit.evenly_quantised(weights), weights, atol=1e-6)
    assert torch.equal(four_bit.evenly_quantised(torch.zeros(128)), torch.zeros(128))


def test_bits_are_counted_from_what_is_stored(chat):
    assert 4.1 < four_bit.stored_bits(first_layer(chat)) < 4.7  # few blocks: the last scales weigh more


def test_evaluating_first_does_not_cost_the_gradient(chat, tokenizer):
    """bitsandbytes repacks 4-bit layers when it evaluates on some CPUs, and then has no gradient for them."""

    def gradient():
        x = chat.model.get_input_embeddings()(tokens).detach().requires_grad_()
        chat.model.train()(inputs_embeds=x, labels=tokens).loss.backward()
        return x.grad

    tokens = ids(tokenizer)
    before = gradient()
    with torch.no_grad():
        chat.model.eval()(tokens)
    assert (gradient() - before).abs().max() < 1e-6
    assert before.abs().max() > 1e-6


# --- which numbers, which device ---


def test_a_t4_trains_in_fp16():
    dtype, _ = usable_dtype("cuda", (7, 5))
    t4 = dataclasses.replace(CARD, dtype=dtype, capability=(7, 5))
    assert qlora.precision(t4) == {"bf16": False, "fp16": True}
    assert four_bit.training_device(t4) == "cuda"


@pytest.mark.parametrize(
    "hardware, expected",
    [
        (CARD, {"bf16": True, "fp16": False}),
        (LAPTOP, {"bf16": False, "fp16": False}),
        (dataclasses.replace(LAPTOP, dtype="bfloat16"), {"bf16": True, "fp16": False}),
        (dataclasses.replace(LAPTOP, device="mps", dtype="float16"), {"bf16": False, "fp16": False}),
    ],
)
def test_other_machines(hardware, expected):
    assert qlora.precision(hardware) == expected


@pytest.mark.parametrize(
    "hardware, expected",
    [
        (dataclasses.replace(CARD, dtype="float16", capability=(7, 5)), ("paged_adamw_8bit", True, False, False)),
        (dataclasses.replace(CARD, capability=(8, 0)), ("paged_adamw_8bit", False, True, False)),
        (LAPTOP, ("adamw_torch", False, False, True)),
    ],
    ids=["T4", "A100", "laptop"],
)
def test_the_trainer_is_set_up_for_the_card(hardware, expected, monkeypatch, tmp_path):
    asked = {}

    def settings(folder, **options):
        asked.update(options)
        raise InterruptedError("only the settings are wanted")  # there is no card here to go on with

    monkeypatch.setattr(compat, "sft_config", settings)
    with pytest.raises(InterruptedError):
        sft.trainer_of(None, [{}], [], qlora.RECIPES["full"], hardware, tmp_path)
    assert tuple(asked[name] for name in ("optimiser", "fp16", "bf16", "cpu")) == expected
    assert asked["checkpointing"] and asked["batch"] * asked["accumulate"] == 8


def test_nf4_is_quantised_twice():
    config = compat.nf4_config(torch.float16)
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.float16


# --- memory ---


def test_a_recipe_that_fits_is_left_alone():
    recipe = qlora.RECIPES["full"]
    assert qlora.fitting(recipe, "qwen2.5-7b", 40) == recipe


def test_a_recipe_is_shrunk_to_fit():
    recipe = dataclasses.replace(qlora.RECIPES["full"], at_once=8, checkpointing=False)
    smaller = qlora.fitting(recipe, "qwen2.5-7b", 14.7)
    assert smaller.at_once < 8 and smaller.checkpointing
    assert smaller.batch == recipe.batch and smaller.learning_rate == recipe.learning_rate
    assert simulate.quick_total(qlora.trainer_step("qwen2.5-7b", smaller)) <= 14.7


def test_near_the_limit_the_trainers_own_step_is_simulated(monkeypatch):
    recipe, asked = qlora.RECIPES["full"], []
    formula = qlora.qlora_estimate("qwen2.5-7b", recipe).total
    weights = formulas.weight_bytes("qwen2.5-7b", "nf4") / shapes.GIB

    def simulated(step):
        asked.append(step)
        return 20

    monkeypatch.setattr(simulate, "quick_total", simulated)
    for far in (3 * formula, 0.4 * formula):
        assert qlora.needed_gb("qwen2.5-7b", recipe, far) == formula
    assert not asked
    near = formula - weights
    assert qlora.needed_gb("qwen2.5-7b", recipe, near, loaded=True) == pytest.approx(20 - weights)
    qlora.needed_gb("qwen2.5-7b", recipe, near, loaded=True, cuda=True)
    cpu, card = asked
    assert card.fused_head == compat.has_fused_head() and not cpu.fused_head
    assert (cpu.optimiser, card.optimiser) == ("adamw", "adamw-8bit")
    assert all(step.accumulate and step.padded for step in asked)


def test_a_t4_trains_qwen_7b_with_the_full_recipe():
    """Its weights are loaded, 14.7 GiB in all: four conversations at once, or two."""
    free = 14.7 - formulas.weight_bytes("qwen2.5-7b", "nf4") / shapes.GIB
    recipe = qlora.fitting(qlora.RECIPES["full"], "qwen2.5-7b", free, loaded=True, cuda=True)
    assert recipe.at_once >= 2 and recipe.checkpointing


def test_an_unknown_way_of_training_is_refused():
    for ask in (lambda: Recipe(learning_rate=1e-3, method="dora"), lambda: four_bit.fresh(None, "dora", LAPTOP)):
        with pytest.raises(ValueError, match="'dora'. There are lora, qlora, full"):
            ask()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"learning_rate": "2e-4"}, "without quotation marks, not '2e-4'"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0"),
        ({"learning_rate": -1e-3}, "learning_rate must be a number above 0"),
        ({"learning_rate": float("nan")}, "not nan"),
        ({"learning_rate": float("inf")}, "not inf"),
        ({"learning_rate": True}, "not True"),
        ({"learning_rate": None}, "not None"),
        ({"epochs": 0}, "epochs must be"),
        ({"epochs": float("nan")}, "epochs must be"),
        ({"epochs": "3"}, "epochs must be"),
        ({"conversations": 0}, "conversations must be a whole number of at least 1"),
        ({"conversations": 12.5}, "conversations must be"),
        ({"batch": 8.0}, "batch must be a whole number"),
        ({"batch": True}, "batch must be"),
        ({"batch": -8}, "batch must be"),
        ({"at_once": 0}, "at_once must be"),
        ({"max_length": 0}, "max_length must be"),
        ({"rank": 0}, "rank must be"),
        ({"rank": "16"}, "rank must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"measured": 0}, "measured must be"),
        ({"checkpointing": "no"}, "checkpointing must be True or False"),
        ({"batch": 6, "at_once": 4}, "6 can't be made of 4 conversations at once. The nearest .* is 3"),
        ({"batch": 4, "at_once": 16}, "The nearest at_once that works is 4"),
        ({"batch": 7, "at_once": 3}, "is 1"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused_at_once(wrong, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**{"learning_rate": 1e-3} | wrong)


def test_numbers_of_numpy_are_numbers():
    recipe = Recipe(learning_rate=np.float32(0.5), batch=np.int64(4), at_once=np.int32(2), epochs=np.float64(1))
    assert recipe == Recipe(learning_rate=0.5, batch=4, at_once=2)
    assert type(recipe.batch) is int and type(recipe.learning_rate) is float


@pytest.mark.parametrize("batch, room, expected", [(5, 4, 1), (12, 5, 4), (16, 16, 16), (16, 7, 4), (7, 1, 1)])
def test_shrinking_a_recipe_keeps_its_batch(monkeypatch, batch, room, expected):
    recipe = Recipe(learning_rate=1e-3, batch=batch, at_once=batch)
    monkeypatch.setattr(qlora, "needed_gb", lambda model, smaller, *_: smaller.at_once)
    smaller = qlora.fitting(recipe, "qwen2.5-7b", room)
    assert (smaller.batch, smaller.at_once, smaller.steps) == (batch, expected, recipe.steps)


def test_too_little_memory_is_refused():
    with pytest.raises(qlora.NotEnoughMemoryError, match="COURSE_TIER=bundled"):
        qlora.fitting(qlora.RECIPES["full"], "qwen2.5-7b", 5)


def test_weights_that_are_loaded_are_not_counted_twice():
    recipe = qlora.RECIPES["full"]
    assert qlora.fitting(recipe, "qwen2.5-7b", 9, loaded=True).at_once >= 1
    with pytest.raises(qlora.NotEnoughMemoryError):
        qlora.fitting(recipe, "qwen2.5-7b", 7)


def test_fp32_embeddings_are_counted():
    """PEFT makes them 4 bytes: 2 GiB more for Qwen2.5's vocabulary."""
    ours = qlora.qlora_estimate("qwen2.5-7b", qlora.RECIPES["full"])
    in_16_bits = formulas.weight_bytes("qwen2.5-7b", "nf4") / shapes.GIB
    assert 1.9 < ours.weights - in_16_bits < 2.2


def test_the_reader_is_told_what_was_changed(chat, capsys):
    recipe = Recipe(learning_rate=1e-3, at_once=16, max_length=8192, checkpointing=True)
    tight = dataclasses.replace(LAPTOP, ram_free_gb=2)
    smaller = qlora.adapted(recipe, chat, tight)
    assert smaller.at_once < 16 and "Only 2.0 GiB are free" in capsys.readouterr().out


# --- training ---


RECIPE = Recipe(learning_rate=1e-2, conversations=40, batch=4, at_once=4, epochs=1)  # ten steps


@pytest.fixture
def trainer(chat, talks, tmp_path):
    return sft.make_trainer(chat, talks, RECIPE, LAPTOP, tmp_path)


def test_the_loss_falls_on_the_reply_alone(trainer, tokenizer, talks):
    """Token by token: everything up to the assistant's mark is masked, the reply and its end are not."""
    talk, row = talks["train"][0], trainer.train_dataset[0]
    batch = trainer.data_collator([row, trainer.train_dataset[1]])
    read = batch["attention_mask"][0] == 1
    ids, labels = batch["input_ids"][0][read], batch["labels"][0][read]
    masked = labels == -100
    assert ids.tolist() == row["input_ids"]
    assert tokenizer.decode(ids[~masked]) == talk.reply + "<|end|>"
    assert tokenizer.decode(ids[masked]).endswith("<|assistant|>") and talk.message in tokenizer.decode(ids[masked])
    assert torch.equal(labels[~masked], ids[~masked])
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_the_trainer_reads_what_the_model_will_be_asked(trainer, tokenizer, talks, chat):
    row, talk = trainer.train_dataset[0], talks["train"][0]
    prompt = tokenizer(chat.prompt(talk.prompt), add_special_tokens=False)["input_ids"]
    assert row["input_ids"][: len(prompt)] == prompt


def lengths(tokenizer, some):
    """Tokens of the prompt and of the whole conversation, for each."""
    whole = [tokenizer.apply_chat_template(talk.messages, tokenize=False) for talk in some]
    asked = [tokenizer.apply_chat_template(talk.prompt, tokenize=False, add_generation_prompt=True) for talk in some]
    return [[len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] for texts in (asked, whole)]


def test_conversations_that_are_too_long_are_counted_and_the_trainer_drops_no_others(chat, talks, tmp_path, capsys):
    short = dataclasses.replace(talks["train"][0], facts=(), message="hello")
    talks = talks | {"train": [short, *talks["train"][1:]]}
    asked, whole = lengths(chat.tokenizer, talks["train"][:40])
    limit = sorted(asked)[-3]
    long, lost = sum(n > limit for n in whole), sum(n >= limit for n in asked)
    assert 3 <= lost < long < 40
    recipe = dataclasses.replace(RECIPE, max_length=limit)
    talks = talks | {"validation": [short]}
    trainer = sft.make_trainer(chat, talks, recipe, LAPTOP, tmp_path)
    said = capsys.readouterr().out
    assert f"{long} of 40 conversations for training are longer than max_length={limit} tokens" in said
    assert f"{long - lost} are cut" in said and f"of {lost} nothing of the reply is left" in said
    assert f"max_length={max(whole)} takes them all" in said
    assert len(trainer.train_dataset) == 40 - lost
    assert max(len(row["input_ids"]) for row in trainer.train_dataset) == limit


def test_conversations_that_are_all_too_long_are_refused(chat, talks, tmp_path):
    _, whole = lengths(chat.tokenizer, talks["train"][:40])
    for limit in (1, min(whole) - 1):
        recipe = dataclasses.replace(RECIPE, max_length=limit)
        with pytest.raises(ValueError, match=f"All 40 .*max_length={min(whole)} takes .*max_length={max(whole)} takes"):
            sft.make_trainer(chat, talks, recipe, LAPTOP, tmp_path)


def test_too_few_conversations_are_said_and_none_are_refused(chat, talks, tmp_path, capsys):
    few = talks | {"train": talks["train"][:6]}
    trainer = sft.make_trainer(chat, few, RECIPE, LAPTOP, tmp_path)
    assert "asks for 40 conversations; there are 6" in capsys.readouterr().out
    assert trainer.run_record["steps"] == 2
    for empty in ("train", "validation"):
        with pytest.raises(ValueError, match="There is no conversation for"):
            sft.make_trainer(chat, talks | {empty: []}, RECIPE, LAPTOP, tmp_path)


def test_adapters_are_fp32_and_everything_else_is_frozen(trainer):
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    layer = trainer.model.base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.dtype == torch.uint8


def test_training_lowers_both_losses(trainer):
    sft.train(trainer)
    found = sft.curves(trainer)
    assert found["training"][-1][1] < 0.8 * found["training"][0][1]
    assert found["validation"][-1][1] < found["validation"][0][1]
    assert [step for step, _ in found["training"]] == sorted(step for step, _ in found["training"])
    assert trainer.state.global_step == RECIPE.steps == 10


def test_each_curve_is_drawn_under_its_name() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    sft.draw_curves(ax, {"training": [(1, 2.0), (2, 1.0)], "validation": [(2, 1.5)]})
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn == {"training": [[1, 2.0], [2, 1.0]], "validation": [[2, 1.5]]}
    assert [line.get_marker() for line in ax.lines] == ["None", "o"]  # a single measurement is seen, too


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The curves of the run that the next tests interrupt."""
    whole = killed.trainer(tiny, tmp_path_factory.mktemp("whole"))
    sft.train(whole)
    return sft.curves(whole)


def interrupting(step):
    """Ctrl-C, or the button in Jupyter, after `step`."""
    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == step:
                raise KeyboardInterrupt

    return Interrupt()


@pytest.fixture(scope="module")
def interrupted(tiny, tmp_path_factory):
    """The folder of a run that ended in step 7, with its checkpoints after 4 and 6."""
    folder = tmp_path_factory.mktemp("interrupted")
    first = killed.trainer(tiny, folder)
    first.add_callback(interrupting(7))
    with pytest.raises(KeyboardInterrupt):
        sft.train(first)
    return folder


def largest_gap(one, other):
    """The largest distance of two curves with the same steps."""
    assert dict(one).keys() == dict(other).keys()
    return max(abs(dict(one)[step] - dict(other)[step]) for step in dict(one))


@pytest.mark.parametrize(
    "changed, damaged, start",
    [({}, None, 6), ({"at_once": 4, "checkpointing": True}, None, 6), ({}, "optimizer.pt", 4)],
    ids=["as it was", "with other memory", "with a damaged optimiser"],
)
def test_an_interrupted_run_goes_on_to_the_same_end(
    tiny, undisturbed, interrupted, tmp_path, capsys, changed, damaged, start
):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    if damaged:
        path = folder / "checkpoint-6" / damaged
        path.write_bytes(path.read_bytes()[:-100])
    second = killed.trainer(tiny, folder, dataclasses.replace(killed.RECIPE, **changed))
    sft.train(second)
    said = capsys.readouterr().out
    assert f"Going on from checkpoint-{start}" in said and ("is damaged: optimizer.pt" in said) == bool(damaged)
    curves = sft.curves(second)
    assert largest_gap(undisturbed["training"], curves["training"]) < 1e-3
    if not changed:  # the validation loss is a mean over batches, and they have another size
        assert largest_gap(undisturbed["validation"], curves["validation"]) < 1e-3


CHANGES = {
    "learning_rate: 0.01 then, 0.02 now": {"learning_rate": 2e-2},
    "rank: 16 then, 2 now": {"rank": 2},
    "method: qlora then, full now": {"method": "full"},
    "training data: ": {},
}


@pytest.mark.parametrize("said", CHANGES)
def test_another_recipe_in_the_same_folder_starts_anew(chat, tiny, talks, interrupted, tmp_path, capsys, said):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    recipe = dataclasses.replace(killed.RECIPE, conversations=10, measured=1, **CHANGES[said])
    if recipe.method == "full":
        chat = dataclasses.replace(chat, model=lm.load(tiny)[0])
    other = talks | {"train": talks["train"][10:]}
    trainer = sft.make_trainer(chat, other, recipe, LAPTOP, folder)
    sft.train(trainer)
    told = capsys.readouterr().out
    assert said in told and "starts anew" in told and "Going on" not in told
    assert trainer.state.global_step == recipe.steps == 3
    assert [step for step, _ in sft.curves(trainer)["training"]] == [1, 2, 3]
    assert sorted(path.name for path in (folder / "earlier-1").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_every_setting_that_changes_the_result_makes_another_run(chat, talks):
    """The last of these, a tenth of an epoch, also where the number of steps stays the same."""
    rows = sft.rows(talks["train"][:4])

    def record(**changed):
        recipe = dataclasses.replace(RECIPE, **changed)
        return sft.run_record(chat, rows, rows, recipe, LAPTOP)

    others = {"learning_rate": 2e-2, "conversations": 36, "epochs": 2, "batch": 8, "max_length": 256, "rank": 2}
    others |= {"alpha": 8, "seed": 8, "method": "lora", "measured": 2}
    memory = {"at_once": 2, "checkpointing": True}
    assert {field.name for field in dataclasses.fields(RECIPE)} == others.keys() | memory.keys()
    for name, value in others.items():
        if name == "batch":
            assert record(batch=8, at_once=8) != record()
        else:
            assert record(**{name: value}) != record(), name
    assert record(**memory) == record() and record(epochs=0.95) != record()


def test_a_finished_run_is_said_to_be_one(tiny, tmp_path, capsys):
    recipe = dataclasses.replace(killed.RECIPE, conversations=4, measured=1)
    curves = []
    for _ in range(2):
        trainer = killed.trainer(tiny, tmp_path, recipe)
        sft.train(trainer)
        curves.append(sft.curves(trainer))
    assert "This run is finished: checkpoint-1 is its result" in capsys.readouterr().out
    assert curves[0] == curves[1]


def test_interrupted_before_its_first_checkpoint_a_run_starts_over(tiny, undisturbed, tmp_path):
    trainer = killed.trainer(tiny, tmp_path)
    interrupt = interrupting(1)
    trainer.add_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        sft.train(trainer)
    trainer.remove_callback(interrupt)
    sft.train(trainer)
    assert largest_gap(undisturbed["training"], sft.curves(trainer)["training"]) < 1e-3


def test_weights_that_are_trained_in_part_are_not_trained_as_if_they_were_new(tmp_path):
    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=tmp_path),
        run_record={"steps": 9},
        state=SimpleNamespace(global_step=3),
        untrained=None,
    )
    with pytest.raises(ValueError, match="make the trainer again"):
        sft.train(trainer)


def test_an_adapter_is_saved_and_loaded_without_a_warning(tiny, tmp_path):
    """PEFT looks for the configuration of the model below, and says so where it finds none."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_peft(lm.load(tiny)[0]).save_pretrained(tmp_path / "adapter")
        compat.load_lora(lm.load(tiny)[0], tmp_path / "adapter")


def test_adapters_of_an_earlier_trainer_are_taken_out(tiny, tokenizer):
    plain, x = lm.load(tiny)[0], ids(tokenizer)
    used = copy.deepcopy(plain)
    compat.add_peft_lora(used, 8, 16)
    assert checkpoints.weights_mark(used) != checkpoints.weights_mark(plain)
    bare = compat.without_adapters(used)
    assert bare.state_dict().keys() == plain.state_dict().keys()
    assert checkpoints.weights_mark(bare) == checkpoints.weights_mark(plain)
    with torch.no_grad():
        assert torch.equal(bare(x).logits, plain(x).logits)


def killed_run(tiny, folder, step, when):
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tiny), str(folder), str(step), when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    return done.stdout


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_run_killed_twice_resumes_to_the_same_curves(tiny, undisturbed, tmp_path, capsys):
    """Once at a random step, and once while it writes a checkpoint; against a run that nobody disturbs."""
    cut, step = tmp_path / "cut", random.randint(3, 6)
    killed_run(tiny, cut, step, "in-step")
    assert f"Going on from checkpoint-{step - step % 2}" in killed_run(tiny, cut, 8, "while-saving")
    assert (cut / "checkpoint-10").is_dir() and checkpoints.fault(cut / "checkpoint-10")
    last = killed.trainer(tiny, cut)
    sft.train(last)
    said = capsys.readouterr().out
    assert "checkpoint-10 was not finished" in said and "Going on from checkpoint-8" in said
    for name, points in undisturbed.items():
        again = dict(sft.curves(last)[name])
        assert again.keys() == dict(points).keys() and len(points) >= 6
        assert max(abs(again[at] - loss) for at, loss in points) < 1e-3
    losses = [loss for _, loss in undisturbed["training"]]
    assert max(losses) - min(losses) > 0.05  # there is something to get wrong


@pytest.mark.parametrize("between, expected", [(1, (1, 1)), (7, (1, 7)), (11, (2, 10)), (60, (12, 60))])
def test_a_checkpoint_comes_with_a_logged_loss(tmp_path, between, expected):
    settings = compat.sft_config(
        tmp_path, batch=1, accumulate=1, learning_rate=1e-3, epochs=1, max_length=64, steps_between=between,
        checkpointing=False, optimiser="adamw_torch", bf16=False, fp16=False, cpu=True, seed=7,
    )  # fmt: skip
    assert (settings.logging_steps, settings.save_steps) == expected
    assert settings.eval_steps == settings.save_steps


# --- before and after ---


def test_at_the_quick_pace_replies_are_short(monkeypatch, talks):
    asked = []
    chat = SimpleNamespace(prompt=str, complete_many=lambda prompts, max_new_tokens: asked.append(max_new_tokens))
    monkeypatch.delenv("COURSE_PACE", raising=False)
    scoring.replies(chat, talks["test"])
    monkeypatch.setenv("COURSE_PACE", "quick")
    scoring.replies(chat, talks["test"])
    assert asked == [120, 16]


def test_score_counts_what_was_written(talks):
    some = talks["test"][:20]
    right = [t.reply for t in some]
    perfect = scoring.score(some, right)
    assert all(m.value == 1 for m in perfect.values())
    wrong = [t.reply if i % 2 else t.reply.replace("kind", "best") for i, t in enumerate(some)]
    half = scoring.score(some, wrong)
    assert half["all"].value == half["sign-off"].value == 0.5 and half["name"].value == 1
    assert half["all"].low < 0.5 < half["all"].high


def test_replies_come_in_the_order_of_the_questions(chat, talks):
    some = random.Random(3).sample(talks["test"], 3)
    together = scoring.replies(chat, some)
    assert len(together) == 3
    assert together[2] == scoring.replies(chat, some[2:])[0]


def test_the_trained_adapter_moves_to_the_unquantised_model(trainer, chat, tiny, tokenizer, tmp_path):
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.05)
    plain, _ = lm.load(tiny)
    unit = SimpleNamespace(load=lambda role: roles.Chat(plain, tokenizer, "tiny", "bundled"))
    trained = dataclasses.replace(chat, model=trainer.model.eval())
    moved = four_bit.for_merging(unit, trained, tmp_path / "adapter")
    x = ids(tokenizer)
    with torch.no_grad():
        exact, beside = trained.model(x).logits, moved.model(x).logits
        moved.model.merge_adapter()
        merged = moved.model(x).logits
    assert (merged - beside).abs().max() < 1e-5 * beside.abs().max()  # rounding grows with the numbers
    lost = (exact - beside).abs().mean() / beside.abs().mean()
    assert 0 < lost < 0.75  # what quantising did to the base


def test_reply_times_come_in_pairs_and_leave_the_model_as_it_was(pair, tokenizer):
    _, peft_model, _ = pair
    chat = roles.Chat(loaders.greedy_by_default(copy.deepcopy(peft_model)), tokenizer, "tiny", "bundled")
    x = ids(tokenizer)
    before = chat.model(x).logits
    taken = scoring.reply_times(chat, "order 4821", rounds=2, tokens=4)
    assert [len(t) for t in taken.values()] == [2, 2] and all(min(t) > 0 for t in taken.values())
    assert (chat.model(x).logits - before).abs().max() < 1e-4


# --- the head on a CPU ---


@pytest.mark.skipif(not compat.has_fused_head(), reason="this TRL takes all scores at once by itself")
def test_all_scores_at_once_train_as_trls_pieces_do(tiny, tokenizer):
    model, found = lm.load(tiny)[0], []
    compat.add_fused_head(model)
    text = ids(tokenizer)
    labels = text.masked_fill(torch.arange(text.shape[1]) < 8, -100)
    for way in (nullcontext, faster.whole_scores):
        with way():
            out = model(input_ids=text, labels=labels, fused_lm_head=True)
        (gradient,) = torch.autograd.grad(out.loss, model.model.layers[0].mlp.up_proj.weight)
        found.append((out.loss, out.log_probs, out.entropy, out.is_top1, gradient))
    theirs, ours = found
    assert all(torch.allclose(a.float(), b.float(), atol=1e-5) for a, b in zip(theirs, ours, strict=True))
    plain = model(input_ids=text, labels=labels).loss
    assert torch.allclose(plain, ours[0], atol=1e-5) and ours[4].abs().max() > 1e-3


@pytest.mark.skipif(not compat.has_fused_head(), reason="this TRL takes all scores at once by itself")
def test_only_training_on_a_cpu_takes_all_scores_at_once(trainer, monkeypatch):
    from trl.trainer import utils

    def refuse(*_):
        raise AssertionError("in pieces")

    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", SimpleNamespace(apply=refuse))
    assert math.isfinite(trainer.train().training_loss)
    for device, temperature in (("cpu", 0.5), ("meta", 1)):  # scores that are scaled down, and elsewhere
        one = torch.ones(1, 1, device=device)
        with faster.whole_scores(), pytest.raises(AssertionError, match="in pieces"):
            utils._ChunkedLogProbFunction.apply(one, one, None, None, temperature, 32768, None, 1.0, ("log_probs",))


# --- adapters and checkpointing ---


def products(model, projection="down_proj"):
    """A list that grows with every product of the 4-bit matrices of this name."""
    made = []
    for name, layer in model.named_modules():
        if name.endswith(f"{projection}.base_layer"):
            layer.register_forward_hook(lambda *_: made.append(1))
    return made


@pytest.mark.parametrize("autocast", [True, False])
def test_the_adapter_before_its_matrix_gives_the_same_numbers_and_repeats_less(chat, tokenizer, autocast):
    model = with_peft(compat.prepare_for_training(chat.model)).train()
    compat.checkpoint(model)
    x, found, made = ids(tokenizer), [], [products(model), products(model, "up_proj")]
    for way in (nullcontext, faster.adapter_first):
        model.zero_grad()
        with way(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=x, labels=x, use_cache=False).loss
            loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
        made += [len(part) for part in made[:2]]
    theirs, ours = found
    assert torch.equal(theirs[0], ours[0])
    for a, b in zip(theirs[1:], ours[1:], strict=True):  # several products read the same input: its gradients are
        assert (a - b).abs().max() < 1e-5 * a.abs().max()  # added in another order
    assert all(gradient.abs().max() > 1e-4 for gradient in ours[1:])
    # Two blocks, forward and again, and after them the other way: the last product of each block once.
    assert made[2:] == [4, 4, 4 + 2, 4 + 4]


def test_adapters_that_are_off_or_several_are_left_to_peft(chat, tokenizer):
    model, x = with_peft(compat.prepare_for_training(chat.model)), ids(tokenizer)
    model.add_adapter("second", compat.lora_config(8, 16))
    outputs = []
    for way in (nullcontext, faster.adapter_first):
        with way(), torch.no_grad():
            model.base_model.set_adapter("default")
            outputs.append([model(x).logits])
            model.base_model.set_adapter(["default", "second"])
            outputs[-1].append(model(x).logits)
            with model.disable_adapter():
                outputs[-1].append(model(x).logits)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert not torch.equal(outputs[0][0], outputs[0][2])


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_trainer_repeats_a_block_without_its_last_product(chat, talks, tmp_path, checkpointing):
    recipe = Recipe(learning_rate=1e-3, conversations=2, batch=2, at_once=2, measured=1, checkpointing=checkpointing)
    trainer = sft.make_trainer(chat, talks, recipe, LAPTOP, tmp_path)
    made = [products(trainer.model), products(trainer.model, "up_proj")]
    trainer.evaluate()
    evaluated = len(made[0])
    trainer.train()
    last, others = (len(part) - 2 * evaluated for part in made)  # it is evaluated once more after the step
    assert (last, others) == ((2, 4) if checkpointing else (2, 2))


def test_the_order_does_not_change_the_simulated_peak():
    shape = dataclasses.replace(shapes.architecture("mistral-7b"), layers=2)
    step = qlora.trainer_step(shape, dataclasses.replace(qlora.RECIPES["full"], max_length=256))
    with faster.adapter_first():
        ours = simulate.run.__wrapped__(step).peak
    assert ours == pytest.approx(simulate.run(step).peak, rel=1e-3)
