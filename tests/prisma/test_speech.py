"""Spoken requests: what is held out stays out, noise is as loud as asked, word errors are counted right."""

import random

import numpy as np
import pytest

from course_utils.prisma import speech

espeak = pytest.mark.skipif(not speech.has_espeak(), reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def clips():
    return speech.load_clips()


def words_of(patterns):
    return {word for pattern in patterns for word in pattern.split() if "{" not in word}


def test_held_out_voices_and_patterns_are_never_trained():
    assert not set(speech.VARIANTS_TRAIN) & set(speech.VARIANTS_HELD_OUT)
    assert not set(speech.VOICES_TRAIN) & set(speech.VOICES_HELD_OUT + speech.VOICES_NEW_ACCENT)
    accents = {voice.split("+")[0] for voice in speech.VOICES_NEW_ACCENT}
    assert not accents & {voice.split("+")[0] for voice in speech.VOICES_TRAIN}
    assert not set(speech.PATTERNS_TRAIN) & set(speech.PATTERNS_HELD_OUT)


def test_no_training_sentence_is_a_held_out_one():
    rng = random.Random(1)
    trained = {speech.request(rng) for _ in range(20_000)} | {speech.drill(rng) for _ in range(5_000)}
    held_out = {speech.request(rng, held_out=True) for _ in range(5_000)}
    assert len(held_out) > 2_000
    assert not trained & held_out
    assert all(speech.is_held_out(sentence) for sentence in held_out)
    assert not any(speech.is_held_out(sentence) for sentence in trained)


def test_held_out_sentences_use_known_words_only():
    assert words_of(speech.PATTERNS_HELD_OUT) <= set(speech.vocabulary())
    rng = random.Random(2)
    said = {word for _ in range(5_000) for word in speech.request(rng, held_out=True).split()}
    assert said <= set(speech.vocabulary())
    assert 70 <= len(speech.vocabulary()) <= 90


def test_requests_follow_from_the_seed():
    first, second = ([speech.request(random.Random(seed)) for seed in range(30)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 25


@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
@pytest.mark.parametrize("decibels", [0, 10, 25])
def test_noise_is_as_loud_as_asked(clips, kind, decibels):
    audio, talk = clips[0].audio, [clip.audio for clip in clips[1:6]]
    noisy = speech.add_noise(audio, decibels, np.random.default_rng(3), kind, talk)
    ratio = np.mean(audio**2) / np.mean((noisy - audio) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(decibels, abs=0.05)
    assert noisy.dtype == np.float32 and noisy.shape == audio.shape


def test_pink_noise_has_more_power_below_than_above():
    rng = np.random.default_rng(4)
    for kind, least in (("pink", 5.0), ("white", 0.8)):
        power = np.abs(np.fft.rfft(speech.noise(kind, 32_000, rng))) ** 2
        assert power[100:4_000].mean() > least * power[8_000:].mean()
    with pytest.raises(ValueError, match="white"):
        speech.noise("brown", 100, rng)


def test_a_room_and_clipping_change_the_sound_but_not_its_length(clips):
    audio = clips[0].audio
    wet, cut = speech.add_room(audio, np.random.default_rng(5)), speech.clip_peaks(audio, 0.3)
    assert wet.shape == cut.shape == audio.shape
    assert np.abs(wet - audio).max() > 0.01
    assert np.abs(cut).max() == pytest.approx(0.3 * np.abs(audio).max())


def test_resampling_keeps_a_tone():
    tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050).astype(np.float32)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(speech.resample(tone, 22_050) - wanted).max() < 0.01
    assert len(speech.change_speed(tone, 1.25)) == pytest.approx(22_050 / 1.25, abs=2)


def test_word_errors_by_hand():
    assert speech.word_error_rate("show me the red cube", "show me the red cube") == 0
    assert speech.word_error_rate("show me the red cube", "show the blue cube") == pytest.approx(2 / 5)
    assert speech.word_error_rate("hello", "well hello there") == 2
    assert speech.word_error_rate(["a b", "c d e"], ["a", "c d e f"]) == pytest.approx(2 / 5)


def test_word_error_rate_equals_jiwer():
    jiwer = pytest.importorskip("jiwer")
    rng = random.Random(6)
    for _ in range(200):
        references = [speech.request(rng) for _ in range(3)]
        heard = [" ".join(rng.choice([w, w, w, "cube", ""]) for w in text.split()).strip() for text in references]
        heard = [" ".join(text.split()) for text in heard]
        assert speech.word_error_rate(references, heard) == pytest.approx(jiwer.wer(references, heard))


def test_shipped_clips_are_held_out_speech(clips):
    assert len(clips) == 60
    assert {clip.voice for clip in clips} <= set(speech.VOICES_HELD_OUT)
    assert len({clip.voice for clip in clips}) > 25
    for clip in clips:
        assert clip.audio.dtype == np.float32 and clip.audio.ndim == 1
        assert 0.5 < len(clip.audio) / speech.RATE <= speech.LONGEST
        assert 0.02 < np.sqrt(np.mean(clip.audio**2)) < 0.2
    size = sum(file.stat().st_size for file in speech.CLIPS.iterdir())
    assert size < 1_500_000


def test_without_espeak_the_error_names_the_cure(monkeypatch):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"(?s)apt-get install espeak-ng.*load_clips"):
        speech.speak("hello", "en-us+f2", 1)


@espeak
def test_speech_follows_from_its_seed():
    one, again, other = (speech.speak("show me the red cube", "en-gb+f3", seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert len(one) != len(other) or not np.array_equal(one, other)
    assert one.dtype == np.float32 and 0.8 < len(one) / speech.RATE < 4


@espeak
def test_an_utterance_fits_the_window_and_names_its_voice():
    clip = speech.utterance(11, speech.VOICES_TRAIN)
    assert len(clip.audio) <= speech.LONGEST * speech.RATE
    assert clip.voice in speech.VOICES_TRAIN
    assert speech.utterance(11, speech.VOICES_TRAIN).text == clip.text


@espeak
def test_every_voice_is_a_voice_of_its_own():
    sounds = [speech.speak("red cube", f"en-us+{v}", 1) for v in speech.VARIANTS_TRAIN + speech.VARIANTS_HELD_OUT]
    assert len({sound.tobytes() for sound in sounds}) == len(sounds)


@espeak
def test_clips_can_be_written_again(tmp_path):
    speech.write_clips(tmp_path / "new clips", count=3)
    made, shipped = speech.load_clips(tmp_path / "new clips"), speech.load_clips()
    assert [clip.text for clip in made] == [clip.text for clip in shipped[:3]]
