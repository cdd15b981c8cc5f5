"""Unit 7.1, lab on unified tokens: toys as pictures, sounds and words, codebooks, and judges of what is made.

The lesson itself (one vocabulary, sentences of three modalities, the transformer) is in the notebook.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from course_utils.figures import progress
from course_utils.measures import Measure, share
from course_utils.models import hardware
from course_utils.prisma import speech
from course_utils.prisma.pictures import draw_plain
from course_utils.prisma.shop import COLOURS, SHAPES, TRAINED_PAIRS
from course_utils.settings import paced
from course_utils.training import Learner, MuonAdamW, learning_rate

Pair = tuple[str, str]

SIDE, PATCH = 24, 4  # pixels of a picture and of a patch
PAPER = 0.38  # the grey of the background: the lit side of black and the dark side of white differ from it
RATE, FRAME, FRAMES = speech.RATE, 1280, 12  # samples a second, samples in a frame (80 ms), frames in a sound
MELS = 80
# A shape's tune: four notes, in semitones above the lowest.
TUNES = {
    "cube": (0, 0, 7, 7), "ball": (0, 7, 0, 7), "cone": (0, 4, 7, 12), "cylinder": (12, 7, 4, 0),
    "pyramid": (0, 12, 4, 7), "ring": (12, 0, 12, 0), "star": (7, 12, 7, 12), "heart": (4, 4, 0, 12),
}  # fmt: skip
# A colour's instrument: how strong the first six overtones are, and how fast a note dies away (1/s).
INSTRUMENTS = {
    "red": ((1, 0, 0, 0, 0, 0), 2), "orange": ((1, 1, 0, 0, 0, 0), 8), "yellow": ((1, 0, 1, 0, 1, 0), 2),
    "green": ((1, 0.7, 0.5, 0.4, 0.3, 0.3), 3), "blue": ((1, 0, 0, 1, 0, 0), 8), "purple": ((1, 0, 0, 0, 0, 1), 2),
    "white": ((0.2, 1, 0, 1, 0, 1), 2), "black": ((1, 0, 0.6, 0, 0, 0.8), 12),
}  # fmt: skip


def pairs_of(n: int, seed: int, pairs: Sequence[Pair] = TRAINED_PAIRS) -> list[Pair]:
    """`n` colour-shape pairs: each of `pairs` about equally often, in random order."""
    drawn = [pairs[i % len(pairs)] for i in range(n)]
    rng = random.Random(f"pairs {seed}")
    rng.shuffle(drawn)
    return drawn


# ---------------------------------------------------------------- pictures


def draw_toys(pairs: Sequence[Pair], seed: int) -> Tensor:
    """One toy a picture, on plain grey: (n, 3, SIDE, SIDE) in 0..1. No two are turned or lit alike.

    ValueError for a colour or a shape that Prisma does not have.
    """
    rng = np.random.default_rng(seed)
    drawn = draw_plain(pairs, PAPER, SIDE, rng)  # (n, SIDE, SIDE, 3)
    drawn += rng.normal(0, 0.01, drawn.shape)
    pixels = torch.from_numpy(drawn).clamp(0, 1)
    return pixels.permute(0, 3, 1, 2).contiguous()


def to_patches(images: Tensor) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE) as rows of patches (n, 36, 3 * PATCH * PATCH)."""
    cut = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (n, 3, rows, columns, PATCH, PATCH)
    grid = cut.permute(0, 2, 3, 1, 4, 5)  # (n, rows, columns, 3, PATCH, PATCH)
    return grid.flatten(3).flatten(1, 2)


def from_patches(patches: Tensor) -> Tensor:
    """The inverse of `to_patches`."""
    rows = SIDE // PATCH
    grid = patches.unflatten(1, (rows, rows)).unflatten(3, (3, PATCH, PATCH))
    cut = grid.permute(0, 3, 1, 4, 2, 5)  # (n, 3, rows, PATCH, columns, PATCH)
    return cut.flatten(4, 5).flatten(2, 3)


# ---------------------------------------------------------------- sounds


def play_toys(pairs: Sequence[Pair], seed: int) -> Tensor:
    """One jingle a toy, 0.96 s at 16 kHz: (n, samples). The shape is its tune, the colour its instrument.

    Key, loudness, timing and noise differ from jingle to jingle.
    """
    rng = np.random.default_rng(seed)
    note = FRAME * FRAMES // 4  # samples in each of the four notes
    jingles = np.zeros((len(pairs), 4, note), np.float32)
    for notes, (colour, shape) in zip(jingles, pairs, strict=True):
        base = 330 * 2 ** rng.uniform(-0.02, 0.02)
        late = int(rng.integers(0, RATE // 50))
        for wave, step in zip(notes, TUNES[shape], strict=True):
            turning = 2 * math.pi * base * 2 ** (step / 12)  # radians a second
            _play_note(wave[late:], turning, INSTRUMENTS[colour], rng)
        notes *= rng.uniform(0.07, 0.13)
        notes += rng.normal(0, 0.002, notes.shape)
    return torch.from_numpy(jingles.reshape(len(pairs), -1))


def _play_note(wave: np.ndarray, turning: float, instrument: tuple, rng: np.random.Generator) -> None:
    """Add a note to the silence in `wave` (samples,), in place; its lowest tone is `turning` radians a second."""
    tones, decay = instrument
    time = np.arange(len(wave)) / RATE
    for overtone, strength in enumerate(tones, 1):
        phase = rng.uniform(0, 6.28)
        wave += strength * np.sin(turning * overtone * time + phase)
    wave *= np.exp(-decay * time)


def to_frames(waves: Tensor) -> Tensor:
    """Jingles (n, samples) as log-mel frames of 80 ms (n, FRAMES, MELS), through Whisper's front end."""
    from whisper import log_mel_spectrogram

    mels = torch.stack([log_mel_spectrogram(wave) for wave in waves])  # (n, MELS, 100 a second)
    frames = mels.unflatten(2, (FRAMES, FRAME // 160)).mean(3)  # (n, MELS, FRAMES)
    return frames.transpose(1, 2).contiguous()


def hear(frames: Tensor) -> np.ndarray:
    """A sound (samples,) for frames (FRAMES, MELS): one sine wave for each mel band, as loud as the band.

    The phases are lost in a spectrogram, so it sounds rougher than the original.
    """
    from whisper.audio import mel_filters

    filters = mel_filters("cpu", MELS).numpy()  # (MELS, frequencies)
    weights = filters.sum(1)
    frequencies = np.linspace(0, RATE / 2, filters.shape[1])
    centres = filters @ frequencies / weights  # (MELS,)
    power = 10 ** (frames.float().numpy() * 4 - 4) / weights  # undoes Whisper's logarithm
    audible = power > power.max() * 1e-3
    loud = np.sqrt(np.repeat(power, FRAME, 0)) * audible.repeat(FRAME, 0)  # (samples, MELS)
    time = np.arange(FRAME * len(frames))[:, None] / RATE
    phases = np.random.default_rng(0).uniform(0, 6.28, len(centres))
    turns = 2 * math.pi * centres * time
    waves = loud * np.sin(turns + phases)
    wave = waves.sum(1)
    level = 0.3 * wave / np.abs(wave).max()
    return level.astype(np.float32)


# ---------------------------------------------------------------- codebooks


def nearest(rows: Tensor, book: Tensor) -> Tensor:
    """For each of `rows` (..., d) the number of the closest entry of `book` (k, d)."""
    flat = rows.reshape(-1, rows.shape[-1])
    near = [torch.cdist(part, book).argmin(1) for part in flat.split(8192)]
    return torch.cat(near).reshape(rows.shape[:-1])


def _spread_out(rows: Tensor, k: int, draw: torch.Generator) -> Tensor:
    """k-means++ seeding: each new centre is drawn in proportion to its squared distance from those before."""
    number = torch.randint(len(rows), (1,), generator=draw)
    chosen = [rows[number]]  # (1, d) each
    away = ((rows - chosen[0]) ** 2).sum(1)
    for _ in range(k - 1):
        number = torch.multinomial(away.clamp(min=1e-12), 1, generator=draw)
        centre = rows[number]
        chosen.append(centre)
        squares = ((rows - centre) ** 2).sum(1)
        away = torch.minimum(away, squares)
    return torch.cat(chosen)


def learn_codebook(rows: Tensor, k: int, seed: int) -> Tensor:
    """k-means (12 rounds of Lloyd's) on `rows` (n, d), seeded by k-means++: a codebook (k, d).

    An entry that no row is closest to stays where it was. ValueError if there are fewer rows than entries.
    """
    if len(rows) < k:
        raise ValueError(f"{len(rows)} rows cannot fill a codebook of {k}")
    draw = torch.Generator().manual_seed(seed)
    book = _spread_out(rows, k, draw)
    for _ in range(12):
        codes = nearest(rows, book)
        count = torch.bincount(codes, minlength=k)[:, None]  # (k, 1)
        total = torch.zeros_like(book).index_add_(0, codes, rows)
        mean = total / count.clamp(min=1)
        book = torch.where(count > 0, mean, book)
    return book


# ---------------------------------------------------------------- judges


@dataclass(frozen=True)
class Judge:
    """A classifier of one modality: `judge(x)` says a (colour, shape) pair for each row of `x`."""

    net: nn.Module

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> list[Pair]:
        colours, shapes = self.net(x).split(8, dim=1)
        best_colours = colours.argmax(1).tolist()
        best_shapes = shapes.argmax(1).tolist()
        return [(COLOURS[c], SHAPES[s]) for c, s in zip(best_colours, best_shapes, strict=True)]


def _picture_net() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 48)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(48 * 9, 16)]
    return nn.Sequential(*layers)


def _sound_net() -> nn.Module:
    first = nn.Linear(FRAMES * MELS, 96)
    last = nn.Linear(96, 16)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Dropout(0.2), last)


def train_judge(x: Tensor, pairs: Sequence[Pair], seed: int, steps: int = 200) -> Judge:
    """Train a judge on real examples `x`: pictures (n, 3, SIDE, SIDE) or sounds (n, FRAMES, MELS)."""
    truth = torch.tensor([(COLOURS.index(colour), SHAPES.index(shape)) for colour, shape in pairs])  # (n, 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _picture_net() if x.ndim == 4 else _sound_net()
        learner = Learner(net, 3e-3, steps, decay=0.01, rising=0.3, clip=math.inf)
        for _ in range(learner.steps):
            rows = torch.randint(len(x), (64,))
            colour, shape = net(x[rows]).split(8, dim=1)  # (64, 8) each
            of_colour = nn.functional.cross_entropy(colour, truth[rows, 0])
            of_shape = nn.functional.cross_entropy(shape, truth[rows, 1])
            learner.step(of_colour + of_shape)
    return Judge(net.eval())


def agreement(said: Sequence[Pair], true: Sequence[Pair]) -> dict[str, Measure]:
    """The shares with the right colour, the right shape, and both. ValueError if the lengths differ."""
    if len(said) != len(true):
        raise ValueError(f"{len(said)} judgements for {len(true)} toys: one each is needed")
    pairs = list(zip(said, true, strict=True))
    colours = [judged[0] == truth[0] for judged, truth in pairs]
    shapes = [judged[1] == truth[1] for judged, truth in pairs]
    both = [colour and shape for colour, shape in zip(colours, shapes, strict=True)]
    return {"colour": share(colours), "shape": share(shapes), "both": share(both)}


# ---------------------------------------------------------------- the transformer


def transformer(vocabulary: int, longest: int, seed: int, width: int = 128, layers: int = 4) -> nn.Module:
    """A fresh Llama, `width` wide: the same architecture as prisma-lm, about a million weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        attn_implementation="eager",  # for short rows on a CPU it trains faster than the fused kernel
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def fit(model: nn.Module, sentences: Tensor, steps: int, seed: int, peak: float = 6e-3, batch: int = 48) -> list[float]:
    """Predict every token of `sentences` (n, length) from those before it; returns the loss of each step.

    Muon for the matrices, AdamW for the rest, bf16 where that is fast, as in the recipe of prisma-lm.
    """
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    optimiser = MuonAdamW(model, peak, lambda name, weight: weight.ndim == 2 and "embed" not in name)
    losses = []
    model.train()
    steps = paced(steps)
    for step in progress(range(steps), "Training"):
        numbers = torch.randint(len(sentences), (batch,), generator=draw)
        rows = sentences[numbers].to(device)  # (batch, length)
        with hardware.autocast(device):
            logits = model(rows).logits[:, :-1].float()  # (batch, length - 1, vocabulary)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = learning_rate(step / steps, peak)
        optimiser.step(rate)
        losses.append(loss.item())
    model.eval()
    return losses


@torch.inference_mode()
def go_on(model: nn.Module, begun: Tensor, new: int, temperature: float, seed: int) -> Tensor:
    """The `new` tokens (n, new) that `model` writes after `begun` (n, t). Temperature 0 takes the likeliest."""
    device = next(model.parameters()).device
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    mask = torch.ones_like(begun, device=device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.generate(
            input_ids=begun.to(device),
            attention_mask=mask,
            max_new_tokens=new,
            min_new_tokens=new,
            **sampling,
        )
    return rows[:, begun.shape[1] :].cpu()


@torch.inference_mode()
def bits(model: nn.Module, sentences: Tensor, start: int) -> float:
    """How many bits the tokens from `start` on cost in the mean sentence, given all that stands before them."""
    device = next(model.parameters()).device
    nats = 0.0
    for part in sentences.split(128):
        rows = part.to(device)
        logits = model(rows).logits[:, start - 1 : -1].float()  # (n, tokens from start on, vocabulary)
        truth = rows[:, start:].flatten()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), truth, reduction="sum")
        nats += loss.item()
    return nats / len(sentences) / math.log(2)
