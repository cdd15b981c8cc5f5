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
    known = {words.eot, words.sot, words.no_timestamps}
    for word in speech.vocabulary():
        known.update(words.encode(" " + word))
    return sorted(known)


def build(vocabulary: int = VOCABULARY) -> Whisper:
    """An untrained model with `vocabulary` rows: 80 mels, 250 audio positions, 3 + 2 layers, 144 wide."""
    dimensions = ModelDimensions(80, SAMPLES // 320, WIDTH, HEADS, 3, vocabulary, 40, WIDTH, HEADS, 2)
    model = Whisper(dimensions)
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
    ids = used_tokens()
    weights = dict(model.state_dict())
    rows = weights["decoder.token_embedding.weight"]
    weights["decoder.token_embedding.weight"] = rows[ids] if len(rows) == VOCABULARY else rows
    del weights["encoder.positional_embedding"]
    halves = {name: weight.half().contiguous() for name, weight in weights.items()}
    save_file(halves, folder / "model.safetensors")
    dimensions = asdict(model.dims) | {"n_vocab": VOCABULARY}
    config = json.dumps({"dimensions": dimensions, "tokens": ids})
    (folder / "config.json").write_text(config + "\n", encoding="utf-8", newline="\n")
    return folder


def load(folder: Path = FOLDER) -> Whisper:
    """Read a folder that `save` wrote. The model is an ordinary float32 `Whisper`, ready to decode."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    ids = config["tokens"]
    dimensions = config["dimensions"] | {"n_vocab": len(ids)}
    narrow = Whisper(ModelDimensions(**dimensions))
    halves = load_file(folder / "model.safetensors")
    weights = {name: weight.float() for name, weight in halves.items()}
    weights["encoder.positional_embedding"] = narrow.encoder.positional_embedding
    narrow.load_state_dict(weights)
    return widen(narrow, ids)


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
        mels = [mel(sound) for sound in audio[start : start + 32]]
        spectra = torch.stack(mels).to(model.device)  # (n, 80, 500)
        results = model.decode(spectra, OPTIONS)
        texts += [result.text for result in results]
    return texts


# --- training -------------------------------------------------------------------------------------------


def augment(audio: np.ndarray, rng: np.random.Generator, talk: list[np.ndarray], hard: float) -> np.ndarray:
    """Change the tape's speed, draw the start and the volume; add room, clipping and noise by chance.

    `hard` from 0 to 1 scales those chances: the first lessons are quiet ones.
    """
    speed = rng.uniform(0.88, 1.12)
    audio = speech.change_speed(audio, speed)
    if rng.random() < 0.3 * hard:
        audio = speech.add_room(audio, rng)
    if rng.random() < 0.1 * hard:
        limit = rng.uniform(0.2, 0.8)
        audio = speech.clip_peaks(audio, limit)
    pause = int(rng.uniform(0, 0.3) * speech.RATE)
    first = rng.random() < 0.5  # noise in the pause before the speech as well, or in the speech alone
    if first:
        audio = np.pad(audio, (pause, 0))
    if rng.random() < 0.6 * hard:
        snr_db = rng.uniform(3, 30)
        kind = rng.choice(["white", "pink", "babble"])
        audio = speech.add_noise(audio, snr_db, rng, kind, talk)
    if not first:
        audio = np.pad(audio, (pause, 0))
    loud = audio * rng.uniform(0.2, 1.2)
    limited = loud.clip(-1, 1).astype(np.float32)
    return limited[:SAMPLES]


def spoken_ahead(start: int) -> Iterator[speech.Clip]:
    """Training utterances number `start` and up, in order; 64 are spoken ahead while the model learns."""
    with ThreadPoolExecutor(1) as mouth:
        waiting: deque[Future] = deque()
        for number in itertools.count(start):
            spoken = mouth.submit(speech.utterance, number, speech.VOICES_TRAIN, drills=0.55)
            waiting.append(spoken)
            if len(waiting) > 64:
                yield waiting.popleft().result()


def batches(seed: int, step: int) -> Iterator[list[speech.Clip]]:
    """Batches from `step` on: new utterances, and some that were heard before and will sound different."""
    rng = random.Random(f"{seed} {step}")
    pool: deque[speech.Clip] = deque(maxlen=POOL)
    fresh = spoken_ahead(seed * 10**8 + step * FRESH)
    pool.extend(itertools.islice(fresh, BATCH * 4))
    while True:
        new = list(itertools.islice(fresh, FRESH))
        pool.extend(new)
        heard_before = rng.choices(pool, k=BATCH - FRESH)
        yield new + heard_before


def collate(
    clips: list[speech.Clip], rng: np.random.Generator, hard: float, whole: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Augmented spectra (n, 80, frames), tokens and shown tokens (n, length).

    Tokens are numbered among the used ones, with -1 after the end. Of those shown to the decoder one in eight
    is wrong, so that it listens rather than guesses from the words before. The window is cut to the longest
    sound of the batch unless `whole`: silence teaches little and costs time.
    """
    talk = [clip.audio for clip in clips]
    sounds = [augment(audio, rng, talk, hard) for audio in talk]
    length = SAMPLES if whole else _window(sounds)
    spectra = torch.stack([log_mel_spectrogram(pad_or_trim(sound, length)) for sound in sounds])
    for row in spectra:  # a band of frequencies goes missing (SpecAugment, arXiv 1904.08779)
        low = rng.integers(80)
        width = rng.integers(12)
        row[low : low + width] = row.mean()
    ids = used_tokens()
    tokens = _numbered([clip.text for clip in clips], ids)
    wrong = torch.from_numpy(rng.random(tokens.shape) < 0.125)
    wrong[:, :2] = False  # the start of every transcript
    others = torch.from_numpy(rng.integers(len(ids), size=tokens.shape))
    shown = torch.where(wrong, others, tokens)
    return spectra, tokens, shown


def _window(sounds: list[np.ndarray]) -> int:
    """Samples for the longest of `sounds` and a little silence: a whole number of the encoder's positions."""
    longest = max(map(len, sounds))
    positions = math.ceil(longest / 320 + 5)
    return min(SAMPLES, positions * 320)


def _numbered(texts: list[str], ids: list[int]) -> torch.Tensor:
    """Transcripts (n, length) as places in `ids`, with -1 after the end."""
    words = tokenizer()
    number = {token: i for i, token in enumerate(ids)}
    rows = []
    for text in texts:
        tokens = [words.sot, words.no_timestamps, *words.encode(" " + text), words.eot]
        row = [number[token] for token in tokens]
        rows.append(torch.tensor(row))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


class Student(torch.nn.Module):
    """The model with the used vocabulary alone, and a helper head that is thrown away after training.

    The head reads words off the encoder (CTC beside attention, arXiv 1609.06773): it teaches the encoder
    to listen before the decoder has found out where to look.
    """

    def __init__(self) -> None:
        super().__init__()
        used = len(used_tokens())
        self.whisper = build(used)
        self.head = torch.nn.Linear(WIDTH, used + 1)

    def loss(self, spectra: torch.Tensor, tokens: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
        """Next-token loss with the beginning `shown`, plus half the helper's loss."""
        heard = self.encode(spectra)  # (n, positions, WIDTH)
        before = shown[:, :-1].clamp(min=0)
        logits = self.whisper.decoder(before, heard)[:, 1:]  # (n, length - 2, used)
        wanted = tokens[:, 2:]  # behind the two tokens that start every transcript
        told = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=-1)
        spoken = wanted.clamp(min=0)
        lengths = (wanted >= 0).sum(1) - 1  # without the end
        chances = self.head(heard).float().log_softmax(-1)
        chances = chances.transpose(0, 1)  # (positions, n, used + 1)
        positions, _, entries = chances.shape
        frames = torch.full_like(lengths, positions)
        helper = F.ctc_loss(chances, spoken, frames, lengths, blank=entries - 1, zero_infinity=True)
        return told + 0.5 * helper

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
    hard = min(1.0, number / QUIET)
    batch = collate(clips, rng, hard, whole=number % 5 == 0)
    tensors = [tensor.to(device) for tensor in batch]
    # The fused attention kernel is slower than plain products for 250 positions on a CPU.
    with disable_sdpa(), hardware.autocast(device):
        loss = student.loss(*tensors)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    rate = learning_rate(part, PEAK)
    optimiser.step(rate)
    reserve_bias(student.whisper)
    return loss.item()


def finished(student: Student) -> Whisper:
    """The model as it will be used: on the CPU, with the whole vocabulary, without the helper head."""
    narrow = copy.deepcopy(student.whisper).cpu()
    return widen(narrow, used_tokens())


def train(minutes: float = 75, device: str = "cpu", resume: bool = False) -> Path:
    """Train for `minutes`; returns the folder of the new model, build/train/prisma-whisper/model.

    `resume` goes on where the last checkpoint of a killed run stood. Needs espeak-ng.
    """
    speech.speak("hello", speech.VOICES_TRAIN[0], 0)  # where espeak-ng is missing, say so at once
    torch.manual_seed(SEED)
    student = Student().to(device)
    point = checkpoint(NAME)
    optimiser = MuonAdamW(student, PEAK, is_inner)
    state = {"step": 0, "spent": 0.0}
    if resume:
        state.update(point.load(student, optimiser))
    deadline = Deadline(minutes, state["spent"])
    learn = partial(step, student, optimiser)
    lessons = batches(SEED, state["step"])
    run(NAME, lessons, learn, deadline, state, lambda s: point.save(student, optimiser, **s))
    return save(finished(student), point.folder / "model")


# --- evaluation -----------------------------------------------------------------------------------------


def evaluate(model: Whisper | Path = FOLDER, seed: int = 2026, n: int = 300) -> dict[str, Measure]:
    """Every measure of the model card, on `n` utterances drawn from `seed`; a few seconds.

    Voices and sentence patterns are those that training never used. Without espeak-ng the 60 shipped clips
    stand in for fresh speech, and a line on stderr says so.
    """
    if isinstance(model, Path):
        model = load(model)
    rng = np.random.default_rng(seed)
    clips = held_out_clips(seed, n, speech.VOICES_HELD_OUT)
    sounds = [clip.audio for clip in clips]
    texts = [clip.text for clip in clips]
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
        said = [clip.text for clip in far]
        measures["word errors in an accent never heard"] = word_errors(said, heard)
    measures["real time factor on one core"] = real_time_factor(model, sounds[:30])
    return measures


def held_out_clips(seed: int, n: int, voices: tuple[str, ...]) -> list[speech.Clip]:
    """`n` fresh utterances with held-out patterns, or the shipped clips where espeak-ng is missing."""
    if speech.has_espeak():
        first = seed * 10**6
        return [speech.utterance(first + i, voices, held_out=True) for i in range(n)]
    clips = speech.load_clips()
    print(f"espeak-ng is not installed: measured on the {len(clips)} shipped clips instead.", file=sys.stderr)
    return clips


def word_errors(texts: list[str], heard: list[str]) -> Measure:
    """Word error rate over all utterances, with the 95 % interval of a bootstrap over utterances."""
    texts = inputs.as_texts(texts)
    heard = inputs.as_texts(heard, "transcripts")
    return speech.measured_word_errors(texts, heard, rounds=2000)


def real_time_factor(model: Whisper, sounds: list[np.ndarray]) -> Measure:
    """Processor seconds per second of sound, one sound at a time; median, and the middle 95 % of the sounds.

    Processor time, because other programs on the machine would lengthen the time on the clock.
    """
    threads = torch.get_num_threads()
    factors = []
    torch.set_num_threads(1)
    try:
        transcribe(model, sounds[0])  # the first call fills caches
        for sound in sounds:
            start = time.process_time()
            transcribe(model, sound)
            spent = time.process_time() - start
            length = len(sound) / speech.RATE
            factors.append(spent / length)
    finally:
        torch.set_num_threads(threads)
    low, high = np.quantile(factors, [0.025, 0.975])
    median = np.median(factors)
    return Measure(float(median), float(low), float(high), len(sounds), "s per s")
