"""prisma-whisper: the library's model, saved small, trained in steps that resume, and good on held-out speech."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from whisper.model import Whisper

from course_utils.prisma import speech, whisper
from course_utils.training import Checkpoint, Deadline, MuonAdamW, run

espeak = pytest.mark.skipif(not speech.has_espeak(), reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def fresh():
    """An untrained model that knows the used words only, and the same one with the whole vocabulary."""
    torch.manual_seed(0)
    student = whisper.Student()
    return student, whisper.finished(student)


@pytest.fixture
def small(monkeypatch):
    """Batches of four shipped clips instead of fresh speech: fast, and possible without espeak-ng."""
    clips = speech.load_clips()

    def batches(seed, step):
        while True:
            yield [clips[(4 * step + i) % len(clips)] for i in range(4)]
            step += 1

    monkeypatch.setattr(whisper, "batches", batches)
    monkeypatch.setenv("COURSE_QUIET", "1")


def test_the_model_is_the_librarys_own_and_small(fresh):
    student, wide = fresh
    assert type(wide) is Whisper
    assert wide.dims.n_vocab == 51_864 and not wide.is_multilingual
    assert sum(p.numel() for p in student.whisper.parameters()) < 2_000_000


def test_known_tokens_score_the_same_in_the_wide_model_and_unknown_ones_are_impossible(fresh):
    student, wide = fresh
    ids = whisper.used_tokens()
    heard = torch.randn(3, 250, whisper.WIDTH)
    places = torch.randint(len(ids), (3, 7))
    with torch.no_grad():
        narrow = student.whisper.decoder(places, heard)
        full = wide.decoder(torch.tensor(ids)[places], heard)
    assert torch.allclose(full[..., ids], narrow, atol=1e-4)
    unknown = torch.ones(whisper.VOCABULARY, dtype=torch.bool)
    unknown[ids] = False
    assert (full[..., unknown] == whisper.IMPOSSIBLE).all()


def test_only_known_words_come_out_whatever_the_options(fresh):
    known = set(whisper.used_tokens())
    for options in ({}, {"temperature": 1.0}, {"beam_size": 3}, {"suppress_tokens": ""}):
        spectra = torch.randn(1 if "beam_size" in options else 4, 80, 500)  # the library's beams want one sound
        results = fresh[1].decode(spectra, fp16=False, language="en", without_timestamps=True, **options)
        assert {token for result in results for token in result.tokens} <= known


def test_saving_and_loading_keeps_the_model(fresh, tmp_path):
    folder = whisper.save(fresh[1], tmp_path / "a folder")
    again = whisper.load(folder)
    spectra = torch.randn(2, 80, 500)
    with torch.no_grad():
        one, two = fresh[1].encoder(spectra), again.encoder(spectra)
    assert (one - two).abs().max() < 0.05  # float16 in the file
    assert (folder / "model.safetensors").stat().st_size < 4_000_000
    assert len(json.loads((folder / "config.json").read_text())["tokens"]) == len(whisper.used_tokens())


def test_a_saved_model_can_be_saved_again_unchanged(fresh, tmp_path):
    first = whisper.save(fresh[1], tmp_path / "first")
    second = whisper.save(whisper.load(first), tmp_path / "second")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_a_sound_that_is_too_long_is_refused_with_a_cure(fresh):
    with pytest.raises(ValueError, match="cut it into shorter pieces"):
        whisper.transcribe(fresh[1], np.zeros(6 * 16_000, np.float32))


def test_the_window_may_be_shorter_in_training_and_is_whole_afterwards(fresh):
    student = copy.deepcopy(fresh[0])
    with torch.no_grad():
        assert student.encode(torch.randn(2, 80, 200)).shape == (2, 100, whisper.WIDTH)
    assert student.whisper.encoder.positional_embedding.shape == (250, whisper.WIDTH)


def test_a_batch_is_the_same_for_the_same_seed():
    clips = speech.load_clips()[:4]
    made = [whisper.collate(clips, np.random.default_rng(5), hard=1.0, whole=False) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))
    changed = (made[0][1] != made[0][2]).float().mean()
    assert 0.02 < changed < 0.3 and torch.equal(made[0][1][:, :2], made[0][2][:, :2])
    ids, tokens = whisper.used_tokens(), made[0][1]
    said = whisper.tokenizer().decode([ids[i] for i in tokens[0].tolist() if i >= 0][2:-1])
    assert said.strip() == clips[0].text


@espeak
def test_training_batches_hold_training_voices_only():
    batches = whisper.batches(seed=5, step=0)
    batch = next(batches)
    batches.close()
    assert len(batch) == whisper.BATCH
    assert {clip.voice for clip in batch} <= set(speech.VOICES_TRAIN)


def steps(folder, most, resume=False):
    """Train a fresh student to step `most`, the way `train` does."""
    torch.manual_seed(1)
    student, point = whisper.Student(), Checkpoint(folder)
    optimiser, state = MuonAdamW(student, whisper.PEAK, whisper.is_inner), {"step": 0, "spent": 0.0}
    if resume:
        state.update(point.load(student, optimiser))
    deadline = Deadline(minutes=1e6)  # so long that the learning rate does not depend on the clock
    learn, keep = partial(whisper.step, student, optimiser), lambda s: point.save(student, optimiser, **s)
    run(whisper.NAME, whisper.batches(whisper.SEED, state["step"]), learn, deadline, state, keep, most)
    return student


def test_a_resumed_run_ends_where_an_unbroken_one_does(small, tmp_path):
    whole = steps(tmp_path / "whole", 2)
    steps(tmp_path / "broken", 1)
    resumed = steps(tmp_path / "broken", 2, resume=True)
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_training_learns(small, tmp_path):
    torch.manual_seed(2)
    student = whisper.Student()
    optimiser = MuonAdamW(student, whisper.PEAK, whisper.is_inner)
    clips = speech.load_clips()[:4]
    losses = [whisper.step(student, optimiser, clips, 0, part=0.02) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    assert student.whisper.decoder.ln.weight[0] == 0 and student.whisper.decoder.ln.bias[0] == 1


def test_training_without_espeak_says_what_to_install(monkeypatch):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        whisper.train(0.01)


def test_word_errors_come_with_an_interval():
    texts = ["red cube", "blue ball", "green cone"] * 20
    measure = whisper.word_errors(texts, ["red cube", "blue bell", "green cone"] * 20)
    assert measure.value == pytest.approx(1 / 6)
    assert 0.05 < measure.low < measure.value < measure.high < 0.3 and measure.n == 60


def test_the_shipped_model_hears_the_shipped_clips():
    model, clips = whisper.load(), speech.load_clips()
    texts, sounds = [clip.text for clip in clips], [clip.audio for clip in clips]
    assert speech.word_error_rate(texts, whisper.transcribe(model, sounds)) < 0.08
    rng = np.random.default_rng(0)
    noisy = [speech.add_noise(sound, 10, rng) for sound in sounds]
    assert speech.word_error_rate(texts, whisper.transcribe(model, noisy)) < 0.2
    assert whisper.transcribe(model, sounds[0]) == whisper.transcribe(model, sounds[:1])[0]


def test_without_espeak_the_shipped_clips_are_measured_and_that_is_said(monkeypatch, capsys):
    some = speech.load_clips()[:20]
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    monkeypatch.setattr(speech, "load_clips", lambda: some)
    measures = whisper.evaluate()
    assert "20 shipped clips" in capsys.readouterr().err
    assert measures["word errors, clean"].n == 20
    assert measures["real time factor on one core"].value < 0.4
    assert "word errors in an accent never heard" not in measures


def test_the_shipped_file_is_small_and_needs_no_pickle():
    assert (whisper.FOLDER / "model.safetensors").stat().st_size <= 4_000_000
    names = {file.name for file in whisper.FOLDER.iterdir()}
    assert names <= {"config.json", "model.safetensors", "README.md"}
