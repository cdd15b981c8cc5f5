"""Prisma's pictures: toys as shaded solids, alone or in scenes of two or three, with many captions each.

A toy is a signed distance function; a whole batch of toys of one shape is ray-marched at once in NumPy,
which draws more than a thousand pictures a second on one core. Everything comes from seeds.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
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
        pairs = tuple(toy.pair for toy in self.toys)
        return self.relation, pairs


def scene_of(*pairs: tuple[str, str], relation: str | None = None, size: str = "medium") -> Scene:
    """A scene by hand: `scene_of(("red", "cube"), ("blue", "ball"), relation="right of")`."""
    for colour, shape in pairs:
        if colour not in COLOURS or shape not in SHAPES:
            raise ValueError(f"Prisma has no {colour} {shape}; colours: {COLOURS}, shapes: {SHAPES}")
    toys = [Toy(size, colour, shape) for colour, shape in pairs]
    forward = {back: ahead for ahead, back in OPPOSITE.items()}
    if relation in forward:
        toys.reverse()
        relation = forward[relation]
    if len(toys) == 1:
        relation = None
    return Scene(tuple(toys), relation)


def random_scene(rng: random.Random, toys: Sequence[int] = (1, 2, 3), exclude: Iterable[tuple[str, str]] = ()) -> Scene:
    """A scene with a number of toys out of `toys`, all different, none of the pairs in `exclude`."""
    count = rng.choice(toys)
    sizes = SIZES if count < 3 else SIZES[:2]
    banned = set(exclude)
    drawn: list[Toy] = []
    while len(drawn) < count:
        colour = rng.choice(COLOURS)
        shape = rng.choice(SHAPES)
        if (colour, shape) not in banned:
            banned.add((colour, shape))
            size = rng.choice(sizes)
            drawn.append(Toy(size, colour, shape))
    if count == 1:
        return Scene(tuple(drawn))
    kinds = ("left of", "above") if count == 3 else ("left of", "left of", "above", "above", "in front of")
    relation = rng.choice(kinds)
    return Scene(tuple(drawn), relation)


def unnamed_scene(rng: random.Random) -> Scene:
    """One toy in a colour that has no name here (teal, pink, brown, grey): a caption can state only its shape."""
    size = rng.choice(SIZES)
    shape = rng.choice(SHAPES)
    return Scene((Toy(size, None, shape),))


def distinct_scenes(
    rng: random.Random, n: int, toys: Sequence[int] = (2, 3), exclude: Iterable[tuple[str, str]] = ()
) -> list[Scene]:
    """`n` scenes of which no two have the same complete caption."""
    found: dict[tuple, Scene] = {}
    while len(found) < n:
        scene = random_scene(rng, toys, exclude)
        found.setdefault(scene.key, scene)
    return list(found.values())


def with_article(colour: str, shape: str) -> str:
    """A colour-shape pair as a caption names it: "a red cube", "an orange ball"."""
    article = "an" if colour == "orange" else "a"
    return f"{article} {colour} {shape}"


def swap_colours(scene: Scene) -> Scene:
    """The scene with the colours of its first two toys exchanged; shapes, sizes, relation stay."""
    if len(scene.toys) < 2:
        raise ValueError("a scene needs two toys before their colours can be exchanged")
    first, second, *rest = scene.toys
    first_swapped = replace(first, colour=second.colour)
    second_swapped = replace(second, colour=first.colour)
    return replace(scene, toys=(first_swapped, second_swapped, *rest))


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
    true = {f"{len(scene.toys)} toys"}
    for toy in scene.toys:
        true |= {toy.shape, toy.size, toy.name, f"{toy.size} {toy.name}", f"{toy.size} {toy.shape}"}
        if toy.colour:
            true |= {toy.colour, f"{toy.size} {toy.colour}"}
    for i, first in enumerate(scene.toys):
        for second in scene.toys[i + 1 :]:
            true.add(f"{first.name} {scene.relation} {second.name}")
    return frozenset(true)


def _stating(text: str, fact: str) -> Caption:
    return Caption(text, frozenset((fact,)))


def _name(toy: Toy, rng: random.Random, article: bool = True) -> Caption:
    """A toy by colour and shape, sometimes by size too: 'a small red cube'."""
    sized = rng.random() < 0.3
    words = f"{toy.size} {toy.name}" if sized else toy.name
    if not article:
        return _stating(words, words)
    forms = ("{a} {w}", "{a} {w}", "{a} {w}", "the {w}", "one {w}", "{a} {s}that is {c}")
    form = rng.choice(forms if toy.colour else forms[:-1])
    size = f"{toy.size} {toy.shape} " if sized else f"{toy.shape} "
    next_word = size if "{s}" in form else words  # the article's form hangs on it
    a = "an" if next_word[0] in "aeiou" else "a"
    text = form.format(a=a, w=words, s=size, c=toy.colour)
    return _stating(text, words)


def _join(names: list[Caption], text: str, *more: str) -> Caption:
    words = [name.text for name in names]
    stated = frozenset(more)
    for name in names:
        stated |= name.facts
    return Caption(text.format(*words), stated)


def _related(first: Toy, second: Toy, relation: str, rng: random.Random) -> Caption:
    """Two toys and how they stand: said from either side."""
    names = [_name(first, rng), _name(second, rng)]
    fact = f"{first.name} {relation} {second.name}"
    if rng.random() < 0.5:
        names.reverse()
        relation = OPPOSITE[relation]
    words = rng.choice(WORDS_BETWEEN[relation])
    return _join(names, f"{{}} {words} {{}}", fact)


def _three(scene: Scene, rng: random.Random) -> Caption:
    names: list[Caption] = []
    for toy in scene.toys:
        article = rng.random() < 0.7
        names.append(_name(toy, rng, article))
    ends = {"left of": ("left", "right"), "above": ("top", "bottom")}[scene.relation]
    stated = [f"{a.name} {scene.relation} {b.name}" for a, b in pairwise(scene.toys)]
    if rng.random() < 0.35:
        names.reverse()
        ends = ends[::-1]
    along = f"from {ends[0]} to {ends[1]}"
    forms = (f"{along} {{}} {{}} and {{}}", f"{along} {{}} then {{}} then {{}}", f"{{}} {{}} and {{}} {along}")
    form = rng.choice(forms)
    return _join(names, form, *stated)


def _complete(scene: Scene, rng: random.Random) -> Caption:
    if len(scene.toys) == 1:
        return _name(scene.toys[0], rng)
    if len(scene.toys) == 3:
        return _three(scene, rng)
    return _related(*scene.toys, scene.relation, rng)


def _partial(scene: Scene, rng: random.Random) -> Caption:
    """A caption that leaves something out: one attribute, one toy, toys without their relation."""
    toy = rng.choice(scene.toys)
    kind = rng.random()
    if kind < 0.3 and toy.colour:
        form = rng.choice(("something {}", "a toy that is {}", "{}"))
        return _stating(form.format(toy.colour), toy.colour)
    if kind < 0.6:
        form = rng.choice(("a {}", "a toy {}", "{}"))
        return _stating(form.format(toy.shape), toy.shape)
    if kind < 0.7:
        nouns = (f"{toy.colour} toy", toy.shape) if toy.colour else (toy.shape,)
        words = f"{toy.size} {rng.choice(nouns)}"
        return _stating(f"a {words}", words.removesuffix(" toy"))
    if kind < 0.75:
        number = ("one toy", "two toys", "three toys")[len(scene.toys) - 1]
        return _stating(number, f"{len(scene.toys)} toys")
    if len(scene.toys) == 1 or kind < 0.85:
        return _name(toy, rng)
    first, second = rng.sample(scene.toys, 2)
    form = rng.choice(("{} and {}", "{} with {}", "{} next to {}"))
    names = [_name(first, rng), _name(second, rng)]
    return _join(names, form)


def _dress(stated: Caption, rng: random.Random) -> Caption:
    if rng.random() >= 0.7:
        return stated
    templates = PROMPTS if rng.random() < 0.6 else REQUESTS
    template = rng.choice(templates)
    return Caption(template.format(stated.text), stated.facts)


def _plural(toy: Toy, rng: random.Random) -> Caption:
    """What a customer asks for in the plural finds the picture of one."""
    name = _name(toy, rng, article=False)
    template = rng.choice(PLURALS)
    return Caption(template.format(f"{name.text}s"), name.facts)


def caption(scene: Scene, rng: random.Random) -> str:
    """One complete caption: every toy by colour and shape, and how they stand."""
    stated = _complete(scene, rng)
    return _dress(stated, rng).text


def captions(scene: Scene, rng: random.Random, complete: int = 1, partial: int = 1) -> list[Caption]:
    """Captions of one scene with the facts that they state: `complete` full ones, `partial` shorter ones."""
    plain = [_complete(scene, rng) for _ in range(complete)]
    plain += [_partial(scene, rng) for _ in range(partial)]
    if len(scene.toys) == 1 and rng.random() < 0.12:
        plural = _plural(scene.toys[0], rng)
        dressed = [_dress(stated, rng) for stated in plain[1:]]
        return [plural, *dressed]
    return [_dress(stated, rng) for stated in plain]


# --- solids ---------------------------------------------------------------------------------------------
# Each takes points (3, n, pixels) in the toy's own frame (y up, within the unit sphere) and returns a lower
# bound of the distance to the surface, negative inside. After Inigo Quilez' articles on distance functions.


def _length(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The length of vectors given by their parts along two axes."""
    return np.sqrt(first**2 + second**2)


def _extrude(flat: np.ndarray, z: np.ndarray, half: float, rounding: float) -> np.ndarray:
    deep = np.abs(z) - half
    outside = _length(np.maximum(flat, 0), np.maximum(deep, 0))
    inside = np.minimum(np.maximum(flat, deep), 0)
    return inside + outside - rounding


def _cube(p: np.ndarray) -> np.ndarray:
    q = np.abs(p) - 0.56
    squares = np.maximum(q, 0) ** 2
    outside = np.sqrt(squares.sum(0))
    inside = np.minimum(q.max(0), 0)
    return outside + inside


def _ball(p: np.ndarray) -> np.ndarray:
    squares = p**2
    return np.sqrt(squares.sum(0)) - 0.8


def _cone(p: np.ndarray) -> np.ndarray:
    radius = _length(p[0], p[2])
    side = radius * 0.92 + (p[1] - 0.92) * 0.39
    bottom = -0.66 - p[1]
    return np.maximum(side, bottom)


def _cylinder(p: np.ndarray) -> np.ndarray:
    disc = _length(p[0], p[2]) - 0.48
    return _extrude(disc, p[1], 0.72, 0.0)


def _pyramid(p: np.ndarray) -> np.ndarray:
    reach = np.maximum(np.abs(p[0]), np.abs(p[2]))
    side = reach * 0.85 + (p[1] - 0.72) * 0.52
    bottom = -0.42 - p[1]
    return np.maximum(side, bottom)


def _ring(p: np.ndarray) -> np.ndarray:
    from_circle = _length(p[0], p[1]) - 0.68
    return _length(from_circle, p[2]) - 0.22


def _star(p: np.ndarray) -> np.ndarray:
    x, y = np.abs(p[0]), p[1]
    # Fold the plane twice, so that one of the five points stands for all.
    for kx, ky in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        along = kx * x + ky * y
        over = 2 * np.maximum(along, 0)
        x = x - over * kx
        y = y - over * ky
    flat = np.abs(x) * 0.845 + (y - 0.9) * 0.535
    return _extrude(flat, p[2], 0.17, 0.05)


def _heart(p: np.ndarray) -> np.ndarray:
    x = np.abs(p[0]) / 1.45
    y = p[1] / 1.45 + 0.55
    lobe = _length(x - 0.25, y - 0.75) - 0.3536
    over = 0.5 * np.maximum(x + y, 0)
    to_notch = x**2 + (y - 1) ** 2
    to_side = (x - over) ** 2 + (y - over) ** 2
    notch = np.sqrt(np.minimum(to_notch, to_side))
    below = notch * np.sign(x - y)
    flat = np.where(x + y > 1, lobe, below)
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
    drawn = rng.uniform(low, high, shape)
    return drawn.astype(np.float32)


def _rotations(shape: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Random turns (n, 3, 3) from the toy's frame to the camera's, within TURNS."""
    degrees = [_uniform(rng, *limits, n) for limits in TURNS[shape]]
    pitch, yaw, roll = map(np.radians, degrees)
    return _turn(roll, 0, 1) @ _turn(pitch, 1, 2) @ _turn(yaw, 0, 2)


def _turn(angle: np.ndarray, i: int, j: int) -> np.ndarray:
    """Rotations (n, 3, 3) by each angle (n,) in the plane of axes `i` and `j`."""
    identity = np.eye(3, dtype=np.float32)
    matrix = np.tile(identity, (len(angle), 1, 1))
    matrix[:, i, i] = matrix[:, j, j] = np.cos(angle)
    matrix[:, i, j] = -np.sin(angle)
    matrix[:, j, i] = np.sin(angle)
    return matrix


def _march(
    shape: str, turns: np.ndarray, uv: np.ndarray, pixel: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage, diffuse light and highlight (each n, pixels) of `shape` seen at `uv` (2, n, pixels)."""
    solid = SOLIDS[shape]
    frame = turns.transpose(2, 1, 0)[..., None]  # (axis of toy, axis of camera, n, 1)
    start = frame[:, 0] * uv[0] + frame[:, 1] * uv[1] + frame[:, 2] * 1.1  # (3, n, pixels)
    travelled = np.zeros(uv.shape[1:], np.float32)
    nearest = np.full(uv.shape[1:], 9, np.float32)
    # Each step goes as far as the solid allows; eleven of them reach a surface, or pass it by.
    for _ in range(11):
        distance = solid(start - frame[:, 2] * travelled)
        np.minimum(nearest, distance, out=nearest)
        travelled += distance
    point = start - frame[:, 2] * np.minimum(travelled, 2.2)
    normal = _normals(solid, point)
    back = turns.transpose(0, 2, 1)
    to_light = np.einsum("nij,nj->in", back, light)[..., None]  # (3, n, 1)
    half = to_light + frame[:, 2]
    half /= np.sqrt((half**2).sum(0))
    coverage = np.clip(1 - nearest / pixel, 0, 1)
    diffuse = np.maximum((normal * to_light).sum(0), 0)
    mirrored = np.maximum((normal * half).sum(0), 0)
    return coverage, diffuse, mirrored**24


def _normals(solid: Callable[[np.ndarray], np.ndarray], point: np.ndarray) -> np.ndarray:
    """Which way the surface faces at each `point` (3, n, pixels): unit vectors of the same shape."""
    normal = np.zeros_like(point)
    # The corners of a tetrahedron: four looks tell the slope along all three axes.
    for corner in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        offset = np.array(corner, np.float32)[:, None, None]
        normal += offset * solid(point + 0.03 * offset)
    normal /= np.sqrt((normal**2).sum(0)) + 1e-6
    return normal


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Hue, saturation, value (n,) in 0..1 to red, green, blue (n, 3)."""
    corners = np.array([5, 3, 1], np.float32)
    k = (corners + hue[:, None] * 6) % 6
    part = np.clip(np.minimum(k, 4 - k), 0, 1)
    missing = saturation[:, None] * part
    return value[:, None] * (1 - missing)


def draw_paint(colour: str | None, rng: np.random.Generator) -> np.ndarray:
    if colour is None:
        return unnamed(rng)
    hue, saturation, value = [_uniform(rng, *limits, 1) for limits in HSV[colour]]
    return _rgb(hue, saturation, value)[0]


def unnamed(rng: np.random.Generator) -> np.ndarray:
    """Any paint (3,) that lies clearly outside of every named colour."""
    while True:
        drawn = _uniform(rng, 0, 1, 3)
        paint = hue, saturation, value = [float(x) for x in drawn]
        grey = value < 0.3 or (saturation < 0.25 and value > 0.7)  # would pass for black or for white
        if not grey and not _named(paint):
            return _rgb(drawn[:1], drawn[1:2], drawn[2:])[0]


def _named(paint: Sequence[float]) -> bool:
    """Whether a paint is close to a colour with a hue of its own."""
    hues = [colour for colour in COLOURS if colour not in ("white", "black")]
    return any(_close(paint, HSV[colour]) for colour in hues)


def _close(paint: Sequence[float], ranges: tuple) -> bool:
    """Whether a paint lies in a colour's ranges, widened by what light and tint may do to it."""
    (low, high), saturations, values = ranges
    turned = (paint[0] - low + 0.07) % 1
    if turned >= high - low + 0.14:
        return False
    strong = paint[1] > saturations[0] - 0.3
    bright = paint[2] > values[0] - 0.35
    return strong and bright


def layout(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres (k, 2; x to the right, y down) and radii (k,) of the toys, in parts of the picture's side."""
    drawn = [rng.uniform(*RADII[toy.size]) for toy in scene.toys]
    radii = np.array(drawn)
    centres = np.zeros((len(radii), 2))
    for i in range(1, len(radii)):
        centres[i] = centres[i - 1] + _step(scene.relation, radii, i, rng)
    reach = radii[:, None]
    low = (centres - reach).min(0)
    high = (centres + reach).max(0)
    extent = high - low
    scale = min(1.0, 1.0 / extent.max())
    room = np.maximum(1 - extent * scale, 0)
    places = (centres - low) * scale
    places += rng.uniform(0, 1, 2) * room
    return places, radii * scale


def _step(relation: str | None, radii: np.ndarray, i: int, rng: np.random.Generator) -> np.ndarray:
    """The way (2,) from toy `i - 1` to toy `i`."""
    apart = (radii[i - 1] + radii[i]) * rng.uniform(0.88, 1.2)
    across = rng.uniform(-0.45, 0.45) * apart
    if relation == "left of":
        return np.array([apart, across])
    if relation == "above":
        return np.array([across, apart])
    if relation is None:
        return np.zeros(2)
    # in front of: the first toy stands lower and hides a part of the second
    angle = rng.uniform(-1.1, 1.1)
    apart = (radii[0] + radii[1]) * rng.uniform(0.48, 0.62)
    right = apart * np.sin(angle)
    down = -apart * np.cos(angle)
    return np.array([right, down])


def _backgrounds(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Muted gradients with soft blotches, some with a table edge: (n, size, size, 3) in 0..1."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    hue = _uniform(rng, 0, 1, n)
    saturation = _uniform(rng, 0, 0.28, n)
    value = _uniform(rng, 0.3, 0.85, n)
    base = _rgb(hue, saturation, value)  # (n, 3)
    table = base * _uniform(rng, 0.6, 1.25, n, 1)
    has_table = rng.random(n) < 0.5
    height = _uniform(rng, 0.25, 0.8, n)
    edge = _each(np.where(has_table, height, 2.0))  # 2 lies outside: no table
    below = np.clip((y - edge) * 30 + 0.5, 0, 1).astype(np.float32)  # (n, size, size)
    angle = _each(_uniform(rng, 0, 6.28, n))
    depth = _each(_uniform(rng, 0, 0.3, n))
    slope = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)
    waves = _uniform(rng, 2, 14, n, 2)[:, :, None, None]
    across = np.sin(waves[:, 0] * x + angle)
    down = np.sin(waves[:, 1] * y + depth)
    blotch = across * down
    strength = _each(_uniform(rng, 0, 0.08, n))
    shade = 1 + depth * slope + strength * blotch
    ground = base[:, None, None] + below[..., None] * (table - base)[:, None, None]
    return ground * shade[..., None]


def _each(numbers: np.ndarray) -> np.ndarray:
    """One number a picture (n,), to be spread over its rows and columns: (n, 1, 1)."""
    return numbers[:, None, None]


def stamp(shape: str, radii: np.ndarray, offsets: np.ndarray, light: np.ndarray, rng: np.random.Generator):
    """Toys of one shape on a common square grid: coverage, diffuse light, highlight (n, side, side), side."""
    n = len(radii)
    half = int(np.ceil(radii.max())) + 1
    grid = np.arange(-half, half + 1, dtype=np.float32)
    side = len(grid)
    across = (grid[None] - offsets[:, :1]) / radii[:, None]  # (n, side)
    down = (grid[None] - offsets[:, 1:]) / radii[:, None]
    both = np.broadcast_arrays(across[:, None, :], -down[:, :, None])
    uv = np.stack(both).reshape(2, n, side * side)
    turns = _rotations(shape, rng, n)
    parts = _march(shape, turns, uv, 1 / radii[:, None], light)
    squares = [part.reshape(n, side, side) for part in parts]
    return squares, half


def _shadow(canvas: np.ndarray, centre: np.ndarray, radius: float, strength: float, lean: float) -> None:
    """Darken `canvas` (size, size, 3) in place by the soft shadow that lies at a toy's foot."""
    size = canvas.shape[0]
    reach = int(radius * 1.8)
    cx = centre[0] + lean * radius
    cy = centre[1] + 0.72 * radius
    top = max(int(cy) - reach, 0)
    left = max(int(cx) - reach, 0)
    bottom = min(int(cy) + reach, size)
    right = min(int(cx) + reach, size)
    y, x = np.ogrid[top:bottom, left:right]
    wide = ((x - cx) / (0.8 * radius)) ** 2
    flat = ((y - cy) / (0.35 * radius)) ** 2
    blob = np.exp(-((wide + flat) ** 2))
    keep = (1 - strength * blob)[..., None].astype(np.float32)
    canvas[top : top + y.shape[0], left : left + x.shape[1]] *= keep


def _paste(canvas: np.ndarray, patch: np.ndarray, alpha: np.ndarray, row: int, column: int) -> None:
    """Blend `patch` (side, side, 3) onto `canvas` in place, its corner at (row, column), cut off outside."""
    size = canvas.shape[0]
    side = patch.shape[0]
    top = max(row, 0)
    left = max(column, 0)
    bottom = min(row + side, size)
    right = min(column + side, size)
    inside = slice(top - row, bottom - row), slice(left - column, right - column)
    target = canvas[top:bottom, left:right]
    target += alpha[inside][..., None] * (patch[inside] - target)


class _View(NamedTuple):
    """How each of n pictures is lit: direction (n, 3), ambient light, tint (n, 3), gloss and darkness of shadows."""

    light: np.ndarray
    ambient: np.ndarray
    tint: np.ndarray
    gloss: np.ndarray
    dark: np.ndarray


def _view(n: int, rng: np.random.Generator) -> _View:
    ranges = ((-0.9, 0.9), (0.35, 1), (0.5, 1))  # from the side, from above, from the front
    light = _directions(n, ranges, rng)
    ambient = _uniform(rng, 0.4, 0.6, n)
    tint = 1 + _uniform(rng, -0.06, 0.06, n, 3)
    gloss = _uniform(rng, 0.0, 0.3, n)
    dark = _uniform(rng, 0.1, 0.5, n)
    return _View(light, ambient, tint, gloss, dark)


def _directions(n: int, ranges: Sequence[tuple[float, float]], rng: np.random.Generator) -> np.ndarray:
    """Unit vectors (n, 3), drawn within a range for each axis."""
    axes = [_uniform(rng, low, high, n) for low, high in ranges]
    ways = np.stack(axes, 1)
    ways /= np.sqrt((ways**2).sum(1, keepdims=True))
    return ways


def draw_batch(scenes: Sequence[Scene], rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Draw every scene with fresh light, turns, places, background, noise: uint8 (n, size, size, 3)."""
    n = len(scenes)
    canvas = _backgrounds(n, size, rng)
    view = _view(n, rng)
    places = [layout(scene, rng) for scene in scenes]
    ready = {}
    for members in _groups(scenes).values():
        ready |= _draw_group(scenes, members, places, view, size, rng)
    for i, scene in enumerate(scenes):
        centres, radii = places[i]
        lean = -0.5 * view.light[i, 0]
        # The first toy is in front, so it is painted last.
        for k in reversed(range(len(scene.toys))):
            patch, alpha, corner = ready[i, k]
            _shadow(canvas[i], centres[k] * size, radii[k] * size, view.dark[i], lean)
            _paste(canvas[i], patch, alpha, corner[1], corner[0])
    _cover(canvas, rng)
    grain = rng.standard_normal(canvas.shape, np.float32)
    strength = _uniform(rng, 0.0, 0.05, n)
    canvas += grain * strength[:, None, None, None]
    return _bytes(canvas)


def _groups(scenes: Sequence[Scene]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """All toys as (scene, place in it), grouped by shape and size, so that each group is marched at once."""
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for i, scene in enumerate(scenes):
        for k, toy in enumerate(scene.toys):
            members = groups.setdefault((toy.shape, toy.size), [])
            members.append((i, k))
    return groups


def _draw_group(
    scenes: Sequence[Scene],
    members: list[tuple[int, int]],
    places: list[tuple[np.ndarray, np.ndarray]],
    view: _View,
    size: int,
    rng: np.random.Generator,
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each of `members`, toys of one shape: its lit pixels, its coverage, and where its corner (x, y) goes."""
    centres, radii, toys = [], [], []
    for i, k in members:
        centres.append(places[i][0][k])
        radii.append(places[i][1][k])
        toys.append(scenes[i].toys[k])
    picture = np.array([i for i, _ in members])
    centre = np.array(centres, np.float32) * size
    radius = np.array(radii, np.float32) * size
    whole = np.floor(centre)
    (alpha, diffuse, shine), half = stamp(toys[0].shape, radius, centre - whole - 0.5, view.light[picture], rng)
    paint = np.stack([draw_paint(toy.colour, rng) for toy in toys])
    level = _each(view.ambient[picture])
    bright = level + (1.12 - level) * diffuse  # (n, side, side)
    lit = bright[..., None] * _each(paint) * _each(view.tint[picture])
    gleam = shine * _each(view.gloss[picture])
    lit += gleam[..., None]
    corners = whole.astype(int) - half
    return dict(zip(members, zip(lit, alpha, corners, strict=True), strict=True))


def _bytes(canvas: np.ndarray) -> np.ndarray:
    """Brightness in 0..1 as uint8, rounded."""
    levels = np.clip(canvas, 0, 1) * 255 + 0.5
    return levels.astype(np.uint8)


def _cover(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Lay a narrow grey strip over one picture in eight, in place: something is often in the way."""
    size = canvas.shape[1]
    covered = np.flatnonzero(rng.random(len(canvas)) < 0.125)
    for i in covered:
        at = int(rng.uniform(0.1, 0.85) * size)
        width = max(int(rng.uniform(0.04, 0.09) * size), 1)
        upright = rng.random() < 0.5
        strip = canvas[i][:, at : at + width] if upright else canvas[i][at : at + width]
        strip[:] = rng.uniform(0.2, 0.8)


def draw_plain(pairs: Sequence[tuple[str, str]], ground: float, side: int, rng: np.random.Generator) -> np.ndarray:
    """One large toy in the middle of each picture, on plain grey `ground` (0..1): (n, side, side, 3).

    Light, turn and tone of the paint differ from picture to picture. ValueError for an unknown colour or shape.
    """
    n = len(pairs)
    words = set(chain(*pairs))
    unknown = words - {*COLOURS, *SHAPES}
    if unknown:
        raise ValueError(f"Prisma has no {', '.join(sorted(unknown))}; colours: {COLOURS}, shapes: {SHAPES}")
    canvas = np.full((n, side, side, 3), ground, np.float32)
    light = _directions(n, ((-0.6, 0.6), (0.5, 1), (0.6, 1)), rng)
    for shape in SHAPES:
        rows = [i for i, pair in enumerate(pairs) if pair[1] == shape]
        if rows:
            _draw_alike(canvas, rows, pairs, light, rng)
    return canvas


def _draw_alike(canvas: np.ndarray, rows: list[int], pairs: Sequence[tuple[str, str]], light: np.ndarray, rng) -> None:
    """Draw the toys `rows`, all of one shape, into the middle of their pictures in `canvas`, in place."""
    side = canvas.shape[1]
    shape = pairs[rows[0]][1]
    colours = [pairs[i][0] for i in rows]
    radii = np.full(len(rows), 0.46 * side, np.float32)
    patches, covers, half = _patches(shape, colours, radii, light[rows], rng)
    corner = side // 2 - half
    for patch, cover, i in zip(patches, covers, rows, strict=True):
        _paste(canvas[i], patch, cover, corner, corner)


def _patches(shape: str, colours: Sequence[str], radii: np.ndarray, light: np.ndarray, rng: np.random.Generator):
    """Toys of one shape in even light, to be pasted: pixels (n, side, side, 3), coverage (n, side, side), side // 2."""
    centred = np.zeros((len(radii), 2), np.float32)
    (covers, diffuse, shine), half = stamp(shape, radii, centred, light, rng)
    paint = np.stack([draw_paint(colour, rng) for colour in colours])
    bright = 0.5 + 0.62 * diffuse
    pixels = bright[..., None] * _each(paint) + 0.15 * shine[..., None]
    return pixels, covers, half


def draw_moving(toy: Toy, way: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """One toy at each place of its `way` (n, 2; parts of the side), all else unmoved: uint8 (n, side, side, 3)."""
    ground = _backgrounds(1, side, rng)[0]
    light = rng.normal([0, 0.7, 0.7], [0.4, 0.1, 0.1]).astype(np.float32)[None]
    light /= np.linalg.norm(light)
    radius = rng.uniform(*RADII[toy.size]) * side
    radii = np.array([radius], np.float32)
    (patch,), (cover,), half = _patches(toy.shape, [toy.colour], radii, light, rng)
    frames = np.repeat(ground[None], len(way), 0)
    for frame, place in zip(frames, way * side, strict=True):
        column, row = np.floor(place).astype(int) - half
        _paste(frame, patch, cover, row, column)
    frames += rng.standard_normal(frames.shape, np.float32) * 0.02
    return _bytes(frames)


def draw(scene: Scene, size: int = 64, seed: int = 0) -> Image.Image:
    """One picture of `scene`. The same seed at another `size` (in pixels) shows the same view."""
    rng = np.random.default_rng(seed)
    pixels = draw_batch([scene], rng, size)[0]
    return Image.fromarray(pixels)


def draw_many(scenes: Sequence[Scene], seed: int = 0, size: int = 64) -> list[Image.Image]:
    """One picture of each scene, as PIL images."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(pixels) for pixels in draw_batch(scenes, rng, size)]


def write_samples(folder: Path, count: int = 24, seed: int = SEED) -> None:
    """Write `count` pictures as PNG with a captions.jsonl: file, toys, relation and three captions each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    scenes = [random_scene(rng, (1 + i % 3,)) for i in range(count)]
    images = draw_many(scenes, seed)
    lines = []
    for i, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        file = f"{i:02}.png"
        image.save(folder / file, optimize=True)
        toys = [f"{toy.size} {toy.name}" for toy in scene.toys]
        said = [caption(scene, rng) for _ in range(3)]
        row = {"file": file, "toys": toys, "relation": scene.relation, "captions": said}
        lines.append(json.dumps(row))
    text = "\n".join(lines) + "\n"
    (folder / "captions.jsonl").write_text(text, encoding="utf-8", newline="\n")
