"""The cases of the fusion experiment, and the loop that trains a head on them."""

import math
import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_utils.multimodal.representations import picture_side, picture_tokens, sound_tokens
from course_utils.prisma import pictures, speech, wishes
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES
from course_utils.training import Learner

CLASSES = [(colour, shape) for colour in COLOURS for shape in SHAPES]


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
    seed: int,
    test: bool,
    picture_noise: float = 0.0,
    snr_db: float | None = None,
) -> Cases:
    """Draw `n` cases: a picture of one toy, and a voice that wants "the <colour> one".

    Voices of test cases are not in training cases. `picture_noise` is the standard deviation of noise on
    pixels of 0..1; `snr_db` the signal-to-noise ratio of pink noise on the voice, None for a clean one.
    """
    rng, noise = random.Random(f"fusion {test} {seed}"), np.random.default_rng(seed)
    clips = [wish for wish in wishes.load() if wish.test is test]
    sounds = [wish.audio if snr_db is None else speech.add_noise(wish.audio, snr_db, noise) for wish in clips]
    chosen = [rng.randrange(len(clips)) for _ in range(n)]
    same = [rng.random() < 0.5 for _ in range(n)]
    scenes = []
    for i, agree in zip(chosen, same, strict=True):
        other = [colour for colour in COLOURS if colour != clips[i].colour]
        pair = clips[i].colour if agree else rng.choice(other), rng.choice(SHAPES)
        scenes.append(pictures.scene_of(pair, size=rng.choice(SIZES)))
    images = pictures.draw_many(scenes, rng.getrandbits(32), picture_side(clip.model))
    images = [_grainy(image, picture_noise, noise) for image in images]
    return Cases(
        picture_tokens(clip, images),
        sound_tokens(hearing, sounds)[chosen],
        torch.tensor([COLOURS.index(clips[i].colour) for i in chosen]),
        torch.tensor([SHAPES.index(scene.toys[0].shape) for scene in scenes]),
        torch.tensor(same).long(),
    )


def _grainy(image, spread: float, noise: np.random.Generator):
    """The PIL picture with Gaussian noise of standard deviation `spread` on its pixels of 0..1."""
    from PIL import Image

    if not spread:
        return image
    pixels = np.asarray(image) / 255 + noise.normal(0, spread, (image.height, image.width, 3))
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def scaled(tokens: Tensor, reference: Tensor) -> Tensor:
    """`tokens` (n, t, width) scaled so that the numbers of `reference` (m, t, width) have mean 0 and deviation 1."""
    flat = reference.flatten(0, 1)
    return (tokens - flat.mean(0)) / (flat.std(0) + 1e-5)


def standardise(train: Cases, *others: Cases) -> list[Cases]:
    """All cases with features scaled so that those of `train` have mean 0 and deviation 1; zeros mean "none"."""
    return [
        replace(cases, picture=scaled(cases.picture, train.picture), sound=scaled(cases.sound, train.sound))
        for cases in (train, *others)
    ]


def without(cases: Cases, part: str) -> Cases:
    """The cases with "picture" or "sound" missing: its (standardised) tokens are all zero."""
    if part not in ("picture", "sound"):
        raise ValueError(f'what is to be missing is "picture" or "sound", not {part!r}')
    return replace(cases, **{part: torch.zeros_like(getattr(cases, part))})


def fit(model: nn.Module, cases: Cases, seed: int, steps: int = 200, missing: float = 0.0) -> nn.Module:
    """Train a fusion `model` on the three questions at once. `missing` is how often a modality is left out."""
    draw = torch.Generator().manual_seed(seed)
    learner = Learner(model, 2e-3, steps, decay=0.01, rising=0.3, clip=math.inf)
    model.train()
    for _ in range(learner.steps):
        rows = torch.randint(len(cases), (64,), generator=draw)
        lost = torch.rand(64, generator=draw) < missing
        which = torch.rand(64, generator=draw) < 0.5
        picture = cases.picture[rows] * ~(lost & which)[:, None, None]
        sound = cases.sound[rows] * ~(lost & ~which)[:, None, None]
        answers = cases.colour[rows], cases.shape[rows], cases.same[rows]
        # For two dozen tokens the plain kernel is faster on a CPU than the fused one.
        with sdpa_kernel(SDPBackend.MATH):
            logits = model(picture, sound).split([len(COLOURS), len(SHAPES), 2], dim=1)
        learner.step(sum(nn.functional.cross_entropy(guess, true) for guess, true in zip(logits, answers, strict=True)))
    return model.eval()


@torch.inference_mode()
def marks(model: nn.Module, cases: Cases) -> dict[str, float]:
    """Shares of right answers: the colour that was said, the shape that is seen, both, and the comparison."""
    colour, shape, same = model(cases.picture, cases.sound).split([len(COLOURS), len(SHAPES), 2], dim=1)
    said, seen = colour.argmax(1) == cases.colour, shape.argmax(1) == cases.shape
    rows = {"colour said": said, "shape seen": seen, "wanted toy": said & seen}
    rows["same colour?"] = same.argmax(1) == cases.same
    return {name: right.float().mean().item() for name, right in rows.items()}
