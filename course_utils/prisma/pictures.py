"""Prisma's pictures: toys as shaded solids, alone or in scenes of two or three, with many captions each.

A toy is a signed distance function; a whole batch of toys of one shape is ray-marched at once in NumPy,
which draws more than a thousand pictures a second on one core. Everything comes from seeds.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from course_utils.prisma.shop import COLOURS, SHAPES, SIZES
from course_utils.settings import SEED

# Radius of a toy's bounding sphere, as a part of the picture's side.
RADII = {"small": (0.125, 0.145), "medium": (0.165, 0.185), "large": (0.225, 0.26)}
# Hue, saturation and value ranges (all 0..1). Light, shade and noise come on top.
HSV = {
    "red": ((-0.02, 0.01), (0.85, 1.0), (0.75, 0.95)),
    "orange": ((0.065, 0.085), (0.88, 1.0), (0.95, 1.0)),
    "yellow": ((0.145, 0.165), (0.82, 1.0), (0.92, 1.0)),
    "green": ((0.29, 0.39), (0.7, 0.95), (0.5, 0.75)),
    "blue": ((0.58, 0.64), (0.75, 0.95), (0.75, 0.95)),
    "purple": ((0.75, 0.81), (0.6, 0.85), (0.55, 0.8)),
    "white": ((0.0, 1.0), (0.0, 0.04), (0.95, 1.0)),
    "black": ((0.0, 1.0), (0.0, 0.25), (0.09, 0.15)),
}
OPPOSITE = {"left of": "right of", "above": "below", "in front of": "behind"}
RELATIONS = (*OPPOSITE, *OPPOSITE.values())


# --- scenes ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy:
    """One toy of a scene. `colour` is None where the shop has no word for it."""

    size: str
    colour: str | None
    shape: str

    @property
    def pair(self) -> tuple[str | None, str]:
        return self.colour, self.shape

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}" if self.colour else self.shape


@dataclass(frozen=True)
class Scene:
    """One to three toys. `relation` (left of, above, in front of) holds from each toy to the next."""

    toys: tuple[Toy, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.toys) <= 3:
            raise ValueError(f"a scene holds one to three toys, not {len(self.toys)}")
        if len(self.toys) > 1 and self.relation not in OPPOSITE:
            raise ValueError(f"several toys need a relation ({', '.join(OPPOSITE)}), not {self.relation}")

    @property
    def key(self) -> tuple:
        """What a complete caption says: two scenes with the same key have the same captions."""
        return self.relation, tuple(toy.pair for toy in self.toys)


def scene_of(*pairs: tuple[str, str], relation: str | None = None, size: str = "medium") -> Scene:
    """A scene by hand: `scene_of(("red", "cube"), ("blue", "ball"), relation="right of")`."""
    for colour, shape in pairs:
        if colour not in COLOURS or shape not in SHAPES:
            raise ValueError(f"Prisma has no {colour} {shape}; colours: {COLOURS}, shapes: {SHAPES}")
    toys = [Toy(size, colour, shape) for colour, shape in pairs]
    forward = {back: ahead for ahead, back in OPPOSITE.items()}
    if relation in forward:
        toys, relation = toys[::-1], forward[relation]
    return Scene(tuple(toys), relation if len(toys) > 1 else None)


def random_scene(rng: random.Random, toys: Sequence[int] = (1, 2, 3), exclude: Iterable[tuple[str, str]] = ()) -> Scene:
    """A scene with a number of toys out of `toys`, all different, none of the pairs in `exclude`."""
    count, banned, drawn = rng.choice(toys), set(exclude), []
    while len(drawn) < count:
        pair = rng.choice(COLOURS), rng.choice(SHAPES)
        if pair not in banned:
            banned.add(pair)
            drawn.append(Toy(rng.choice(SIZES if count < 3 else SIZES[:2]), *pair))
    if count == 1:
        return Scene(tuple(drawn))
    kinds = ("left of", "above") if count == 3 else ("left of", "left of", "above", "above", "in front of")
    return Scene(tuple(drawn), rng.choice(kinds))


def unnamed_scene(rng: random.Random) -> Scene:
    """One toy in a colour that has no name here (teal, pink, brown, grey): a caption can state only its shape."""
    return Scene((Toy(rng.choice(SIZES), None, rng.choice(SHAPES)),))


def distinct_scenes(
    rng: random.Random, n: int, toys: Sequence[int] = (2, 3), exclude: Iterable[tuple[str, str]] = ()
) -> list[Scene]:
    """`n` scenes of which no two have the same complete caption."""
    found: dict[tuple, Scene] = {}
    while len(found) < n:
        scene = random_scene(rng, toys, exclude)
        found.setdefault(scene.key, scene)
    return list(found.values())


def swap_colours(scene: Scene) -> Scene:
    """The scene with the colours of its first two toys exchanged; shapes, sizes, relation stay."""
    if len(scene.toys) < 2:
        raise ValueError("a scene needs two toys before their colours can be exchanged")
    first, second, *rest = scene.toys
    swapped = replace(first, colour=second.colour), replace(second, colour=first.colour)
    return replace(scene, toys=(*swapped, *rest))


# --- captions -------------------------------------------------------------------------------------------

PROMPTS = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a product photo of {}",
    "a small photo of {}",
    "a drawing of {}",
    "this is {}",
    "there is {}",
    "we see {}",
    "here is {}",
    "the picture shows {}",
    "the toy is {}",
)
# What a customer says when looking for a picture.
REQUESTS = (
    "show me {}",
    "please show me {}",
    "i would like {}",
    "i want {}",
    "i want to buy {}",
    "i am looking for {}",
    "do you have {}",
    "can i have {}",
    "please find {}",
    "send me {} please",
    "where is {}",
    "how much is {}",
)
PLURALS = ("do you have any {}", "are there any {}", "how many {} are left", "two {} please", "{} please")
WORDS_BETWEEN = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
    "in front of": ("in front of", "before"),
    "behind": ("behind", "in back of"),
}
# The other words that captions are made of, and those that carry the meaning of a relation.
FRAMES = (
    "a an the one that is something toy toys two three and then with next to",
    "from left right top bottom",
)
MEANT = (
    "left", "right", "top", "bottom", "above", "over", "on", "below", "under", "beneath", "front", "before",
    "behind", "back", "from", "then",
)  # fmt: skip


class Caption(NamedTuple):
    """A caption and the facts that it states; it is true of a scene whose facts include them."""

    text: str
    facts: frozenset[str]


def facts(scene: Scene) -> frozenset[str]:
    """Everything that some caption could truly say about `scene`."""
    found = {f"{len(scene.toys)} toys"}
    for toy in scene.toys:
        found |= {toy.shape, toy.size, toy.name, f"{toy.size} {toy.name}", f"{toy.size} {toy.shape}"}
        found |= {toy.colour, f"{toy.size} {toy.colour}"} if toy.colour else set()
    for i, first in enumerate(scene.toys):
        found |= {f"{first.name} {scene.relation} {second.name}" for second in scene.toys[i + 1 :]}
    return frozenset(found)


def _name(toy: Toy, rng: random.Random, article: bool = True) -> Caption:
    """A toy by colour and shape, sometimes by size too: 'a small red cube'."""
    sized = rng.random() < 0.3
    words = f"{toy.size} {toy.name}" if sized else toy.name
    if not article:
        return Caption(words, frozenset((words,)))
    forms = ("{a} {w}", "{a} {w}", "{a} {w}", "the {w}", "one {w}", "{a} {s}that is {c}")
    form = rng.choice(forms if toy.colour else forms[:-1])
    size = f"{toy.size} {toy.shape} " if sized else f"{toy.shape} "
    a = "an" if (toy.shape if "{s}" in form and not sized else words)[0] in "aeiou" else "a"
    return Caption(form.format(a=a, w=words, s=size, c=toy.colour), frozenset((words,)))


def _join(names: list[Caption], text: str, *more: str) -> Caption:
    stated = frozenset().union(*(name.facts for name in names))
    return Caption(text.format(*(name.text for name in names)), stated | set(more))


def _related(first: Toy, second: Toy, relation: str, rng: random.Random) -> Caption:
    """Two toys and how they stand: said from either side."""
    names = [_name(first, rng), _name(second, rng)]
    fact = f"{first.name} {relation} {second.name}"
    if rng.random() < 0.5:
        names, relation = names[::-1], OPPOSITE[relation]
    words = rng.choice(WORDS_BETWEEN[relation])
    return _join(names, f"{{}} {words} {{}}", fact)


def _three(scene: Scene, rng: random.Random) -> Caption:
    names = [_name(toy, rng, article=rng.random() < 0.7) for toy in scene.toys]
    ends = {"left of": ("left", "right"), "above": ("top", "bottom")}[scene.relation]
    stated = [f"{a.name} {scene.relation} {b.name}" for a, b in pairwise(scene.toys)]
    if rng.random() < 0.35:
        names, ends = names[::-1], ends[::-1]
    along = f"from {ends[0]} to {ends[1]}"
    form = rng.choice((along + " {} {} and {}", along + " {} then {} then {}", "{} {} and {} " + along))
    return _join(names, form, *stated)


def _complete(scene: Scene, rng: random.Random) -> Caption:
    if len(scene.toys) == 1:
        return _name(scene.toys[0], rng)
    return _three(scene, rng) if len(scene.toys) == 3 else _related(*scene.toys, scene.relation, rng)


def _partial(scene: Scene, rng: random.Random) -> Caption:
    """A caption that leaves something out: one attribute, one toy, toys without their relation."""
    toy = rng.choice(scene.toys)
    kind = rng.random()
    if kind < 0.3 and toy.colour:
        form = rng.choice(("something {}", "a toy that is {}", "{}"))
        return Caption(form.format(toy.colour), frozenset((toy.colour,)))
    if kind < 0.6:
        return Caption(rng.choice(("a {}", "a toy {}", "{}")).format(toy.shape), frozenset((toy.shape,)))
    if kind < 0.7:
        words = f"{toy.size} {rng.choice((f'{toy.colour} toy', toy.shape) if toy.colour else (toy.shape,))}"
        return Caption(f"a {words}", frozenset((words.removesuffix(" toy"),)))
    if kind < 0.75:
        number = ("one toy", "two toys", "three toys")[len(scene.toys) - 1]
        return Caption(number, frozenset((f"{len(scene.toys)} toys",)))
    if len(scene.toys) == 1 or kind < 0.85:
        return _name(toy, rng)
    first, second = rng.sample(scene.toys, 2)
    form = rng.choice(("{} and {}", "{} with {}", "{} next to {}"))
    return _join([_name(first, rng), _name(second, rng)], form)


def _dress(stated: Caption, rng: random.Random) -> Caption:
    template = rng.choice(PROMPTS if rng.random() < 0.6 else REQUESTS) if rng.random() < 0.7 else "{}"
    return Caption(template.format(stated.text), stated.facts)


def _plural(toy: Toy, rng: random.Random) -> Caption:
    """What a customer asks for in the plural finds the picture of one."""
    name = _name(toy, rng, article=False)
    return Caption(rng.choice(PLURALS).format(f"{name.text}s"), name.facts)


def caption(scene: Scene, rng: random.Random) -> str:
    """One complete caption: every toy by colour and shape, and how they stand."""
    return _dress(_complete(scene, rng), rng).text


def captions(scene: Scene, rng: random.Random, complete: int = 1, partial: int = 1) -> list[Caption]:
    """Captions of one scene with the facts that they state: `complete` full ones, `partial` shorter ones."""
    found = [_complete(scene, rng) for _ in range(complete)] + [_partial(scene, rng) for _ in range(partial)]
    if len(scene.toys) == 1 and rng.random() < 0.12:
        found[0] = _plural(scene.toys[0], rng)
        return found[:1] + [_dress(one, rng) for one in found[1:]]
    return [_dress(one, rng) for one in found]


# --- solids ---------------------------------------------------------------------------------------------
# Each takes points (3, n, pixels) in the toy's own frame (y up, within the unit sphere) and returns a lower
# bound of the distance to the surface, negative inside. After Inigo Quilez' articles on distance functions.


def _extrude(flat: np.ndarray, z: np.ndarray, half: float, rounding: float) -> np.ndarray:
    deep = np.abs(z) - half
    outside = np.sqrt(np.maximum(flat, 0) ** 2 + np.maximum(deep, 0) ** 2)
    return np.minimum(np.maximum(flat, deep), 0) + outside - rounding


def _cube(p: np.ndarray) -> np.ndarray:
    q = np.abs(p) - 0.56
    return np.sqrt((np.maximum(q, 0) ** 2).sum(0)) + np.minimum(q.max(0), 0)


def _ball(p: np.ndarray) -> np.ndarray:
    return np.sqrt((p**2).sum(0)) - 0.8


def _cone(p: np.ndarray) -> np.ndarray:
    radius = np.sqrt(p[0] ** 2 + p[2] ** 2)
    return np.maximum(radius * 0.92 + (p[1] - 0.92) * 0.39, -0.66 - p[1])


def _cylinder(p: np.ndarray) -> np.ndarray:
    return _extrude(np.sqrt(p[0] ** 2 + p[2] ** 2) - 0.48, p[1], 0.72, 0.0)


def _pyramid(p: np.ndarray) -> np.ndarray:
    side = np.maximum(np.abs(p[0]), np.abs(p[2]))
    return np.maximum(side * 0.85 + (p[1] - 0.72) * 0.52, -0.42 - p[1])


def _ring(p: np.ndarray) -> np.ndarray:
    return np.sqrt((np.sqrt(p[0] ** 2 + p[1] ** 2) - 0.68) ** 2 + p[2] ** 2) - 0.22


def _star(p: np.ndarray) -> np.ndarray:
    x, y = np.abs(p[0]), p[1]
    for kx, ky in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        over = 2 * np.maximum(kx * x + ky * y, 0)
        x, y = x - over * kx, y - over * ky
    return _extrude(np.abs(x) * 0.845 + (y - 0.9) * 0.535, p[2], 0.17, 0.05)


def _heart(p: np.ndarray) -> np.ndarray:
    x, y = np.abs(p[0]) / 1.45, p[1] / 1.45 + 0.55
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - 0.3536
    over = 0.5 * np.maximum(x + y, 0)
    notch = np.minimum(x**2 + (y - 1) ** 2, (x - over) ** 2 + (y - over) ** 2)
    flat = np.where(x + y > 1, lobe, np.sqrt(notch) * np.sign(x - y))
    return _extrude(flat * 1.45, p[2], 0.17, 0.08)


SOLIDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cube": _cube, "ball": _ball, "cone": _cone, "cylinder": _cylinder,
    "pyramid": _pyramid, "ring": _ring, "star": _star, "heart": _heart,
}  # fmt: skip
# How far each solid may turn, in degrees: pitch (towards the viewer), yaw, roll.
TURNS = {
    "cube": ((18, 38), (20, 70), (-12, 12)),
    "ball": ((0, 0), (0, 0), (0, 0)),
    "cone": ((8, 30), (0, 0), (-30, 30)),
    "cylinder": ((18, 40), (0, 0), (-35, 35)),
    "pyramid": ((10, 30), (22, 68), (-15, 15)),
    "ring": ((-50, 50), (-40, 40), (-30, 30)),
    "star": ((-30, 30), (-35, 35), (-36, 36)),
    "heart": ((-25, 25), (-35, 35), (-30, 30)),
}


# --- drawing --------------------------------------------------------------------------------------------


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return rng.uniform(low, high, shape).astype(np.float32)


def _rotations(shape: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Random turns (n, 3, 3) from the toy's frame to the camera's, within TURNS."""
    pitch, yaw, roll = (np.radians(_uniform(rng, *limits, n)) for limits in TURNS[shape])

    def turn(angle: np.ndarray, i: int, j: int) -> np.ndarray:
        matrix = np.tile(np.eye(3, dtype=np.float32), (n, 1, 1))
        matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
        matrix[:, i, j], matrix[:, j, i] = -np.sin(angle), np.sin(angle)
        return matrix

    return turn(roll, 0, 1) @ turn(pitch, 1, 2) @ turn(yaw, 0, 2)


def _march(
    shape: str, turns: np.ndarray, uv: np.ndarray, pixel: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, diffuse light and highlight (each n, pixels) of `shape` seen at `uv` (2, n, pixels)."""
    solid, frame = SOLIDS[shape], turns.transpose(2, 1, 0)[..., None]  # frame[axis of toy, axis of camera]
    start = frame[:, 0] * uv[0] + frame[:, 1] * uv[1] + frame[:, 2] * 1.1
    travelled = np.zeros(uv.shape[1:], np.float32)
    nearest = np.full(uv.shape[1:], 9, np.float32)
    for _ in range(11):
        distance = solid(start - frame[:, 2] * travelled)
        np.minimum(nearest, distance, out=nearest)
        travelled += distance
    point = start - frame[:, 2] * np.minimum(travelled, 2.2)
    normal = np.zeros_like(point)
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        offset = np.array(corner, np.float32)[:, None, None]
        normal += offset * solid(point + 0.03 * offset)
    normal /= np.sqrt((normal**2).sum(0)) + 1e-6
    to_light = np.einsum("nij,nj->in", turns.transpose(0, 2, 1), light)[..., None]
    half = to_light + frame[:, 2]
    half /= np.sqrt((half**2).sum(0))
    shine = np.maximum((normal * half).sum(0), 0) ** 24
    return np.clip(1 - nearest / pixel, 0, 1), np.maximum((normal * to_light).sum(0), 0), shine


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Hue, saturation, value (n,) in 0..1 to red, green, blue (n, 3)."""
    k = (np.array([5, 3, 1], np.float32) + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def draw_paint(colour: str | None, rng: np.random.Generator) -> np.ndarray:
    if colour is None:
        return unnamed(rng)
    return _rgb(*(_uniform(rng, *limits, 1) for limits in HSV[colour]))[0]


def unnamed(rng: np.random.Generator) -> np.ndarray:
    """Any paint (3,) that lies clearly outside of every named colour."""
    while True:
        paint = hue, saturation, value = [float(x) for x in _uniform(rng, 0, 1, 3)]
        grey = value < 0.3 or (saturation < 0.25 and value > 0.7)  # would pass for black or for white
        if not grey and not any(_close(paint, HSV[one]) for one in COLOURS if one not in ("white", "black")):
            return _rgb(*(np.array([x], np.float32) for x in paint))[0]


def _close(paint: Sequence[float], ranges: tuple) -> bool:
    """Whether a paint lies in a colour's ranges, widened by what light and tint may do to it."""
    (low, high), saturations, values = ranges
    turned = (paint[0] - low + 0.07) % 1
    return turned < high - low + 0.14 and paint[1] > saturations[0] - 0.3 and paint[2] > values[0] - 0.35


def layout(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres (k, 2; x to the right, y down) and radii (k,) of the toys, in parts of the picture's side."""
    radii = np.array([rng.uniform(*RADII[toy.size]) for toy in scene.toys])
    centres = np.zeros((len(radii), 2))
    for i in range(1, len(radii)):
        apart = (radii[i - 1] + radii[i]) * rng.uniform(0.88, 1.2)
        across = rng.uniform(-0.45, 0.45) * apart
        step = {"left of": (apart, across), "above": (across, apart), None: (0, 0)}.get(scene.relation)
        if step is None:  # in front of: the first toy stands lower and hides a part of the second
            angle, apart = rng.uniform(-1.1, 1.1), (radii[0] + radii[1]) * rng.uniform(0.48, 0.62)
            step = (apart * np.sin(angle), -apart * np.cos(angle))
        centres[i] = centres[i - 1] + step
    low, high = (centres - radii[:, None]).min(0), (centres + radii[:, None]).max(0)
    scale = min(1.0, 1.0 / (high - low).max())
    room = 1 - (high - low) * scale
    return (centres - low) * scale + rng.uniform(0, 1, 2) * np.maximum(room, 0), radii * scale


def _backgrounds(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Muted gradients with soft blotches, some with a table edge: (n, size, size, 3) in 0..1."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    base = _rgb(_uniform(rng, 0, 1, n), _uniform(rng, 0, 0.28, n), _uniform(rng, 0.3, 0.85, n))
    table = base * _uniform(rng, 0.6, 1.25, n, 1)
    edge = np.where(rng.random(n) < 0.5, _uniform(rng, 0.25, 0.8, n), 2.0)[:, None, None]
    below = np.clip((y - edge) * 30 + 0.5, 0, 1).astype(np.float32)
    angle, depth = _uniform(rng, 0, 6.28, n), _uniform(rng, 0, 0.3, n)
    slope = np.cos(angle)[:, None, None] * (x - 0.5) + np.sin(angle)[:, None, None] * (y - 0.5)
    waves = _uniform(rng, 2, 14, n, 2)[:, :, None, None]
    blotch = np.sin(waves[:, 0] * x + angle[:, None, None]) * np.sin(waves[:, 1] * y + depth[:, None, None])
    shade = 1 + depth[:, None, None] * slope + _uniform(rng, 0, 0.08, n)[:, None, None] * blotch
    ground = base[:, None, None] + below[..., None] * (table - base)[:, None, None]
    return ground * shade[..., None]


def stamp(shape: str, radii: np.ndarray, offsets: np.ndarray, light: np.ndarray, rng: np.random.Generator):
    """Toys of one shape on a common square grid: coverage, diffuse light, highlight (n, side, side), side."""
    half = int(np.ceil(radii.max())) + 1
    grid = np.arange(-half, half + 1, dtype=np.float32)
    across = (grid[None] - offsets[:, :1]) / radii[:, None]
    down = (grid[None] - offsets[:, 1:]) / radii[:, None]
    n, side = len(radii), len(grid)
    uv = np.stack(np.broadcast_arrays(across[:, None, :], -down[:, :, None])).reshape(2, n, side * side)
    parts = _march(shape, _rotations(shape, rng, n), uv, 1 / radii[:, None], light)
    return [part.reshape(n, side, side) for part in parts], half


def _shadow(canvas: np.ndarray, centre: np.ndarray, radius: float, strength: float, lean: float) -> None:
    """Darken `canvas` (size, size, 3) in place by the soft shadow that lies at a toy's foot."""
    size = canvas.shape[0]
    reach = int(radius * 1.8)
    cx, cy = centre[0] + lean * radius, centre[1] + 0.72 * radius
    top, left = max(int(cy) - reach, 0), max(int(cx) - reach, 0)
    y, x = np.ogrid[top : min(int(cy) + reach, size), left : min(int(cx) + reach, size)]
    blob = np.exp(-((((x - cx) / (0.8 * radius)) ** 2 + ((y - cy) / (0.35 * radius)) ** 2) ** 2))
    keep = (1 - strength * blob)[..., None].astype(np.float32)
    canvas[top : top + y.shape[0], left : left + x.shape[1]] *= keep


def _paste(canvas: np.ndarray, patch: np.ndarray, alpha: np.ndarray, row: int, column: int) -> None:
    """Blend `patch` (side, side, 3) onto `canvas` in place, its corner at (row, column), cut off outside."""
    size, side = canvas.shape[0], patch.shape[0]
    r0, c0, r1, c1 = max(row, 0), max(column, 0), min(row + side, size), min(column + side, size)
    inside = slice(r0 - row, r1 - row), slice(c0 - column, c1 - column)
    target = canvas[r0:r1, c0:c1]
    target += alpha[inside][..., None] * (patch[inside] - target)


def draw_batch(scenes: Sequence[Scene], rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Draw every scene with fresh light, turns, places, background, noise: uint8 (n, size, size, 3)."""
    n = len(scenes)
    canvas = _backgrounds(n, size, rng)
    light = np.stack([_uniform(rng, -0.9, 0.9, n), _uniform(rng, 0.35, 1, n), _uniform(rng, 0.5, 1, n)], 1)
    light /= np.sqrt((light**2).sum(1, keepdims=True))
    ambient, tint = _uniform(rng, 0.4, 0.6, n), 1 + _uniform(rng, -0.06, 0.06, n, 3)
    gloss, dark = _uniform(rng, 0.0, 0.3, n), _uniform(rng, 0.1, 0.5, n)
    # One row a toy, grouped by shape and size so that each group is marched at once.
    places = [layout(scene, rng) for scene in scenes]
    rows = [(i, k) for i, scene in enumerate(scenes) for k in range(len(scene.toys))]
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for i, k in rows:
        groups.setdefault((scenes[i].toys[k].shape, scenes[i].toys[k].size), []).append((i, k))
    ready = {}
    for (shape, _), members in groups.items():
        picture = np.array([i for i, _ in members])
        centre = np.array([places[i][0][k] for i, k in members], np.float32) * size
        radius = np.array([places[i][1][k] for i, k in members], np.float32) * size
        whole = np.floor(centre)
        (alpha, diffuse, shine), half = stamp(shape, radius, centre - whole - 0.5, light[picture], rng)
        paint = np.stack([draw_paint(scenes[i].toys[k].colour, rng) for i, k in members])
        level = ambient[picture, None, None]
        lit = (level + (1.12 - level) * diffuse)[..., None] * paint[:, None, None] * tint[picture, None, None]
        lit += (shine * gloss[picture, None, None])[..., None]
        for row, member in enumerate(members):
            ready[member] = lit[row], alpha[row], whole[row].astype(int) - half
    for i, scene in enumerate(scenes):
        # The first toy is in front, so it is painted last.
        for k in reversed(range(len(scene.toys))):
            patch, alpha, corner = ready[i, k]
            _shadow(canvas[i], places[i][0][k] * size, places[i][1][k] * size, dark[i], -0.5 * light[i, 0])
            _paste(canvas[i], patch, alpha, corner[1], corner[0])
    _cover(canvas, rng)
    canvas += rng.standard_normal(canvas.shape, np.float32) * _uniform(rng, 0.0, 0.05, n)[:, None, None, None]
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _cover(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Lay a narrow grey strip over one picture in eight, in place: something is often in the way."""
    size = canvas.shape[1]
    for i in np.flatnonzero(rng.random(len(canvas)) < 0.125):
        at, width = int(rng.uniform(0.1, 0.85) * size), max(int(rng.uniform(0.04, 0.09) * size), 1)
        strip = (slice(None), slice(at, at + width))[:: 1 if rng.random() < 0.5 else -1]
        canvas[i][strip] = rng.uniform(0.2, 0.8)


def draw_plain(pairs: Sequence[tuple[str, str]], ground: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """One large toy in the middle of each picture, on plain grey `ground` (0..1): (n, side, side, 3).

    Light, turn and tone of the paint differ from picture to picture. ValueError for an unknown colour or shape.
    """
    if unknown := {word for pair in pairs for word in pair} - {*COLOURS, *SHAPES}:
        raise ValueError(f"Prisma has no {', '.join(sorted(unknown))}; colours: {COLOURS}, shapes: {SHAPES}")
    canvas = np.full((len(pairs), side, side, 3), ground, np.float32)
    light = np.stack([_uniform(rng, *ends, len(pairs)) for ends in ((-0.6, 0.6), (0.5, 1), (0.6, 1))], 1)
    light /= np.sqrt((light**2).sum(1, keepdims=True))
    for shape in SHAPES:
        rows = [i for i, pair in enumerate(pairs) if pair[1] == shape]
        if rows:
            _draw_alike(canvas, rows, pairs, light, rng)
    return canvas


def _draw_alike(canvas: np.ndarray, rows: list[int], pairs: Sequence[tuple[str, str]], light: np.ndarray, rng) -> None:
    """Draw the toys `rows`, all of one shape, into the middle of their pictures in `canvas`, in place."""
    side = canvas.shape[1]
    radii, colours = np.full(len(rows), 0.46 * side, np.float32), [pairs[i][0] for i in rows]
    patches, covers, half = _patches(pairs[rows[0]][1], colours, radii, light[rows], rng)
    for patch, cover, i in zip(patches, covers, rows, strict=True):
        _paste(canvas[i], patch, cover, side // 2 - half, side // 2 - half)


def _patches(shape: str, colours: Sequence[str], radii: np.ndarray, light: np.ndarray, rng: np.random.Generator):
    """Toys of one shape in even light, to be pasted: pixels (n, side, side, 3), coverage (n, side, side), side // 2."""
    (covers, diffuse, shine), half = stamp(shape, radii, np.zeros((len(radii), 2), np.float32), light, rng)
    paint = np.stack([draw_paint(colour, rng) for colour in colours])[:, None, None]
    return (0.5 + 0.62 * diffuse)[..., None] * paint + 0.15 * shine[..., None], covers, half


def draw_moving(toy: Toy, way: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """One toy at each place of its `way` (n, 2; parts of the side), all else unmoved: uint8 (n, side, side, 3)."""
    ground = _backgrounds(1, side, rng)[0]
    light = rng.normal([0, 0.7, 0.7], [0.4, 0.1, 0.1]).astype(np.float32)[None]
    light /= np.linalg.norm(light)
    radius = np.array([rng.uniform(*RADII[toy.size]) * side], np.float32)
    (patch,), (cover,), half = _patches(toy.shape, [toy.colour], radius, light, rng)
    frames = np.repeat(ground[None], len(way), 0)
    for frame, place in zip(frames, way * side, strict=True):
        column, row = np.floor(place).astype(int) - half
        _paste(frame, patch, cover, row, column)
    frames += rng.standard_normal(frames.shape, np.float32) * 0.02
    return (np.clip(frames, 0, 1) * 255 + 0.5).astype(np.uint8)


def draw(scene: Scene, size: int = 64, seed: int = 0) -> Image.Image:
    """One picture of `scene`. The same seed at another `size` (in pixels) shows the same view."""
    return Image.fromarray(draw_batch([scene], np.random.default_rng(seed), size)[0])


def draw_many(scenes: Sequence[Scene], seed: int = 0, size: int = 64) -> list[Image.Image]:
    """One picture of each scene, as PIL images."""
    return [Image.fromarray(one) for one in draw_batch(scenes, np.random.default_rng(seed), size)]


def write_samples(folder: Path, count: int = 24, seed: int = SEED) -> None:
    """Write `count` pictures as PNG with a captions.jsonl: file, toys, relation and three captions each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(seed), []
    scenes = [random_scene(rng, (1 + i % 3,)) for i in range(count)]
    for i, (scene, image) in enumerate(zip(scenes, draw_many(scenes, seed), strict=True)):
        image.save(folder / f"{i:02}.png", optimize=True)
        toys = [f"{toy.size} {toy.name}" for toy in scene.toys]
        said = [caption(scene, rng) for _ in range(3)]
        row = {"file": f"{i:02}.png", "toys": toys, "relation": scene.relation, "captions": said}
        lines.append(json.dumps(row))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
