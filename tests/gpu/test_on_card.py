"""What must hold on an NVIDIA card: the same answers as on a CPU, training in half precision, memory given back.

Skipped without a card. COURSE_GPU_REHEARSAL=1 runs every line on the CPU instead, which shows typing errors and proves
nothing else: `python tests/gpu/prove.py --rehearse tests`.
"""

import dataclasses
import math
import os
import random

import pytest
import torch

from course_utils.finetuning import four_bit, qlora, sft
from course_utils.memory import measurement, shapes, simulate
from course_utils.models import catalogue, hardware, loaders
from course_utils.prisma import conversations, pictures, speech

REHEARSAL = os.environ.get("COURSE_GPU_REHEARSAL") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (torch.cuda.is_available() or REHEARSAL), reason="no NVIDIA card here"),
]
QUESTIONS = ["Where is order 1042?", "How much are three red cubes?", "hello", "Do you ship to Norway?"]
RECIPE = qlora.Recipe(learning_rate=4e-3, conversations=96, batch=8, at_once=8, measured=1)


@pytest.fixture(scope="module")
def here():
    """The machine as it is."""
    return hardware.detect("bundled")


@pytest.fixture(scope="module")
def cpu(here):
    """The same machine without its card."""
    return dataclasses.replace(here, device="cpu", dtype="float32", capability=None)


def bundled(role, machine):
    """The bundled model of a role, on a machine."""
    model = catalogue.find(role, "bundled")
    return loaders.load_model(model, machine, say=lambda _: None)


def held():
    """Bytes of the tensors on the card."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def test_the_card_is_described_as_it_is(here):
    if REHEARSAL:
        pytest.skip("the CPU has no capability")
    assert here.device == "cuda" and 0 < here.gpu_free_gb <= here.gpu_total_gb
    bfloat16 = here.capability >= (8, 0)
    assert here.dtype == ("bfloat16" if bfloat16 else "float16")
    assert hardware.multiplies_bfloat16("cuda") == bfloat16


def test_prisma_lm_writes_the_same_tokens(here, cpu):
    on_card = bundled("chat", here)
    prompts = [on_card.prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    expected = bundled("chat", cpu).complete_many(prompts, 48)
    assert on_card.complete_many(prompts, 48) == expected
    assert on_card.complete(prompts[0], 48) == expected[0]


def test_prisma_clip_sees_the_same(here, cpu):
    scenes = pictures.distinct_scenes(random.Random(3), 8)
    drawn = pictures.draw_many(scenes)
    found = bundled("image-text", here).encode_images(drawn)
    expected = bundled("image-text", cpu).encode_images(drawn)
    alike = (found * expected).sum(-1)  # (8,) cosines
    assert found.device.type == "cpu" and alike.min() > 0.999
    assert torch.equal((found @ expected.T).argmax(-1), torch.arange(8))


def test_prisma_whisper_hears_the_same(here, cpu):
    sounds = [clip.audio for clip in speech.load_clips()[:6]]
    assert bundled("speech", here).transcribe_many(sounds) == bundled("speech", cpu).transcribe_many(sounds)


@pytest.fixture(scope="module")
def talks():
    return conversations.by_split(conversations.make_conversations(400))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_four_bit_training_learns_in(dtype, here, talks, tmp_path):
    """float16 needs its gradients scaled; a T4 has nothing else, and emulated bfloat16 here is a T4's other way."""
    if dtype != "float32" and REHEARSAL:
        pytest.skip("on a CPU 16 bits are emulated, which takes minutes, or are what other tests train in")
    machine = dataclasses.replace(here, dtype=dtype)
    chat = four_bit.quantised(bundled("chat", machine), machine)
    trainer = sft.make_trainer(chat, talks, RECIPE, machine, tmp_path)
    before = trainer.evaluate()["eval_loss"]
    sft.train(trainer)
    after = trainer.evaluate()["eval_loss"]
    assert math.isfinite(after) and after < 0.8 * before


def test_a_small_step_takes_what_was_simulated():
    shape = measurement.reduced("mistral-7b", layers=2)
    step = simulate.Step(shape, "qlora", 256, 1, dtype=measurement.quick_dtype())
    measured = measurement.allocated(step) if REHEARSAL else measurement.on_cuda(step)
    assert simulate.run(step).peak == pytest.approx(measured, rel=0.05)


def test_a_step_gives_its_memory_back():
    if REHEARSAL:
        pytest.skip("only the card's allocator is asked")
    step = simulate.Step(measurement.reduced("mistral-7b", layers=1), "qlora", 64, 1)
    measurement.on_cuda(step)  # what cuBLAS and bitsandbytes keep for good, they keep now
    before = held()
    measurement.on_cuda(step)
    assert held() == before


def test_what_does_not_fit_is_refused_before_it_starts(here):
    before = held()
    with pytest.raises(qlora.NotEnoughMemoryError, match="COURSE_TIER=bundled"):
        qlora.fitting(qlora.RECIPES["full"], "mistral-7b", 1.0, cuda=here.device == "cuda")
    assert held() == before
    assert shapes.parameter_count("mistral-7b") > 7e9
