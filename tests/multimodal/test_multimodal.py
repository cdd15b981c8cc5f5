"""Unit 7.1's helpers: tokens, attention, word errors, and fusion cases whose answers need both senses."""

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.multimodal import fusion, listening, representations, transcripts
from course_utils.multimodal.fusion import Cases
from course_utils.prisma import clip, languages, pictures, speech, wishes
from course_utils.prisma.shop import COLOURS, SHAPES


class Eye:
    """An untrained prisma-clip with the methods of a loaded image-text model."""

    def __init__(self):
        self.model = clip.build().eval()

    def encode_images(self, images):
        pixels = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float()
        return self.model.encode_image(pixels / 127.5 - 1, normalize=True)


class Ear:
    """An untrained Whisper at the size of prisma-whisper, with the methods of a loaded speech model."""

    def __init__(self):
        from whisper.model import ModelDimensions, Whisper

        self.model = Whisper(ModelDimensions(80, 250, 48, 3, 1, 100, 40, 48, 3, 1)).eval()

    def mel(self, audio):
        from whisper import log_mel_spectrogram, pad_or_trim

        return log_mel_spectrogram(pad_or_trim(audio, 80_000), 80)


@pytest.fixture(scope="module")
def senses():
    torch.manual_seed(0)
    return Eye(), Ear()


@pytest.fixture(scope="module")
def cases(senses):
    return fusion.fusion_cases(*senses, 60, seed=0, test=False)


def test_picture_tokens_are_the_last_layer_averaged_to_a_grid(senses):
    images = [pictures.draw(pictures.scene_of((c, "cube")), seed=1) for c in COLOURS[:3]]
    assert representations.picture_side(senses[0].model) == 64
    tokens = representations.picture_tokens(senses[0], images, grid=8)
    coarse = representations.picture_tokens(senses[0], images, grid=1)
    assert tokens.shape == (3, 64, 160) and coarse.shape == (3, 1, 160)
    assert torch.allclose(tokens.mean(1), coarse[:, 0], atol=1e-5)


def test_attention_rows_add_up_to_one_and_leave_the_answer_alone(senses):
    pixels = torch.randn(2, 3, 64, 64)
    model = senses[0].model
    with torch.inference_mode():
        before = model.encode_image(pixels)
        maps = representations.attention_maps(model, pixels)
        after = model.encode_image(pixels)
    assert maps.shape == (5, 2, 5, 65, 65)
    assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-4)
    assert torch.equal(before, after)


def test_sound_tokens_cover_the_beginning_only(senses):
    sound = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    quiet_end = sound.copy()
    quiet_end[16_000:] = 0
    one, other = representations.sound_tokens(senses[1], [sound, quiet_end], seconds=2.0, count=10)
    assert one.shape == (10, 48) and not torch.allclose(one[-1], other[-1], atol=1e-3)


@pytest.mark.parametrize("mels", [80, 128])
def test_the_log_mel_front_end_by_hand_is_whispers(mels):
    from whisper import log_mel_spectrogram
    from whisper.audio import mel_filters

    ours = listening.mel_filters(mels)
    assert ours.shape == (mels, 201) and torch.allclose(ours, mel_filters("cpu", mels), atol=1e-7)
    noise = np.random.default_rng(0).normal(0, 0.1, 5_000).astype(np.float32)
    for sound in (noise, speech.load_clips()[0].audio, np.zeros(1_600, np.float32)):
        made = listening.log_mel(torch.from_numpy(sound), ours)
        assert made.shape == (mels, len(sound) // 160)
        assert (made - log_mel_spectrogram(sound, mels)).abs().max() < 1e-5


def test_the_word_error_rate_is_that_of_jiwer():
    import jiwer

    rng = random.Random(0)
    said = [" ".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in range(60)]
    heard = [" ".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in range(60)]
    assert speech.word_error_rate(said, heard) == pytest.approx(jiwer.wer(said, heard), abs=1e-12)
    assert transcripts.word_error(said, heard).value == pytest.approx(jiwer.wer(said, heard), abs=1e-12)
    for one, other in zip(said, heard, strict=True):
        counted = jiwer.process_words(one, other)
        assert speech.word_errors(one, other) == counted.substitutions + counted.deletions + counted.insertions


def test_listening_keeps_what_the_library_computes():
    from whisper import DecodingOptions

    from course_utils.models import loaders
    from course_utils.models.hardware import Hardware

    hearing = loaders.load("speech", Hardware("cpu", "float32", "", 16, 10, cores=2), "bundled")
    sounds = [clip.audio for clip in speech.load_clips()[:18]]  # more than one batch
    heard = listening.listen(hearing, sounds)
    assert heard.texts == hearing.transcribe_many(sounds) and heard.mean.shape == (18, 144)
    model, mel = hearing.model, hearing.mel(sounds[17])
    result = model.decode(mel, DecodingOptions(language="en", without_timestamps=True, fp16=False))
    assert heard.sureness[17].item() == pytest.approx(result.avg_logprob, abs=1e-4)
    with torch.inference_mode():
        logits = model.logits(torch.tensor([[50257]]), model.encoder(mel[None]))[0, 0]  # <|startoftranscript|>
        again = heard.first[17] @ model.decoder.token_embedding.weight.T
    assert torch.allclose(again, logits, atol=1e-3)


def test_what_cannot_be_heard_leaves_the_model_as_it_was(senses):
    with pytest.raises(AttributeError):
        listening.listen(senses[1], [None])
    assert not senses[1].model.decoder.ln._forward_hooks


def test_the_sentences_in_five_languages_are_complete_and_keep_test_voices_apart():
    sayings = languages.load()
    assert {len(texts) for texts in languages.SENTENCES.values()} == {20}
    assert set(languages.SENTENCES) == set(languages.NAMES) == set(languages.VOICES)
    assert not set(languages.LEARN) & set(languages.TEST)
    assert {s.number for s in sayings if not s.test} == set(range(languages.KNOWN))
    for code in languages.NAMES:
        for number in range(20):
            some = [s for s in sayings if (s.language, s.number) == (code, number)]
            assert len(some) == (3 if number < languages.KNOWN else 2)
            assert {s.text for s in some} == {languages.SENTENCES[code][number]}
            assert {s.english for s in some} == {languages.SENTENCES["en"][number]}
    for saying in sayings:
        assert 0.4 < len(saying.audio) / 16_000 < 3 and np.abs(saying.audio).max() > 0.1


@pytest.mark.skipif(not speech.has_espeak(), reason="needs espeak-ng")
def test_the_sentences_are_what_their_generator_says(tmp_path):
    languages.write(tmp_path)
    ours = (languages.FOLDER / "languages.jsonl").read_text("utf-8").splitlines()
    theirs = (tmp_path / "languages.jsonl").read_text("utf-8").splitlines()
    # Where a sound ends depends on the version of espeak-ng.
    assert [{**json.loads(row), "ends": 0} for row in ours] == [{**json.loads(row), "ends": 0} for row in theirs]


def test_words_are_compared_without_case_punctuation_and_with_spelt_digits():
    assert transcripts.plain_words("Where is order 4,207?") == "where is order four two zero seven"
    rate = transcripts.word_error(["where is order four two"], ["Where is order 42."])
    assert rate.value == 0
    half = transcripts.word_error(["a b", "c d"], ["a b", "x y"])
    assert half.value == 0.5 and half.low == 0 and half.high == 1 and half.n == 2
    with pytest.raises(ValueError, match="one transcript each"):
        transcripts.word_error(["a"], [])


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        ("Um, I'd like two grey cubes.", "i would like two gray cubes"),
        ("My order 0120", "my order zero one two zero"),
        ("order 1-8-8-9", "order one eight eight nine"),
        ("[music] How much do 4 small purple cubes cost?", "how much do four small purple cubes cost"),
        ("", ""),
    ],
)
def test_a_real_models_way_of_writing_costs_no_words(heard, words):
    assert transcripts.plain_words(heard) == words


def test_prismas_own_words_stay_as_they_are():
    rng = random.Random(5)
    for _ in range(1_000):
        for sentence in (speech.request(rng), speech.request(rng, held_out=True), speech.drill(rng)):
            assert transcripts.plain_words(sentence) == sentence


def test_a_request_names_a_product_only_if_it_is_one():
    assert transcripts.wanted("do you have any small black pyramids left") == ("black", "pyramid")
    assert transcripts.wanted("where is my order one two three four") is None
    assert transcripts.wanted("a red cube or a blue cube") is None


def test_the_shelf_holds_every_product_once():
    shelf = transcripts.shelf(64, seed=0)
    assert len(shelf) == 64 == len(set(fusion.CLASSES)) and shelf[0].size == (64, 64)


def test_the_wishes_are_complete_and_keep_test_voices_apart():
    clips = wishes.load()
    learn, test = ({w.voice for w in clips if w.test is which} for which in (False, True))
    assert len(learn) == wishes.LEARN and len(test) == wishes.TEST and not learn & test
    assert len(clips) == (wishes.LEARN + wishes.TEST) * len(COLOURS) * len(wishes.FRAMES)
    assert all(len(w.audio) == wishes.SECONDS * 16_000 and w.colour in w.text for w in clips)
    assert min(np.abs(w.audio).max() for w in clips) > 0.05


def test_fusion_cases_need_both_senses(senses, cases):
    assert cases.picture.shape == (60, 16, 160) and cases.sound.shape == (60, 10, 48)
    assert 15 < cases.same.sum() < 45  # one half either way: guessing does not pay
    again = fusion.fusion_cases(*senses, 60, seed=0, test=False)
    other = fusion.fusion_cases(*senses, 60, seed=1, test=False)
    assert torch.equal(cases.picture, again.picture) and torch.equal(cases.sound, again.sound)
    assert not torch.equal(cases.shape, other.shape)


def test_noise_changes_what_the_senses_get_and_nothing_else(senses, cases):
    noisy = fusion.fusion_cases(*senses, 60, seed=0, test=False, picture_noise=0.3, snr_db=0)
    assert torch.equal(noisy.colour, cases.colour) and torch.equal(noisy.shape, cases.shape)
    assert not torch.allclose(noisy.picture, cases.picture, atol=1e-3)
    assert not torch.allclose(noisy.sound, cases.sound, atol=1e-3)


def test_standardised_features_and_missing_senses(cases):
    (scaled,) = fusion.standardise(cases)
    flat = scaled.picture.flatten(0, 1)
    assert flat.mean(0).abs().max() < 1e-3 and (flat.std(0) - 1).abs().max() < 0.02
    blind = fusion.without(scaled, "picture")
    assert not blind.picture.any() and torch.equal(blind.sound, scaled.sound)
    with pytest.raises(ValueError, match="picture"):
        fusion.without(scaled, "smell")


class Sum(nn.Module):
    """Late fusion at its smallest."""

    def __init__(self, width: int, answers: int = 18):
        super().__init__()
        self.see, self.hear = nn.Linear(width, answers), nn.Linear(width, answers)

    def forward(self, picture, sound):
        return self.see(picture.mean(1)) + self.hear(sound.mean(1))


class Meet(Sum):
    """The same with a hidden layer that reads both."""

    def __init__(self, width: int):
        super().__init__(width, 64)
        self.answer = nn.Sequential(nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 18))

    def forward(self, picture, sound):
        return self.answer(super().forward(picture, sound))


def made_up(n: int, seed: int) -> Cases:
    """Cases whose tokens say colour and shape outright."""
    rng = random.Random(seed)
    said, seen, shape = ([rng.randrange(8) for _ in range(n)] for _ in range(3))
    seen = [s if rng.random() < 0.5 else p for s, p in zip(said, seen, strict=True)]
    code = torch.eye(16) * 3
    picture = torch.stack([code[c] + code[8 + s] for c, s in zip(seen, shape, strict=True)])[:, None]
    sound = torch.stack([code[c] for c in said])[:, None]
    same = [int(a == b) for a, b in zip(said, seen, strict=True)]
    return Cases(picture, sound, torch.tensor(said), torch.tensor(shape), torch.tensor(same))


def test_a_sum_of_answers_cannot_compare_but_a_network_that_reads_both_can():
    train, test = made_up(3000, 0), made_up(600, 1)
    torch.manual_seed(0)
    late = fusion.marks(fusion.fit(Sum(16), train, 0, steps=500), test)
    both = fusion.marks(fusion.fit(Meet(16), train, 0, steps=500), test)
    assert late["wanted toy"] > 0.85 and both["wanted toy"] > 0.85
    assert late["same colour?"] < 0.7 and both["same colour?"] > 0.9


def test_modality_dropout_teaches_to_cope_alone():
    train, test = made_up(2000, 0), made_up(400, 1)
    torch.manual_seed(0)
    model = fusion.fit(Meet(16), train, 0, steps=400, missing=0.5)
    blind = fusion.marks(model, fusion.without(test, "picture"))
    assert blind["colour said"] > 0.9 and blind["shape seen"] < 2.5 / len(SHAPES)
