"""The helpers of the lab on binding senses: sounds that follow their rules, pairs, a frozen encoder."""

import copy

import numpy as np
import pytest
import torch
from lessons import written_in
from open_clip import ClipLoss
from torch import nn
from whisper import log_mel_spectrogram
from whisper.model import AudioEncoder

from course_utils.finetuning import lora_by_hand
from course_utils.multimodal import binding
from course_utils.prisma import pictures
from course_utils.prisma.pictures import Scene, Toy
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES, SIZES


def strongest(sound: np.ndarray) -> float:
    """The frequency (hertz) with most power in one second of sound."""
    return float(np.abs(np.fft.rfft(sound)).argmax())


# --- sounds ---------------------------------------------------------------------------------------------


def test_tones_ring_out_as_their_formula_says():
    rng = np.random.default_rng(0)
    frequency, decay, weight = (rng.uniform(*limits, (2, 3)) for limits in ((200, 4000), (0.01, 0.3), (0.1, 1)))
    time = np.arange(16_000) / 16_000
    wave = np.sin(2 * np.pi * frequency[..., None] * time) * np.exp(-time / decay[..., None])
    assert np.allclose(binding.ring_out(frequency, decay, weight), (weight[..., None] * wave).sum(1), atol=1e-4)
    assert binding.ring_out(frequency, decay, weight, 100).shape == (2, 100)


def test_every_toy_has_its_own_sound():
    assert list(binding.MATERIALS) == list(COLOURS) and set(binding.OVERTONES) == set(SHAPES)
    assert set(binding.PITCH) == set(SIZES)
    rules = [row[1:3] for row in binding.MATERIALS.values()]
    assert len(set(rules)) == 8 and len(set(binding.OVERTONES.values())) == 8


def test_size_sets_the_pitch_and_colour_how_long_it_lasts():
    rng = np.random.default_rng(0)
    pitch = {s: strongest(binding.strikes([Toy(s, "white", "ring")] * 20, rng).mean(0)) for s in SIZES}
    assert pitch["small"] > pitch["medium"] > pitch["large"]
    late = {}
    for colour in ("purple", "orange", "yellow"):
        power = binding.strikes([Toy("medium", colour, "ball")] * 10, rng) ** 2
        late[colour] = power[:, 1600:].sum() / power.sum()
    assert late["purple"] < late["orange"] < late["yellow"]


def test_strikes_differ_and_come_back_with_their_seed():
    toys = [Toy("medium", "red", "cube")] * 2
    one, other = binding.strikes(toys, np.random.default_rng(1))
    assert np.abs(one).max() == pytest.approx(1) and not np.allclose(one, other, atol=0.1)
    assert np.array_equal(binding.strikes(toys, np.random.default_rng(1))[0], one)


def test_hits_add_up_and_must_lie_in_the_sound():
    strike = np.array([1.0, 0.5], np.float32)
    sound = binding.play(strike, [0, 1 / 16_000, 3 / 16_000], [1, 2, 1], samples=4)
    assert sound.tolist() == [1, 2.5, 1, 1]
    with pytest.raises(ValueError, match="outside"):
        binding.play(strike, [1.0], [1.0], samples=4)


def test_falls_are_rough_or_dry():
    toys = [Toy("medium", "purple", "cube")] * 4
    rough, dry = (binding.falls(toys, 3, varied) for varied in (True, False))
    assert rough.shape == dry.shape == (4, binding.SAMPLES) and rough.dtype == dry.dtype == np.float32
    assert np.abs(dry[:, -1600:]).max() < 1e-3 < np.abs(rough[:, -1600:]).max()  # only noise is left at the end
    assert np.array_equal(rough, binding.falls(toys, 3)) and not np.array_equal(rough, binding.falls(toys, 4))


def test_falls_made_in_chunks_are_those_made_at_once(monkeypatch):
    toys = [Toy("medium", "red", "cube")] * 5
    whole = binding.hear_falls(toys, 3)
    monkeypatch.setattr(binding, "CHUNK", 2)
    parts = binding.hear_falls(toys, 3)
    assert whole.shape == parts.shape == (5, 80, 100)
    assert torch.equal(parts[2:4], binding.log_mels(binding.falls(toys[2:4], [3, 2])))
    assert len({mel.sum().item() for mel in parts}) == 5  # no two chunks share their draws


def test_log_mels_are_the_librarys_one_by_one():
    sounds = binding.falls([Toy("small", "green", "star"), Toy("large", "black", "ball")], 0)
    mels = binding.log_mels(sounds * np.array([[1.0], [0.001]], np.float32))
    assert mels.shape == (2, 80, 100)
    assert torch.allclose(mels[0], log_mel_spectrogram(sounds[0]), atol=1e-5)
    assert torch.allclose(mels[1], log_mel_spectrogram(sounds[1] * np.float32(0.001)), atol=1e-5)


# --- pairs ----------------------------------------------------------------------------------------------


def test_pairs_show_and_sound_the_same_toys(eye):
    toys = binding.draw_toys(40, 0, HELD_OUT)
    assert {toy.pair for toy in toys} <= set(HELD_OUT) and {toy.size for toy in toys} == set(SIZES)
    pairs = binding.make_pairs(eye, toys[:6], 0)
    assert len(pairs) == 6 and pairs.mels.shape == (6, 80, 100) and pairs.pictures.shape == (6, 128)
    assert torch.allclose(pairs.pictures.norm(dim=1), torch.ones(6), atol=1e-2)  # bfloat16


def test_pictures_are_encoded_as_the_library_does_but_in_bfloat16(eye):
    images = pictures.draw_many([Scene((Toy("large", "red", shape),)) for shape in SHAPES[:3]])
    found = binding.encode(eye, images)
    assert found.dtype == torch.float32 and not found.is_inference()
    assert (eye.encode_images(images) * found).sum(1).min() > 0.98


def test_kinds_have_places_and_places_have_parts():
    assert len(set(binding.KINDS)) == 192 and torch.equal(binding.places(binding.KINDS), torch.arange(192))
    for toy, (colour, shape, size) in zip(binding.KINDS, binding.parts(torch.arange(192)).tolist(), strict=True):
        assert (COLOURS[colour], SHAPES[shape], SIZES[size]) == (toy.colour, toy.shape, toy.size)


# --- a frozen encoder -----------------------------------------------------------------------------------


def test_the_encoder_hears_short_sounds_as_it_hears_a_window():
    encoder = AudioEncoder(80, 250, 48, 3, 2).eval()
    mels = torch.randn(2, 80, 500)
    with torch.inference_mode():
        assert torch.allclose(binding.hear(encoder, mels), encoder(mels), atol=1e-5)
        assert binding.hear(encoder, mels[..., :48]).shape == (2, 24, 48)
        with pytest.raises(ValueError, match="more than"):
            binding.hear(encoder, torch.randn(1, 80, 502))


# --- the lesson's own code ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught() -> dict:
    """The classes and functions of the notebook, by name."""
    names = {"torch": torch, "nn": nn, "F": nn.functional, "Tensor": torch.Tensor, "binding": binding, "Toy": Toy}
    return written_in("7.1_lab_binding_senses", **names, copy=copy, lora_by_hand=lora_by_hand)


def test_the_contrastive_loss_is_the_librarys(taught):
    sound, picture = (nn.functional.normalize(torch.randn(32, 16), dim=-1) for _ in range(2))
    for scale in (torch.tensor(1.0), torch.tensor(50.0)):
        ours, theirs = taught["contrastive_loss"](sound, picture, scale), ClipLoss()(sound, picture, scale)
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("way", "share"), [("linear probe", 0), ("adapter", 0.3), ("LoRA", 0.3), ("full training", 1)])
def test_an_equipped_encoder_starts_as_it_was_and_trains_what_it_says(taught, way, share):
    encoder, mels = AudioEncoder(80, 250, 48, 3, 2).eval(), torch.randn(2, 80, 40)
    equipped = taught["equip"](encoder, way)
    assert torch.allclose(binding.hear(equipped, mels), binding.hear(encoder, mels), atol=1e-6)
    count = lora_by_hand.parameters(equipped)
    part = count["trained"] / count["all"]
    assert part == share if share in (0, 1) else 0 < part < share
    if way == "adapter":  # zero at the start, and yet it learns
        binding.hear(equipped, mels).square().sum().backward()
        assert all(block.up.weight.grad.abs().sum() > 0 for block in equipped.blocks)


def test_wrong_captions_name_a_wrong_colour_at_the_rate_asked_for(taught):
    truth = binding.places(binding.KINDS).repeat(50)
    for how, steps in (("any colour", set(range(1, 8))), ("always the next", {1})):
        said = taught["misname"](truth, 0.4, how, seed=0)
        assert torch.equal(said % 24, truth % 24)
        wrong = said != truth
        assert 0.37 < wrong.float().mean() < 0.43
        assert set(((said - truth) // 24 % 8)[wrong].tolist()) == steps
