"""Helpers of Unit 7.1: what the towers hold inside, words compared, and the cases of the fusion experiment.

The lesson itself (patches, contrastive loss, the three fusions) is in the notebook, in full view.
"""

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from whisper import DecodingOptions
from whisper.tokenizer import get_tokenizer

from course_utils.inputs import as_texts
from course_utils.prisma import pictures, speech, wishes
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES
from course_utils.prisma.training import Learner, Measure

CLASSES = [(colour, shape) for colour in COLOURS for shape in SHAPES]


# --- inside the towers ----------------------------------------------------------------------------------


def picture_side(model: nn.Module) -> int:
    """The side in pixels of the pictures that an open_clip model looks at."""
    size = model.visual.image_size
    return size if isinstance(size, int) else size[0]


@torch.inference_mode()
def picture_tokens(clip, images: Sequence, grid: int = 4) -> Tensor:
    """What the last layer of the vision tower holds of each picture: (n, grid * grid, width).

    The patches are averaged down to `grid` by `grid`. `clip` is the unit's image-text model.
    """
    caught: list[Tensor] = []
    hook = clip.model.visual.transformer.register_forward_hook(lambda *parts: caught.append(parts[2]))
    try:
        clip.encode_images(images)
    finally:
        hook.remove()
    patches = torch.cat(caught).float().cpu()[:, 1:].transpose(1, 2)  # without the class token
    side = round(patches.shape[2] ** 0.5)
    square = patches.unflatten(2, (side, side))
    return nn.functional.adaptive_avg_pool2d(square, grid).flatten(2).transpose(1, 2).clone()


@torch.inference_mode()
def sound_tokens(hearing, sounds: Sequence[np.ndarray], seconds: float = wishes.SECONDS, count: int = 10) -> Tensor:
    """What Whisper's encoder holds of the first `seconds` of each sound: (n, count, width)."""
    parts = []
    for i in range(0, len(sounds), 16):
        mels = torch.stack([hearing.mel(sound) for sound in sounds[i : i + 16]]).to(hearing.model.device)
        heard = hearing.model.encoder(mels.to(next(hearing.model.parameters()).dtype))
        parts.append(heard[:, : round(seconds * 50)].float().cpu())  # 50 positions a second
    positions = torch.cat(parts).transpose(1, 2)
    return nn.functional.adaptive_avg_pool1d(positions, count).transpose(1, 2).clone()


@torch.inference_mode()
def attention_maps(model: nn.Module, pixels: Tensor) -> Tensor:
    """Attention of every layer and head of the vision tower on `pixels` (n, 3, h, w): (layers, n, heads, t, t).

    The fast kernels return no weights, so each block's attention is run again on what the block got.
    """
    maps: list[Tensor] = []

    def again(block: nn.Module) -> Callable:
        def hook(_: nn.Module, __: tuple, x: Tensor) -> None:
            maps.append(block.attn(x, x, x, need_weights=True, average_attn_weights=False)[1])

        return hook

    hooks = [block.ln_1.register_forward_hook(again(block)) for block in model.visual.transformer.resblocks]
    try:
        model.encode_image(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(maps).float().cpu()


# --- sound ----------------------------------------------------------------------------------------------


def log_mel(audio: Tensor, filters: Tensor) -> Tensor:
    """Whisper's front end (arXiv 2212.04356, section 2.2): (mels, frames) of 16 kHz (samples,).

    Windows of 25 ms start every 10 ms. `filters` (mels, 201) sums their power into bands; the
    logarithm keeps 80 dB below the loudest moment, scaled to about -1..1.
    """
    padded = nn.functional.pad(audio[None], (200, 200), mode="reflect")[0]
    windows = padded.unfold(0, 400, 160)[:-1] * torch.hann_window(400)  # (frames, 400)
    power = torch.fft.rfft(windows).abs() ** 2  # (frames, 201): every 40 Hz up to 8 kHz
    loudness = (filters @ power.T).clamp(min=1e-10).log10()
    return (loudness.clamp(min=loudness.max() - 8) + 4) / 4


def mel_filters(mels: int = 80) -> Tensor:
    """Triangles that sum up frequencies into bands as an ear does: (mels, 201), each of area 1.

    Slaney's scale (Auditory Toolbox, 1998): even steps up to 1 kHz, even ratios beyond, 27 for a factor of 6.4.
    """
    top = 15 + 27 * np.log(8000 / 1000) / np.log(6.4)  # 8 kHz on this scale; 1 kHz is 15
    steps = np.linspace(0, top, mels + 2)
    edges = np.where(steps < 15, steps * 200 / 3, 1000 * 6.4 ** ((steps - 15) / 27))  # in Hz
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    pitch = np.linspace(0, 8000, 201)
    rows = np.minimum((pitch - low) / (middle - low), (high - pitch) / (high - middle)).clip(0)
    return torch.from_numpy(rows * 2 / (high - low)).float()


@dataclass(frozen=True)
class Heard:
    """What an English Whisper makes of n sounds: the words, how sure it is of them, and what it holds inside."""

    texts: list[str]
    sureness: Tensor  # (n,): the mean log-probability of a token
    first: Tensor  # (n, width): the decoder's state when it is about to write its first token
    mean: Tensor  # (n, width): the encoder's mean over the sounding positions


@torch.inference_mode()
def listen(hearing, sounds: Sequence[np.ndarray]) -> Heard:
    """Encode each sound once, at most one window long; keep the states, and what is decoded as English."""
    model, texts, sure, first, means = hearing.model, [], [], [], []
    options = DecodingOptions(language="en", without_timestamps=True, fp16=model.device.type == "cuda")
    start = get_tokenizer(model.is_multilingual, num_languages=model.num_languages).sot
    hook = model.decoder.ln.register_forward_hook(lambda *parts: first.append(parts[2][:, 0].float().cpu()))
    try:
        for i in range(0, len(sounds), 16):
            part = sounds[i : i + 16]
            states = model.encoder(torch.stack([hearing.mel(sound) for sound in part]).to(model.device))
            heard = zip(states, part, strict=True)
            means += [row[: len(sound) // 320 + 1].mean(0).float().cpu() for row, sound in heard]
            keep = len(first)
            model.decoder(torch.full((len(part), 1), start, device=model.device), states)
            made = model.decode(states, options)
            del first[keep + 1 :]  # the hook hears the decoding, too
            texts += [one.text.strip() for one in made]
            sure += [one.avg_logprob for one in made]
    finally:
        hook.remove()
    return Heard(texts, torch.tensor(sure), torch.cat(first), torch.stack(means))


# --- words ----------------------------------------------------------------------------------------------


def plain_words(text: str) -> str:
    """Lower-case words without punctuation, digits spelt one by one: what two transcripts are compared by."""
    spelt = re.sub(r"\d", lambda digit: f" {speech.DIGITS[int(digit.group())]} ", text.lower())
    return " ".join(re.findall(r"[a-z']+", spelt))


def word_error(said: Sequence[str], heard: Sequence[str], seed: int = 0) -> Measure:
    """Word error rate over all sentences, with a bootstrap interval over sentences (1,000 draws)."""
    said = as_texts(said, "sentences")
    heard = as_texts(heard, "sentences")
    if len(said) != len(heard) or not said:
        raise ValueError(f"{len(said)} sentences said, {len(heard)} heard: one transcript each is needed")
    said, heard = ([plain_words(one) for one in texts] for texts in (said, heard))
    errors = np.array([speech.word_errors(s, h) for s, h in zip(said, heard, strict=True)])
    words = np.array([len(s.split()) for s in said])
    draws = np.random.default_rng(seed).integers(len(said), size=(1000, len(said)))
    rates = errors[draws].sum(1) / words[draws].sum(1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return Measure(float(errors.sum() / words.sum()), float(low), float(high), len(said), "%")


def wanted(text: str) -> tuple[str, str] | None:
    """Colour and shape that a request names, or None if it names no single product."""
    words = text.split()
    colours = [word for word in words if word in COLOURS]
    shapes = [word.removesuffix("s") for word in words if word.removesuffix("s") in SHAPES]
    return (colours[0], shapes[0]) if len(colours) == len(shapes) == 1 else None


def shelf(size: int, seed: int) -> list:
    """One picture of each of the 64 products of CLASSES, `size` pixels wide, sizes of toys mixed."""
    rng = random.Random(seed)
    scenes = [pictures.scene_of(pair, size=rng.choice(SIZES)) for pair in CLASSES]
    return pictures.draw_many(scenes, seed, size)


# --- fusion ---------------------------------------------------------------------------------------------


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
    for _ in range(steps):
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
