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
    random.Random(f"pairs {seed}").shuffle(drawn)
    return drawn


# ---------------------------------------------------------------- pictures


def draw_toys(pairs: Sequence[Pair], seed: int) -> Tensor:
    """One toy a picture, on plain grey: (n, 3, SIDE, SIDE) in 0..1. No two are turned or lit alike.

    ValueError for a colour or a shape that Prisma does not have.
    """
    rng = np.random.default_rng(seed)
    made = draw_plain(pairs, PAPER, SIDE, rng)
    made += rng.normal(0, 0.01, made.shape)
    return torch.from_numpy(made).clamp(0, 1).permute(0, 3, 1, 2).contiguous()


def to_patches(images: Tensor) -> Tensor:
    """Pictures (n, 3, SIDE, SIDE) as rows of patches (n, 36, 3 * PATCH * PATCH)."""
    cut = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (n, 3, rows, columns, PATCH, PATCH)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor) -> Tensor:
    """The inverse of `to_patches`."""
    rows = SIDE // PATCH
    grid = patches.unflatten(1, (rows, rows)).unflatten(3, (3, PATCH, PATCH))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


# ---------------------------------------------------------------- sounds


def play_toys(pairs: Sequence[Pair], seed: int) -> Tensor:
    """One jingle a toy, 0.96 s at 16 kHz: (n, samples). The shape is its tune, the colour its instrument.

    Key, loudness, timing and noise differ from jingle to jingle.
    """
    rng, note = np.random.default_rng(seed), FRAME * FRAMES // 4
    time, made = np.arange(note) / RATE, np.zeros((len(pairs), 4, note), np.float32)
    for notes, (colour, shape) in zip(made, pairs, strict=True):
        tones, decay = INSTRUMENTS[colour]
        base, late = 330 * 2 ** rng.uniform(-0.02, 0.02), int(rng.integers(0, RATE // 50))
        for wave, step in zip(notes, TUNES[shape], strict=True):
            pitch = 2 * math.pi * base * 2 ** (step / 12)
            for overtone, strength in enumerate(tones, 1):
                wave[late:] += (strength * np.sin(pitch * overtone * time + rng.uniform(0, 6.28)))[: note - late]
            wave[late:] *= np.exp(-decay * time)[: note - late]
        notes *= rng.uniform(0.07, 0.13)
        notes += rng.normal(0, 0.002, notes.shape)
    return torch.from_numpy(made.reshape(len(pairs), -1))


def to_frames(waves: Tensor) -> Tensor:
    """Jingles (n, samples) as log-mel frames of 80 ms (n, FRAMES, MELS), through Whisper's front end."""
    from whisper import log_mel_spectrogram

    mels = torch.stack([log_mel_spectrogram(wave) for wave in waves])  # (n, MELS, 100 a second)
    return mels.unflatten(2, (FRAMES, FRAME // 160)).mean(3).transpose(1, 2).contiguous()


def hear(frames: Tensor) -> np.ndarray:
    """A sound (samples,) for frames (FRAMES, MELS): one sine wave for each mel band, as loud as the band.

    The phases are lost in a spectrogram, so it sounds rougher than the original.
    """
    from whisper.audio import mel_filters

    filters = mel_filters("cpu", MELS).numpy()
    centres = filters @ np.linspace(0, RATE / 2, filters.shape[1]) / filters.sum(1)
    power = 10 ** (frames.float().numpy() * 4 - 4) / filters.sum(1)
    loud = np.sqrt(np.repeat(power, FRAME, 0)) * (power > power.max() * 1e-3).repeat(FRAME, 0)
    time = np.arange(FRAME * len(frames))[:, None] / RATE
    phases = np.random.default_rng(0).uniform(0, 6.28, len(centres))
    wave = (loud * np.sin(2 * math.pi * centres * time + phases)).sum(1)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


# ---------------------------------------------------------------- codebooks


def nearest(rows: Tensor, book: Tensor) -> Tensor:
    """For each of `rows` (..., d) the number of the closest entry of `book` (k, d)."""
    flat = rows.reshape(-1, rows.shape[-1])
    near = [torch.cdist(part, book).argmin(1) for part in flat.split(8192)]
    return torch.cat(near).reshape(rows.shape[:-1])


def _spread_out(rows: Tensor, k: int, draw: torch.Generator) -> Tensor:
    """k-means++ seeding: each new centre is drawn in proportion to its squared distance from those before."""
    chosen = [rows[torch.randint(len(rows), (1,), generator=draw)]]
    away = ((rows - chosen[0]) ** 2).sum(1)
    for _ in range(k - 1):
        chosen.append(rows[torch.multinomial(away.clamp(min=1e-12), 1, generator=draw)])
        away = torch.minimum(away, ((rows - chosen[-1]) ** 2).sum(1))
    return torch.cat(chosen)


def learn_codebook(rows: Tensor, k: int, seed: int) -> Tensor:
    """k-means (12 rounds of Lloyd's) on `rows` (n, d), seeded by k-means++: a codebook (k, d).

    An entry that no row is closest to stays where it was. ValueError if there are fewer rows than entries.
    """
    if len(rows) < k:
        raise ValueError(f"{len(rows)} rows cannot fill a codebook of {k}")
    book = _spread_out(rows, k, torch.Generator().manual_seed(seed))
    for _ in range(12):
        codes = nearest(rows, book)
        count = torch.bincount(codes, minlength=k)[:, None]
        total = torch.zeros_like(book).index_add_(0, codes, rows)
        book = torch.where(count > 0, total / count.clamp(min=1), book)
    return book


# ---------------------------------------------------------------- judges


@dataclass(frozen=True)
class Judge:
    """A classifier of one modality: `judge(x)` says a (colour, shape) pair for each row of `x`."""

    net: nn.Module

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> list[Pair]:
        colours, shapes = (part.argmax(1).tolist() for part in self.net(x).split(8, dim=1))
        return [(COLOURS[c], SHAPES[s]) for c, s in zip(colours, shapes, strict=True)]


def _picture_net() -> nn.Module:
    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 16), *block(16, 32), *block(32, 48), nn.Flatten(), nn.Linear(48 * 9, 16))


def _sound_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(FRAMES * MELS, 96), nn.ReLU(), nn.Dropout(0.2), nn.Linear(96, 16))


def train_judge(x: Tensor, pairs: Sequence[Pair], seed: int, steps: int = 200) -> Judge:
    """Train a judge on real examples `x`: pictures (n, 3, SIDE, SIDE) or sounds (n, FRAMES, MELS)."""
    truth = torch.tensor([(COLOURS.index(colour), SHAPES.index(shape)) for colour, shape in pairs])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = _picture_net() if x.ndim == 4 else _sound_net()
        learner = Learner(net, 3e-3, steps, decay=0.01, rising=0.3, clip=math.inf)
        for _ in range(learner.steps):
            rows = torch.randint(len(x), (64,))
            colour, shape = net(x[rows]).split(8, dim=1)
            loss = nn.functional.cross_entropy(colour, truth[rows, 0])
            learner.step(loss + nn.functional.cross_entropy(shape, truth[rows, 1]))
    return Judge(net.eval())


def agreement(said: Sequence[Pair], true: Sequence[Pair]) -> dict[str, Measure]:
    """The shares with the right colour, the right shape, and both. ValueError if the lengths differ."""
    if len(said) != len(true):
        raise ValueError(f"{len(said)} judgements for {len(true)} toys: one each is needed")
    parts = [(s[0] == t[0], s[1] == t[1]) for s, t in zip(said, true, strict=True)]
    marks = {"colour": share([a for a, _ in parts]), "shape": share([b for _, b in parts])}
    return marks | {"both": share([a and b for a, b in parts])}


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
    device, draw = next(model.parameters()).device, torch.Generator().manual_seed(seed)
    optimiser = MuonAdamW(model, peak, lambda name, weight: weight.ndim == 2 and "embed" not in name)
    losses = []
    model.train()
    steps = paced(steps)
    for step in progress(range(steps), "Training"):
        rows = sentences[torch.randint(len(sentences), (batch,), generator=draw)].to(device)
        with hardware.autocast(device):
            logits = model(rows).logits[:, :-1].float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step(learning_rate(step / steps, peak))
        losses.append(loss.item())
    model.eval()
    return losses


@torch.inference_mode()
def go_on(model: nn.Module, begun: Tensor, new: int, temperature: float, seed: int) -> Tensor:
    """The `new` tokens (n, new) that `model` writes after `begun` (n, t). Temperature 0 takes the likeliest."""
    device = next(model.parameters()).device
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = model.generate(
            input_ids=begun.to(device),
            attention_mask=torch.ones_like(begun, device=device),
            max_new_tokens=new,
            min_new_tokens=new,
            **sampling,
        )
    return rows[:, begun.shape[1] :].cpu()


@torch.inference_mode()
def bits(model: nn.Module, sentences: Tensor, start: int) -> float:
    """How many bits the tokens from `start` on cost in the mean sentence, given all that stands before them."""
    device, total = next(model.parameters()).device, 0.0
    for rows in sentences.split(128):
        logits = model(rows.to(device)).logits[:, start - 1 : -1].float()
        truth = rows[:, start:].to(device)
        total += nn.functional.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="sum").item()
    return total / len(sentences) / math.log(2)
