"""prisma-whisper: openai-whisper's own `Whisper` at a small size, trained on espeak-ng's speech.

It hears five seconds at a time and knows the words of Prisma's customers, nothing else.
"""

import copy
import itertools
import json
import math
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from whisper import DecodingOptions, log_mel_spectrogram, pad_or_trim
from whisper.model import ModelDimensions, Whisper, disable_sdpa
from whisper.tokenizer import Tokenizer, get_tokenizer

from course_utils.measures import Measure
from course_utils.models import hardware, inputs
from course_utils.prisma import speech
from course_utils.settings import MODELS, SEED
from course_utils.training import Deadline, MuonAdamW, checkpoint, learning_rate, run

NAME = "prisma-whisper"
FOLDER = MODELS / NAME
SAMPLES = int(speech.LONGEST * speech.RATE)  # the window
VOCABULARY = 51_864  # rows of openai-whisper's English vocabulary
WIDTH, HEADS = 144, 3
IMPOSSIBLE = -1e4  # the logit of a token that the model does not know
OPTIONS = DecodingOptions(language="en", without_timestamps=True, fp16=False)

BATCH, FRESH = 32, 8  # utterances a step, and how many of them are new; the others come from a pool
POOL = 3_000
QUIET = 1_500  # steps until the sound is as bad as it gets
PEAK = 2e-3


def tokenizer() -> Tokenizer:
    """openai-whisper's tokenizer for English-only models."""
    return get_tokenizer(multilingual=False)


def used_tokens() -> list[int]:
    """The token ids that Prisma's sentences need, in rising order, with the three special ones."""
    words = tokenizer()
    known = {token for word in speech.vocabulary() for token in words.encode(" " + word)}
    return sorted(known | {words.eot, words.sot, words.no_timestamps})


def build(vocabulary: int = VOCABULARY) -> Whisper:
    """An untrained model with `vocabulary` rows: 80 mels, 250 audio positions, 3 + 2 layers, 144 wide."""
    model = Whisper(ModelDimensions(80, SAMPLES // 320, WIDTH, HEADS, 3, vocabulary, 40, WIDTH, HEADS, 2))
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=0.05)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    return reserve_bias(model)


@torch.no_grad()
def reserve_bias(model: Whisper) -> Whisper:
    """Hold the first of the decoder's outputs at 1, so that column 0 of the embedding is a logit's bias."""
    model.decoder.ln.weight[0], model.decoder.ln.bias[0] = 0.0, 1.0
    return model


def widen(narrow: Whisper, ids: list[int]) -> Whisper:
    """The same model with the full vocabulary: rows outside `ids` get the logit -10,000, whatever it hears."""
    weights = narrow.state_dict()
    rows = torch.zeros(VOCABULARY, WIDTH)
    rows[:, 0] = IMPOSSIBLE
    rows[ids] = weights["decoder.token_embedding.weight"].float()
    model = build()
    model.load_state_dict(weights | {"decoder.token_embedding.weight": rows})
    return model.eval()


def save(model: Whisper, folder: Path) -> Path:
    """Write config.json and model.safetensors (fp16, used rows only; the fixed sinusoids are left out)."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, weights = used_tokens(), dict(model.state_dict())
    rows = weights["decoder.token_embedding.weight"]
    weights["decoder.token_embedding.weight"] = rows[ids] if len(rows) == VOCABULARY else rows
    del weights["encoder.positional_embedding"]
    save_file({k: v.half().contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    config = {"dimensions": asdict(model.dims) | {"n_vocab": VOCABULARY}, "tokens": ids}
    (folder / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8", newline="\n")
    return folder


def load(folder: Path = FOLDER) -> Whisper:
    """Read a folder that `save` wrote. The model is an ordinary float32 `Whisper`, ready to decode."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    narrow = Whisper(ModelDimensions(**config["dimensions"] | {"n_vocab": len(config["tokens"])}))
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    narrow.load_state_dict(weights | {"encoder.positional_embedding": narrow.encoder.positional_embedding})
    return widen(narrow, config["tokens"])


def mel(audio: np.ndarray) -> torch.Tensor:
    """The library's log-mel spectrogram of one five-second window, (80, 500)."""
    sound = inputs.as_sound(audio)
    if len(sound) > SAMPLES:
        raise ValueError(
            f"prisma-whisper hears {speech.LONGEST:.0f} s at a time, this sound is "
            f"{len(sound) / speech.RATE:.1f} s long: cut it into shorter pieces."
        )
    return log_mel_spectrogram(pad_or_trim(sound, SAMPLES))


def transcribe(model: Whisper, audio: np.ndarray | list[np.ndarray]) -> str | list[str]:
    """What is said in one sound (float32, 16 kHz, at most 5 s), or in each sound of a list."""
    if isinstance(audio, np.ndarray):
        return transcribe(model, [audio])[0]
    texts = []
    for start in range(0, len(audio), 32):
        spectra = torch.stack([mel(sound) for sound in audio[start : start + 32]]).to(model.device)
        texts += [result.text for result in model.decode(spectra, OPTIONS)]
    return texts


# --- training -------------------------------------------------------------------------------------------


def augment(audio: np.ndarray, rng: np.random.Generator, talk: list[np.ndarray], hard: float) -> np.ndarray:
    """Change the tape's speed, draw the start and the volume; add room, clipping and noise by chance.

    `hard` from 0 to 1 scales those chances: the first lessons are quiet ones.
    """
    audio = speech.change_speed(audio, rng.uniform(0.88, 1.12))
    if rng.random() < 0.3 * hard:
        audio = speech.add_room(audio, rng)
    if rng.random() < 0.1 * hard:
        audio = speech.clip_peaks(audio, rng.uniform(0.2, 0.8))
    pause = int(rng.uniform(0, 0.3) * speech.RATE)
    first = rng.random() < 0.5  # noise in the pause before the speech as well, or in the speech alone
    audio = np.pad(audio, (pause, 0)) if first else audio
    if rng.random() < 0.6 * hard:
        audio = speech.add_noise(audio, rng.uniform(3, 30), rng, rng.choice(["white", "pink", "babble"]), talk)
    audio = audio if first else np.pad(audio, (pause, 0))
    return (audio * rng.uniform(0.2, 1.2)).clip(-1, 1).astype(np.float32)[:SAMPLES]


def spoken_ahead(start: int) -> Iterator[speech.Clip]:
    """Training utterances number `start` and up, in order; 64 are spoken ahead while the model learns."""
    with ThreadPoolExecutor(1) as mouth:
        waiting: deque[Future] = deque()
        for number in itertools.count(start):
            waiting.append(mouth.submit(speech.utterance, number, speech.VOICES_TRAIN, drills=0.55))
            if len(waiting) > 64:
                yield waiting.popleft().result()


def batches(seed: int, step: int) -> Iterator[list[speech.Clip]]:
    """Batches from `step` on: new utterances, and some that were heard before and will sound different."""
    rng, pool = random.Random(f"{seed} {step}"), deque(maxlen=POOL)
    fresh = spoken_ahead(seed * 10**8 + step * FRESH)
    pool.extend(next(fresh) for _ in range(BATCH * 4))
    while True:
        new = [next(fresh) for _ in range(FRESH)]
        pool.extend(new)
        yield new + rng.choices(pool, k=BATCH - FRESH)


def collate(
    clips: list[speech.Clip], rng: np.random.Generator, hard: float, whole: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Augmented spectra (n, 80, frames), tokens and shown tokens (n, length).

    Tokens are numbered among the used ones, with -1 after the end. Of those shown to the decoder one in eight
    is wrong, so that it listens rather than guesses from the words before. The window is cut to the longest
    sound of the batch unless `whole`: silence teaches little and costs time.
    """
    sounds = [augment(clip.audio, rng, [other.audio for other in clips], hard) for clip in clips]
    length = SAMPLES if whole else min(SAMPLES, math.ceil(max(map(len, sounds)) / 320 + 5) * 320)
    spectra = torch.stack([log_mel_spectrogram(pad_or_trim(sound, length)) for sound in sounds])
    for row in spectra:  # a band of frequencies goes missing (SpecAugment, arXiv 1904.08779)
        low, high = rng.integers(80), rng.integers(12)
        row[low : low + high] = row.mean()
    words, number = tokenizer(), {token: i for i, token in enumerate(used_tokens())}
    lists = [[words.sot, words.no_timestamps, *words.encode(" " + clip.text), words.eot] for clip in clips]
    rows = [torch.tensor([number[token] for token in tokens]) for tokens in lists]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    wrong = torch.from_numpy(rng.random(tokens.shape) < 0.125)
    wrong[:, :2] = False  # the start of every transcript
    others = torch.from_numpy(rng.integers(len(number), size=tokens.shape))
    return spectra, tokens, torch.where(wrong, others, tokens)


class Student(torch.nn.Module):
    """The model with the used vocabulary alone, and a helper head that is thrown away after training.

    The head reads words off the encoder (CTC beside attention, arXiv 1609.06773): it teaches the encoder
    to listen before the decoder has found out where to look.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whisper = build(len(used_tokens()))
        self.head = torch.nn.Linear(WIDTH, len(used_tokens()) + 1)

    def loss(self, spectra: torch.Tensor, tokens: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Next-token loss with the beginning `shown`, plus half the helper's loss."""
        heard = self.encode(spectra)
        logits = self.whisper.decoder(shown[:, :-1].clamp(min=0), heard)
        told = F.cross_entropy(logits[:, 1:].flatten(0, 1).float(), tokens[:, 2:].flatten(), ignore_index=-1)
        spoken, lengths = tokens[:, 2:].clamp(min=0), (tokens[:, 2:] >= 0).sum(1) - 1
        chances = self.head(heard).float().log_softmax(-1).transpose(0, 1)
        frames, blank = torch.full_like(lengths, len(chances)), chances.shape[-1] - 1
        return told + 0.5 * F.ctc_loss(chances, spoken, frames, lengths, blank=blank, zero_infinity=True)

    def encode(self, spectra: torch.Tensor) -> torch.Tensor:
        """The library's encoder, on a window that may be shorter than five seconds."""
        encoder = self.whisper.encoder
        full = encoder.positional_embedding
        encoder.positional_embedding = full[: spectra.shape[-1] // 2]
        try:
            return encoder(spectra)
        finally:
            encoder.positional_embedding = full


def is_inner(name: str, parameter: torch.nn.Parameter) -> bool:
    """Whether Muon updates this parameter: the matrices of the layers."""
    return "blocks" in name and parameter.ndim == 2


def step(student: Student, optimiser: MuonAdamW, clips: list[speech.Clip], number: int, part: float) -> float:
    """Step `number` on one batch, `part` of the way through the training. Returns the loss."""
    device = next(student.parameters()).device
    rng = np.random.default_rng([SEED, number])
    batch = collate(clips, rng, hard=min(1.0, number / QUIET), whole=number % 5 == 0)
    # The fused attention kernel is slower than plain products for 250 positions on a CPU.
    with disable_sdpa(), hardware.autocast(device):
        loss = student.loss(*(part.to(device) for part in batch))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimiser.step(learning_rate(part, PEAK))
    reserve_bias(student.whisper)
    return loss.item()


def finished(student: Student) -> Whisper:
    """The model as it will be used: on the CPU, with the whole vocabulary, without the helper head."""
    return widen(copy.deepcopy(student.whisper).cpu(), used_tokens())


def train(minutes: float = 75, device: str = "cpu", resume: bool = False) -> Path:
    """Train for `minutes`; returns the folder of the new model, build/train/prisma-whisper/model.

    `resume` goes on where the last checkpoint of a killed run stood. Needs espeak-ng.
    """
    speech.speak("hello", speech.VOICES_TRAIN[0], 0)  # where espeak-ng is missing, say so at once
    torch.manual_seed(SEED)
    student, point = Student().to(device), checkpoint(NAME)
    optimiser, state = MuonAdamW(student, PEAK, is_inner), {"step": 0, "spent": 0.0}
    if resume:
        state.update(point.load(student, optimiser))
    deadline, learn = Deadline(minutes, state["spent"]), partial(step, student, optimiser)
    run(NAME, batches(SEED, state["step"]), learn, deadline, state, lambda s: point.save(student, optimiser, **s))
    return save(finished(student), point.folder / "model")


# --- evaluation -----------------------------------------------------------------------------------------


def evaluate(model: Whisper | Path = FOLDER, seed: int = 2026, n: int = 300) -> dict[str, Measure]:
    """Every measure of the model card, on `n` utterances drawn from `seed`; a few seconds.

    Voices and sentence patterns are those that training never used. Without espeak-ng the 60 shipped clips
    stand in for fresh speech, and a line on stderr says so.
    """
    model = load(model) if isinstance(model, Path) else model
    rng, clips = np.random.default_rng(seed), held_out_clips(seed, n, speech.VOICES_HELD_OUT)
    sounds, texts = [clip.audio for clip in clips], [clip.text for clip in clips]
    kinds = itertools.cycle(["white", "pink", "babble"])
    noisy = [speech.add_noise(sound, 10, rng, kind, sounds) for sound, kind in zip(sounds, kinds, strict=False)]
    roomy = [speech.add_room(sound, rng) for sound in sounds]
    measures = {
        "word errors, clean": word_errors(texts, transcribe(model, sounds)),
        "word errors at 10 dB": word_errors(texts, transcribe(model, noisy)),
        "word errors in a room": word_errors(texts, transcribe(model, roomy)),
    }
    if speech.has_espeak():
        far = held_out_clips(seed, n, speech.VOICES_NEW_ACCENT)
        heard = transcribe(model, [clip.audio for clip in far])
        measures["word errors in an accent never heard"] = word_errors([clip.text for clip in far], heard)
    return measures | {"real time factor on one core": real_time_factor(model, sounds[:30])}


def held_out_clips(seed: int, n: int, voices: tuple[str, ...]) -> list[speech.Clip]:
    """`n` fresh utterances with held-out patterns, or the shipped clips where espeak-ng is missing."""
    if speech.has_espeak():
        return [speech.utterance(seed * 10**6 + i, voices, held_out=True) for i in range(n)]
    clips = speech.load_clips()
    print(f"espeak-ng is not installed: measured on the {len(clips)} shipped clips instead.", file=sys.stderr)
    return clips


def word_errors(texts: list[str], heard: list[str]) -> Measure:
    """Word error rate over all utterances, with the 95 % interval of a bootstrap over utterances."""
    texts = inputs.as_texts(texts)
    heard = inputs.as_texts(heard, "transcripts")
    errors = np.array([speech.word_errors(*pair) for pair in zip(texts, heard, strict=True)])
    words = np.array([len(text.split()) for text in texts])
    draws = np.random.default_rng(0).integers(len(texts), size=(2000, len(texts)))
    low, high = np.quantile(errors[draws].sum(1) / words[draws].sum(1), [0.025, 0.975])
    return Measure(float(errors.sum() / words.sum()), float(low), float(high), len(texts), "%")


def real_time_factor(model: Whisper, sounds: list[np.ndarray]) -> Measure:
    """Processor seconds per second of sound, one sound at a time; median, and the middle 95 % of the sounds.

    Processor time, because other programs on the machine would lengthen the time on the clock.
    """
    threads, factors = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        transcribe(model, sounds[0])  # the first call fills caches
        for sound in sounds:
            start = time.process_time()
            transcribe(model, sound)
            factors.append((time.process_time() - start) / (len(sound) / speech.RATE))
    finally:
        torch.set_num_threads(threads)
    low, high = np.quantile(factors, [0.025, 0.975])
    return Measure(float(np.median(factors)), float(low), float(high), len(sounds), "s per s")
