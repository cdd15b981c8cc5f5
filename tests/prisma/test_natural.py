"""Natural voices: the shipped sounds are complete, are what their generator says, and can be made anew with a cure."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from course_utils.prisma import languages, natural, speech


class Synthesiser:
    """Stands for Kokoro: a tone of 24 kHz, whose pitch tells voices apart and whose length tells the speed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def create(self, text: str, voice: str, speed: float, lang: str) -> tuple[np.ndarray, int]:
        self.asked.append((text, voice, lang))
        time = np.arange(int(36_000 / speed)) / 24_000
        pitch = 200 + sum(map(ord, voice)) % 100
        return np.sin(2 * np.pi * pitch * time).astype(np.float32), 24_000


@pytest.fixture
def synthesiser(monkeypatch: pytest.MonkeyPatch) -> Synthesiser:
    made = Synthesiser()
    monkeypatch.setattr(natural, "synthesiser", lambda: made)
    return made


def test_the_requests_are_those_of_the_other_clips_in_six_voices():
    clips, others = natural.load_clips(), speech.load_clips()
    assert [clip.text for clip in clips] == [clip.text for clip in others]
    assert [clip.voice for clip in clips[:7]] == [*natural.ENGLISH, natural.ENGLISH[0]]
    for clip in clips:
        assert clip.audio.dtype == np.float32 and clip.audio.ndim == 1
        assert 0.8 < len(clip.audio) / speech.RATE <= speech.LONGEST
        assert 0.02 < np.sqrt(np.mean(clip.audio**2)) < 0.2


def test_every_sentence_is_said_once_in_each_language():
    sayings = natural.load_sayings()
    said = sorted((saying.language, saying.number) for saying in sayings)
    assert said == sorted((code, n) for code in natural.SPEAKERS for n in range(20))
    for saying in sayings:
        assert saying.text == languages.SENTENCES[saying.language][saying.number]
        assert saying.english == languages.SENTENCES["en"][saying.number]
        assert 0.3 < len(saying.audio) / speech.RATE < 4 and np.abs(saying.audio).max() > 0.1


def test_a_sound_is_cut_where_the_speaker_pauses():
    for sound in (natural.load_clips()[0].audio, natural.load_clips()[59].audio, natural.load_sayings()[3].audio):
        ends = np.concatenate([sound[:160], sound[-160:]])  # 10 ms on either side
        assert np.abs(ends).max() < 0.25 * np.abs(sound).max()


def test_the_shipped_sounds_are_small():
    size = sum(file.stat().st_size for file in natural.FOLDER.iterdir())
    assert size < 800_000


def test_the_shipped_lists_are_what_their_generator_says(synthesiser: Synthesiser, tmp_path: Path):
    natural.write_clips(tmp_path)
    natural.write_sayings(tmp_path)
    for name in ("clips.jsonl", "sayings.jsonl"):
        ours = (natural.FOLDER / name).read_text("utf-8").splitlines()
        theirs = (tmp_path / name).read_text("utf-8").splitlines()
        # Where a sound ends depends on the synthesiser.
        assert [{**json.loads(row), "ends": 0} for row in ours] == [{**json.loads(row), "ends": 0} for row in theirs]
    assert ("busco un regalo", natural.SPEAKERS["es"][1], "es") in synthesiser.asked
    assert {lang for _, voice, lang in synthesiser.asked if voice == "bf_emma"} == {"en-gb"}


def test_what_is_written_is_read_again_in_order(synthesiser: Synthesiser, tmp_path: Path):
    natural.write_sayings(tmp_path)
    for saying in natural.load_sayings(tmp_path)[:30]:
        wanted = natural.speak(saying.text, "any", 7 + saying.number, "it")
        assert len(saying.audio) == len(wanted)  # the speed, and so the length, follows from the sentence's number


def test_speech_follows_from_its_seed_and_has_our_rate(synthesiser: Synthesiser):
    one, again, other = (natural.speak("hello", "af_sarah", seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and len(one) != len(other)
    spectrum = np.abs(np.fft.rfft(one))
    pitch = spectrum.argmax() * speech.RATE / len(one)
    assert pitch == pytest.approx(200 + sum(map(ord, "af_sarah")) % 100, abs=2)
    assert one.dtype == np.float32


def test_without_the_synthesiser_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch):
    natural.synthesiser.cache_clear()
    monkeypatch.setitem(sys.modules, "kokoro_onnx", None)
    with pytest.raises(RuntimeError, match=r"(?s)pip install kokoro-onnx.*load_clips"):
        natural.speak("hello", "af_sarah", 1)


def test_people_say_every_prompt_in_four_languages():
    prompts = natural.load_prompts()
    said = [(prompt.language, prompt.english) for prompt in prompts]
    assert said == [(code, english) for code in natural.PEOPLE for english in natural.PROMPTS.values()]
    for prompt in prompts:
        assert 0.5 < len(prompt.audio) / speech.RATE < 6 and np.abs(prompt.audio).max() > 0.1


def test_prompts_are_copied_at_our_rate(tmp_path: Path):
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(8_000) / 8_000  # one second, as Asterisk has it
    for speaker in natural.PEOPLE.values():
        (tmp_path / speaker).mkdir()
        for number, name in enumerate(natural.PROMPTS):
            tone = 0.5 * np.sin(2 * np.pi * (300 + 100 * number) * time)
            soundfile.write(tmp_path / speaker / f"{name}.wav", tone, 8_000)
    natural.write_prompts(tmp_path, tmp_path / "made")
    for number, prompt in enumerate(natural.load_prompts(tmp_path / "made")[:5]):
        spectrum = np.abs(np.fft.rfft(prompt.audio))
        pitch = spectrum.argmax() * speech.RATE / len(prompt.audio)
        assert pitch == pytest.approx(300 + 100 * number, abs=5)
        assert len(prompt.audio) == pytest.approx(speech.RATE, abs=200)
