"""Helpers of the lab on binding senses (7.1): the sounds of falling toys, and pairs of a sound and a picture.

The lesson itself (the audio encoder, the contrastive training, the adapter, the wrong captions) is in the notebook.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from whisper import log_mel_spectrogram

from course_utils.models import hardware
from course_utils.prisma import pictures, speech
from course_utils.prisma.pictures import Scene, Toy
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES

SAMPLES = speech.RATE  # one second of sound
CHUNK = 256  # sounds and pictures made at a time: thousands at once would fill the memory
KINDS = [Toy(size, colour, shape) for colour, shape, size in product(COLOURS, SHAPES, SIZES)]  # all 192
PLACE = {toy: i for i, toy in enumerate(KINDS)}
# Everything below is made up: real toys of these shapes would sound otherwise. A size sets the pitch, a shape
# the overtones, and each colour stands for a material, which sets how long a tone lasts and how bright it is.
PITCH = {"small": 1350.0, "medium": 850.0, "large": 535.0}  # hertz
OVERTONES = {
    "cube": (1.0, 1.41, 1.73, 2.24, 2.83, 3.16),
    "ball": (1.0, 1.5, 1.93, 2.35, 2.76, 3.17),
    "cone": (1.0, 2.3, 3.6, 4.9, 6.2, 7.5),
    "cylinder": (1.0, 2.76, 5.4, 8.93, 9.8, 10.6),
    "pyramid": (1.0, 1.26, 2.12, 2.52, 3.78, 4.24),
    "ring": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
    "star": (1.0, 1.13, 1.71, 2.71, 3.3, 4.61),
    "heart": (1.0, 1.2, 2.0, 2.4, 4.0, 4.8),
}
MATERIALS = {  # name, decay time of the lowest tone in seconds, loss of power per overtone, loudness of the click
    "red": ("clay", 0.035, 0.25, 0.5),
    "orange": ("copper", 0.09, 0.9, 0.1),
    "yellow": ("brass", 0.22, 0.25, 0.3),
    "green": ("glass", 0.09, 0.25, 0.4),
    "blue": ("plastic", 0.035, 0.9, 0.2),
    "purple": ("wood", 0.014, 0.9, 0.3),
    "white": ("china", 0.22, 0.9, 0.2),
    "black": ("rubber", 0.014, 0.25, 0.1),
}


# --- sounds ---------------------------------------------------------------------------------------------


def ring_out(frequency: np.ndarray, decay: np.ndarray, weight: np.ndarray, samples: int = SAMPLES) -> np.ndarray:
    """Sums of dying tones: sum over m of weight * exp(-t / decay) * sin(2 pi frequency t), float32 (n, samples).

    `frequency` in hertz, `decay` in seconds, `weight`: each (n, m). An exponential of a sum is a product, so
    each sound is one matrix product of coarse steps by fine steps.
    """
    pace = (-1 / decay + 2j * np.pi * frequency) / speech.RATE  # (n, m)
    fine = np.arange(128)
    coarse = np.arange(-(-samples // 128)) * 128
    steps = np.exp(pace[..., None] * fine).astype(np.complex64)  # (n, m, 128)
    blocks = weight[..., None] * np.exp(pace[..., None] * coarse)
    blocks = blocks.astype(np.complex64).transpose(0, 2, 1)  # (n, blocks, m)
    waves = np.matmul(blocks, steps).imag
    return waves.reshape(len(pace), -1)[:, :samples]


def strikes(toys: Sequence[Toy], rng: np.random.Generator, samples: int = SAMPLES) -> np.ndarray:
    """Each toy struck once at time 0: float32 (n, samples), highest peak 1. No two strikes are alike."""
    n = len(toys)
    pitches = np.array([PITCH[toy.size] for toy in toys])
    base = pitches * rng.lognormal(0, 0.12, n)
    overtones = np.array([OVERTONES[toy.shape] for toy in toys])
    ratios = overtones * rng.lognormal(0, 0.012, (n, 6))
    materials = [MATERIALS[toy.colour] for toy in toys]
    _, lasting, dull, click = zip(*materials, strict=True)
    decay = np.array(lasting) * rng.lognormal(0, 0.18, n)
    frequency = np.minimum(base[:, None] * ratios, 7600)  # (n, 6)
    loss = np.array(dull)[:, None] * np.arange(6)
    weight = np.exp(-loss) * rng.lognormal(0, 0.5, (n, 6))
    sound = ring_out(frequency, decay[:, None] * ratios**-0.5, weight, samples)
    fading = np.exp(-np.arange(160) / 40)
    burst = rng.standard_normal((n, 160)) * fading * np.array(click)[:, None]
    sound[:, :160] += burst * _peaks(sound)
    return (sound / _peaks(sound)).astype(np.float32)


def play(strike: np.ndarray, hits: Sequence[float], loudness: Sequence[float], samples: int = SAMPLES) -> np.ndarray:
    """One sound (samples,) in which `strike` is heard at each of the times `hits` (seconds), so loud each."""
    sound = np.zeros(samples, np.float32)
    for time, loud in zip(hits, loudness, strict=True):
        start = round(time * speech.RATE)
        if not 0 <= start < samples:
            raise ValueError(f"a hit at {time:.2f} s lies outside of the {samples / speech.RATE:.2f} s of sound")
        end = min(start + len(strike), samples)
        sound[start:end] += loud * strike[: end - start]
    return sound


def _peaks(sounds: np.ndarray) -> np.ndarray:
    """The highest peak of each sound (n, samples): (n, 1)."""
    return np.abs(sounds).max(1, keepdims=True)


def falls(toys: Sequence[Toy], seed: int | Sequence[int], varied: bool = True) -> np.ndarray:
    """Each toy falls on the floor and bounces on, lower each time: float32 (n, SAMPLES).

    `varied` sounds have echoes, background noise of 5 to 30 dB and any loudness; the others are dry and clean.
    """
    rng = np.random.default_rng(seed)
    sounds = np.stack([_fall(strike, rng) for strike in strikes(toys, rng)])
    if varied:
        return _roughen(sounds, rng)
    return 0.3 * sounds


def _fall(strike: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """First contact within 0.1 s, then up to three bounces, each sooner and softer than the last."""
    time = rng.uniform(0, 0.1)
    gap = rng.uniform(0.2, 0.4)
    spring = rng.uniform(0.3, 0.7)
    hits, loudness = [], []
    for bounce in range(rng.integers(1, 5)):
        hits.append(time)
        loudness.append(spring**bounce)
        time += gap
        gap *= spring
    return play(strike, hits, loudness)


def _roughen(sounds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds two echoes and noise, and draws the loudness; sounds (n, samples)."""
    n, samples = sounds.shape
    kinds = ["white"] * 4 + ["pink"] * 4
    hiss = np.stack([speech.noise(kind, 8 * samples, rng) for kind in kinds])
    rough = np.empty_like(sounds)
    for i, sound in enumerate(sounds):
        delays = rng.uniform(0.005, 0.12, 2)
        loudness = rng.uniform(0, 0.45, 2)
        echoes = play(sound, delays, loudness, samples)
        start = rng.integers(7 * samples)
        noise = hiss[rng.integers(len(hiss)), start : start + samples]
        ratio = (sound**2).mean() / (noise**2).mean()
        level = np.sqrt(ratio) * 10 ** (-rng.uniform(5, 30) / 20)
        together = sound + echoes + level * noise
        rough[i] = together * rng.uniform(0.1, 0.5)
    return rough


def log_mels(sounds: np.ndarray) -> Tensor:
    """Whisper's log-mel spectrogram of each of the sounds (n, samples): (n, 80, samples / 160), float32.

    One by one, because it clips at eight decades below the maximum of all that it is given.
    """
    return torch.stack([log_mel_spectrogram(sound) for sound in sounds])


# --- pairs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Sounds and pictures of the same toys: log-mels (n, 80, frames) and unit vectors (n, d) of a frozen CLIP."""

    toys: tuple[Toy, ...]
    mels: Tensor
    pictures: Tensor

    def __len__(self) -> int:
        return len(self.toys)


def draw_toys(n: int, seed: int, kinds: Sequence[tuple[str, str]]) -> list[Toy]:
    """`n` toys whose colour and shape are one of `kinds`, in every size."""
    rng = np.random.default_rng(seed)
    kind_numbers = rng.integers(len(kinds), size=n)
    size_numbers = rng.integers(len(SIZES), size=n)
    return [Toy(SIZES[size], *kinds[kind]) for kind, size in zip(kind_numbers, size_numbers, strict=True)]


def make_pairs(clip, toys: Sequence[Toy], seed: int) -> Pairs:
    """A fresh picture and a fresh sound of each toy. `clip` is the unit's image-text model."""
    seen = []
    for i in range(0, len(toys), CHUNK):
        scenes = [Scene((toy,)) for toy in toys[i : i + CHUNK]]
        images = pictures.draw_many(scenes, seed + i)
        seen.append(encode(clip, images))
    mels = hear_falls(toys, seed)
    return Pairs(tuple(toys), mels, torch.cat(seen))


def hear_falls(toys: Sequence[Toy], seed: int, varied: bool = True) -> Tensor:
    """Log-mels (n, 80, 100) of `falls`."""
    mels = []
    for i in range(0, len(toys), CHUNK):
        sounds = falls(toys[i : i + CHUNK], [seed, i], varied)
        mels.append(log_mels(sounds))
    return torch.cat(mels)


def encode(clip, images: Sequence) -> Tensor:
    """Unit vectors (n, d) of PIL pictures by `clip.encode_images`.

    In bfloat16 where that is fast: off by half a per cent.
    """
    device = next(clip.model.parameters()).device.type
    with hardware.autocast(device):
        return clip.encode_images(images).clone()  # a clone: what inference mode made cannot be trained on


def places(toys: Sequence[Toy]) -> Tensor:
    """The place of each toy in KINDS, (n,)."""
    return torch.tensor([PLACE[toy] for toy in toys])


def parts(places: Tensor) -> Tensor:
    """Places in KINDS (n,) as places in COLOURS, SHAPES and SIZES (n, 3)."""
    return torch.stack([places // 24, places // 3 % 8, places % 3], 1)


# --- a frozen encoder -----------------------------------------------------------------------------------


def hear(encoder: nn.Module, mels: Tensor) -> Tensor:
    """An openai-whisper `AudioEncoder` on log-mels (n, 80, frames) of any length up to its window.

    Returns (n, frames / 2, width). The library's own `forward` takes nothing but a whole window.
    """
    gelu = nn.functional.gelu
    x = gelu(encoder.conv1(mels))  # (n, width, frames)
    x = gelu(encoder.conv2(x)).transpose(1, 2)  # (n, frames / 2, width)
    positions = encoder.positional_embedding
    if x.shape[1] > len(positions):
        raise ValueError(f"{mels.shape[-1]} frames are more than the {2 * len(positions)} it hears")
    x = x + positions[: x.shape[1]]
    for block in encoder.blocks:
        x = block(x)
    return encoder.ln_post(x)
