"""The solutions of Unit 7.5's exercises against PEFT, bitsandbytes and TRL; and their inputs against rounding."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from course_utils import compat
from course_utils.exercises import diagnosis, registry
from course_utils.exercises.unit_7_5 import solutions as reference
from course_utils.finetuning import data_quality, preferences, sft
from course_utils.models import bundled
from course_utils.models.layers import linear_layers
from course_utils.prisma import conversations, lm

LEVELS = reference.NF4_LEVELS


def tiny_model(tokenizer, seed: int):
    """An untrained model of prisma-lm's kind, two layers deep."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, initializer_range=0.2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def tokenizer():
    return lm.build_tokenizer()


@pytest.fixture(scope="module")
def talks():
    return conversations.make_conversations(20)


# --- LoRA and merge against PEFT


@pytest.fixture(scope="module")
def adapted():
    """One layer with PEFT's adapter, whose B is not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 40, bias=False))
    made = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=["0"]))
    layer = made.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer.requires_grad_(False)


def parts(layer) -> tuple:
    return layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight, 16


def test_lora_is_pefts(adapted) -> None:
    x = torch.randn(3, 5, 24)
    ours = reference.lora_forward(x, *parts(adapted))
    assert torch.allclose(ours, adapted(x), atol=1e-5) and not torch.allclose(ours, adapted.base_layer(x), atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_merging_is_pefts(adapted, dtype) -> None:
    """In 16 bits PEFT rounds the change, and then the sum: we may differ by one step of the format."""
    layer = copy.deepcopy(adapted)
    layer.base_layer.weight.data = layer.base_layer.weight.data.to(dtype)
    before = layer.base_layer.weight.clone()
    ours = reference.merge(*parts(layer))
    layer.merge()
    assert ours.dtype == dtype and not torch.equal(ours, before)
    steps = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps * ours.abs().max().item()
    assert (ours.float() - layer.base_layer.weight.float()).abs().max() <= steps


def test_the_merge_exercise_is_far_from_ties() -> None:
    """Another order of the sums must not turn a rounding."""
    seen = []

    class Watched(diagnosis.Attempt):
        """Calls the reference here, where `check` would refuse it."""

        def __call__(self, *inputs):
            seen.append(inputs)
            return exercise.reference(*inputs)

    exercise = registry.exercise("7.5.merge")
    exercise.examine(Watched(exercise.reference, exercise.stub))
    weight, A, B, alpha = next(inputs for inputs in seen if inputs[0].dtype == torch.bfloat16)
    exact = weight.double() + alpha / len(A) * B.double() @ A.double()
    rounded = reference.merge(weight, A, B, alpha).double()
    half = 2.0 ** (exact.abs().log2().floor() - 8)  # bfloat16 has 8 binary digits
    assert ((exact - rounded).abs() < half).all()
    assert ((half - (exact - rounded).abs()) > 1e-5).all()


# --- NF4 against bitsandbytes


def bitsandbytes_codes(weights, **settings):
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(weights, blocksize=64, quant_type="nf4", **settings)


def test_the_levels_are_bitsandbytes() -> None:
    from bitsandbytes.functional import get_4bit_type

    assert torch.equal(get_4bit_type("nf4", device="cpu"), LEVELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["normal", "uniform", "zeros", "outliers", "tiny"])
def test_codes_and_numbers_are_bitsandbytes_bit_for_bit(kind: str, dtype) -> None:
    from bitsandbytes.functional import dequantize_4bit

    weights = {
        "normal": lambda: torch.randn(64 * 4000) * 0.02,
        "uniform": lambda: torch.rand(64 * 4000) * 2 - 1,
        "zeros": lambda: torch.randn(64 * 40).reshape(40, 64) * (torch.arange(40) % 3 > 0)[:, None],
        "outliers": lambda: torch.randn(64 * 400) * torch.where(torch.rand(64 * 400) < 0.01, 100, 1),
        "tiny": lambda: torch.randn(64 * 400) * 1e-6,
    }[kind]()
    weights = weights.flatten().to(dtype)
    theirs, state = bitsandbytes_codes(weights)
    ours = reference.nf4_quantise(weights, LEVELS)
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs.flatten())
    back = reference.nf4_dequantise(ours, state.absmax, LEVELS)
    assert torch.equal(back.to(dtype), dequantize_4bit(theirs, state).flatten())
    assert torch.equal(state.absmax, weights.float().view(-1, 64).abs().amax(1))


def test_prisma_lms_own_weights_are_quantised_bit_for_bit() -> None:
    """Every 4-bit layer that transformers makes of the bundled model holds our codes."""
    folder = bundled.verify("prisma-lm")
    plain = linear_layers(lm.load(folder)[0])
    quantised = compat.load_nf4(folder, torch.float32, "cpu", "eager")
    compared = 0
    for name, layer in plain.items():
        theirs = quantised.get_submodule(name).weight.data.flatten()
        assert torch.equal(reference.nf4_quantise(layer.weight.data.flatten(), LEVELS), theirs)
        compared += len(theirs)
    assert compared > 2_000_000


def test_the_quantising_exercise_is_far_from_ties() -> None:
    """Dividing, or multiplying by the inverse, or comparing distances: all must find the same level."""
    middles, sizes = (LEVELS[1:] + LEVELS[:-1]) / 2, torch.tensor([0.02, 3.0, 0.5, 1.0]).repeat_interleave(64)
    drawn = torch.randn(256, generator=torch.Generator().manual_seed(4)) * sizes
    for weights, block in ((torch.tensor([0.5, -1.0, 0.1, -2.0, 0.05, 0.015, -0.03, 0.035]), 4), (drawn, 64)):
        blocks = weights.view(-1, block)
        scaled = blocks / blocks.abs().amax(1, keepdim=True)
        assert (scaled.flatten()[:, None] - middles).abs().min() > 1e-5


# --- labels and loss against transformers and TRL


def test_labels_are_trls(tokenizer, talks, tmp_path) -> None:
    trainer = sft_trainer(tokenizer, talks, tmp_path)
    opens, ends = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    for row in list(trainer.train_dataset)[:10]:
        batch = trainer.data_collator([row])  # a row holds labels or a mask, as TRL's version has it
        made = reference.loss_labels(batch["input_ids"][0], opens, ends)
        assert torch.equal(made, batch["labels"][0])


def sft_trainer(tokenizer, talks, folder):
    settings = compat.sft_config(
        folder, batch=4, accumulate=1, learning_rate=1e-3, epochs=1, max_length=512, steps_between=5,
        checkpointing=False, optimiser="adamw_torch", bf16=False, fp16=False, cpu=True, seed=0,
    )  # fmt: skip
    rows = sft.rows(talks)
    return compat.sft_trainer(
        tiny_model(tokenizer, 0), settings, rows[:-2], rows[-2:], tokenizer, compat.lora_config(4, 8), []
    )


def test_the_model_itself_compares_each_place_with_the_next_label(tokenizer) -> None:
    """That is what the exercise tells whoever shifts the labels."""
    model = tiny_model(tokenizer, 1).eval()
    ids = torch.tensor([[2, 40, 1, 4, 50, 60, 1]])
    labels = reference.loss_labels(ids[0], 4, 1)[None]
    with torch.no_grad():
        out = model(ids, labels=labels)
    by_hand = F.cross_entropy(out.logits[0, 3:6], ids[0, 4:7])
    assert out.loss.item() == pytest.approx(by_hand.item(), abs=1e-5)


# --- DPO against TRL


@pytest.fixture
def dpo_trainer(tokenizer, talks, tmp_path):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = []
    for talk, other in zip(talks[:4], talks[4:8], strict=True):
        reply = [{"role": "assistant", "content": talk.reply}]
        rejected = [{"role": "assistant", "content": other.reply.split(".")[0]}]
        rows.append({"prompt": talk.prompt, "chosen": reply, "rejected": rejected})
    with compat.peft_ready():
        settings = DPOConfig(
            output_dir=str(tmp_path), beta=0.3, per_device_train_batch_size=4, max_length=512, use_cpu=True, bf16=False,
            report_to="none", disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
        )  # fmt: skip
        return DPOTrainer(
            model=tiny_model(tokenizer, 2),
            ref_model=tiny_model(tokenizer, 3),
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )


def log_probabilities(model, batch):
    """Of each token of the replies given those before it, 0 elsewhere: (n, tokens - 1)."""
    ids, mask = batch["input_ids"], batch["completion_mask"]
    logits = model(input_ids=ids, attention_mask=batch["attention_mask"]).logits[:, :-1]
    return logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0] * mask[:, 1:]


def test_the_dpo_loss_is_trls(dpo_trainer) -> None:
    batch = next(iter(dpo_trainer.get_train_dataloader()))
    dpo_trainer.model.eval()
    with torch.no_grad():
        theirs = dpo_trainer.compute_loss(dpo_trainer.model, dict(batch)).item()
        after, before = (log_probabilities(model, batch) for model in (dpo_trainer.model, dpo_trainer.ref_model))
    (chosen, rejected), (chosen_before, rejected_before) = after.chunk(2), before.chunk(2)
    ours = reference.dpo_loss(chosen, rejected, chosen_before, rejected_before, 0.3).item()
    assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    lengths = batch["completion_mask"].sum(1)
    assert abs(ours - 0.6931) > 0.05 and len(lengths.unique()) > 1  # models differ, and so do lengths


def test_dpo_starts_at_log_2_and_prefers_the_chosen() -> None:
    start = [-torch.rand(6, n) for n in (9, 5)]
    assert reference.dpo_loss(*start, *start, 0.1).item() == pytest.approx(0.6931472, abs=1e-6)
    chosen = start[0].clone().requires_grad_()
    rejected = start[1].clone().requires_grad_()
    reference.dpo_loss(chosen, rejected, *start, 0.1).backward()
    assert (chosen.grad < 0).all() and (rejected.grad > 0).all()


def test_the_solution_takes_tokens_where_the_lab_takes_whole_replies() -> None:
    chosen, rejected, chosen_before, rejected_before = (-torch.rand(6, n) for n in (9, 5, 9, 5))
    ours = reference.dpo_loss(chosen, rejected, chosen_before, rejected_before, 0.3)
    whole = [one.sum(1) for one in (chosen, rejected, chosen_before, rejected_before)]
    assert torch.allclose(ours, preferences.dpo_loss(*whole, 0.3))


# --- the filter


def test_the_filter_is_blind_to_nothing_it_should_see(talks) -> None:
    texts = [talk.message for talk in talks]
    copies = [texts[0], texts[1].upper(), texts[2] + " thanks"]
    assert reference.without_copies(texts + copies, [texts[5]], 0.6) == [i for i in range(20) if i != 5]


def test_the_jaccard_index_is_the_sets_own() -> None:
    a, b = (reference.runs_of_three(text) for text in ("a b c d e", "A b c d f"))
    assert a == {("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e")} and len(a & b) / len(a | b) == 0.5
    assert reference.runs_of_three("Hello") == {("hello",)} and reference.runs_of_three("") == {()}
    assert reference.without_copies(["", ""], [], 1.0) == [0]


def test_the_filters_runs_are_the_packages_where_there_is_no_punctuation(talks) -> None:
    texts = [re.sub(r"[^\w ]", "", talk.message) for talk in talks]
    for text in texts:
        assert {" ".join(run) for run in reference.runs_of_three(text)} == data_quality.shingles(text)
    for limit in (0.2, 0.6):
        sets = [data_quality.shingles(text) for text in texts]
        kept: list[int] = []
        for i, one in enumerate(sets):
            if all(data_quality.jaccard(one, sets[j]) < limit for j in kept):
                kept.append(i)
        assert reference.without_copies(texts, [], limit) == kept
