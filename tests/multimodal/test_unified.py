"""The lab on unified tokens: pictures, jingles, codebooks, judges, and the small transformer over all of them."""

import math

import numpy as np
import pytest
import torch

from course_utils.multimodal import unified
from course_utils.prisma.shop import COLOURS, HELD_OUT, SHAPES, TRAINED_PAIRS

ALL = [(colour, shape) for colour in COLOURS for shape in SHAPES]


@pytest.fixture(scope="module")
def pictures():
    return unified.draw_toys(unified.pairs_of(320, 0, ALL), 0)


@pytest.fixture(scope="module")
def sounds():
    return unified.to_frames(unified.play_toys(unified.pairs_of(320, 0, ALL), 0))


def test_pairs_are_balanced_and_held_out_ones_are_left_out():
    drawn = unified.pairs_of(112, 0)
    assert all(drawn.count(pair) == 2 for pair in TRAINED_PAIRS) and not set(drawn) & set(HELD_OUT)
    assert drawn == unified.pairs_of(112, 0) != unified.pairs_of(112, 1)


def test_pictures_show_the_colour_in_the_middle_of_the_paper(pictures):
    assert pictures.shape == (320, 3, 24, 24) and pictures.min() >= 0 and pictures.max() <= 1
    red, green = unified.draw_toys([("red", "ball"), ("green", "ball")], 1)[:, :, 12, 12]
    assert red[0] > 2 * red[1] and green[1] > 1.5 * green[0]
    corner = unified.draw_toys([("red", "ball")], 1)[0, :, 0, 0]
    assert torch.allclose(corner, torch.tensor(unified.PAPER), atol=0.05)
    ring = unified.draw_toys([("black", "ring")], 1)[0, :, 11:13, 11:13]
    assert ring.mean() > 0.3  # a ring has a hole
    again, other = unified.draw_toys(ALL, 3), unified.draw_toys(ALL, 4)
    assert torch.equal(again, unified.draw_toys(ALL, 3)) and not torch.equal(again, other)
    with pytest.raises(ValueError, match="pink"):
        unified.draw_toys([("pink", "cube")], 0)


def test_patches_come_back_as_the_picture(pictures):
    patches = unified.to_patches(pictures)
    assert patches.shape == (320, 36, 48)
    assert torch.equal(patches[0, 1].reshape(3, 4, 4), pictures[0, :, :4, 4:8])
    assert torch.equal(unified.from_patches(patches), pictures)


def test_jingles_have_the_tune_of_the_shape():
    waves = unified.play_toys([("red", "cylinder"), ("red", "ring")], 0)  # 12 7 4 0 and 12 0 12 0 semitones
    assert waves.shape == (2, unified.FRAME * unified.FRAMES) and waves.abs().max() < 1
    notes = waves.unflatten(1, (4, -1))[..., 400:]
    peaks = torch.fft.rfft(notes).abs().argmax(-1) * unified.RATE / notes.shape[-1]  # Hz: red is a pure tone
    steps = 12 * (peaks / peaks[:, 3:]).log2()
    assert torch.allclose(steps, torch.tensor([[12.0, 7, 4, 0], [12, 0, 12, 0]]), atol=0.4)


def test_frames_are_whispers_log_mel_averaged(sounds):
    from whisper import log_mel_spectrogram

    assert sounds.shape == (320, 12, 80)
    wave = unified.play_toys([("blue", "star")], 7)
    mel = log_mel_spectrogram(wave[0])
    assert torch.allclose(unified.to_frames(wave)[0, 2], mel[:, 16:24].mean(1), atol=1e-5)


def test_frames_can_be_heard_again_with_the_same_pitch():
    frames = unified.to_frames(unified.play_toys([("red", "ring")], 0))[0]
    wave = unified.hear(frames)
    assert wave.shape == (unified.FRAME * 12,) and wave.dtype == np.float32 and 0.25 < np.abs(wave).max() <= 0.31
    high, low = (np.abs(np.fft.rfft(wave[i * 3840 : i * 3840 + 3200])).argmax() * 5 for i in (0, 1))  # Hz
    assert 1.6 < high / low < 2.5  # an octave, as exact as mel bands are


def test_the_nearest_entry_is_found_by_hand_too():
    rows, book = torch.randn(4, 5, 3), torch.randn(7, 3)
    by_hand = ((rows[..., None, :] - book) ** 2).sum(-1).argmin(-1)
    assert torch.equal(unified.nearest(rows, book), by_hand)


def test_k_means_finds_separate_heaps_and_ends_in_its_means():
    heaps = torch.tensor([[0.0, 0], [9, 0], [0, 9], [9, 9]])
    rows = (heaps[:, None] + 0.1 * torch.randn(4, 50, 2)).flatten(0, 1)
    book = unified.learn_codebook(rows, 4, seed=0)
    codes = unified.nearest(rows, book)
    assert (book[unified.nearest(heaps, book)] - heaps).abs().max() < 0.2
    means = torch.stack([rows[codes == i].mean(0) for i in range(4)])
    assert torch.allclose(book, means, atol=1e-5)
    assert torch.equal(book, unified.learn_codebook(rows, 4, seed=0))
    with pytest.raises(ValueError, match="codebook of 9"):
        unified.learn_codebook(rows[:8], 9, seed=0)


def test_bigger_codebooks_lose_less(pictures):
    patches = unified.to_patches(pictures)
    errors = []
    for k in (4, 16, 64):
        book = unified.learn_codebook(patches[:100].flatten(0, 1), k, 0)
        errors.append((book[unified.nearest(patches[100:], book)] - patches[100:]).square().mean().item())
    assert errors[0] > errors[1] > errors[2] > 0


def test_judges_know_real_toys_and_are_not_fooled(pictures, sounds):
    pairs, fresh = unified.pairs_of(320, 0, ALL), unified.pairs_of(64, 9, ALL)
    eye = unified.train_judge(pictures, pairs, 0, steps=60)
    ear = unified.train_judge(sounds, pairs, 0, steps=60)
    seen, heard = eye(unified.draw_toys(fresh, 9)), ear(unified.to_frames(unified.play_toys(fresh, 9)))
    assert unified.agreement(seen, fresh)["colour"].value > 0.7
    assert unified.agreement(heard, fresh)["shape"].value > 0.7
    assert unified.agreement(heard, fresh[::-1])["both"].value < 0.3


def test_agreement_counts_parts():
    marks = unified.agreement([("red", "cube"), ("red", "ball")], [("red", "ring"), ("red", "ball")])
    assert (marks["colour"].value, marks["shape"].value, marks["both"].value) == (1, 0.5, 0.5)
    with pytest.raises(ValueError, match="one each"):
        unified.agreement([], [("red", "cube")])


def test_the_transformer_learns_goes_on_and_counts_bits():
    rows = torch.tensor([[0, 4, 1, 8, 8, 8], [0, 5, 1, 9, 9, 9]])
    model = unified.transformer(10, 16, 0, width=32, layers=1)
    losses = unified.fit(model, rows, 60, 0, peak=1e-2, batch=8)
    assert losses[-1] < 0.5 < losses[0]
    assert torch.equal(unified.go_on(model, rows[:, :3], 3, 0.0, 0), rows[:, 3:])
    drawn = [unified.go_on(model, rows[:, :1].repeat(20, 1), 2, 1.5, seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (40, 2)
    with torch.inference_mode():
        chances = model(rows).logits[:, 2:5].log_softmax(-1)
    by_hand = -chances.gather(2, rows[:, 3:, None]).sum() / 2 / math.log(2)
    assert unified.bits(model, rows, 3) == pytest.approx(by_hand.item(), rel=1e-4)
    assert unified.bits(model, rows, 1) > 0.9  # which of the two rows it is costs one bit
