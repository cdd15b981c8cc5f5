"""The cases of the fusion experiment, and the loop that trains a head on them."""

import math
import random
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_utils.multimodal.representations import picture_side, picture_tokens, sound_tokens
from course_utils.prisma import pictures, speech, wishes
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES
from course_utils.training import Learner

CLASSES = list(product(COLOURS, SHAPES))


@dataclass(frozen=True)
class Cases:
    """Cases of the fusion task: tokens of a picture (n, t, width), of a wish (n, s, width), and answers.

    `colour` is the one asked for aloud, `shape` the one in the picture, `same` is 1 where the picture already
    has the colour that is asked for; half of the cases do.
    """

    picture: Tensor
    sound: Tensor
    colour: Tensor
    shape: Tensor
    same: Tensor

    def __len__(self) -> int:
        return len(self.same)


def fusion_cases(
    clip,
    hearing,
    n: int,
    *,
    seed: int,
    test: bool,
    picture_noise: float = 0.0,
    snr_db: float | None = None,
) -> Cases:
    """Draw `n` cases: a picture of one toy, and a voice that wants "the <colour> one".

    Voices of test cases are not in training cases. `picture_noise` is the standard deviation of noise on
    pixels of 0..1; `snr_db` the signal-to-noise ratio of pink noise on the voice, None for a clean one.
    """
    rng = random.Random(f"fusion {test} {seed}")
    noise = np.random.default_rng(seed)
    clips = [wish for wish in wishes.load() if wish.test is test]
    sounds = [wish.audio if snr_db is None else speech.add_noise(wish.audio, snr_db, noise) for wish in clips]
    chosen = [rng.randrange(len(clips)) for _ in range(n)]
    same = [rng.random() < 0.5 for _ in range(n)]
    scenes = []
    for i, agree in zip(chosen, same, strict=True):
        asked = clips[i].colour
        others = [colour for colour in COLOURS if colour != asked]
        colour = asked if agree else rng.choice(others)
        pair = colour, rng.choice(SHAPES)
        scenes.append(pictures.scene_of(pair, size=rng.choice(SIZES)))
    images = pictures.draw_many(scenes, rng.getrandbits(32), picture_side(clip.model))
    images = [_grainy(image, picture_noise, noise) for image in images]
    colours = [COLOURS.index(clips[i].colour) for i in chosen]
    shapes = [SHAPES.index(scene.toys[0].shape) for scene in scenes]
    return Cases(
        picture_tokens(clip, images),
        sound_tokens(hearing, sounds)[chosen],
        torch.tensor(colours),
        torch.tensor(shapes),
        torch.tensor(same).long(),
    )


def _grainy(image, spread: float, noise: np.random.Generator):
    """The PIL picture with Gaussian noise of standard deviation `spread` on its pixels of 0..1."""
    from PIL import Image

    if not spread:
        return image
    grain = noise.normal(0, spread, (image.height, image.width, 3))
    pixels = np.asarray(image) / 255 + grain
    levels = np.clip(pixels, 0, 1) * 255
    return Image.fromarray(levels.astype(np.uint8))


def scaled(tokens: Tensor, reference: Tensor) -> Tensor:
    """`tokens` (n, t, width) scaled so that the numbers of `reference` (m, t, width) have mean 0 and deviation 1."""
    flat = reference.flatten(0, 1)
    mean = flat.mean(0)
    spread = flat.std(0) + 1e-5
    return (tokens - mean) / spread


def standardise(train: Cases, *others: Cases) -> list[Cases]:
    """All cases with features scaled so that those of `train` have mean 0 and deviation 1; zeros mean "none"."""
    standardised = []
    for cases in (train, *others):
        picture = scaled(cases.picture, train.picture)
        sound = scaled(cases.sound, train.sound)
        standardised.append(replace(cases, picture=picture, sound=sound))
    return standardised


def without(cases: Cases, part: str) -> Cases:
    """The cases with "picture" or "sound" missing: its (standardised) tokens are all zero."""
    if part not in ("picture", "sound"):
        raise ValueError(f'what is to be missing is "picture" or "sound", not {part!r}')
    tokens = getattr(cases, part)
    return replace(cases, **{part: torch.zeros_like(tokens)})


def fit(model: nn.Module, cases: Cases, seed: int, steps: int = 200, missing: float = 0.0) -> nn.Module:
    """Train a fusion `model` on the three questions at once. `missing` is how often a modality is left out."""
    draw = torch.Generator().manual_seed(seed)
    learner = Learner(model, 2e-3, steps, decay=0.01, rising=0.3, clip=math.inf)
    model.train()
    for _ in range(learner.steps):
        rows = torch.randint(len(cases), (64,), generator=draw)
        lost = torch.rand(64, generator=draw) < missing
        is_picture = torch.rand(64, generator=draw) < 0.5
        no_picture = (lost & is_picture)[:, None, None]
        no_sound = (lost & ~is_picture)[:, None, None]
        picture = cases.picture[rows] * ~no_picture  # (64, t, width)
        sound = cases.sound[rows] * ~no_sound
        # For two dozen tokens the plain kernel is faster on a CPU than the fused one.
        with sdpa_kernel(SDPBackend.MATH):
            guesses = _by_question(model(picture, sound))
        answers = cases.colour[rows], cases.shape[rows], cases.same[rows]
        loss = 0
        for logits, true in zip(guesses, answers, strict=True):
            loss = loss + nn.functional.cross_entropy(logits, true)
        learner.step(loss)
    return model.eval()


def _by_question(logits: Tensor) -> tuple[Tensor, ...]:
    """What a model says (n, 18), cut into colours, shapes, and whether the colours are the same."""
    return logits.split([len(COLOURS), len(SHAPES), 2], dim=1)


@torch.inference_mode()
def marks(model: nn.Module, cases: Cases) -> dict[str, float]:
    """Shares of right answers: the colour that was said, the shape that is seen, both, and the comparison."""
    colour, shape, same = _by_question(model(cases.picture, cases.sound))
    said = colour.argmax(1) == cases.colour
    seen = shape.argmax(1) == cases.shape
    rows = {"colour said": said, "shape seen": seen, "wanted toy": said & seen}
    rows["same colour?"] = same.argmax(1) == cases.same
    return {name: right.float().mean().item() for name, right in rows.items()}
