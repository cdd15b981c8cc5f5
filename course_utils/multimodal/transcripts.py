"""Words that were said and heard, compared, and the toys that they name."""

import random
import re
from collections.abc import Sequence

from course_utils.measures import Measure
from course_utils.models.inputs import as_texts
from course_utils.multimodal.fusion import CLASSES
from course_utils.prisma import pictures, speech
from course_utils.prisma.shop import COLOURS, SHAPES, SIZES


def plain_words(text: str) -> str:
    """Lower-case words without punctuation, digits spelt one by one: what two transcripts are compared by."""
    spelt = re.sub(r"\d", _spelt, text.lower())
    words = re.findall(r"[a-z']+", spelt)
    return " ".join(words)


def _spelt(digit: re.Match) -> str:
    number = int(digit.group())
    return f" {speech.DIGITS[number]} "


def word_error(said: Sequence[str], heard: Sequence[str], seed: int = 0) -> Measure:
    """Word error rate over all sentences, with a bootstrap interval over sentences (1,000 draws)."""
    said = as_texts(said, "sentences")
    heard = as_texts(heard, "sentences")
    if len(said) != len(heard) or not said:
        raise ValueError(f"{len(said)} sentences said, {len(heard)} heard: one transcript each is needed")
    plain_said = [plain_words(text) for text in said]
    plain_heard = [plain_words(text) for text in heard]
    return speech.measured_word_errors(plain_said, plain_heard, seed)


def wanted(text: str) -> tuple[str, str] | None:
    """Colour and shape that a request names, or None if it names no single product."""
    words = text.split()
    singular = [word.removesuffix("s") for word in words]
    colours = [word for word in words if word in COLOURS]
    shapes = [word for word in singular if word in SHAPES]
    if len(colours) != 1 or len(shapes) != 1:
        return None
    return colours[0], shapes[0]


def shelf(size: int, seed: int) -> list:
    """One picture of each of the 64 products of CLASSES, `size` pixels wide, sizes of toys mixed."""
    rng = random.Random(seed)
    scenes = [pictures.scene_of(pair, size=rng.choice(SIZES)) for pair in CLASSES]
    return pictures.draw_many(scenes, seed, size)
