"""Helpers of the deepfake lab of Unit 7.1: three manipulations, a detector's features, and attacks on a mark.

The lesson itself (the watermark, the signed manifest) is in the notebook, in full view.
"""

import io
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from course_utils.prisma import pictures

SIDE = 64  # pixels of the detector's pictures
EDITS = ("editing", "replacement", "re-enactment")


# --- pictures and manipulations -------------------------------------------------------------------------


def photos(n: int, seed: int, side: int = SIDE) -> Tensor:
    """`n` of Prisma's pictures with one or two toys, grain and all: (n, 3, side, side) in 0..1."""
    rng = random.Random(f"photos {seed}")
    scenes = [pictures.random_scene(rng, (1, 2)) for _ in range(n)]
    drawn = pictures.draw_batch(scenes, np.random.default_rng(seed), side)
    return _as_pixels(drawn)


def _as_pixels(images: np.ndarray) -> Tensor:
    """uint8 (n, h, w, 3) as numbers in 0..1, (n, 3, h, w)."""
    channels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return channels.float() / 255


def _region(pixels: Tensor) -> Tensor:
    """A soft mask (n, 1, h, w) of what stands out from its surroundings: the toys."""
    ground = F.adaptive_avg_pool2d(pixels, 1)  # (n, 3, 1, 1)
    difference = (pixels - ground).norm(dim=1, keepdim=True)  # (n, 1, h, w)
    apart = F.avg_pool2d(difference, 5, 1, 2)
    level = apart.flatten(1).quantile(0.8, dim=1)[:, None, None, None]
    return torch.sigmoid((apart - level) * 30)


def with_other_hue(pixels: Tensor, angle: Tensor) -> Tensor:
    """Colours (n, 3, h, w) turned about the grey axis by `angle` (n,) in radians: another hue, the same light."""
    cos = angle.cos()
    sin = angle.sin() / 3**0.5
    third = (1 - cos) / 3
    rows = torch.stack([cos + third, third - sin, third + sin], 1)  # (n, 3)
    matrix = torch.stack([rows, rows.roll(1, 1), rows.roll(2, 1)], 1)  # (n, 3, 3)
    return torch.einsum("nij,njhw->nihw", matrix, pixels)


def _moved(pixels: Tensor, mask: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The pictures moved and turned a little, and what of them stands out before or after."""
    n = len(pixels)
    angle = 0.35 * (2 * torch.rand(n, generator=draw) - 1)
    move = 0.15 * (2 * torch.rand(n, 2, generator=draw) - 1)
    cos, sin = angle.cos(), angle.sin()
    numbers = torch.stack([cos, -sin, move[:, 0], sin, cos, move[:, 1]], 1)
    matrices = numbers.view(n, 2, 3)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    changed = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    mask_after = F.grid_sample(mask, grid, align_corners=False)
    return changed, torch.maximum(mask, mask_after)


def manipulate(pixels: Tensor, kind: str, seed: int) -> Tensor:
    """The pictures (n, 3, h, w) in 0..1 with one manipulation of EDITS, blended in softly and rounded to 8 bits.

    "editing" gives the toys another hue, "replacement" puts in those of another picture, "re-enactment" moves
    and turns them a little. ValueError for another kind.
    """
    if kind not in EDITS:
        raise ValueError(f"a manipulation is one of {', '.join(EDITS)}, not {kind!r}")
    draw = torch.Generator().manual_seed(seed)
    mask = _region(pixels)
    if kind == "editing":
        angle = 1 + 4.2 * torch.rand(len(pixels), generator=draw)
        changed = with_other_hue(pixels, angle)
    elif kind == "replacement":
        changed = pixels.roll(1, 0)
        mask = mask.roll(1, 0)
    else:
        changed, mask = _moved(pixels, mask, draw)
    mixed = pixels + mask * (changed - pixels)
    levels = mixed.clamp(0, 1) * 255
    return levels.round() / 255


# --- the detector ---------------------------------------------------------------------------------------


def traces(pixels: Tensor) -> Tensor:
    """What a detector looks at: the grain of pictures (n, 3, h, w), not their content: (n, features).

    A Laplacian removes the smooth part. In blocks of 8 x 8 pixels we take how strong the grain is in each
    colour channel and how much the channels agree, and sort the blocks, so that places do not matter.
    """
    laplacian = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])
    kernel = laplacian.expand(3, 1, 3, 3) / 6
    grain = F.conv2d(pixels, kernel, padding=1, groups=3)
    cut = F.unfold(grain, 8, stride=8).unflatten(1, (3, 64))
    blocks = cut.permute(0, 3, 1, 2)  # (n, blocks, channels, 64)
    power = blocks.square().mean(-1)
    strength = (power + 1e-6).log()  # (n, blocks, channels)
    red, green, blue = F.normalize(blocks, dim=-1).unbind(2)
    pairs = ((red, green), (red, blue), (green, blue))
    agree = torch.stack([(first * second).sum(-1) for first, second in pairs], 2)
    features = torch.cat([strength, agree], 2)
    return features.sort(1).values.flatten(1)


class Detector(nn.Module):
    """Says how much a picture's traces look manipulated: a small network, trained on real and manipulated ones."""

    def __init__(self, real: Tensor, fake: Tensor, steps: int = 400) -> None:
        super().__init__()
        x = torch.cat([traces(real), traces(fake)])
        y = torch.cat([torch.zeros(len(real)), torch.ones(len(fake))])
        self.centre = x.mean(0)
        self.spread = x.std(0) + 1e-6
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = nn.Linear(x.shape[1], 64)
            last = nn.Linear(64, 1)
            self.net = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.3), last)
            self._learn(x, y, steps)
        self.eval()

    def _learn(self, x: Tensor, y: Tensor, steps: int) -> None:
        optimiser = torch.optim.AdamW(self.net.parameters(), 2e-3, weight_decay=0.1)
        for _ in range(steps):
            rows = torch.randint(len(x), (128,))
            logits = self._logits(x[rows])
            loss = F.binary_cross_entropy_with_logits(logits, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def _logits(self, x: Tensor) -> Tensor:
        scaled = (x - self.centre) / self.spread
        return self.net(scaled)[:, 0]

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """One logit (n,) for each picture (n, 3, h, w); above 0 means "manipulated"."""
        return self._logits(traces(pixels))


# --- what happens to a picture on its way ---------------------------------------------------------------


def jpeg(pixels: Tensor, quality: int) -> Tensor:
    """Pictures (n, 3, h, w) in 0..1 after JPEG at `quality` (1 to 95)."""
    levels = (pixels * 255).round().byte()
    compressed = []
    for picture in levels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        compressed.append(np.array(Image.open(file)))
    return _as_pixels(np.stack(compressed))


def noisy(pixels: Tensor, spread: float, draw: torch.Generator) -> Tensor:
    """Pictures in 0..1 with Gaussian noise of standard deviation `spread` on each number."""
    grain = torch.empty_like(pixels).normal_(generator=draw)
    return (pixels + spread * grain).clamp(0, 1)


def cropped(pixels: Tensor, border: int) -> Tensor:
    """Pictures (n, 3, h, w) without `border` pixels on each side, enlarged to their old size.

    ValueError if nothing would be left.
    """
    high, wide = pixels.shape[2:]
    if not 0 <= 2 * border < min(high, wide):
        raise ValueError(f"{border} pixels cut off each side of {high} x {wide} leave no picture")
    inner = pixels[:, :, border : high - border, border : wide - border]
    return F.interpolate(inner, pixels.shape[2:], mode="bilinear", align_corners=False)


def cosines(side: int) -> Tensor:
    """The orthonormal matrix (side, side) of the discrete cosine transform: `m @ x @ m.T` transforms a picture."""
    k = torch.arange(side)[:, None]
    i = torch.arange(side)[None]
    angles = torch.pi * (i + 0.5) * k / side
    matrix = torch.cos(angles) * (2 / side) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def psnr(a: Tensor, b: Tensor) -> float:
    """How alike pictures in 0..1 are, in decibels (10 log10 of 1 over the mean squared error)."""
    error = (a - b).square().mean()
    return float(-10 * error.log10())
