"""Helpers of the lab on video (7.1): films of a hopping toy with sound, and four questions about them.

The lesson itself (readers of frames with and without order) is in the notebook.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from course_utils import figures
from course_utils.models import hardware
from course_utils.multimodal import fusion, representations
from course_utils.multimodal.binding import log_mels, play, strikes
from course_utils.prisma import pictures, speech
from course_utils.prisma.pictures import Toy
from course_utils.prisma.shop import COLOURS, SHAPES
from course_utils.training import Learner

FRAMES, FPS = 12, 10
FILM = FRAMES * speech.RATE // FPS  # samples of sound that a film lasts
QUESTIONS = {"which colour": 8, "which way": 2, "how many bounces": 3, "sound in step": 2}  # number of answers
SIDE = 64
PIECE = 80  # samples of sound that a figure shows as one


@dataclass(frozen=True)
class Films:
    """Films of a hopping toy: frames (n, FRAMES, d), sound (n, FRAMES, s), answers (n, 4) as in QUESTIONS."""

    frames: Tensor
    sound: Tensor
    answers: Tensor

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, rows: Tensor) -> "Films":
        return Films(self.frames[rows], self.sound[rows], self.answers[rows])


@dataclass(frozen=True)
class Story:
    """What happens in a film: the toy, its way through the picture (FRAMES, 2; parts of the side), its sound.

    `hits` are the times (seconds) at which it touches the floor, `heard` those at which it is heard to.
    """

    toy: Toy
    way: np.ndarray
    hits: tuple[float, ...]
    heard: tuple[float, ...]
    answers: tuple[int, int, int, int]


def _touches(period: float, phase: float) -> tuple[float, ...] | None:
    """The times in a film at which a toy of this `period` is on the floor; None if one is too near an end."""
    length = FILM / speech.RATE
    edge = 0.04
    first = phase % period
    times = [first + i * period for i in range(9)]
    if any(t < edge or length - edge < t < length for t in times):
        return None
    return tuple(t for t in times if t < length)


def draw_story(rng: np.random.Generator) -> Story:
    """A toy hops across, always equally high. Played backwards a story is another one, just as likely."""
    colour = int(rng.integers(8))
    shape = int(rng.integers(8))
    bounces = int(rng.integers(1, 4))
    in_step = bool(rng.integers(2))
    while True:
        period = rng.uniform(0.3, 1.1)
        phase = rng.uniform(0, 1.1)
        late = rng.uniform(0.25, 0.75)
        hits = _touches(period, phase)
        other = _touches(period, phase + late * period)
        if hits and other and len(hits) == len(other) == bounces:
            break
    near = rng.uniform(0.18, 0.35)
    far = rng.uniform(0.65, 0.82)
    right = bool(rng.integers(2))
    floor = rng.uniform(0.7, 0.84)
    height = rng.uniform(0.3, 0.5)
    across = np.linspace(near, far, FRAMES) if right else np.linspace(far, near, FRAMES)
    when = (np.arange(FRAMES) + 0.5) / FPS
    part = (when - hits[0]) / period % 1  # of the way from one bounce to the next
    up = height * 4 * part * (1 - part)
    way = np.stack([across, floor - up], 1)
    toy = Toy("small", COLOURS[colour], SHAPES[shape])
    answers = colour, int(right), bounces - 1, int(in_step)
    return Story(toy, way, hits, hits if in_step else other, answers)


def delayed(story: Story, seconds: float) -> Story:
    """The story with its sound `seconds` later than its contacts (earlier, if negative)."""
    return replace(story, heard=tuple(hit + seconds for hit in story.hits))


def draw_film(story: Story, rng: np.random.Generator) -> np.ndarray:
    """The frames of a story by the renderer of Prisma's pictures: uint8 (FRAMES, 64, 64, 3)."""
    return pictures.draw_moving(story.toy, story.way, SIDE, rng)


def film_sound(story: Story, rng: np.random.Generator) -> np.ndarray:
    """What is heard in a film, with noise: float32 (FILM,)."""
    strike = strikes([story.toy], rng, FILM)[0]
    loudness = rng.uniform(0.6, 1, len(story.heard))
    sound = play(strike, story.heard, loudness, FILM)
    noise = rng.normal(0, 0.002, FILM).astype(np.float32)
    return 0.3 * sound + noise


def plot_film(ax, frames: np.ndarray, title: str) -> None:
    """The `frames` of a film (FRAMES, side, side, 3) side by side on `ax`."""
    row = np.concatenate(list(frames), 1)  # (side, FRAMES * side, 3)
    ax.imshow(row, interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)


def plot_sound(ax, sound: np.ndarray, hits: Sequence[float]) -> None:
    """The loudest moments of a film's `sound` (FILM,) on `ax` over seconds, a dashed line at each of `hits`."""
    pieces = np.abs(sound).reshape(-1, PIECE)
    loud = pieces.max(1)
    middles = (np.arange(len(loud)) + 0.5) * PIECE / speech.RATE  # seconds
    ax.fill_between(middles, -loud, loud, linewidth=0)
    for hit in hits:
        ax.axvline(hit, color=figures.PALETTE["vermilion"], linestyle="--", linewidth=1.5)
    ax.set(xlim=(0, FILM / speech.RATE), yticks=[], ylabel="sound")
    ax.grid(False)


def see(clip, stories: Sequence[Story], rng: np.random.Generator) -> Tensor:
    """Films of the stories as the last layer of a frozen CLIP holds them: (n, FRAMES, 4 * width).

    Its patches are averaged to 2 by 2: the vector that CLIP gives out says *what* is there, the patches where.
    """
    device = next(clip.model.parameters()).device
    parts = []
    for i in range(0, len(stories), 64):  # all frames at once would fill the memory
        images: list[Image.Image] = []
        for story in stories[i : i + 64]:
            images += map(Image.fromarray, draw_film(story, rng))
        with hardware.autocast(device):
            tokens = representations.picture_tokens(clip, images, grid=2)  # (frames, 4, width)
        parts.append(tokens.flatten(1))
    return torch.cat(parts).unflatten(0, (len(stories), FRAMES))


def listen(stories: Sequence[Story], rng: np.random.Generator) -> Tensor:
    """Their sound cut into pieces as long as a frame: (n, FRAMES, 100), 20 bands of pitch at 5 moments."""
    sounds = np.stack([film_sound(story, rng) for story in stories])
    mels = log_mels(sounds)  # (n, 80, moments)
    few = nn.functional.avg_pool2d(mels[:, None], (4, 2))[:, 0]  # (n, 20, FRAMES * 5)
    pieces = few.unflatten(2, (FRAMES, 5)).permute(0, 2, 1, 3)  # (n, FRAMES, 20, 5)
    return pieces.flatten(2)


def answers(stories: Sequence[Story]) -> Tensor:
    """The true answers, (n, 4)."""
    return torch.tensor([story.answers for story in stories])


def make_films(clip, n: int, seed: int) -> Films:
    """`n` films with their sounds, as a frozen `clip` and a log-mel front end see and hear them."""
    rng = np.random.default_rng([seed, 4])
    stories = [draw_story(rng) for _ in range(n)]
    frames = see(clip, stories, rng)
    sound = listen(stories, rng)
    return Films(frames, sound, answers(stories))


def standardise(train: Films, *others: Films) -> list[Films]:
    """All films with every number scaled so that those of `train` have mean 0 and deviation 1."""
    standardised = []
    for films in (train, *others):
        frames = fusion.scaled(films.frames, train.frames)
        sound = fusion.scaled(films.sound, train.sound)
        standardised.append(Films(frames, sound, films.answers))
    return standardised


def shuffled(films: Films, seed: int) -> Films:
    """The films with their frames in random order, each film in its own; the sound stays as it was."""
    draw = torch.Generator().manual_seed(seed)
    n, length = films.frames.shape[:2]
    order = torch.rand((n, length), generator=draw).argsort(1)
    places = order[..., None].expand_as(films.frames)
    return replace(films, frames=films.frames.gather(1, places))


def fit(model: nn.Module, films: Films, seed: int, steps: int) -> nn.Module:
    """Train `model(frames, sound)`, which gives logits (n, 15), on the four questions at once."""
    draw = torch.Generator().manual_seed(seed)
    learner = Learner(model, 3e-3, steps, decay=0.05, rising=0.3, clip=math.inf)
    model.train()
    for _ in range(learner.steps):
        rows = torch.randint(len(films), (64,), generator=draw)
        loss = 0
        for i, logits in enumerate(_by_question(model, films[rows])):
            loss = loss + nn.functional.cross_entropy(logits, films.answers[rows, i])
        learner.step(loss)
    return model.eval()


def _by_question(model: nn.Module, films: Films) -> tuple[Tensor, ...]:
    """What a model says: logits (n, answers) for each of QUESTIONS."""
    logits = model(films.frames, films.sound)
    return logits.split(list(QUESTIONS.values()), 1)


@torch.inference_mode()
def marks(model: nn.Module, films: Films) -> dict[str, float]:
    """The share of right answers to each of QUESTIONS."""
    shares = {}
    for i, (question, logits) in enumerate(zip(QUESTIONS, _by_question(model, films), strict=True)):
        right = logits.argmax(1) == films.answers[:, i]
        shares[question] = right.float().mean().item()
    return shares
