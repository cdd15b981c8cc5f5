"""Helpers of the two generative labs of Unit 7.1: the data, the networks, the judge and the distances.

The lesson itself (the losses, the noise, the sampling) is in the notebooks, in full view.
"""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_utils import figures
from course_utils.measures import Measure
from course_utils.models import hardware
from course_utils.prisma import pictures
from course_utils.prisma.shop import COLOURS, SHAPES
from course_utils.settings import paced
from course_utils.training import learning_rate

SIDE = 16  # pixels
GROUND = 0.62  # the grey behind the toys, 0..1
NONE = 8  # the label that says nothing: there are eight colours and eight shapes


# --- data -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toys:
    """Pictures of one toy each: pixels (n, 3, SIDE, SIDE) in -1..1, colour and shape (n,) as indices."""

    pixels: Tensor
    colour: Tensor
    shape: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> "Toys":
        return Toys(self.pixels[rows], self.colour[rows], self.shape[rows])

    def name(self, row: int) -> str:
        """What one of the pictures shows, such as "red cube"."""
        return f"{COLOURS[self.colour[row]]} {SHAPES[self.shape[row]]}"


def toys(n: int, seed: int, colours: Sequence[str] = COLOURS) -> Toys:
    """Draw `n` toys with Prisma's own solids and paints, large, in the middle, on plain grey.

    Light, turn and tone of the paint differ from picture to picture. ValueError for an unknown colour.
    """
    if not colours or not set(colours) <= set(COLOURS):
        raise ValueError(f"Prisma's colours are {', '.join(COLOURS)}; asked for: {', '.join(colours) or 'none'}")
    rng = np.random.default_rng(seed)
    numbers = np.array([COLOURS.index(name) for name in colours])
    colour = numbers[rng.integers(len(colours), size=n)]
    shape = rng.integers(len(SHAPES), size=n)
    pairs = [(COLOURS[c], SHAPES[s]) for c, s in zip(colour, shape, strict=True)]
    canvas = pictures.draw_plain(pairs, GROUND, SIDE, rng)  # (n, SIDE, SIDE, 3)
    bright = torch.from_numpy(canvas.clip(0, 1))
    pixels = bright.permute(0, 3, 1, 2) * 2 - 1  # (n, 3, SIDE, SIDE)
    return Toys(pixels.contiguous(), torch.from_numpy(colour), torch.from_numpy(shape))


def batches(train: Toys, steps: int, seed: int, label: str, size: int = 64) -> Iterator[Toys]:
    """`steps` random batches of `train`, with a progress bar named `label`."""
    draw = torch.Generator().manual_seed(seed)
    for _ in figures.progress(range(paced(steps)), label):
        rows = torch.randint(len(train), (size,), generator=draw)
        yield train[rows]


def line(start: Tensor, end: Tensor, points: int) -> Tensor:
    """The straight line from `start` to `end` in even steps, both included: (points, ...)."""
    last = points - 1
    return torch.stack([torch.lerp(start, end, i / last) for i in range(points)])


def strip(pixels: Tensor) -> Tensor:
    """Pictures (n, 3, side, side) in -1..1 side by side: one picture (side, n * side, 3) in 0..1."""
    row = torch.cat(list(pixels), 2)  # (3, side, n * side)
    limited = row.permute(1, 2, 0).clamp(-1, 1)
    return (limited + 1) / 2


def show_rows(rows: dict[str, Tensor], alt: str, height: float = 0.55) -> None:
    """Show one row of pictures (n, 3, side, side) in -1..1 for each name in `rows`."""
    fig, axes = figures.figure(len(rows), 1, width=9, height=height * len(rows))
    for ax, (name, pixels) in zip(np.atleast_1d(axes), rows.items(), strict=True):
        picture = strip(pixels).numpy()
        ax.imshow(picture, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figures.show(fig, alt)


# --- networks -------------------------------------------------------------------------------------------


def encoder(out: int) -> nn.Sequential:
    """A convolutional reader: pictures (n, 3, 16, 16) to (n, out). Layers as in DCGAN (arXiv 1511.06434)."""
    layers = [nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU()]  # (n, 32, 8, 8)
    layers += [nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()]  # (n, 64, 4, 4)
    layers += [nn.Conv2d(64, 128, 3, 1, 1), nn.BatchNorm2d(128), nn.ReLU()]  # (n, 128, 4, 4)
    layers += [nn.Flatten(), nn.Linear(16 * 128, out)]
    return nn.Sequential(*layers)


def decoder(latent: int) -> nn.Sequential:
    """A convolutional painter: vectors (n, latent) to pictures (n, 3, 16, 16) in -1..1.

    Like DCGAN's generator, but it grows by sub-pixel convolutions (arXiv 1609.05158): half the time on a CPU.
    """
    layers = [nn.Linear(latent, 16 * 128), nn.Unflatten(1, (128, 4, 4))]
    layers += [nn.BatchNorm2d(128), nn.ReLU()]
    layers += [nn.Conv2d(128, 256, 3, padding=1), nn.PixelShuffle(2)]  # (n, 64, 8, 8)
    layers += [nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.Conv2d(64, 32, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()]  # (n, 8, 16, 16)
    layers += [nn.Conv2d(8, 3, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers)


class Crowd(nn.Module):
    """Adds a channel that says how much the pictures of a crowd of 16 differ (arXiv 1710.10196, section 3)."""

    size = 16

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) to (n, c + 1, h, w); ValueError if the crowds do not come out even."""
        if len(x) % self.size:
            raise ValueError(f"{len(x)} pictures are no whole number of crowds of {self.size}")
        crowds = x.unflatten(0, (-1, self.size))  # (crowds, size, c, h, w)
        differ = crowds.std(1).mean((1, 2, 3))  # (crowds,)
        each = differ.repeat_interleave(self.size)  # (n,)
        channel = each[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return torch.cat([x, channel], 1)


def critic(crowd: bool = True, width: int = 32) -> nn.Sequential:
    """A discriminator in the manner of DCGAN: pictures (n, 3, 16, 16) to one logit each (n, 1).

    With `crowd` it also sees how much the pictures around this one differ; then n must be divisible by 16.
    """
    wider, widest = 2 * width, 4 * width
    layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]  # (n, width, 8, 8)
    layers += [nn.Conv2d(width, wider, 4, 2, 1), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]  # (n, wider, 4, 4)
    if crowd:
        layers.append(Crowd())
    layers += [nn.Conv2d(wider + crowd, widest, 3, 1, 1), nn.BatchNorm2d(widest), nn.LeakyReLU(0.2)]
    layers += [nn.Flatten(), nn.Linear(16 * widest, 1)]
    return nn.Sequential(*layers)


def translator() -> nn.Sequential:
    """Pictures (n, 3, 16, 16) to pictures of the same size, through a map of 4 x 4 places.

    Every pixel of the result can see nearly the whole input, so it is free to paint another toy.
    """
    leak = nn.LeakyReLU(0.2)
    layers = [nn.Conv2d(3, 32, 4, 2, 1), leak]  # (n, 32, 8, 8)
    layers += [nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), leak]  # (n, 64, 4, 4)
    layers += [nn.Conv2d(64, 32, 3, padding=1), nn.BatchNorm2d(32), leak]
    layers += [nn.Conv2d(32, 256, 3, padding=1), nn.PixelShuffle(2)]  # (n, 64, 8, 8)
    layers += [nn.BatchNorm2d(64), nn.ReLU()]
    layers += [nn.Conv2d(64, 12, 3, padding=1), nn.PixelShuffle(2), nn.Tanh()]  # (n, 3, 16, 16)
    return nn.Sequential(*layers)


class LocalTranslator(nn.Module):
    """Changes each pixel by what stands within three pixels of it: it can recolour, but hardly reshape."""

    def __init__(self) -> None:
        super().__init__()
        leak = nn.LeakyReLU(0.2)
        first = nn.Conv2d(3, 24, 3, padding=1)
        second = nn.Conv2d(24, 24, 3, padding=1)
        third = nn.Conv2d(24, 3, 3, padding=1)
        self.change = nn.Sequential(first, leak, second, leak, third)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (n, 3, h, w) in -1..1 to the same shape and range."""
        changed = 1.5 * pixels + self.change(pixels)
        return torch.tanh(changed)


def waves(position: Tensor, size: int) -> Tensor:
    """Sines and cosines (n, size) of positions (n,) in 0..1: how a network is told a number."""
    exponents = torch.linspace(0, math.log(1000), size // 2)
    turns = torch.exp(exponents)
    angles = position[:, None] * turns  # (n, size // 2)
    return torch.cat([angles.sin(), angles.cos()], 1)


class Block(nn.Module):
    """A transformer layer whose scales, shifts and gates come from a condition (adaLN-zero, arXiv 2212.09748)."""

    heads = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        widen = nn.Linear(width, 4 * width)
        narrow = nn.Linear(4 * width, width)
        self.think = nn.Sequential(widen, nn.GELU("tanh"), narrow)
        self.steer = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        told = self.steer(condition)[:, None]  # (n, 1, 6 * width)
        scale, shift, gate, scale_2, shift_2, gate_2 = told.chunk(6, -1)
        seen = self.norm(x) * (1 + scale) + shift
        qkv = self.qkv(seen).unflatten(-1, (3, self.heads, -1))  # (n, t, 3, heads, width / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (n, heads, t, width / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + gate * self.out(mixed.transpose(1, 2).flatten(2))
        seen = self.norm(x) * (1 + scale_2) + shift_2
        return x + gate_2 * self.think(seen)


class Denoiser(nn.Module):
    """A small diffusion transformer (DiT, arXiv 2212.09748) over patches of 4 x 4 pixels."""

    patch = 4

    def __init__(self, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.width = width
        numbers = 3 * self.patch**2
        places = (SIDE // self.patch) ** 2
        self.read = nn.Linear(numbers, width)
        self.write = nn.Linear(width, numbers)
        self.place = nn.Parameter(torch.randn(places, width) * 0.1)
        self.clock = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.colour = nn.Embedding(NONE + 1, width)
        self.shape = nn.Embedding(NONE + 1, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(self.write.bias)

    def forward(self, noisy: Tensor, when: Tensor, colour: Tensor, shape: Tensor) -> Tensor:
        """What noise is in `noisy` (n, 3, SIDE, SIDE)? `when` is the time (n,) in 0..1, NONE an untold label."""
        time = self.clock(waves(when, self.width))
        condition = F.silu(time + self.colour(colour) + self.shape(shape))  # (n, width)
        patches = F.pixel_unshuffle(noisy, self.patch).flatten(2)  # (n, numbers, places)
        x = self.read(patches.transpose(1, 2)) + self.place  # (n, places, width)
        for block in self.blocks:
            x = block(x, condition)
        x = F.layer_norm(x, (self.width,))
        patches = self.write(x).transpose(1, 2)
        grid = patches.unflatten(2, (SIDE // self.patch, -1))
        return F.pixel_shuffle(grid, self.patch)


class LatentDenoiser(nn.Module):
    """Names the noise in vectors (n, size): a residual network, told the time."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.read = nn.Linear(size, 256)
        self.clock = nn.Linear(256, 256)
        self.blocks = nn.ModuleList(self._block() for _ in range(3))
        self.write = nn.Linear(256, size)

    @staticmethod
    def _block() -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 512), nn.SiLU(), nn.Linear(512, 256))

    def forward(self, noisy: Tensor, when: Tensor) -> Tensor:
        told = self.clock(waves(when, 256))
        x = self.read(noisy)
        for block in self.blocks:
            x = x + block(x + told)
        return self.write(x)


# --- training -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """bfloat16 products where this machine has them in hardware, and plain attention: fast for short rows."""
    with sdpa_kernel(SDPBackend.MATH), hardware.autocast("cpu"):
        yield


class Seconds:
    """Counts CPU seconds (all cores together) between entering and leaving: `with Seconds() as clock: ...`."""

    seconds = 0.0

    def __enter__(self) -> "Seconds":
        self.start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self.start


class Descent:
    """AdamW over `parts` with a warm-up and a cosine down to a fiftieth; counts steps and CPU seconds."""

    def __init__(
        self, parts: Iterable[nn.Module], rate: float, steps: int, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        weights: list[nn.Parameter] = []
        for part in parts:
            weights += part.parameters()
        self.optimiser = torch.optim.AdamW(weights, rate, betas, weight_decay=0.01)
        self.rate, self.steps, self.done = rate, steps, 0
        self.start = time.process_time()

    def step(self, loss: Tensor) -> float:
        """Go one step down `loss` and return its value."""
        progress = self.done / self.steps
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(progress, self.rate)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.done += 1
        return loss.item()

    @property
    def seconds(self) -> float:
        """CPU seconds (all cores together) since this descent began."""
        return time.process_time() - self.start


# --- judging --------------------------------------------------------------------------------------------


class Judge:
    """Looks at small pictures with prisma-clip's vision tower; linear probes on it name colour and shape.

    The tower is frozen. The probes are ridge regressions on the features of `known`.
    """

    def __init__(self, tower: nn.Module, known: Toys) -> None:
        self.tower = tower.eval()
        seen = self.features(known.pixels)
        self.centre = seen.mean(0)
        self.spread = seen.std(0) + 1e-6
        scaled = self._scaled(seen)  # (n, d + 1)
        colours = F.one_hot(known.colour, 8)
        shapes = F.one_hot(known.shape, 8)
        answers = torch.cat([colours, shapes], 1).float()  # (n, 16)
        ridge = 1e-3 * len(scaled) * torch.eye(scaled.shape[1])
        square = scaled.T @ scaled + ridge
        self.weights = torch.linalg.solve(square, scaled.T @ answers)  # (d + 1, 16)

    def _scaled(self, seen: Tensor) -> Tensor:
        """Features (n, d) brought to one scale, and a column of ones behind them for the bias."""
        scaled = (seen - self.centre) / self.spread
        return F.pad(scaled, (0, 1), value=1.0)

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """The tower's vectors (n, d), not brought to length 1, of pictures (n, 3, side, side) in -1..1.

        Grey is put around each, so that the toy is as large as prisma-clip knows it, and it is enlarged.
        """
        size = self.tower.visual.image_size
        side = size if isinstance(size, int) else size[0]
        border = round(0.375 * pixels.shape[-1])
        vectors = []
        for part in pixels.clamp(-1, 1).split(256):
            framed = F.pad(part, (border,) * 4, value=2 * GROUND - 1)
            large = F.interpolate(framed, (side, side), mode="bicubic", antialias=True)
            with fast():
                seen = self.tower.encode_image(large.clamp(-1, 1))
            vectors.append(seen.float())
        return torch.cat(vectors).clone()

    def name(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Colour and shape, as indices (n,) each, that the probes read from features (n, d)."""
        answers = self._scaled(seen) @ self.weights
        colours, shapes = answers[:, :8], answers[:, 8:]
        return colours.argmax(1), shapes.argmax(1)

    def evenness(self, seen: Tensor) -> dict[str, float]:
        """How evenly colours and shapes come in pictures with features (n, d): the `entropy` of both."""
        colour, shape = self.name(seen)
        return {"bits of colour": entropy(colour), "bits of shape": entropy(shape)}


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance (squared) of the Gaussians fitted to features `a` (n, d) and `b` (m, d).

    |mean difference|^2 + trace(A + B - 2 (A B)^(1/2)), as in FID (arXiv 1706.08500). ValueError if one of
    them holds fewer than two rows.
    """
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features {tuple(a.shape)} and {tuple(b.shape)}: two rows each and one width are needed")
    a = a.double()
    b = b.double()
    width = a.shape[1]
    first = torch.cov(a.T).reshape(width, -1)  # (d, d), of one column too
    second = torch.cov(b.T).reshape(width, -1)
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # A B has the eigenvalues of the symmetric root B root, for which there is a better algorithm.
    mixed = torch.linalg.eigvalsh(root @ second @ root)
    overlap = mixed.clamp(min=0).sqrt().sum()
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    spread = first.trace() + second.trace() - 2 * overlap
    return apart.item() + spread.item()


def distance(made: Tensor, real: Tensor) -> Measure:
    """Frechet distance of features `made` (n, d) from `real`: mean, lowest and highest of three parts of `made`.

    With few pictures the distance is too large, so compare only numbers from equally many.
    """
    values = [frechet(part, real) for part in made.chunk(3)]
    mean = sum(values) / len(values)
    return Measure(mean, min(values), max(values), len(made))


def covered(labels: Tensor, kinds: int = 8) -> int:
    """How many of `kinds` classes get at least a quarter of their fair share of `labels` (n,)."""
    counts = torch.bincount(labels, minlength=kinds)
    fair = len(labels) / kinds
    enough = counts >= fair / 4
    return int(enough.sum())


def entropy(labels: Tensor, kinds: int = 8) -> float:
    """The entropy of `labels` (n,) in bits: log2(kinds) if all classes come equally often, 0 if only one does."""
    shares = torch.bincount(labels, minlength=kinds) / len(labels)
    nats = torch.special.entr(shares).sum()
    return float(nats / math.log(2))


def information(a: Tensor, b: Tensor) -> float:
    """How many bits the labels `a` (n,) and `b` (n,), 0 to 7, tell about each other (mutual information).

    It does not mind a renaming of the classes. With few labels it comes out a little too large.
    """
    return entropy(a) + entropy(b) - entropy(8 * a + b, 64)
